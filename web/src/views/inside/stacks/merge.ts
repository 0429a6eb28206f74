// Merges identical stacks of many tasks, and recognises threads that wait for work. The module is pure, and merges as
// `iris stack` does (src/iris/client/inspect/stack_groups.py). Change both together.

import type { ReadStacksResponse, StackFrame, StackVariable, ThreadStack } from "../../../gen/iris/rpc/cluster_pb";

/** A stack that threads of one or more tasks have. */
export interface StackGroup {
  /** The name of the program that the processes run. */
  readonly command: string;
  /** The name of the threads, without a number at its end. */
  readonly thread: string;
  /** The frames; the innermost one is first. */
  readonly frames: readonly StackFrame[];
  /** The local variables of each frame; empty unless they were requested. */
  readonly variables: readonly (readonly StackVariable[])[];
  /** The tasks, in ascending order. */
  readonly taskIndices: readonly number[];
  readonly numThreads: number;
  /** Whether one of these threads uses the CPU. */
  readonly isActive: boolean;
}

/** Tasks or processes that could not be read for the same reason. */
export interface Unread {
  /** The process, as its command and its state; empty if no process of the tasks could be read. */
  readonly what: string;
  /** The number of a `StackReason`. */
  readonly reason: number;
  /** The reason, for people. */
  readonly problem: string;
  readonly taskIndices: readonly number[];
}

export interface Merged {
  /** The distinct stacks. The stacks of main threads come first, and then frequent stacks. */
  readonly groups: readonly StackGroup[];
  /** The number of threads that wait for work. */
  readonly idleThreads: number;
  readonly unread: readonly Unread[];
}

export const NOT_PYTHON = 6; // STACK_REASON_NOT_PYTHON
const MAIN = "MainThread";

// The innermost frames of threads that wait for work, as endings of the file and names of functions. A frame further out
// counts only if the frames inside of it belong to the standard library.
const IDLE: readonly (readonly [string, string])[] = [
  ["concurrent/futures/thread.py", "_worker"],
  ["multiprocessing/pool.py", "_handle_workers"],
  ["multiprocessing/pool.py", "_handle_tasks"],
  ["multiprocessing/pool.py", "_handle_results"],
  ["multiprocessing/queues.py", "_feed"],
  ["multiprocessing/resource_sharer.py", "_serve"],
  ["multiprocessing/managers.py", "serve_forever"],
  ["threading.py", "Timer.run"],
  ["socketserver.py", "serve_forever"],
  ["tqdm/_monitor.py", "run"],
  ["logging/handlers.py", "_monitor"],
  ["torch/utils/data/_utils/pin_memory.py", "_pin_memory_loop"],
];
const LIBRARY = /\/lib(64)?\/python\d+(\.\d+)?t?\/(?!(site|dist)-packages\/)|^<frozen |^<string>/;
const INSTALLED = /\/(site|dist)-packages\//;
// The outermost frames that every program or thread has, and that say nothing.
const BEGINNINGS: readonly (readonly [string, readonly string[]])[] = [
  ["threading.py", ["_bootstrap", "_bootstrap_inner", "run"]],
  ["iris/cluster/worker/process/run_callable.py", ["main", "<module>"]],
  ["iris/cluster/worker/process/run_inputs.py", ["run_inputs", "<module>"]],
  ["<frozen runpy>", ["_run_code", "_run_module_as_main", "run_path", "_run_module_code"]],
  ["/runpy.py", ["_run_code", "_run_module_as_main", "run_path", "_run_module_code"]],
];
const NUMBER = /[-_ ]?\d+(_\d+)?$|[-_ ]\d+ \(.*\)$/;

interface Threads {
  readonly command: string;
  readonly thread: string;
  readonly frames: readonly StackFrame[];
  readonly variables: readonly (readonly StackVariable[])[];
  readonly tasks: Set<number>;
  count: number;
  isActive: boolean;
}

/** Returns the distinct stacks of the tasks in an answer. */
export function merge({ frames, tasks }: ReadStacksResponse): Merged {
  const found = new Map<string, Threads>();
  const unread = new Map<string, Omit<Unread, "taskIndices"> & { readonly tasks: Set<number> }>();
  let idleThreads = 0;
  const addUnread = (what: string, { reason, problem }: { reason: number; problem: string }, taskIndex: number) => {
    const key = JSON.stringify([what, reason, problem]);
    const one = unread.get(key) ?? { what, reason, problem, tasks: new Set<number>() };
    unread.set(key, one);
    one.tasks.add(taskIndex);
  };
  for (const task of tasks) {
    if (task.reason) addUnread("", task, task.taskIndex);
    for (const process of task.processes) {
      if (process.reason) addUnread(`${process.command || "a process"} (${process.state || "ended"})`, process, task.taskIndex);
      for (const thread of process.threads) {
        const all = thread.frames.map((position) => frames[position]).filter((frame) => frame !== undefined);
        if (isIdle(thread, all)) {
          idleThreads += 1;
          continue;
        }
        const shown = withoutBeginning(all);
        const variables = thread.variables.slice(0, shown.length).map((one) => one.variables);
        const role = threadRole(thread.name);
        const values = variables.map((one) => one.map(({ name, value }) => [name, value]));
        const key = JSON.stringify([process.command, role, shown.map((frame) => [frame.function, frame.file, frame.line]), values]);
        const threads = found.get(key) ?? {
          command: process.command, thread: role, frames: shown, variables, tasks: new Set<number>(), count: 0, isActive: false,
        };
        found.set(key, threads);
        threads.tasks.add(task.taskIndex);
        threads.count += 1;
        threads.isActive ||= thread.isActive;
      }
    }
  }
  return {
    groups: sorted([...found.values()].map(({ tasks: of, count, ...rest }) => ({ ...rest, taskIndices: ascending(of), numThreads: count }))),
    idleThreads,
    unread: [...unread.values()].map(({ tasks: of, ...rest }) => ({ ...rest, taskIndices: ascending(of) })),
  };
}

