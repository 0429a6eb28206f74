// Reads logs from the controller for the engine, and translates the messages of the wire.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  ErrorReason,
  type FetchLogPartsResponse_Part,
  type FetchLogPartsRequest_ReadSchema,
  type StreamTaskLogsResponse_Chunk,
  type TaskAttempt,
  type TaskStatus,
  type Worker_FetchLogsFilterSchema,
} from "../../gen/iris/rpc/cluster_pb";
import { toNumber } from "../../parts/numbers";
import { STATES } from "../../parts/states";
import { controller } from "../../rpc/transport";
import type { AttemptStatus, LogServer, Part, PartPlace, PartRead, StreamChunk } from "./engine/server";
import type { ParsedFilter } from "./logs_query";

const PART_BYTES = 256 << 10;
const MAX_LINE_BYTES = 16 << 10;

export type WireFilter = MessageInitShape<typeof Worker_FetchLogsFilterSchema>;

export function wireFilter(filter: ParsedFilter): WireFilter {
  const { regex, sources, startMs, endMs } = filter;
  return { regex, sources: [...sources], startMs: BigInt(startMs), endMs: BigInt(endMs) };
}

/** Reads parts of the logs of one job. */
export class ControllerLogs implements LogServer {
  constructor(
    private readonly jobId: string,
    private readonly filter: WireFilter,
  ) {}

  async fetchParts(
    reads: readonly PartRead[],
    find: string,
    signal: AbortSignal,
    maxBytes = PART_BYTES,
  ): Promise<readonly Part[]> {
    if (reads.length === 0) return [];
    const request = {
      jobId: this.jobId,
      reads: reads.map((read) => ({
        taskIndex: read.task,
        attemptId: read.attempt,
        place: wirePlace(read.place),
        backwards: read.backwards,
        stop: BigInt(read.stop),
      })),
      filter: this.filter,
      maxBytes,
      maxLineBytes: MAX_LINE_BYTES,
      find,
    };
    const { parts } = await controller.fetchLogParts(request, { signal });
    if (parts.length !== reads.length) throw new ConnectError("the answer has too few parts", Code.DataLoss);
    return parts.map(partOf);
  }
}

type WirePlace = MessageInitShape<typeof FetchLogPartsRequest_ReadSchema>["place"];

function wirePlace(place: PartPlace): WirePlace {
  if (place === null) return { case: undefined };
  if ("position" in place) return { case: "position", value: BigInt(place.position) };
  if ("timeMs" in place) return { case: "timestampMs", value: BigInt(place.timeMs) };
  return { case: "sourceByte", value: { source: place.source, offset: BigInt(place.offset) } };
}

function partOf(part: FetchLogPartsResponse_Part): Part {
  // A log that was removed is complete: nothing of it will ever be read.
  const isGone = part.errorReason === ErrorReason.LOG_NOT_FOUND;
  const [stdout = 0n, stderr = 0n, build = 0n] = part.offsets;
  return {
    task: part.taskIndex,
    attempt: part.attemptId,
    records: detached(part.records),
    begin: toNumber(part.begin),
    end: toNumber(part.end),
    size: toNumber(part.size),
    offsets: [toNumber(stdout), toNumber(stderr), toNumber(build)],
    atEnd: part.atEnd || isGone,
    complete: part.complete || isGone,
    missingReason: isGone ? part.error : part.missingReason,
    error: isGone ? "" : part.error,
  };
}

/** Returns bytes without the rest of their message, because lines would keep all logs of the message in memory. */
function detached(bytes: Uint8Array): Uint8Array {
  return 2 * bytes.length < bytes.buffer.byteLength ? bytes.slice() : bytes;
}

export function chunkOf(chunk: StreamTaskLogsResponse_Chunk): StreamChunk {
  const { end } = chunk;
  return {
    task: chunk.taskIndex,
    attempt: chunk.attemptId,
    records: detached(chunk.records),
    flush: chunk.flush,
    error: chunk.error,
    position: toNumber(chunk.position),
    end: end
      ? {
          complete: end.complete,
          state: end.state,
          exitCode: STATES[end.state]?.isFinal ? end.exitCode : null,
          signal: end.termSignal,
          error: end.error,
          missingReason: end.missingReason,
        }
      : null,
  };
}

/** Returns the statuses of a task's attempts. */
export function attemptsOf(task: TaskStatus): AttemptStatus[] {
  return task.attempts.map((attempt: TaskAttempt) => ({
    attempt: attempt.attemptId,
    workerId: attempt.workerId,
    startedMs: toNumber(attempt.startedAtMs),
    finishedMs: toNumber(attempt.finishedAtMs),
    outcome: STATES[attempt.state]?.isFinal
      ? { state: attempt.state, exitCode: attempt.exitCode, signal: attempt.termSignal, error: attempt.error }
      : null,
  }));
}
