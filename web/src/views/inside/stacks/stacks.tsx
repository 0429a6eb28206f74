// The merged stacks of the tasks of a job, read when the view is opened and on request.

import { useEffect, useRef, useState } from "preact/hooks";
import type { ReadStacksResponse } from "../../../gen/iris/rpc/cluster_pb";
import { countText } from "../../../parts/numbers";
import { clockTime } from "../../../parts/time_text";
import { visibleText } from "../../../parts/visible_text";
import type { Problem, StacksHost } from "../host";
import { compact, lineText, merge, NOT_PYTHON, tasksText, type Merged, type StackGroup, type Unread } from "./merge";

interface Reading {
  readonly merged: Merged;
  readonly numTasks: number;
  readonly at: Date;
  readonly withVariables: boolean;
}

/** The view. It keeps the earlier stacks while new ones are read. */
export function Stacks({ host }: { host: StacksHost }) {
  const [reading, setReading] = useState<Reading | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isBusy, setBusy] = useState(false);
  const [withVariables, setWithVariables] = useState(false);
  const abort = useRef(new AbortController());
  const read = async (variables: boolean) => {
    abort.current.abort();
    const { signal } = (abort.current = new AbortController());
    setBusy(true);
    try {
      const answer = await host.readStacks(variables, signal);
      if (signal.aborted) return;
      const next = readingOf(answer, variables);
      setReading(next);
      setProblem(null);
      host.announce(`${countText(next.merged.groups.length)} different stacks of ${counted(next.numTasks, "task")}`);
    } catch (error) {
      const found = signal.aborted ? null : host.explain(error);
      if (found) setProblem(found);
    }
    if (!signal.aborted) setBusy(false);
  };
  useEffect(() => {
    void read(false);
    return () => abort.current.abort();
  }, []);
  return (
    <div class="stacks" aria-busy={isBusy}>
      <div class="stacks-tools">
        <button type="button" class="button" aria-disabled={isBusy} onClick={() => !isBusy && void read(withVariables)}>
          {reading ? "Read again" : "Read the stacks"}
        </button>
        <label title="The values may be secrets. Each use is written to the event log of the controller.">
          <input
            type="checkbox"
            checked={withVariables}
            onChange={({ currentTarget: { checked } }) => {
              setWithVariables(checked);
              void read(checked);
            }}
          />{" "}
          Local variables
        </label>
        <span class="muted">
          {isBusy ? "Reading the stacks…" : reading && `Read at ${clockTime(reading.at.getTime())} from ${counted(reading.numTasks, "task")}.`}
        </span>
      </div>
      {problem && (
        <p class="error-text" role="alert">
          {problem.text} {problem.advice}
        </p>
      )}
      {reading && <Sections reading={reading} jobId={host.jobId} />}
    </div>
  );
}

function readingOf(answer: ReadStacksResponse, withVariables: boolean): Reading {
  return { merged: merge(answer), numTasks: answer.tasks.length, at: new Date(), withVariables };
}

function Sections({ reading, jobId }: { reading: Reading; jobId: string }) {
  const { groups, idleThreads, unread } = reading.merged;
  const sections: { title: string; groups: StackGroup[] }[] = [];
  for (const group of groups) {
    const title = `${group.command} · ${group.thread}`;
    const last = sections[sections.length - 1];
    if (last?.title === title) last.groups.push(group);
    else sections.push({ title, groups: [group] });
  }
  return (
    <>
      {sections.map(({ title, groups: ofSection }) => (
        <section key={title} class="stack-section">
          <h2 dir="ltr">{visibleText(title)}</h2>
          {ofSection.map((group, index) => (
            <Group key={index} group={group} reading={reading} jobId={jobId} />
          ))}
        </section>
      ))}
      {groups.length === 0 && <p>No stack of a Python program was read.</p>}
      {idleThreads > 0 && <p class="muted">{counted(idleThreads, "thread")} waiting for work: not shown</p>}
      {unread.length > 0 && (
        <ul class="unread">
          {unread.map((one, index) => (
            <li key={index} class={one.what && one.reason === NOT_PYTHON ? "muted" : undefined} dir="auto">
              {visibleText(unreadText(one, reading.numTasks))}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function unreadText({ what, reason, problem, taskIndices }: Unread, count: number): string {
  const tasks = tasksText(taskIndices, count);
  if (what && reason === NOT_PYTHON) return `Not Python: ${what} in ${tasks}`;
  return `Not read: ${what ? `${what} in ` : ""}${tasks}: ${problem}`;
}

function Group({ group, reading, jobId }: { group: StackGroup; reading: Reading; jobId: string }) {
  const { taskIndices, numThreads, isActive } = group;
  const [isOpen, setOpen] = useState(reading.withVariables);
  return (
    <details class="stack-group" open={reading.withVariables} onToggle={({ currentTarget: { open } }) => setOpen(open)}>
      <summary>
        <strong>
          {tasksText(taskIndices, reading.numTasks)}
          {numThreads > taskIndices.length && `, ${countText(numThreads)} threads`}
          {isActive && ", busy"}:
        </strong>{" "}
        <code dir="ltr">{visibleText(compact(group.frames))}</code>
      </summary>
      {isOpen && <Frames group={group} jobId={jobId} />}
    </details>
  );
}

/** All frames of a stack. Thousands of closed stacks need no frames in the document. */
function Frames({ group: { frames, variables, taskIndices }, jobId }: { group: StackGroup; jobId: string }) {
  const [first = 0] = taskIndices;
  return (
    <>
      <ol class="stack-frames" dir="ltr">
        {frames.map((frame, index) => (
          <li key={index}>
            <code>
              {visibleText(frame.function)} <span class="muted">{visibleText(`${frame.file}${lineText(frame)}`)}</span>
            </code>
            {(variables[index] ?? []).map(({ name, value }) => (
              <code key={name} class="stack-variable">
                {visibleText(name)} = {visibleText(value)}
              </code>
            ))}
          </li>
        ))}
      </ol>
      <p>
        <a href={`#/jobs/${encodeURIComponent(jobId)}?task=${first}`}>Task {first}</a>
        {taskIndices.length > 1 && <span class="muted"> and {counted(taskIndices.length - 1, "other task")}</span>}
      </p>
    </>
  );
}

function counted(count: number, noun: string): string {
  return `${countText(count)} ${noun}${count === 1 ? "" : "s"}`;
}
