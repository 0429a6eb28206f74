import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Controller_WatchJobsResponseSchema as Schema, JobStatusSchema } from "../src/gen/iris/rpc/cluster_pb";
import { choosesAll, conditionsOf, requestOf, stateParameter } from "../src/views/jobs/conditions";
import { taskCounts } from "../src/views/jobs/task_counts";
import { JobListState, total } from "../src/views/jobs/job_list";
import { targetRow } from "../src/parts/virtual_rows";

const job = (number: number, state = 3) => create(JobStatusSchema, { jobId: `job-${number}`, number: BigInt(number), state });
const counts = { counts: [{ state: 3, jobs: 2n }, { state: 5, jobs: 1n }] };

test("list applies a snapshot, changes and leaves in any order of numbers", () => {
  const state = new JobListState();
  const first = state.apply(create(Schema, { isSnapshot: true, jobs: [job(2), job(9), job(1)], counts, nextPageToken: "jobs-0" }));
  assert.deepEqual(first?.jobs.map((one) => one.jobId), ["job-9", "job-2", "job-1"]);
  assert.equal(first?.nextPage, "jobs-0");
  const second = state.apply(create(Schema, { jobs: [job(10), job(2, 5)], left: [1n], counts }));
  assert.deepEqual(second?.jobs.map((one) => [one.jobId, one.state]), [["job-10", 3], ["job-9", 3], ["job-2", 5]]);
  const again = state.apply(create(Schema, { isSnapshot: true, jobs: [job(3)], counts }));
  assert.deepEqual(again?.jobs.map((one) => one.jobId), ["job-3"]);
});

test("tasks of an unschedulable job have the colour of their state", () => {
  const counts = (state: number) => taskCounts(create(JobStatusSchema, { state, tasksKilled: 3 })).filter(({ count }) => count > 0);
  assert.deepEqual(counts(8), [{ state: 8, count: 3 }]);
  assert.deepEqual(counts(6), [{ state: 6, count: 3 }]);
});

test("beat changes nothing", () => {
  assert.equal(new JobListState().apply(create(Schema, {})), null);
});

test("total adds the jobs of the chosen states, or of all", () => {
  const known = new Map([[3, 2], [5, 1]]);
  assert.deepEqual([total(known, []), total(known, [5]), total(known, [4])], [3, 1, 0]);
});

test("conditions leave out what the page does not know", () => {
  const conditions = conditionsOf(new URLSearchParams("state=FAILED,nonsense,RUNNING,FAILED&since=9y&name=a%20b"));
  assert.deepEqual(conditions, { name: "a b", owner: "", states: [5, 3], since: "", page: "" });
  assert.equal(stateParameter(conditions.states), "FAILED,RUNNING");
  assert.ok(!choosesAll(conditions));
  assert.ok(choosesAll(conditionsOf(new URLSearchParams("page=jobs-3"))));
});

test("beginning of a span is the same for tabs that are opened in the same minute", () => {
  const conditions = conditionsOf(new URLSearchParams("since=1h"));
  const [one, other] = [1_000, 59_000].map((ms) => requestOf(conditions, 7_200_000 + ms).sinceMs);
  assert.equal(one, other);
  assert.equal(one, 3_600_000n);
});

test("keys move between the first and the last row", () => {
  const moves = ["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "x"].map((key) => targetRow(key, 3, 10, 8));
  assert.deepEqual(moves, [4, 2, 7, 0, 0, 7, null]);
  assert.equal(targetRow("ArrowDown", 0, 10, 0), null);
});
