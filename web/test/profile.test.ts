// Profiles: the sum of several calls, the tree of the flame graph, and the file for speedscope.

import { create } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { test } from "node:test";
import { SampleStacksResponseSchema } from "../src/gen/iris/rpc/cluster_pb.ts";
import { boxesOf, matchingSamples, moved, treeOf } from "../src/views/inside/profile/flame.ts";
import { functionShares, ProfileSum, slices, speedscope } from "../src/views/inside/profile/profile_sum.ts";

const [MAIN, STEP, LOAD] = ["main", "step", "load"].map((name, index) => ({ function: name, file: "/app/train.py", line: index + 1 }));

/** Returns an answer. Calls may number their frames in different ways. */
function answer(frames: object[], stacks: [number[], number][], tasks: object[] = [{ taskIndex: 0, samples: 10n }]) {
  return create(SampleStacksResponseSchema, {
    frames,
    stacks: stacks.map(([positions, samples]) => ({ frames: positions, samples: BigInt(samples) })),
    tasks,
  });
}

function summed(): ProfileSum {
  const sum = new ProfileSum();
  sum.add(answer([MAIN!, STEP!, LOAD!], [[[0, 1], 60], [[0, 2], 20], [[0], 5]]), 2);
  sum.add(answer([LOAD!, STEP!, MAIN!], [[[2, 1], 10], [[2, 0, 0], 5]]), 2);
  return sum;
}

test("equal stacks of several calls are summed", () => {
  const sum = summed();
  assert.equal(sum.samples, 100);
  assert.equal(sum.seconds, 4);
  assert.deepEqual(
    sum.stacks.map(({ frames, samples }) => [frames.map((frame) => frame.function).join(" "), samples]),
    [["main step", 70], ["main load", 20], ["main", 5], ["main load load", 5]],
  );
});

test("a profile ends when no task can be sampled, and a task that ends keeps its samples", () => {
  const sum = summed();
  assert.equal(sum.isOver, false);
  sum.add(answer([], [], [{ taskIndex: 0, reason: 1, problem: "has ended" }, { taskIndex: 1, reason: 1, problem: "has ended" }]), 2);
  assert.equal(sum.isOver, true);
  assert.equal(sum.seconds, 4);
  assert.deepEqual(sum.unsampled, [{ problem: "has ended", taskIndices: [1] }]);
});

test("a profile is split into calls of two seconds", () => {
  assert.deepEqual(slices(5), [2, 2, 1]);
  assert.deepEqual(slices(1), [1]);
});

test("a recursive function counts once", () => {
  const shares = functionShares(summed().stacks).map((share) => [share.function, share.self, share.total]);
  assert.deepEqual(shares, [["step", 70, 70], ["load", 25, 25], ["main", 5, 100]]);
});

test("frames are as wide as their share, and the widest comes first", () => {
  const root = treeOf(summed().stacks);
  const shown = boxesOf(root).map(({ node, row, left, width }) => [node.frame?.function ?? "all", row, left, width]);
  assert.deepEqual(shown, [["all", 0, 0, 1], ["main", 1, 0, 1], ["step", 2, 0, 0.7], ["load", 2, 0.7, 0.25], ["load", 3, 0.7, 0.05]]);
});

test("a frame that is zoomed fills the width below its callers", () => {
  const root = treeOf(summed().stacks);
  const load = root.children[0]!.children[1]!;
  const shown = boxesOf(load).map(({ node, row, width }) => [node.frame?.function ?? "all", row, width]);
  assert.deepEqual(shown, [["all", 0, 1], ["main", 1, 1], ["load", 2, 1], ["load", 3, 0.2]]);
});

test("frames that are narrower than a pixel are left out", () => {
  const wide = { frames: [MAIN!], samples: 100_000 };
  const root = treeOf([wide, { frames: [STEP!], samples: 1 }] as never);
  assert.equal(boxesOf(root).length, 2);
});

test("a stack of many thousand frames is drawn, zoomed and searched", () => {
  const depth = 60_000;
  const frames = Array.from({ length: depth }, (_, line) => ({ function: "walk", file: "/app/train.py", line }));
  const root = treeOf([{ frames, samples: 3 }] as never);
  const boxes = boxesOf(root);
  assert.equal(boxes.length, 20_001);
  assert.equal(boxes[boxes.length - 1]!.row, 20_000);
  assert.equal(boxesOf(boxes[20_000]!.node).length, 40_001);
  assert.equal(matchingSamples(root, `:${depth - 1}`), 3);
});

test("arrow keys choose callers, callees and neighbours", () => {
  const root = treeOf(summed().stacks);
  const boxes = boxesOf(root);
  const path = (["down", "down", "right", "down", "right", "up", "left", "left", "first"] as const).reduce(
    (nodes, move) => [...nodes, moved(boxes, nodes[nodes.length - 1]!, move)],
    [root],
  );
  assert.deepEqual(
    path.map((node) => node.frame?.function ?? "all"),
    ["all", "main", "step", "load", "load", "load", "load", "step", "step", "all"],
  );
});

test("a search counts each sample once", () => {
  const root = treeOf(summed().stacks);
  assert.equal(matchingSamples(root, "LOAD"), 25);
  assert.equal(matchingSamples(root, "train.py"), 100);
  assert.equal(matchingSamples(root, "nothing"), 0);
});

test("the file for speedscope has each frame once and weights in seconds", () => {
  const document = JSON.parse(speedscope("train", summed().stacks, 100)) as {
    shared: { frames: { name: string }[] };
    profiles: { samples: number[][]; weights: number[]; endValue: number; unit: string }[];
  };
  assert.deepEqual(document.shared.frames.map(({ name }) => name), ["main", "step", "load"]);
  const [profile] = document.profiles;
  assert.deepEqual(profile?.samples, [[0, 1], [0, 2], [0], [0, 2, 2]]);
  assert.deepEqual(profile?.weights, [0.7, 0.2, 0.05, 0.05]);
  assert.ok(Math.abs((profile?.endValue ?? 0) - 1) < 1e-9);
  assert.equal(profile?.unit, "seconds");
});
