import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  Controller_LaunchJobRequestSchema,
  type Controller_LaunchJobRequest,
  JobStatusSchema,
  TaskStatusSchema,
  UsageSeriesSchema,
  type TaskStatus,
} from "../src/gen/iris/rpc/cluster_pb";
import { commandLine, plainLine, visibleText } from "../src/parts/visible_text";
import { cellAfter, cellAt, gridOf } from "../src/views/job/grid_layout";
import { countStates, exitText, JobModel, treeOf, troubledTasks } from "../src/views/job/job_model";
import { keepUnsuccessful, newName, retrySubmission } from "../src/views/job/retry";
import { inOrder, momentAt, moved, rowHeight, spansOf, tickStep, tickText, xOf, zoomed } from "../src/views/job/timeline/layout";
import { axisValues, columnsOf, CPU, GPU, largestValue, MEMORY, summaryOf, timeLabel, timeRange } from "../src/views/job/usage/usage_data";

const [PENDING, RUNNING, SUCCEEDED, FAILED, KILLED] = [1, 3, 4, 5, 6];

function task(values: MessageInitShape<typeof TaskStatusSchema>): TaskStatus {
  return create(TaskStatusSchema, values);
}

function phases(one: TaskStatus, nowMs: number): string[] {
  return spansOf(one, 1_000, nowMs).map(({ phase, attemptId, startMs, endMs }) => `${attemptId} ${phase} ${startMs}-${endMs}`);
}

test("attempts are drawn as queued, building and running", () => {
  const retried = task({
    state: RUNNING,
    attempts: [
      { attemptId: 0, state: FAILED, placedAtMs: 2_000n, startedAtMs: 2_500n, finishedAtMs: 4_000n },
      { attemptId: 1, state: RUNNING, placedAtMs: 6_000n, startedAtMs: 6_200n },
    ],
  });
  assert.deepEqual(phases(retried, 9_000), [
    "0 queued 1000-2000", "0 building 2000-2500", "0 running 2500-4000",
    "1 queued 4000-6000", "1 building 6000-6200", "1 running 6200-9000",
  ]);
});

test("task that waits is queued until now", () => {
  assert.deepEqual(phases(task({ state: PENDING }), 5_000), ["0 queued 1000-5000"]);
  const pausing = task({ state: PENDING, attempts: [{ state: FAILED, placedAtMs: 1_000n, startedAtMs: 1_500n, finishedAtMs: 2_000n }] });
  assert.deepEqual(phases(pausing, 5_000).at(-1), "1 queued 2000-5000");
  assert.deepEqual(phases(task({ state: KILLED, finishedAtMs: 3_000n }), 9_000), ["0 queued 1000-3000"]);
});

test("attempt of an older controller has no time of its placement", () => {
  const old = task({ state: SUCCEEDED, attempts: [{ state: SUCCEEDED, startedAtMs: 2_000n, finishedAtMs: 3_000n }] });
  assert.deepEqual(phases(old, 9_000), ["0 queued 1000-2000", "0 running 2000-3000"]);
});

test("attempt that failed before its process started has an end", () => {
  const unstarted = task({ state: FAILED, attempts: [{ state: FAILED, placedAtMs: 2_000n, finishedAtMs: 2_000n }] });
  const last = spansOf(unstarted, 1_000, 9_000).at(-1);
  assert.deepEqual([last?.phase, last?.isLast, last?.endMs], ["building", true, 2_000]);
});

test("zoom keeps the moment under the pointer and stays inside of the whole time", () => {
  const whole = { startMs: 0, endMs: 10_000, width: 500 };
  const near = zoomed(whole, 0.5, 4_000, whole);
  assert.equal(xOf(near, 4_000), xOf(whole, 4_000));
  assert.equal(momentAt(near, xOf(near, 4_000)), 4_000);
  assert.deepEqual(zoomed(near, 100, 4_000, whole), whole);
  assert.equal(moved(near, -1e9, whole).startMs, 0);
  assert.equal(moved(near, 1e9, whole).endMs, 10_000);
  let closest = whole;
  for (let step = 0; step < 50; step += 1) closest = zoomed(closest, 0.5, 4_000, whole);
  assert.equal(Math.round(closest.endMs - closest.startMs), 100);
});

