// The attempts of all tasks as a table, for readers who cannot see the timeline.

import { useState } from "preact/hooks";
import type { TaskStatus } from "../../../gen/iris/rpc/cluster_pb";
import { StateBadge } from "../../../parts/state";
import { durationText, momentText } from "../../../parts/time_text";
import { exitText } from "../job_model";
import { spansOf } from "./layout";

const ROWS = 100;

interface Props {
  tasks: readonly TaskStatus[];
  submittedMs: number;
  nowMs: number;
  onOpen: (taskIndex: number) => void;
}

/** A table that is made when the user opens it, with a button for more rows. */
export function AttemptTable({ tasks, submittedMs, nowMs, onOpen }: Props) {
  const [isOpen, setOpen] = useState(false);
  const [most, setMost] = useState(ROWS);
  return (
    <details class="attempt-table" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Attempts as a table</summary>
      {isOpen && (
        <div class="scrolled" tabIndex={0} role="region" aria-label="Attempts">
          <table class="plain-table stack">
            <thead>
              <tr>
                <th>Task</th><th>Attempt</th><th>State</th><th>Queued</th><th>Building</th><th>Running</th><th>End</th><th>Worker</th>
              </tr>
            </thead>
            <tbody>
              {tasks.slice(0, most).map((task) => (
                <TaskRows key={task.taskIndex} {...{ task, submittedMs, nowMs, onOpen }} />
              ))}
            </tbody>
          </table>
          {tasks.length > most && (
            <button type="button" class="button" onClick={() => setMost(most + 10 * ROWS)}>
              Show more of {tasks.length} tasks
            </button>
          )}
        </div>
      )}
    </details>
  );
}

function TaskRows({ task, submittedMs, nowMs, onOpen }: Omit<Props, "tasks"> & { task: TaskStatus }) {
  const spans = spansOf(task, submittedMs, nowMs);
  const length = (attemptId: number, phase: string) => {
    const span = spans.find((one) => one.attemptId === attemptId && one.phase === phase);
    return span ? durationText(span.endMs - span.startMs) : "–";
  };
  const open = (
    <button type="button" class="link-button" onClick={() => onOpen(task.taskIndex)}>
      {task.taskIndex}
    </button>
  );
  if (task.attempts.length === 0) {
    return (
      <tr>
        <td data-label="Task">{open}</td>
        <td data-label="Attempt">–</td>
        <td data-label="State"><StateBadge state={task.state} /></td>
        <td data-label="Queued">{length(0, "queued")}</td>
        <td data-label="Building">–</td>
        <td data-label="Running">–</td>
        <td data-label="End">–</td>
        <td data-label="Worker">–</td>
      </tr>
    );
  }
  return (
    <>
      {task.attempts.map((attempt) => (
        <tr key={attempt.attemptId}>
          <td data-label="Task">{open}</td>
          <td data-label="Attempt">{attempt.attemptId}</td>
          <td data-label="State"><StateBadge state={attempt.state} /></td>
          <td data-label="Queued">{length(attempt.attemptId, "queued")}</td>
          <td data-label="Building">{length(attempt.attemptId, "building")}</td>
          <td data-label="Running">{length(attempt.attemptId, "running")}</td>
          <td data-label="End">
            {attempt.finishedAtMs > 0n ? momentText(Number(attempt.finishedAtMs)) : "–"} {exitText(attempt)}
          </td>
          <td class="mono" data-label="Worker">{attempt.workerId || "–"}</td>
        </tr>
      ))}
    </>
  );
}
