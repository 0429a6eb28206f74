// The buttons of a job and of a task, for what the token may do. Each action asks for a confirmation.

import { useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import type { JobStatus, TaskStatus } from "../../gen/iris/rpc/cluster_pb";
import { confirm } from "../../frame/dialog";
import { navigate } from "../../frame/router";
import { hrefOf } from "../../frame/routes";
import { showError, showToast } from "../../frame/toasts";
import { countText } from "../../parts/numbers";
import { styleOf } from "../../parts/states";
import { visibleText } from "../../parts/visible_text";
import { isAdmin, mayChange, me, newRequestId } from "../../rpc/session";
import { controller } from "../../rpc/transport";
import { keepUnsuccessful, retrySubmission } from "./retry";

/** The buttons that end, retry and forget a job. A reader sees none of them. */
export function JobActions({ job, tasks }: { job: JobStatus; tasks: readonly TaskStatus[] }) {
  if (!mayChange.value) return null;
  const isOwner = isAdmin.value || me.value?.name === job.owner;
  const isFinal = styleOf(job.state).isFinal;
  const unsuccessful = tasks.filter(({ state }) => styleOf(state).name !== "SUCCEEDED").map(({ taskIndex }) => taskIndex);
  const isPartlySuccessful = unsuccessful.length > 0 && unsuccessful.length < job.numTasks;
  return (
    <div class="job-actions">
      {isOwner && <ActionButton run={() => retryJob(job, [])}>{isFinal ? "Retry" : "Submit a copy"}</ActionButton>}
      {isOwner && isFinal && isPartlySuccessful && (
        <ActionButton run={() => retryJob(job, unsuccessful)}>Retry failed tasks</ActionButton>
      )}
      {!isFinal && <ActionButton run={() => endJob(job)}>End job</ActionButton>}
      {isFinal && isOwner && <ActionButton run={() => forgetJob(job)}>Forget</ActionButton>}
    </div>
  );
}

/** The button that ends one task. */
export function EndTaskButton({ job, task }: { job: JobStatus; task: TaskStatus }) {
  if (!mayChange.value || styleOf(task.state).isFinal) return null;
  return <ActionButton run={() => endTask(job, task)}>End task</ActionButton>;
}

// The button stays enabled while its action runs, because a disabled button cannot get the focus back from the dialog.
function ActionButton({ run, children }: { run: () => Promise<void>; children: ComponentChildren }) {
  const [isBusy, setBusy] = useState(false);
  const onClick = async () => {
    if (isBusy) return;
    setBusy(true);
    try {
      await run();
    } catch (error) {
      showError(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <button type="button" class="button" aria-disabled={isBusy} onClick={() => void onClick()}>
      {children}
    </button>
  );
}

async function endJob(job: JobStatus): Promise<void> {
  const left = countText(job.numTasks - job.tasksSucceeded - job.tasksFailed - job.tasksKilled);
  const tasks = job.numTasks === 1 ? "Its task has" : `${left} of ${countText(job.numTasks)} tasks have`;
  const confirmed = await confirm({
    title: `End job ${visibleText(job.jobId)}?`,
    text: `${tasks} not ended. The processes are stopped, and the child jobs of the job end too.`,
    action: "End job",
    dangerous: true,
  });
  if (!confirmed) return;
  await controller.terminateJob({ jobId: job.jobId });
  showToast(`Job ${visibleText(job.jobId)} is being ended.`);
}

async function endTask(job: JobStatus, task: TaskStatus): Promise<void> {
  const confirmed = await confirm({
    title: `End task ${task.taskIndex}?`,
    text: "Its processes are stopped, and the task is not retried. The other tasks of the job end too, unless the tasks are independent or the job tolerates the loss.",
    action: "End task",
    dangerous: true,
  });
  if (!confirmed) return;
  await controller.terminateTask({ jobId: job.jobId, taskIndex: task.taskIndex });
  showToast(`Task ${task.taskIndex} is being ended.`);
}

/** Submits a job again: the given tasks, or all tasks if none are given. */
async function retryJob(job: JobStatus, taskIndices: readonly number[]): Promise<void> {
  const { submission, problem } = await controller.getSubmission({ jobId: job.jobId });
  if (!submission || problem) {
    showToast("This job cannot be submitted again.", "error", visibleText(problem));
    return;
  }
  const wanted = taskIndices.length ? keepUnsuccessful(submission, job.numTasks, taskIndices) : submission;
  const again = retrySubmission(wanted, newRequestId().slice(0, 8), newRequestId());
  const count = again.resources?.replicas || 1;
  const which =
    count < job.numTasks
      ? `runs the ${count === 1 ? "task that has" : `${countText(count)} tasks that have`} not succeeded`
      : `runs ${job.numTasks === 1 ? "the task" : `all ${countText(job.numTasks)} tasks`} again`;
  const isFinal = styleOf(job.state).isFinal;
  const gang = taskIndices.length && count === job.numTasks ? " The tasks start together, so all of them are needed." : "";
  const confirmed = await confirm({
    title: isFinal ? "Submit the job again?" : "Submit a copy of the job?",
    text: `A new job ${visibleText(again.name)} ${which}, with the same command, workspace, environment and resources.${gang} The present job ${isFinal ? "stays unchanged" : "continues"}.`,
    action: isFinal ? "Submit again" : "Submit a copy",
  });
  if (!confirmed) return;
  const keptVariables = Object.keys(submission.environment?.envVars ?? {}).sort();
  const { jobId } = await controller.resubmitJob({ jobId: job.jobId, submission: again, keptVariables });
  showToast(`Job ${visibleText(jobId)} was submitted.`);
  navigate(hrefOf("job", jobId));
}

async function forgetJob(job: JobStatus): Promise<void> {
  const confirmed = await confirm({
    title: `Forget job ${visibleText(job.jobId)}?`,
    text: "The job is removed with its child jobs, logs and results. This cannot be undone.",
    action: "Forget",
    dangerous: true,
  });
  if (!confirmed) return;
  const { jobIds } = await controller.forgetJob({ jobId: job.jobId, requestId: newRequestId() });
  showToast(jobIds.length > 1 ? `${jobIds.length} jobs were removed.` : "The job was removed.");
  navigate(hrefOf("jobs"), { replace: true });
}