test("labels of the time keep their distance", () => {
  for (const length of [500, 60_000, 3_600_000, 86_400_000, 30 * 86_400_000, 4_000 * 86_400_000]) {
    const step = tickStep({ startMs: 0, endMs: length, width: 900 });
    assert.ok((900 * step) / length >= 90 || step >= length, `${length}`);
  }
});

test("labels of the time are exact, so that neighbours differ at every zoom", () => {
  const texts = [1, 20, 1_000, 1_020, 10_100, 60_000, 185_200, 7_800_000, 7_805_000, 90_000_000].map(tickText);
  assert.deepEqual(texts, ["+1ms", "+20ms", "+1s", "+1.02s", "+10.1s", "+1m", "+3m 5.2s", "+2h 10m", "+2h 10m 5s", "+1d 1h"]);
});

test("short jobs have labels of the time", () => {
  for (const length of [100, 150, 300, 900]) {
    const step = tickStep({ startMs: 0, endMs: length, width: 1_300 });
    assert.ok(length / step >= 5, `${length}: ${step}`);
  }
});

test("rows are low in a large job and never vanish", () => {
  assert.deepEqual([1, 10, 100, 1_000, 100_000].map((rows) => rowHeight(rows, 418)), [16, 16, 4, 4, 4]);
  assert.equal(rowHeight(0, 418), 16);
});

test("rows are ordered by what the user chooses", () => {
  const tasks = [
    task({ taskIndex: 0, state: SUCCEEDED, startedAtMs: 50n, finishedAtMs: 60n }),
    task({ taskIndex: 1, state: PENDING }),
    task({ taskIndex: 2, state: FAILED, startedAtMs: 10n, finishedAtMs: 90n }),
    task({ taskIndex: 3, state: PENDING }),
    task({ taskIndex: 4, state: RUNNING, startedAtMs: 20n }),
  ];
  const order = (by: "index" | "start" | "duration" | "state") => inOrder(tasks, by, 70).map((one) => one.taskIndex);
  assert.deepEqual(order("index"), [0, 1, 2, 3, 4]);
  assert.deepEqual(order("start"), [2, 4, 0, 1, 3]);
  assert.deepEqual(order("duration"), [2, 4, 0, 1, 3]);
  assert.deepEqual(order("state"), [2, 4, 1, 3, 0]);
});

test("grid finds the cell at a point and the cell after a key", () => {
  const grid = gridOf(1_000, 800);
  assert.deepEqual([grid.columns, grid.rows, grid.heightPx], [50, 20, 320]);
  assert.equal(cellAt(grid, 1_000, 17, 33), 101);
  assert.equal(cellAt(grid, 1_000, 801, 0), -1);
  assert.equal(cellAt(grid, 990, 790, 319), -1);
  assert.equal(cellAfter(grid, 1_000, 5, "ArrowDown"), 55);
  assert.equal(cellAfter(grid, 1_000, 980, "ArrowDown"), 980);
  assert.equal(cellAfter(grid, 1_000, -1, "ArrowRight"), 0);
  assert.equal(cellAfter(grid, 1_000, 5, "End"), 999);
  assert.equal(cellAfter(grid, 1_000, 5, "Home"), 0);
  assert.equal(cellAfter(grid, 1_000, 5, "x"), null);
  assert.equal(gridOf(0, 800).rows, 0);
});

test("messages of the stream are put together", () => {
  const model = new JobModel();
  model.apply(create(JobStatusSchema, { numTasks: 3, tasks: [{ taskIndex: 0 }, { taskIndex: 1 }, { taskIndex: 2 }] }));
  model.apply(create(JobStatusSchema, { numTasks: 3, state: FAILED, tasks: [{ taskIndex: 1, state: FAILED }] }));
  assert.deepEqual(model.known().map((one) => one.state), [0, FAILED, 0]);
  assert.equal(model.job?.state, FAILED);
  assert.deepEqual(countStates(model.known()), [{ state: FAILED, count: 1 }, { state: 0, count: 2 }]);
});

