// The tasks that have failed or are retried, with the reason and the last lines.

import { useState } from "preact/hooks";
import { FailureReason, type TaskStatus } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { StateBadge } from "../../parts/state";
import { visibleText } from "../../parts/visible_text";
import { exitText, hasFailed, troubledTasks } from "./job_model";
import { LastLines } from "./last_lines";

const FIRST = 3;
const MORE = 20;
const LINES = 6;
const RETRIED_LINES = 3;

interface Props {
  jobId: string;
  tasks: readonly TaskStatus[];
  onSelect: (taskIndex: number) => void;
}

/** The section of the troubled tasks; nothing if no attempt has failed. */
export function Failures({ jobId, tasks, onSelect }: Props) {
  const [most, setMost] = useState(FIRST);
  const troubled = troubledTasks(tasks);
  if (troubled.length === 0) return null;
  return (
    <section aria-labelledby="failures-title">
      <h2 id="failures-title">
        Failed and retried tasks <span class="muted">{troubled.length}</span>
      </h2>
      <ol class="failures">
        {troubled.slice(0, most).map((task) => (
          <FailedTask key={task.taskIndex} {...{ jobId, task, onSelect }} />
        ))}
      </ol>
      {troubled.length > most && (
        <button type="button" class="button" onClick={() => setMost(most + MORE)}>
          Show {Math.min(MORE, troubled.length - most)} more
        </button>
      )}
    </section>
  );
}

function FailedTask({ jobId, task, onSelect }: { jobId: string; task: TaskStatus; onSelect: Props["onSelect"] }) {
  const failed = task.attempts.filter((attempt) => attempt.error !== "");
  const attempt = failed[failed.length - 1];
  const ending = attempt ? exitText(attempt) : "";
  const error = attempt?.error || task.error;
  return (
    <li class={hasFailed(task) ? undefined : "failure-retried"}>
      <div class="failure-head">
        <button type="button" class="link-button" onClick={() => onSelect(task.taskIndex)}>
          Task {task.taskIndex}
        </button>
        <StateBadge state={task.state} />
        {attempt && ending && <span>{task.attempts.length > 1 && `attempt ${attempt.attemptId}: `}{ending}</span>}
        <code class="reason">{reasonName(attempt?.failureReason ?? task.failureReason)}</code>
        {task.attempts.length > 1 && <span class="muted">{task.attempts.length} attempts</span>}
        <a href={hrefOf("logs", jobId, [["task", String(task.taskIndex)]])}>Log</a>
      </div>
      {error !== ending && <p class="error-text" dir="auto">{visibleText(error)}</p>}
      {attempt && (
        <LastLines taskId={task.taskId} attemptId={attempt.attemptId} lines={hasFailed(task) ? LINES : RETRIED_LINES} version={String(attempt.finishedAtMs)} />
      )}
    </li>
  );
}

/** Returns the name of a failure code, for example `EXIT_CODE`. A code of a newer controller is shown as a number. */
export function reasonName(code: number): string {
  return code === 0 ? "" : (FailureReason[code]?.replace("FAILURE_REASON_", "") ?? `code ${code}`);
}
