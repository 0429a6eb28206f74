// The sum of the answers of one profile, and its formats. The module is pure. The sums are the sums of `iris profile`
// (src/iris/client/inspect/profile.py).

import type { SampleStacksResponse, StackFrame } from "../../../gen/iris/rpc/cluster_pb";

// A profile consists of calls of this many seconds. When the user stops it, at most the last one is lost.
const SLICE_S = 2;

export interface SummedStack {
  /** The frames; the outermost one is first. */
  readonly frames: readonly StackFrame[];
  samples: number;
}

/** Tasks without samples for the same reason. */
export interface Unsampled {
  readonly problem: string;
  readonly taskIndices: readonly number[];
}

/** How often a function was seen. */
export interface FunctionShare {
  readonly function: string;
  readonly file: string;
  /** The samples in which its own code was running. */
  readonly self: number;
  /** The samples in which the function was anywhere in the stack. */
  readonly total: number;
}

/** Sums the answers of the calls of one profile. */
export class ProfileSum {
  seconds = 0;
  /** Whether the last call has sampled no task. Such a call returns at once, so no further call should follow. */
  isOver = false;
  private readonly byKey = new Map<string, SummedStack>();
  private readonly tasks = new Map<number, { samples: number; problem: string }>();

  add(answer: SampleStacksResponse, seconds: number): void {
    this.isOver = answer.tasks.length > 0 && answer.tasks.every((task) => task.reason !== 0);
    if (!this.isOver) this.seconds += seconds;
    for (const { frames, samples } of answer.stacks) {
      const stack = frames.map((position) => answer.frames[position]).filter((frame) => frame !== undefined);
      const key = JSON.stringify(stack.map(keyOf));
      const summed = this.byKey.get(key);
      if (summed) summed.samples += Number(samples);
      else this.byKey.set(key, { frames: stack, samples: Number(samples) });
    }
    for (const { taskIndex, samples, problem } of answer.tasks) {
      const sum = Number(samples) + (this.tasks.get(taskIndex)?.samples ?? 0);
      // A task that ends during the profile keeps its samples, and needs no reason.
      this.tasks.set(taskIndex, { samples: sum, problem: sum ? "" : problem });
    }
  }

  get stacks(): readonly SummedStack[] {
    return [...this.byKey.values()];
  }

  get samples(): number {
    return this.stacks.reduce((sum, { samples }) => sum + samples, 0);
  }

  get numTasks(): number {
    return this.tasks.size;
  }

  get unsampled(): readonly Unsampled[] {
    const found = new Map<string, number[]>();
    for (const [index, { problem }] of [...this.tasks].sort(([left], [right]) => left - right)) {
      const indices = found.get(problem);
      if (indices) indices.push(index);
      else if (problem) found.set(problem, [index]);
    }
    return [...found].map(([problem, taskIndices]) => ({ problem, taskIndices }));
  }
}

/** Returns the seconds of each call of a profile. */
export function slices(seconds: number): number[] {
  return Array.from({ length: Math.ceil(seconds / SLICE_S) }, (_, index) => Math.min(SLICE_S, seconds - index * SLICE_S));
}

/** Returns a text that is equal for equal frames. */
export function keyOf(frame: StackFrame): string {
  return `${frame.function}\n${frame.file}\n${frame.line}`;
}

/** Returns how often each function was seen. The functions whose own code ran most often come first. */
export function functionShares(stacks: readonly SummedStack[]): FunctionShare[] {
  const shares = new Map<string, { function: string; file: string; self: number; total: number }>();
  for (const { frames, samples } of stacks) {
    const counted = new Set<unknown>(); // A recursive function counts once.
    for (const [index, frame] of frames.entries()) {
      const key = `${frame.function}\n${frame.file}`;
      const share = shares.get(key) ?? { function: frame.function, file: frame.file, self: 0, total: 0 };
      shares.set(key, share);
      if (!counted.has(share)) share.total += samples;
      counted.add(share);
      if (index === frames.length - 1) share.self += samples;
    }
  }
  return [...shares.values()].sort((left, right) => right.self - left.self || right.total - left.total);
}

/** Returns a document for speedscope, see https://www.speedscope.app/file-format-schema.json. */
export function speedscope(name: string, stacks: readonly SummedStack[], rate: number): string {
  const positions = new Map<string, number>();
  const frames: object[] = [];
  const samples = stacks.map((stack) =>
    stack.frames.map((frame) => {
      const key = keyOf(frame);
      let position = positions.get(key);
      if (position === undefined) {
        positions.set(key, (position = frames.length));
        frames.push({ name: frame.function, file: frame.file, line: frame.line });
      }
      return position;
    }),
  );
  const weights = stacks.map((stack) => stack.samples / rate);
  return JSON.stringify({
    $schema: "https://www.speedscope.app/file-format-schema.json",
    exporter: "iris",
    name,
    activeProfileIndex: 0,
    shared: { frames },
    profiles: [
      { type: "sampled", name, unit: "seconds", startValue: 0, endValue: weights.reduce((sum, one) => sum + one, 0), samples, weights },
    ],
  });
}