test("tasks of a removed job with the same name are forgotten", () => {
  const model = new JobModel();
  model.apply(create(JobStatusSchema, { number: 1n, numTasks: 2, tasks: [{ taskIndex: 0, state: FAILED }, { taskIndex: 1, state: FAILED }] }));
  model.apply(create(JobStatusSchema, { number: 2n, numTasks: 1, tasks: [{ taskIndex: 0, state: RUNNING }] }));
  assert.deepEqual(model.known().map((one) => one.state), [RUNNING]);
});

test("task that failed first comes first", () => {
  const failed = (taskIndex: number, state: number, ms: bigint) =>
    task({ taskIndex, state, failureCount: 1, attempts: [{ state: FAILED, error: "exit code 3", finishedAtMs: ms }] });
  const tasks = [failed(0, FAILED, 300n), failed(1, RUNNING, 100n), failed(2, FAILED, 200n), task({ taskIndex: 3, state: RUNNING })];
  assert.deepEqual(troubledTasks(tasks).map((one) => one.taskIndex), [2, 0, 1]);
});

test("exit code 0 is a value, and a missing exit code is none", () => {
  assert.equal(exitText(task({ state: KILLED, exitCode: 0 })), "exit code 0");
  assert.equal(exitText(task({ state: SUCCEEDED, exitCode: 0 })), "", "the state says the same");
  assert.equal(exitText(task({ exitCode: 137, termSignal: 9 })), "signal 9");
  assert.equal(exitText(task({ state: KILLED })), "");
});

test("child jobs are a tree", () => {
  const job = (jobId: string, parentJobId: string) => create(JobStatusSchema, { jobId, parentJobId });
  const roots = treeOf([job("a/b", "a"), job("a/b/c", "a/b"), job("a/d", "a"), job("a/x/y", "a/x")]);
  assert.deepEqual(roots.map(({ job: { jobId }, children }) => [jobId, children.length]), [["a/b", 1], ["a/d", 0], ["a/x/y", 0]]);
});

test("name of a retry gets a new suffix", () => {
  assert.equal(newName("train", "0123abcd"), "train-0123abcd");
  assert.equal(newName("train-ffffffff", "0123abcd"), "train-0123abcd");
  assert.equal(new TextEncoder().encode(newName("ä".repeat(150), "0123abcd")).length, 199);
  const again = retrySubmission(
    create(Controller_LaunchJobRequestSchema, {
      name: "tree/old", askedName: "old", parentJobId: "tree", parentTaskIndex: 2, command: ["true"], stdin: true, maxRetriesFailure: 3,
    }),
    "0123abcd", "submission",
  );
  assert.deepEqual([again.name, again.parentJobId, again.stdin, again.command, again.maxRetriesFailure], ["old-0123abcd", "", false, ["true"], 3]);
});

test("retry of unsuccessful tasks keeps what each task sees, and a gang keeps all its tasks", () => {
  const submission = (independentTasks: boolean, seenTaskIndices: number[] = []) =>
    create(Controller_LaunchJobRequestSchema, { independentTasks, seenTaskIndices, seenNumTasks: seenTaskIndices.length && 9, resources: { replicas: 4 } });
  const wanted = (kept: Controller_LaunchJobRequest) => [kept.resources?.replicas, kept.seenTaskIndices, kept.seenNumTasks];
  assert.deepEqual(wanted(keepUnsuccessful(submission(true), 4, [1, 3])), [2, [1, 3], 4]);
  assert.deepEqual(wanted(keepUnsuccessful(submission(true, [2, 4, 6, 8]), 4, [1, 3])), [2, [4, 8], 9]);
  assert.deepEqual(wanted(keepUnsuccessful(submission(false), 4, [1, 3])), [4, [], 0]);
  const earlier = submission(true);
  keepUnsuccessful(earlier, 4, [0]);
  assert.equal(earlier.resources?.replicas, 4, "the earlier submission stays as it was");
});

