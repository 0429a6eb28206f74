// Amounts of resources: what machines have, have given away and use. The module is pure.

import type {
  Controller_Amounts as Amounts,
  Controller_Machine as Machine,
  Controller_WaitingGang as WaitingGang,
} from "../../gen/iris/rpc/cluster_pb";
import { Placement } from "../../gen/iris/rpc/cluster_pb";
import { bytesText, countText, toNumber } from "../../parts/numbers";

/** One resource of a machine, or of several machines together. */
export interface Share {
  readonly name: string;
  readonly total: number;
  /** What jobs have requested and got, and what programs outside of the cluster use. */
  readonly allocated: number;
  /** What the tasks use now; null if it is not known. */
  readonly used: number | null;
  readonly text: (amount: number) => string;
}

/** Returns CPU and memory of machines together, and their GPUs if they have some. Dead machines do not count. */
export function sharesOf(machines: readonly Machine[]): Share[] {
  const alive = machines.filter((machine) => machine.alive || machine.whyAvoided !== "");
  const sum = (of: (machine: Machine) => number) => alive.reduce((total, machine) => total + of(machine), 0);
  const known = alive.filter((machine) => machine.used);
  const used = (of: (machine: Machine) => number) =>
    known.length ? known.reduce((total, machine) => total + of(machine), 0) : null;
  const share = (name: string, of: (amounts: Amounts | undefined) => number, now: number | null, text: Share["text"]) => {
    const total = sum((machine) => of(machine.total));
    return { name, total, allocated: total - sum((machine) => of(machine.free)), used: now, text };
  };
  const shares = [
    share("CPU", coresOf, used((machine) => toNumber(machine.used?.cpuMillicores ?? 0n) / 1_000), coresText),
    share("Memory", (amounts) => toNumber(amounts?.memoryBytes ?? 0n), used((machine) => toNumber(machine.used?.memoryBytes ?? 0n)), bytesText),
  ];
  const gpus = share("GPU", (amounts) => amounts?.gpu ?? 0, used((machine) => toNumber(machine.used?.gpuPercent ?? 0n) / 100), gpusText);
  return gpus.total > 0 ? [...shares, gpus] : shares;
}

/** Returns a share in words, for example `3 of 4 cores allocated, 1.2 used`. */
export function shareText({ total, allocated, used, text }: Share): string {
  return `${text(allocated)} of ${text(total)} allocated${used === null ? "" : `, ${text(used)} used`}`;
}

/** Returns what each slot of a waiting gang needs, for example `4 × 2 cores, 1.0 GiB, spread`. */
export function needText(gang: WaitingGang): string {
  const { need, slots, placement, labels } = gang;
  const parts = [
    coresOf(need) > 0 ? coresText(coresOf(need)) : "",
    need && need.memoryBytes > 0n ? bytesText(toNumber(need.memoryBytes)) : "",
    need && need.gpu > 0 ? gpusText(need.gpu) : "",
  ].filter((part) => part !== "");
  const amount = parts.join(", ") || "no resources";
  const where = placement === Placement.SPREAD ? ", spread" : placement === Placement.TOGETHER ? ", together" : "";
  const wanted = Object.entries(labels).map(([key, value]) => `, ${key}=${value}`).join("");
  return `${slots > 1 ? `${countText(slots)} × ` : ""}${amount}${where}${wanted}`;
}

/** Returns the tasks that hold a machine, for example `task 3` or `tasks 0–3, 7`. */
export function tasksText(indices: readonly number[]): string {
  if (indices.length === 0) return "";
  const ranges: string[] = [];
  for (let first = 0; first < indices.length; ) {
    let last = first;
    while (indices[last + 1] === (indices[last] ?? 0) + 1) last += 1;
    ranges.push(first === last ? String(indices[first]) : `${indices[first]}–${indices[last]}`);
    first = last + 1;
  }
  const shown = ranges.length > 6 ? [...ranges.slice(0, 5), `and ${countText(ranges.length - 5)} more`] : ranges;
  return `${indices.length === 1 ? "task" : "tasks"} ${shown.join(", ")}`;
}

/** Returns a number of cores with its unit. */
export function coresText(cores: number): string {
  return `${trimmed(cores)} ${cores === 1 ? "core" : "cores"}`;
}

function gpusText(gpus: number): string {
  return `${trimmed(gpus)} ${gpus === 1 ? "GPU" : "GPUs"}`;
}

function coresOf(amounts: Amounts | undefined): number {
  if (!amounts) return 0;
  return amounts.cpuMillicores > 0n ? toNumber(amounts.cpuMillicores) / 1_000 : amounts.cpu;
}

function trimmed(value: number): string {
  return Number(value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)).toLocaleString("en-US");
}
