// The cluster as the stream WatchCluster describes it. The module is pure.

import type {
  Controller_ClusterStatus as ClusterStatus,
  Controller_Event as Event,
  Controller_Machine as Machine,
  Controller_MachineQueue as MachineQueue,
  Controller_WatchClusterResponse as WatchClusterResponse,
  Controller_WorkerHealthStatus as WorkerHealth,
} from "../../gen/iris/rpc/cluster_pb";

const MAX_EVENTS = 1_000;

/** The cluster at one moment. Parts that were not asked for are empty. */
export interface ClusterNow {
  readonly machines: readonly Machine[];
  readonly workers: readonly WorkerHealth[];
  readonly queue: MachineQueue | null;
  readonly status: ClusterStatus | null;
  /** The newest events, the newest first. */
  readonly events: readonly Event[];
}

/** Applies the messages of one stream after another. */
export class ClusterState {
  private machines = new Map<string, Machine>();
  private workers = new Map<string, WorkerHealth>();
  private queue: MachineQueue | null = null;
  private status: ClusterStatus | null = null;
  private events: readonly Event[] = [];

  /** The number of the last event; 0 before the first one. The next stream continues after it. */
  get lastEvent(): bigint {
    return this.events[0]?.number ?? 0n;
  }

  /** Applies a message, and returns the cluster. Returns null for a beat, which changes nothing. */
  apply(message: WatchClusterResponse): ClusterNow | null {
    const { complete, machines, removedMachines, workers, removedWorkers, queue, status, events } = message;
    const isBeat =
      !complete && !queue && !status && [machines, removedMachines, workers, removedWorkers, events].every((list) => list.length === 0);
    if (isBeat) return null;
    this.machines = merged(complete, this.machines, machines, (machine) => machine.name, removedMachines);
    this.workers = merged(complete, this.workers, workers, (worker) => worker.workerId, removedWorkers);
    this.queue = queue ?? this.queue;
    this.status = status ?? this.status;
    const first = events[0];
    if (first) {
      // A controller that was started again counts its events from 1.
      const kept = first.number > this.lastEvent ? this.events : [];
      this.events = [...[...events].reverse(), ...kept].slice(0, MAX_EVENTS);
    }
    return this.now();
  }

  private now(): ClusterNow {
    return {
      machines: [...this.machines.values()].sort((a, b) => compare(a.name, b.name)),
      workers: [...this.workers.values()].sort((a, b) => compare(a.workerId, b.workerId)),
      queue: this.queue,
      status: this.status,
      events: this.events,
    };
  }
}

function merged<T>(
  complete: boolean,
  known: Map<string, T>,
  changed: readonly T[],
  nameOf: (item: T) => string,
  removed: readonly string[],
): Map<string, T> {
  if (!complete && changed.length === 0 && removed.length === 0) return known;
  const items = new Map(complete ? [] : known);
  for (const name of removed) items.delete(name);
  for (const item of changed) items.set(nameOf(item), item);
  return items;
}

function compare(a: string, b: string): number {
  // Numbers in names are compared as numbers, so that node-10 comes after node-9.
  return a.localeCompare(b, "en", { numeric: true });
}
