// One task of the job: its attempts, last lines and usage.

import { useEffect, useRef } from "preact/hooks";
import type { JobStatus, TaskStatus } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { Command } from "../../parts/copy";
import { StateBadge } from "../../parts/state";
import { styleOf } from "../../parts/states";
import { Duration, Moment } from "../../parts/time";
import { commandLine, visibleText } from "../../parts/visible_text";
import { mayLookInside } from "../../rpc/session";
import { EndTaskButton } from "./actions";
import { reasonName } from "./failures";
import { exitText } from "./job_model";
import { NewestLines } from "./last_lines";
import { UsagePlots } from "./usage/usage_plots";

interface Props {
  job: JobStatus;
  task: TaskStatus;
  beat: number;
  onClose: () => void;
}

/** The chosen task. The panel gets the focus when another task is chosen. */
export function TaskPanel({ job, task, beat, onClose }: Props) {
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => title.current?.focus(), [task.taskIndex]);
  const isRunning = styleOf(task.state).name === "RUNNING";
  return (
    <section class="task-panel" aria-labelledby="task-title">
      <div class="failure-head">
        <h2 id="task-title" ref={title} tabIndex={-1}>
          Task {task.taskIndex}
        </h2>
        <StateBadge state={task.state} />
        <Duration startMs={Number(task.startedAtMs)} endMs={Number(task.finishedAtMs)} />
        <span>{exitText(task)}</span>
        <a href={hrefOf("logs", job.jobId, [["task", String(task.taskIndex)]])}>Log</a>
        {isRunning && mayLookInside(job.owner) && (
          <>
            <a href={hrefOf("stacks", job.jobId, [["task", String(task.taskIndex)]])}>Stacks</a>
            <a href={hrefOf("profile", job.jobId, [["task", String(task.taskIndex)]])}>Profile</a>
            <a href={hrefOf("terminal", job.jobId, [["task", String(task.taskIndex)]])}>Terminal</a>
          </>
        )}
        <EndTaskButton job={job} task={task} />
        <button type="button" class="quiet-button" onClick={onClose}>
          Close
        </button>
      </div>
      {task.statusMessage && <p dir="auto">{visibleText(task.statusMessage)}</p>}
      {isRunning && <Ports job={job} task={task} />}
      {task.attempts.length > 0 && (
        <div class="scrolled" tabIndex={0} role="region" aria-label={`Attempts of task ${task.taskIndex}`}>
          <table class="plain-table stack">
            <thead>
              <tr>
                <th>Attempt</th><th>State</th><th>Started</th><th>Ran for</th><th>Exit</th><th>Worker</th><th>Reason</th>
              </tr>
            </thead>
            <tbody>
              {[...task.attempts].reverse().map((attempt) => (
                <tr key={attempt.attemptId}>
                  <td data-label="Attempt">{attempt.attemptId}</td>
                  <td data-label="State"><StateBadge state={attempt.state} /></td>
                  <td data-label="Started"><Moment ms={Number(attempt.startedAtMs)} /></td>
                  <td data-label="Ran for">
                    <Duration startMs={Number(attempt.startedAtMs)} endMs={Number(attempt.finishedAtMs)} />
                  </td>
                  <td data-label="Exit">{exitText(attempt) || "–"}</td>
                  <td class="mono" data-label="Worker">{attempt.workerId || "–"}</td>
                  <td class="wide-cell" data-label="Reason" dir="auto">
                    {attempt.error && <><code class="reason">{reasonName(attempt.failureReason)}</code> {attempt.error !== exitText(attempt) && visibleText(attempt.error)}</>}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <NewestLines task={task} beat={beat} />
      {task.attempts.length > 0 && <UsagePlots key={task.taskIndex} jobId={job.jobId} tasks={[task.taskIndex]} beat={beat} />}
    </section>
  );
}

/** The ports that the task has requested, each with its address and the command that forwards it. */
function Ports({ job, task }: { job: JobStatus; task: TaskStatus }) {
  const ports = Object.entries(task.ports);
  if (ports.length === 0) return null;
  const mayForward = mayLookInside(job.owner);
  return (
    <>
      <p class="muted">Ports{mayForward && ". The command makes a port reachable on your own machine."}</p>
      <ul class="endpoints task-ports">
        {ports.map(([name, port]) => (
          <li key={name}>
            <strong>{visibleText(name)}</strong> <code dir="ltr">{hostOf(task.workerAddress)}:{port}</code>
            {mayForward && <Command text={commandLine(["iris", "forward", task.taskId, name])} />}
          </li>
        ))}
      </ul>
    </>
  );
}

function hostOf(address: string): string {
  try {
    return new URL(address).hostname;
  } catch {
    return visibleText(address); // Another program has registered this worker.
  }
}
