// The job that a view shows, put together from the messages of WatchJob. The module is pure.

import { isFieldSet } from "@bufbuild/protobuf";
import {
  JobStatusSchema,
  TaskAttemptSchema,
  TaskStatusSchema,
  type JobStatus,
  type TaskAttempt,
  type TaskStatus,
} from "../../gen/iris/rpc/cluster_pb";
import { styleOf } from "../../parts/states";

/** A job with all its tasks, by index. A task that no message has contained yet is missing in `tasks`. */
export class JobModel {
  job: JobStatus | null = null;
  readonly tasks: TaskStatus[] = [];

  /** Takes over a message of the stream: the job, with the tasks that have changed. */
  apply(job: JobStatus): void {
    // The earlier job was removed, and its name was used again, while the connection was lost.
    if (this.job && this.job.number !== job.number) this.tasks.length = 0;
    for (const task of job.tasks) this.tasks[task.taskIndex] = task;
    job.tasks = [];
    this.job = job;
  }

  /** The tasks that are known, in the order of their indices. */
  known(): TaskStatus[] {
    return this.tasks.filter((task) => task !== undefined);
  }
}

const FAILED = 5;
const WORKER_FAILED = 7;

/** Returns whether a task has failed for good. */
export function hasFailed(task: TaskStatus): boolean {
  return task.state === FAILED || task.state === WORKER_FAILED;
}

/**
 * Returns the tasks that need attention: first the failed ones, then the ones that are retried. Inside each group, the
 * task that failed first comes first, because the failures of the others are often its consequence.
 */
export function troubledTasks(tasks: readonly TaskStatus[]): TaskStatus[] {
  const failed = tasks.filter(hasFailed);
  const retried = tasks.filter((task) => !styleOf(task.state).isFinal && task.failureCount + task.preemptionCount > 0);
  return [...failed.sort(byFirstEnd), ...retried.sort(byFirstEnd)];
}

function byFirstEnd(left: TaskStatus, right: TaskStatus): number {
  return firstEnd(left) - firstEnd(right) || left.taskIndex - right.taskIndex;
}

function firstEnd(task: TaskStatus): number {
  const ends = task.attempts.filter((attempt) => attempt.error !== "" && attempt.finishedAtMs > 0n);
  return ends.length > 0 ? Number(ends[0]?.finishedAtMs) : Number(task.finishedAtMs) || Infinity;
}

/** Returns how many tasks are in each state, in the order in which a bar shows them. */
export function countStates(tasks: readonly TaskStatus[]): { state: number; count: number }[] {
  const counts = new Map<number, number>();
  for (const task of tasks) counts.set(task.state, (counts.get(task.state) ?? 0) + 1);
  return BAR_ORDER.filter((state) => counts.has(state)).map((state) => ({ state, count: counts.get(state) ?? 0 }));
}

const BAR_ORDER = [5, 7, 8, 6, 4, 3, 2, 1, 0];

/**
 * Returns how a process ended, for people: `exit code 3` or `signal 9`. The text is empty if there is no exit code, and
 * if the state already says that the exit code is 0.
 */
export function exitText(ended: JobStatus | TaskStatus | TaskAttempt): string {
  if (!hasExitCode(ended) || (ended.exitCode === 0 && styleOf(ended.state).name === "SUCCEEDED")) return "";
  return ended.termSignal ? `signal ${ended.termSignal}` : `exit code ${ended.exitCode}`;
}

function hasExitCode(ended: JobStatus | TaskStatus | TaskAttempt): boolean {
  if (ended.$typeName === "iris.cluster.JobStatus") return isFieldSet(ended, JobStatusSchema.field.exitCode);
  if (ended.$typeName === "iris.cluster.TaskStatus") return isFieldSet(ended, TaskStatusSchema.field.exitCode);
  return isFieldSet(ended, TaskAttemptSchema.field.exitCode);
}

/** A job below another job, with its own child jobs. */
export interface JobNode {
  readonly job: JobStatus;
  readonly children: JobNode[];
}

/** Returns the child jobs of a job as a tree, in the order of their submission. A job without a known parent is a root. */
export function treeOf(jobs: readonly JobStatus[]): JobNode[] {
  const nodes = new Map(jobs.map((job) => [job.jobId, { job, children: [] as JobNode[] }]));
  const roots: JobNode[] = [];
  for (const node of nodes.values()) {
    const parent = nodes.get(node.job.parentJobId);
    (parent ? parent.children : roots).push(node);
  }
  return roots;
}
