// The conditions for the listed jobs: from the query of the route to the request, and back.

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Controller_WatchJobsRequestSchema as WatchJobsRequestSchema } from "../../gen/iris/rpc/cluster_pb";
import { stateNumber, STATES } from "../../parts/states";

/** The conditions for the jobs that the view shows. */
export interface Conditions {
  /** A part of the job id; empty for all jobs. */
  readonly name: string;
  /** The name of the owner; empty for all owners. */
  readonly owner: string;
  /** The numbers of the accepted states; empty for all states. */
  readonly states: readonly number[];
  /** One of the keys of `SPANS`; empty for all times. */
  readonly since: string;
  /** The token of the page; empty for the first page. */
  readonly page: string;
}

const HOUR_MS = 3_600_000;

/** The spans of time that users can choose, with their lengths in ms. */
export const SPANS: ReadonlyMap<string, { readonly label: string; readonly ms: number }> = new Map([
  ["1h", { label: "last hour", ms: HOUR_MS }],
  ["1d", { label: "last day", ms: 24 * HOUR_MS }],
  ["7d", { label: "last 7 days", ms: 7 * 24 * HOUR_MS }],
  ["30d", { label: "last 30 days", ms: 30 * 24 * HOUR_MS }],
]);

// The beginning of a span is rounded down to this time, so that tabs with the same conditions share one stream.
const ROUNDED_MS = 60_000;
/** The number of jobs on one page, which is the largest number that the controller allows. */
export const PAGE_SIZE = 1_000;

/** Returns the conditions in the query of a route. Unknown states and spans are left out. */
export function conditionsOf(query: URLSearchParams): Conditions {
  const since = query.get("since") ?? "";
  const names = (query.get("state") ?? "").split(",");
  return {
    name: query.get("name") ?? "",
    owner: query.get("owner") ?? "",
    states: names.map(stateNumber).filter((state, index, all) => state > 0 && all.indexOf(state) === index),
    since: SPANS.has(since) ? since : "",
    page: query.get("page") ?? "",
  };
}

/** Returns the value of the parameter `state` for some states. */
export function stateParameter(states: readonly number[]): string {
  return states.map((state) => STATES[state]?.name ?? "").join(",");
}

/** Returns whether the conditions choose all jobs. */
export function choosesAll({ name, owner, states, since }: Conditions): boolean {
  return !name && !owner && states.length === 0 && !since;
}

/** Returns the request that watches the jobs. `nowMs` is the present time in ms since the epoch. */
export function requestOf(conditions: Conditions, nowMs: number): MessageInitShape<typeof WatchJobsRequestSchema> {
  const span = SPANS.get(conditions.since);
  const sinceMs = span ? Math.floor((nowMs - span.ms) / ROUNDED_MS) * ROUNDED_MS : 0;
  return {
    idContains: conditions.name,
    owner: conditions.owner,
    states: [...conditions.states],
    sinceMs: BigInt(Math.max(0, sinceMs)),
    newestFirst: true,
    pageSize: PAGE_SIZE,
    pageToken: conditions.page,
  };
}
