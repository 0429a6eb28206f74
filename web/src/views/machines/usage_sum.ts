// Adds up what the tasks on several workers have used over time. The module is pure.

import type { UsageSeries } from "../../gen/iris/rpc/cluster_pb";

/** The use of CPU and memory at one moment, and what the tasks had requested. */
export interface UsagePoint {
  readonly timeMs: number;
  readonly cores: number;
  readonly requestedCores: number;
  readonly memoryBytes: number;
  readonly requestedMemoryBytes: number;
}

const MIB = 2 ** 20;

// A worker reports about every two seconds. A value holds until the worker's next one, but at most for this many steps.
const HELD_STEPS = 8;

/** Returns the sum of series, in steps of the series with the longest steps. */
export function sumOf(series: readonly UsageSeries[]): UsagePoint[] {
  const stepMs = Math.max(1_000, ...series.map((one) => Number(one.stepMs)));
  const stepOf = (time: bigint | undefined) => Math.floor(Number(time ?? 0n) / stepMs) * stepMs;
  const steps = [...new Set(series.flatMap((one) => one.timesMs.map(stepOf)))].sort((a, b) => a - b);
  const sums: Totals[] = steps.map(() => NOTHING);
  for (const one of series) {
    let next = 0;
    steps.forEach((step, index) => {
      while (next < one.timesMs.length && stepOf(one.timesMs[next]) <= step) next += 1;
      const isHeld = next > 0 && step - stepOf(one.timesMs[next - 1]) <= HELD_STEPS * stepMs;
      if (isHeld) sums[index] = added(sums[index] ?? NOTHING, valuesOf(one, next - 1));
    });
  }
  return steps.map((timeMs, index) => ({ timeMs, ...(sums[index] ?? NOTHING) }));
}

type Totals = Omit<UsagePoint, "timeMs">;

const NOTHING: Totals = { cores: 0, requestedCores: 0, memoryBytes: 0, requestedMemoryBytes: 0 };

function valuesOf(series: UsageSeries, index: number): Totals {
  return {
    cores: Number(series.cpuMillicores[index] ?? 0n) / 1_000,
    requestedCores: Number(series.requestedCpuMillicores[index] ?? 0n) / 1_000,
    memoryBytes: Number(series.memoryMb[index] ?? 0n) * MIB,
    requestedMemoryBytes: Number(series.requestedMemoryMb[index] ?? 0n) * MIB,
  };
}

function added(a: Totals, b: Totals): Totals {
  return {
    cores: a.cores + b.cores,
    requestedCores: a.requestedCores + b.requestedCores,
    memoryBytes: a.memoryBytes + b.memoryBytes,
    requestedMemoryBytes: a.requestedMemoryBytes + b.requestedMemoryBytes,
  };
}
