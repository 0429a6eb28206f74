// The data of the plots of usage, from the series of the controller. The module is pure.

import type { UsageSeries } from "../../../gen/iris/rpc/cluster_pb";
import { clockTime, momentText } from "../../../parts/time_text";

/** What a plot shows. */
export interface Measure {
  readonly title: string;
  readonly used: (series: UsageSeries) => readonly bigint[];
  /** What the tasks had requested; empty in the series of a task. */
  readonly requested: (series: UsageSeries) => readonly bigint[];
  /** One unit of the wire in units of the plot. */
  readonly factor: number;
  readonly text: (value: number) => string;
  /** The possible distances of the labels of the vertical axis, ascending; without them, any round number. */
  readonly steps?: readonly number[];
}

const MIB = 2 ** 20;
const MEMORY_STEPS = Array.from({ length: 30 }, (_, power) => MIB * 2 ** power);

export const CPU: Measure = {
  title: "CPU",
  used: (series) => series.cpuMillicores,
  requested: (series) => series.requestedCpuMillicores,
  factor: 1 / 1_000,
  text: (value) => `${trimmed(value)} ${value === 1 ? "core" : "cores"}`,
};
export const MEMORY: Measure = {
  title: "Memory",
  used: (series) => series.memoryMb,
  requested: (series) => series.requestedMemoryMb,
  factor: MIB,
  text: memoryText,
  steps: MEMORY_STEPS,
};
export const GPU: Measure = {
  title: "GPU",
  used: (series) => series.gpuPercent,
  requested: (series) => series.requestedGpus.map((count) => count * 100n),
  factor: 1 / 100,
  text: (value) => `${trimmed(value)} ${value === 1 ? "GPU" : "GPUs"}`,
};
export const GPU_MEMORY: Measure = {
  title: "GPU memory",
  used: (series) => series.gpuMemoryMb,
  requested: () => [],
  factor: MIB,
  text: memoryText,
  steps: MEMORY_STEPS,
};

/** Returns the begin and the end of the horizontal axis, in seconds. A plot of few points is not stretched. */
export function timeRange(first: number | null, last: number | null): [number, number] {
  const end = last ?? 0;
  return [Math.min(first ?? 0, end - SHORTEST_S), end];
}

const SHORTEST_S = 20;

const MINUTE_S = 60;
const DAY_S = 86_400;

/**
 * Returns a label of the horizontal axis: the time of the day, or the date if the labels are days apart.
 *
 * @param stepS - the distance of two labels, in seconds
 */
export function timeLabel(seconds: number, stepS: number): string {
  if (stepS >= DAY_S) return momentText(seconds * 1_000).slice(5, 10);
  const time = clockTime(seconds * 1_000);
  return stepS < MINUTE_S ? time : time.slice(0, 5);
}

const MOST_STEPS = 4;
// The labels have two decimals, so smaller steps would give several lines the same label.
const ROUND_STEPS = Array.from({ length: 11 }, (_, power) => [1, 2, 5].map((digit) => (digit * 10 ** power) / 100)).flat();

/**
 * Returns the labels of the vertical axis, from zero to a round value that is not below the largest value.
 *
 * @param most - the largest value of the plot
 * @param steps - the possible distances of two labels, ascending
 */
export function axisValues(most: number, steps: readonly number[] = ROUND_STEPS): number[] {
  const step = steps.find((one) => most <= one * MOST_STEPS) ?? most;
  const count = Math.max(1, Math.ceil(most / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, index) => index * step);
}

const FAR_ABOVE = 4;

/** Returns the largest value that a plot shows. A request far above the use is left out, because it hides the use. */
export function largestValue(used: number, requested: number): number {
  return used > 0 && requested > used * FAR_ABOVE ? used : Math.max(used, requested);
}

function memoryText(bytes: number): string {
  if (bytes >= 1024 * MIB) return `${trimmed(bytes / (1024 * MIB))} GiB`;
  return `${trimmed(bytes / MIB)} MiB`;
}

function trimmed(value: number): string {
  return String(Number(value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)));
}

/** Times in seconds, and the values of each line. A time without a value of a line has null there. */
export type Columns = [number[], ...(number | null)[][]];

// A value holds until the next one, but at most for this many steps: after that, the line has a gap.
const HELD_STEPS = 8;

/**
 * Returns the columns of a plot: for each series its values, then for the first series what was requested.
 *
 * The series may have different steps and gaps. The times of the plot are the times of all series.
 */
export function columnsOf(all: readonly UsageSeries[], measure: Measure): Columns {
  const times = [...new Set(all.flatMap((series) => series.timesMs.map(Number)))].sort((a, b) => a - b);
  const lines = all.map((series) => spread(times, series, measure.used(series), measure.factor));
  const first = all[0];
  const requested = first ? measure.requested(first) : [];
  if (first && requested.some((value) => value > 0n)) lines.push(spread(times, first, requested, measure.factor));
  return [times.map((ms) => ms / 1_000), ...lines];
}

function spread(times: readonly number[], series: UsageSeries, values: readonly bigint[], factor: number): (number | null)[] {
  const own = series.timesMs;
  const heldMs = Number(series.stepMs) * HELD_STEPS;
  let next = 0;
  return times.map((ms) => {
    while (next < own.length && Number(own[next]) <= ms) next += 1;
    const value = values[next - 1];
    return value === undefined || ms - Number(own[next - 1]) > heldMs ? null : Number(value) * factor;
  });
}

/** Returns the largest value, or 0 if there is none. */
export function largest(values: readonly (number | null)[]): number {
  return values.reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
}

/** Returns the newest, the largest and the requested value of a series, for people; empty if there is no value. */
export function summaryOf(series: UsageSeries, measure: Measure): string {
  const values = measure.used(series).map((value) => Number(value) * measure.factor);
  const last = values[values.length - 1];
  if (last === undefined) return "";
  const parts = [`last ${measure.text(last)}`, `most ${measure.text(largest(values))}`];
  const requested = largest(measure.requested(series).map((value) => Number(value) * measure.factor));
  if (requested > 0) parts.push(`requested ${measure.text(requested)}`);
  return parts.join(", ");
}
