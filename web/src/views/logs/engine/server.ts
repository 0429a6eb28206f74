// What the engine needs from the controller. `views/logs/controller_logs.ts` implements it with calls, and tests
// implement it with logs in memory.

import type { Offsets, Source } from "./records";

/** Where a part of a log begins, or ends if it is read backwards. Null is the beginning or the present end. */
export type PartPlace =
  | { readonly position: number }
  | { readonly timeMs: number }
  | { readonly source: Source; readonly offset: number }
  | null;

export interface PartRead {
  readonly task: number;
  readonly attempt: number;
  readonly place: PartPlace;
  readonly backwards: boolean;
  /** The position at which the part ends at the latest; 0 = no limit. */
  readonly stop: number;
}

/** A part of the log of an attempt, as in `FetchLogPartsResponse.Part` of the proto file. */
export interface Part {
  readonly task: number;
  readonly attempt: number;
  readonly records: Uint8Array;
  readonly begin: number;
  readonly end: number;
  readonly size: number;
  readonly offsets: Offsets;
  readonly atEnd: boolean;
  readonly complete: boolean;
  readonly missingReason: string;
  /** Why the log cannot be read; empty if it can. */
  readonly error: string;
}

export interface LogServer {
  /**
   * Returns one part for each read, in order.
   *
   * @param find - only lines that also match this RE2 pattern; empty = all lines
   * @param maxBytes - about how many bytes of records all parts together have at most; by default 256 KiB
   */
  fetchParts(reads: readonly PartRead[], find: string, signal: AbortSignal, maxBytes?: number): Promise<readonly Part[]>;
}

/** How an attempt has ended. */
export interface Outcome {
  readonly state: number;
  readonly exitCode: number | null;
  readonly signal: number;
  readonly error: string;
}

/** A chunk of a log stream, as in `StreamTaskLogsResponse.Chunk` of the proto file. */
export interface StreamChunk {
  readonly task: number;
  readonly attempt: number;
  readonly records: Uint8Array;
  readonly flush: boolean;
  readonly end: (Outcome & { readonly complete: boolean; readonly missingReason: string }) | null;
  readonly error: string;
  /** The position after the records; 0 if the server does not know it. */
  readonly position: number;
}

/** What the controller says about an attempt. */
export interface AttemptStatus {
  readonly attempt: number;
  readonly workerId: string;
  readonly startedMs: number;
  readonly finishedMs: number;
  /** Null while the attempt runs. */
  readonly outcome: Outcome | null;
}
