// The list of jobs on a page, to which the messages of WatchJobs are applied.

import type { Controller_WatchJobsResponse as WatchJobsResponse, JobStatus } from "../../gen/iris/rpc/cluster_pb";
import { toNumber } from "../../parts/numbers";

/** The list of jobs at one moment. */
export interface ListedJobs {
  /** The jobs of the page, the newest first. */
  readonly jobs: readonly JobStatus[];
  /** How many jobs meet the conditions other than the states, by the number of their state. */
  readonly counts: ReadonlyMap<number, number>;
  /** The token of the next page; empty if this is the last page. */
  readonly nextPage: string;
}

/** Applies the messages of one stream after another. Each stream begins with a snapshot. */
export class JobListState {
  private byNumber = new Map<bigint, JobStatus>();

  /** Applies a message, and returns the list. Returns null for a beat, which changes nothing. */
  apply(message: WatchJobsResponse): ListedJobs | null {
    if (!message.counts) return null;
    if (message.isSnapshot) this.byNumber = new Map();
    for (const number of message.left) this.byNumber.delete(number);
    for (const job of message.jobs) this.byNumber.set(job.number, job);
    const jobs = [...this.byNumber.values()].sort((a, b) => toNumber(b.number - a.number));
    const counts = new Map(message.counts.counts.map(({ state, jobs: count }) => [state as number, toNumber(count)]));
    return { jobs, counts, nextPage: message.nextPageToken };
  }
}

/** Returns how many jobs there are in the given states; in all states if none are given. */
export function total(counts: ReadonlyMap<number, number>, states: readonly number[]): number {
  let sum = 0;
  for (const [state, count] of counts) if (states.length === 0 || states.includes(state)) sum += count;
  return sum;
}
