// The last lines of an attempt.

import { useEffect, useState } from "preact/hooks";
import type { TaskStatus, Worker_LogEntry } from "../../gen/iris/rpc/cluster_pb";
import { plainLine } from "../../parts/visible_text";
import { describeError } from "../../rpc/errors";
import { controller } from "../../rpc/transport";

interface Props {
  taskId: string;
  attemptId: number;
  lines: number;
  /** The lines are read again when this value changes, for example when the attempt has ended. */
  version: string;
}

const LINES = 12;

/** The last lines of the newest attempt of a task, read again with each `beat` while the attempt runs. */
export function NewestLines({ task, beat }: { task: TaskStatus; beat: number }) {
  const newest = task.attempts[task.attempts.length - 1];
  if (!newest) return null;
  return (
    <LastLines
      key={`${task.taskId} ${newest.attemptId}`} // never shows the lines of another attempt
      taskId={task.taskId}
      attemptId={newest.attemptId}
      lines={LINES}
      version={`${newest.state} ${newest.finishedAtMs > 0n ? "" : beat}`}
    />
  );
}

/** The last lines that an attempt has written, without colours. */
export function LastLines({ taskId, attemptId, lines, version }: Props) {
  const [entries, setEntries] = useState<readonly Worker_LogEntry[] | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    controller.fetchTaskLogs({ taskId, attemptId, filter: { tail: lines } }, { signal: abort.signal }).then(
      ({ logs }) => {
        setEntries(logs);
        setProblem("");
      },
      (error: unknown) => {
        const { kind, text } = describeError(error);
        if (kind !== "cancelled") setProblem(text);
      },
    );
    return () => abort.abort();
  }, [taskId, attemptId, lines, version]);
  if (problem) return <p class="muted">The log cannot be read: {problem}</p>;
  if (!entries) return <p class="muted loading">Loading the last lines…</p>;
  if (entries.length === 0) return <p class="muted">The attempt has written nothing.</p>;
  return (
    <pre class="last-lines" tabIndex={0} aria-label="Last lines">
      {entries.map((entry, index) => (
        <div key={index} class={entry.source === "stderr" ? "stderr" : undefined} dir="ltr">
          {plainLine(entry.data).slice(0, MOST_CHARACTERS) || "\u00a0"}
        </div>
      ))}
    </pre>
  );
}

const MOST_CHARACTERS = 2_000;