/** Sorts stacks. A section is a command and a thread. Sections with many tasks come first. */
function sorted(groups: StackGroup[]): StackGroup[] {
  const weights = new Map<string, number>();
  const section = (group: StackGroup) => JSON.stringify([group.command, group.thread]);
  for (const group of groups) weights.set(section(group), (weights.get(section(group)) ?? 0) + group.taskIndices.length);
  const weight = (group: StackGroup) => weights.get(section(group)) ?? 0;
  return groups.sort(
    (left, right) =>
      Number(left.thread !== MAIN) - Number(right.thread !== MAIN) ||
      weight(right) - weight(left) ||
      compare(left.command, right.command) ||
      compare(left.thread, right.thread) ||
      right.taskIndices.length - left.taskIndices.length ||
      (left.taskIndices[0] ?? 0) - (right.taskIndices[0] ?? 0),
  );
}

function compare(left: string, right: string): number {
  return left < right ? -1 : Number(left > right);
}

function ascending(indices: ReadonlySet<number>): number[] {
  return [...indices].sort((left, right) => left - right);
}

/** Returns whether a thread waits for work, as far as its stack shows. */
function isIdle(thread: ThreadStack, frames: readonly StackFrame[]): boolean {
  if (thread.isActive || thread.name === MAIN) return false;
  for (const frame of frames) {
    const names = [frame.function, lastPart(frame.function)];
    if (IDLE.some(([file, name]) => frame.file.endsWith(file) && names.includes(name))) return true;
    if (!LIBRARY.test(frame.file)) return false;
  }
  return false;
}

/** Returns whether a file is probably the user's own code: neither the standard library nor an installed package. */
export function isOwn(file: string): boolean {
  return file !== "" && !LIBRARY.test(file) && !INSTALLED.test(file) && !file.includes("iris/cluster/");
}

/** Returns frames without the outermost ones that every program or thread has. One frame stays at least. */
function withoutBeginning(frames: readonly StackFrame[]): readonly StackFrame[] {
  let end = frames.length;
  const isBeginning = (frame: StackFrame) =>
    BEGINNINGS.some(([file, names]) => frame.file.endsWith(file) && names.includes(lastPart(frame.function)));
  while (end > 1 && isBeginning(frames[end - 1]!)) end -= 1;
  return frames.slice(0, end);
}

/** Returns the name of a thread without the number at its end, so that the threads of a pool have one name. */
function threadRole(name: string): string {
  return name.replace(NUMBER, "") || name || "unnamed thread";
}

function lastPart(name: string): string {
  return name.slice(name.lastIndexOf(".") + 1);
}

const SHOWN_FRAMES = 4;
const SHOWN_RANGES = 6;

/** Returns a stack in one line: the innermost frames, and the innermost frame of the user's own code. */
export function compact(frames: readonly StackFrame[]): string {
  if (frames.length === 0) return "no frames";
  const shown = frames.slice(0, SHOWN_FRAMES);
  const words = shown.map(place);
  if (!shown.some((frame) => isOwn(frame.file))) {
    const own = frames.findIndex((frame, index) => index >= SHOWN_FRAMES && isOwn(frame.file));
    if (own > SHOWN_FRAMES) words.push("…");
    if (own >= 0) words.push(place(frames[own]!));
  }
  return words.join(" < ");
}

function place(frame: StackFrame): string {
  return frame.file ? `${frame.function} ${frame.file.slice(frame.file.lastIndexOf("/") + 1)}${lineText(frame)}` : frame.function;
}

/** Returns the number of a frame's line with a colon before it; nothing if the number is unknown. */
export function lineText(frame: StackFrame): string {
  return frame.line ? `:${frame.line}` : "";
}

/**
 * Returns the number and the indices of tasks, for example `31 tasks (0-6, 8-31)`.
 *
 * @param count - the number of tasks that were asked; all of them need no indices
 */
export function tasksText(indices: readonly number[], count: number): string {
  if (indices.length === 1) return `task ${indices[0]}`;
  if (indices.length === count) return `all ${count} tasks`;
  const ranges: [number, number][] = [];
  for (const index of indices) {
    const last = ranges[ranges.length - 1];
    if (last && last[1] === index - 1) last[1] = index;
    else ranges.push([index, index]);
  }
  const words = ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`));
  return `${indices.length} tasks (${words.slice(0, SHOWN_RANGES).join(", ")}${words.length > SHOWN_RANGES ? ", …" : ""})`;
}
