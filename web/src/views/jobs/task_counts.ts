// How many tasks of a job are in each state.

import type { JobStatus } from "../../gen/iris/rpc/cluster_pb";
import type { StateCount } from "../../parts/state";
import { stateNumber } from "../../parts/states";

const SUCCEEDED = stateNumber("SUCCEEDED");
const RUNNING = stateNumber("RUNNING");
const FAILED = stateNumber("FAILED");
const KILLED = stateNumber("KILLED");
const UNSCHEDULABLE = stateNumber("UNSCHEDULABLE");
const PENDING = stateNumber("PENDING");

/** Returns how many tasks of a job are in each state, in the order of the bar. */
export function taskCounts(job: JobStatus): StateCount[] {
  return [
    { state: SUCCEEDED, count: job.tasksSucceeded },
    { state: RUNNING, count: job.tasksRunning },
    { state: FAILED, count: job.tasksFailed },
    // The wire counts killed and unschedulable tasks together. In an unschedulable job, no task was killed by a user.
    { state: job.state === UNSCHEDULABLE ? UNSCHEDULABLE : KILLED, count: job.tasksKilled },
    { state: PENDING, count: job.tasksPending },
  ];
}
