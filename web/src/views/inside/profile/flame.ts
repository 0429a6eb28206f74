// The tree of a flame graph, and the boxes that it draws. The module is pure.

import type { StackFrame } from "../../../gen/iris/rpc/cluster_pb";
import { keyOf, type SummedStack } from "./profile_sum";

/** A frame in the tree of all stacks. The root has no frame. */
export interface Node {
  readonly frame: StackFrame | null;
  readonly parent: Node | null;
  /** The children with the most samples come first. */
  readonly children: Node[];
  /** The samples of the frame and of everything below it. */
  samples: number;
  /** The samples in which the frame's own code was running. */
  self: number;
}

/** The place of a node. Positions and widths are shares of the whole width, from 0 to 1. */
export interface Box {
  readonly node: Node;
  readonly row: number;
  readonly left: number;
  readonly width: number;
}

export type Move = "up" | "down" | "left" | "right" | "first";

// Narrower boxes are less than a pixel wide on most screens.
const LEAST_WIDTH = 0.0008;
// More boxes would make the page slow. A task may have stacks of many thousand frames.
const MOST_BOXES = 20_000;

/** Returns the root of the tree of all stacks. */
export function treeOf(stacks: readonly SummedStack[]): Node {
  const root: Node = { frame: null, parent: null, children: [], samples: 0, self: 0 };
  const known = new Map<Node, Map<string, Node>>();
  for (const { frames, samples } of stacks) {
    let node = root;
    node.samples += samples;
    for (const frame of frames) {
      let children = known.get(node);
      if (!children) known.set(node, (children = new Map()));
      let child = children.get(keyOf(frame));
      if (!child) {
        child = { frame, parent: node, children: [], samples: 0, self: 0 };
        children.set(keyOf(frame), child);
        node.children.push(child);
      }
      child.samples += samples;
      node = child;
    }
    node.self += samples;
  }
  for (const node of [root, ...known.keys()]) node.children.sort((left, right) => right.samples - left.samples);
  return root;
}

/**
 * Returns the boxes of a tree in which one node fills the width, row by row. The callers of the node are above it, as
 * wide as it. Boxes below the first `MOST_BOXES` are left out. Zooming into a node shows them.
 */
export function boxesOf(zoomed: Node): Box[] {
  const above: Node[] = [];
  for (let node: Node | null = zoomed; node; node = node.parent) above.push(node);
  const boxes: Box[] = above.reverse().map((node, row) => ({ node, row, left: 0, width: 1 }));
  const most = above.length + MOST_BOXES;
  // The loop reaches the boxes that it adds. A recursive function would fail on deep stacks.
  for (let index = above.length - 1; index < boxes.length; index += 1) {
    const parent = boxes[index]!;
    let { left } = parent;
    for (const node of parent.node.children) {
      const width = node.samples / Math.max(zoomed.samples, 1);
      if (width < LEAST_WIDTH || boxes.length >= most) break; // The others are narrower.
      boxes.push({ node, row: parent.row + 1, left, width });
      left += width;
    }
  }
  return boxes;
}

/** Returns the node that an arrow key chooses: down is the widest callee, up the caller. */
export function moved(boxes: readonly Box[], chosen: Node, move: Move): Node {
  if (move === "first") return boxes[0]?.node ?? chosen;
  if (move === "up") return chosen.parent ?? chosen;
  const own = boxes.find(({ node }) => node === chosen);
  if (move === "down") return boxes.find(({ node }) => node.parent === chosen)?.node ?? chosen;
  const row = boxes.filter((box) => box.row === own?.row).sort((left, right) => left.left - right.left);
  const next = row.findIndex(({ node }) => node === chosen) + (move === "left" ? -1 : 1);
  return row[next]?.node ?? chosen;
}

/** Returns whether the name or the file of a node contains a text, in upper or lower case. */
export function matches(node: Node, text: string): boolean {
  const wanted = text.toLowerCase();
  return node.frame !== null && `${node.frame.function} ${node.frame.file}:${node.frame.line}`.toLowerCase().includes(wanted);
}

/** Returns the number of samples whose stack contains a text. */
export function matchingSamples(node: Node, text: string): number {
  const open = [node];
  let samples = 0;
  for (let one = open.pop(); one; one = open.pop()) {
    if (matches(one, text)) samples += one.samples;
    else for (const child of one.children) open.push(child);
  }
  return samples;
}
