// The banner of a job that seems to hang: which tasks are idle, what the code means, and where to look next.

import { HangReason, type Hang, type JobStatus } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { styleOf } from "../../parts/states";
import { Duration } from "../../parts/time";
import { visibleText } from "../../parts/visible_text";
import { mayLookInside } from "../../rpc/session";

const SHOWN_TASKS = 12;
// The meanings are the meanings in docs/errors.md.
const MEANINGS: Readonly<Record<number, string>> = {
  [HangReason.ALL_TASKS_IDLE]: "No task has written output or used the CPU for the set time.",
  [HangReason.SOME_TASKS_IDLE]:
    "Some tasks have neither written output nor used the CPU for the set time, while other tasks continue.",
};

interface Props {
  readonly job: JobStatus;
  readonly onSelect: (taskIndex: number) => void;
}

/** The banner; nothing if the job does not seem to hang. */
export function HangBanner({ job, onSelect }: Props) {
  const { hang } = job;
  if (!hang || styleOf(job.state).isFinal) return null;
  return (
    <section class="hang-banner" aria-labelledby="hang-title">
      <div class="failure-head">
        <h2 id="hang-title">The job seems to hang</h2>
        <code class="reason">{hangReasonName(hang.reason)}</code>
        <span>
          idle for <Duration startMs={Number(hang.sinceMs)} endMs={0} />
        </span>
      </div>
      <p dir="auto">{visibleText(hang.text)}</p>
      {MEANINGS[hang.reason] && <p>{MEANINGS[hang.reason]}</p>}
      <p class="hang-links">
        <span>Idle {hang.taskIndices.length === 1 ? "task" : "tasks"}:</span>
        <IdleTasks hang={hang} onSelect={onSelect} />
        {mayLookInside(job.owner) && <a class="button" href={hrefOf("stacks", job.jobId)}>Stacks of all tasks</a>}
      </p>
    </section>
  );
}

function IdleTasks({ hang, onSelect }: { hang: Hang; onSelect: Props["onSelect"] }) {
  const more = hang.taskIndices.length - SHOWN_TASKS;
  return (
    <>
      {hang.taskIndices.slice(0, SHOWN_TASKS).map((index) => (
        <button key={index} type="button" class="link-button" aria-label={`Task ${index}`} onClick={() => onSelect(index)}>
          {index}
        </button>
      ))}
      {more > 0 && <span>and {more} more</span>}
    </>
  );
}

/** Returns the name of a code, for example `ALL_TASKS_IDLE`. A code of a newer controller is shown as a number. */
function hangReasonName(code: number): string {
  return HangReason[code] ?? `code ${code}`;
}
