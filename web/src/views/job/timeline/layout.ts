// The layout of the timeline: spans of time for each attempt, a scale from time to pixels, and rows. Pure.

import type { TaskStatus } from "../../../gen/iris/rpc/cluster_pb";
import { styleOf } from "../../../parts/states";

export type Phase = "queued" | "building" | "running";

/** A part of a row: one phase of one attempt. The end of an unfinished span is the present time. */
export interface Span {
  readonly phase: Phase;
  readonly attemptId: number;
  /** The state of the attempt; the state of the task while it is queued. */
  readonly state: number;
  readonly startMs: number;
  readonly endMs: number;
  /** Whether the attempt ended with this span. */
  readonly isLast: boolean;
}

/** Returns the spans of a task, in the order of time. */
export function spansOf(task: TaskStatus, submittedMs: number, nowMs: number): Span[] {
  const spans: Span[] = [];
  let freeMs = submittedMs;
  for (const attempt of task.attempts) {
    const finished = Number(attempt.finishedAtMs);
    const started = Number(attempt.startedAtMs);
    const end = finished || Math.max(nowMs, started);
    const placed = Number(attempt.placedAtMs) || started || end;
    add(spans, "queued", attempt.attemptId, 1, freeMs, placed, false);
    add(spans, "building", attempt.attemptId, attempt.state, placed, started || end, !started && finished > 0);
    if (started) add(spans, "running", attempt.attemptId, attempt.state, started, end, finished > 0);
    freeMs = end;
  }
  const isWaiting = !styleOf(task.state).isFinal && task.attempts.every((attempt) => attempt.finishedAtMs > 0n);
  const endMs = isWaiting ? nowMs : task.attempts.length === 0 ? Number(task.finishedAtMs) : 0;
  if (endMs) add(spans, "queued", task.attempts.length, task.state, freeMs, endMs, false);
  return spans;
}

function add(
  spans: Span[], phase: Phase, attemptId: number, state: number, startMs: number, endMs: number, isLast: boolean,
): void {
  if (endMs > startMs || isLast) spans.push({ phase, attemptId, state, startMs, endMs: Math.max(startMs, endMs), isLast });
}

/** A range of time, shown with a width in pixels. */
export interface Scale {
  readonly startMs: number;
  readonly endMs: number;
  readonly width: number;
}

const SHORTEST_MS = 100;

/** Returns the pixel of a moment. It is outside of 0 to `width` for a moment that is not shown. */
export function xOf(scale: Scale, ms: number): number {
  return ((ms - scale.startMs) / (scale.endMs - scale.startMs)) * scale.width;
}

/** Returns the moment at a pixel. */
export function momentAt(scale: Scale, x: number): number {
  return scale.startMs + (x / scale.width) * (scale.endMs - scale.startMs);
}

/**
 * Returns a scale that shows a longer or shorter time. The moment `atMs` stays where it is.
 *
 * @param factor - below 1 to see details, above 1 to see more time
 * @param whole - the scale that shows everything, beyond which nothing is shown
 */
export function zoomed(scale: Scale, factor: number, atMs: number, whole: Scale): Scale {
  const length = Math.min(whole.endMs - whole.startMs, Math.max(SHORTEST_MS, (scale.endMs - scale.startMs) * factor));
  const share = (atMs - scale.startMs) / (scale.endMs - scale.startMs);
  return moved({ ...scale, startMs: atMs - share * length, endMs: atMs + (1 - share) * length }, 0, whole);
}

/** Returns a scale that shows an earlier or later time of the same length, inside of `whole`. */
export function moved(scale: Scale, ms: number, whole: Scale): Scale {
  const length = Math.min(scale.endMs - scale.startMs, whole.endMs - whole.startMs);
  const startMs = Math.min(Math.max(scale.startMs + ms, whole.startMs), whole.endMs - length);
  return { ...scale, startMs, endMs: startMs + length };
}

const SECOND = 1_000;
const STEPS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900,
  1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000,
].map((seconds) => seconds * SECOND);
const TICK_PX = 90;

/** Returns the distance of the labels below the timeline, in ms: a round time that leaves room for a label. */
export function tickStep(scale: Scale): number {
  const wanted = ((scale.endMs - scale.startMs) * TICK_PX) / Math.max(scale.width, 1);
  return STEPS.find((step) => step >= wanted) ?? Math.ceil(wanted / (30 * 86_400_000)) * 30 * 86_400_000;
}

const UNITS = [["d", 86_400], ["h", 3_600], ["m", 60], ["s", 1]] as const;

/** Returns a label of the timeline: the exact time since the submission, for example `+20ms`, `+1.5s` or `+2h 10m`. */
export function tickText(ms: number): string {
  if (ms < SECOND) return `+${ms}ms`;
  let rest = ms;
  const parts: string[] = [];
  for (const [unit, seconds] of UNITS) {
    const count = unit === "s" ? rest / SECOND : Math.floor(rest / (seconds * SECOND));
    rest %= seconds * SECOND;
    if (count > 0) parts.push(`${count}${unit}`);
  }
  return `+${parts.join(" ")}`;
}

const TALLEST_ROW = 16;
const LOWEST_ROW = 4;

/** Returns the height of each row, in whole pixels. Rows of large jobs are low, and the rest is scrolled. */
export function rowHeight(rows: number, height: number): number {
  return Math.max(LOWEST_ROW, Math.min(TALLEST_ROW, Math.floor(height / Math.max(rows, 1))));
}

/** The orders of the rows. */
export const ORDERS = { index: "task", start: "start", duration: "duration", state: "state" } as const;
export type Order = keyof typeof ORDERS;

// Failed tasks first, ended tasks last.
const RANK: Readonly<Record<number, number>> = { 5: 0, 7: 1, 8: 2, 6: 3, 3: 4, 2: 5, 1: 6, 4: 7 };

/** Returns the tasks in the order of the rows. */
export function inOrder(tasks: readonly TaskStatus[], order: Order, nowMs: number): TaskStatus[] {
  if (order === "index") return [...tasks];
  const key = (task: TaskStatus): number => {
    const started = Number(task.startedAtMs);
    if (order === "start") return started || Infinity;
    if (order === "duration") return started ? -((Number(task.finishedAtMs) || nowMs) - started) : 1;
    return RANK[task.state] ?? 8;
  };
  const keys = new Map(tasks.map((task) => [task, key(task)]));
  return [...tasks].sort((a, b) => difference(keys.get(a) ?? 0, keys.get(b) ?? 0) || a.taskIndex - b.taskIndex);
}

function difference(left: number, right: number): number {
  return left === right ? 0 : left - right; // Infinity minus Infinity is not a number.
}