test("retry of failed tasks fails if all its tasks fail, unless the earlier job allowed this", () => {
  const allowed = (maxTaskFailures: number) => {
    const earlier = create(Controller_LaunchJobRequestSchema, { independentTasks: true, maxTaskFailures, resources: { replicas: 4 } });
    return keepUnsuccessful(earlier, 4, [1, 3]).maxTaskFailures;
  };
  assert.deepEqual([0, 1, 2, 3, 4, 9].map(allowed), [0, 1, 1, 1, 4, 9]);
});

test("hidden characters become visible, and colours disappear", () => {
  assert.equal(visibleText("a\u202eb\u0000c\u001b[31m\td\ne"), "a\\u202eb\\x00c\\x1b[31m\td\ne");
  assert.equal(plainLine("\u001b[1;31mred\u001b[0m \u001b]8;;x\u0007link"), "red link");
  assert.equal(plainLine("10%\r50%\r100%\r\r"), "100%");
  assert.equal(commandLine(["echo", "it's", "a b", "", "x=1"]), "echo 'it'\\''s' 'a b' '' x=1");
});

test("series with different steps share the times of a plot", () => {
  const first = create(UsageSeriesSchema, { stepMs: 2_000n, timesMs: [0n, 2_000n, 60_000n], cpuMillicores: [1_000n, 500n, 250n] });
  const second = create(UsageSeriesSchema, { stepMs: 4_000n, timesMs: [4_000n], cpuMillicores: [2_000n] });
  assert.deepEqual(columnsOf([first, second], CPU), [[0, 2, 4, 60], [1, 0.5, 0.5, 0.25], [null, null, 2, null]]);
  assert.equal(summaryOf(first, CPU), "last 0.25 cores, most 1 core");
  assert.equal(summaryOf(create(UsageSeriesSchema, {}), CPU), "");
});

test("vertical axis ends at a round value above the largest value", () => {
  assert.deepEqual(axisValues(1.6), [0, 0.5, 1, 1.5, 2]);
  assert.deepEqual(axisValues(4), [0, 1, 2, 3, 4]);
  assert.deepEqual(axisValues(0.008), [0, 0.01], "each line has a label of its own");
  assert.deepEqual(axisValues(6 * 2 ** 20, MEMORY.steps), [0, 2, 4, 6].map((mib) => mib * 2 ** 20));
});

test("request far above the use does not hide the use", () => {
  assert.equal(largestValue(2, 8), 8);
  assert.equal(largestValue(2, 9), 2);
  assert.equal(largestValue(0, 9), 9);
});

test("requested amounts of a sum are a line of their own", () => {
  const sum = create(UsageSeriesSchema, {
    stepMs: 2_000n, timesMs: [0n], memoryMb: [512n], requestedMemoryMb: [1_024n], gpuPercent: [50n], requestedGpus: [0n],
  });
  assert.deepEqual(columnsOf([sum], MEMORY), [[0], [512 * 2 ** 20], [1_024 * 2 ** 20]]);
  assert.deepEqual(columnsOf([sum], GPU), [[0], [0.5]]);
  assert.equal(MEMORY.text(1_536 * 2 ** 20), "1.5 GiB");
  const noon = new Date(2026, 10, 30, 12, 5, 7).getTime() / 1_000;
  assert.deepEqual([5, 60, 86_400].map((step) => timeLabel(noon, step)), ["12:05:07", "12:05", "11-30"]);
  assert.deepEqual(timeRange(100, 100), [80, 100]);
  assert.deepEqual(timeRange(100, 500), [100, 500]);
});

test("first key chooses a cell of a grid with one cell or one row", () => {
  const [single, row] = [gridOf(1, 800), gridOf(3, 800)];
  for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"]) assert.equal(cellAfter(single, 1, -1, key), 0, key);
  assert.equal(cellAfter(row, 3, -1, "ArrowDown"), 0);
  assert.equal(cellAfter(row, 3, -1, "End"), 2);
  assert.equal(cellAfter(row, 3, 0, "x"), null);
});
