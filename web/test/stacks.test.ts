// The merging of stacks, which gives the same result as `iris stack`.

import { create } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { test } from "node:test";
import { ReadStacksResponseSchema, type StackFrame } from "../src/gen/iris/rpc/cluster_pb.ts";
import { compact, merge, tasksText } from "../src/views/inside/stacks/merge.ts";

const FRAMES = [
  { function: "Condition.wait", file: "/usr/lib/python3.11/threading.py", line: 327 },
  { function: "_worker", file: "/usr/lib/python3.11/concurrent/futures/thread.py", line: 81 },
  { function: "step", file: "/home/ana/train.py", line: 9 },
  { function: "Thread._bootstrap", file: "/usr/lib/python3.11/threading.py", line: 1002 },
  { function: "forward", file: "/usr/lib/python3.11/site-packages/torch/nn.py", line: 1 },
];

function answer(...tasks: { taskIndex: number; name: string; frames: number[]; isActive?: boolean }[]) {
  return create(ReadStacksResponseSchema, {
    frames: FRAMES,
    tasks: tasks.map(({ taskIndex, ...thread }) => ({
      taskIndex,
      processes: [{ command: "python", threads: [{ ...thread, isActive: thread.isActive ?? false }] }],
    })),
  });
}

test("threads of a pool that wait are counted, and busy ones are shown", () => {
  const waiting = { taskIndex: 0, name: "ThreadPoolExecutor-0_1", frames: [0, 1, 3] };
  assert.equal(merge(answer(waiting)).idleThreads, 1);
  const busy = merge(answer({ ...waiting, isActive: true }));
  assert.equal(busy.idleThreads, 0);
  assert.deepEqual(busy.groups.map(({ thread, isActive }) => [thread, isActive]), [["ThreadPoolExecutor", true]]);
});

test("a main thread is shown although it waits for work", () => {
  assert.equal(merge(answer({ taskIndex: 0, name: "MainThread", frames: [1] })).groups.length, 1);
});

test("threads of one pool in several tasks are one group, without the frames that every thread has", () => {
  const merged = merge(answer({ taskIndex: 1, name: "loader-1", frames: [2, 3] }, { taskIndex: 0, name: "loader-7", frames: [2] }));
  assert.equal(merged.groups.length, 1);
  assert.deepEqual(merged.groups[0]?.taskIndices, [0, 1]);
  assert.deepEqual(merged.groups[0]?.frames.map((frame) => frame.function), ["step"]);
});

test("the rank that is elsewhere comes after the others", () => {
  const main = (taskIndex: number, frames: number[]) => ({ taskIndex, name: "MainThread", frames });
  const { groups } = merge(answer(main(0, [4]), main(1, [2]), main(2, [2])));
  assert.deepEqual(groups.map(({ taskIndices }) => taskIndices), [[1, 2], [0]]);
});

test("the short form of a stack ends with the user's own code", () => {
  const frames = [0, 0, 4, 4, 4, 2].map((position) => FRAMES[position] as StackFrame);
  const inner = "Condition.wait threading.py:327 < Condition.wait threading.py:327 < forward nn.py:1 < forward nn.py:1";
  assert.equal(compact(frames), `${inner} < … < step train.py:9`);
  assert.equal(compact([]), "no frames");
});

test("tasks are named by ranges", () => {
  assert.equal(tasksText([7], 32), "task 7");
  assert.equal(tasksText([0, 1, 2], 3), "all 3 tasks");
  assert.equal(tasksText([0, 1, 2, 8], 32), "4 tasks (0-2, 8)");
  assert.equal(tasksText([0, 2, 4, 6, 8, 10, 12], 32), "7 tasks (0, 2, 4, 6, 8, 10, …)");
});
