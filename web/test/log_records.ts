// Makes records and logs in memory for the tests of the log engine.

import { crc32 } from "../src/views/logs/engine/crc32";
import type { LogServer, Part, PartRead, StreamChunk } from "../src/views/logs/engine/server";
import { SOURCES, type Offsets } from "../src/views/logs/engine/records";

const encoder = new TextEncoder();

export function bytesOf(text: string | Uint8Array): Uint8Array {
  return typeof text === "string" ? encoder.encode(text) : text;
}

export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Returns a record in the format of the wire. */
export function record(source: number, timeMs: number, offset: number, payload: string | Uint8Array): Uint8Array {
  const data = bytesOf(payload);
  const bytes = new Uint8Array(25 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, ((0x18 << 24) | data.length) >>> 0, true);
  view.setBigUint64(8, BigInt(timeMs), true);
  view.setBigUint64(16, BigInt(offset), true);
  view.setUint8(24, source);
  bytes.set(data, 25);
  view.setUint32(4, crc32(bytes.subarray(8)), true);
  return bytes;
}

export function gapRecord(source: number, timeMs: number, offset: number, missing: number, reason: string): Uint8Array {
  const text = bytesOf(reason);
  const payload = new Uint8Array(8 + text.length);
  new DataView(payload.buffer).setBigUint64(0, BigInt(missing), true);
  payload.set(text, 8);
  return record(source | 0x10, timeMs, offset, payload);
}

export function concat(...pieces: Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}

export interface Written {
  readonly source: number;
  readonly timeMs: number;
  readonly text: string;
}

/** The logs of attempts in memory, in which each record is one whole line. Answers reads as the controller does. */
export class MemoryLogs implements LogServer {
  readonly reads: PartRead[] = [];
  failures = 0;
  private readonly logs = new Map<string, { lines: Written[]; isFinal: boolean }>();

  constructor(private readonly maxLines = 7) {}

  write(task: number, attempt: number, lines: readonly Written[], isFinal = false): void {
    const key = `${task}.${attempt}`;
    const log = this.logs.get(key) ?? { lines: [], isFinal: false };
    log.lines.push(...lines);
    log.isFinal = isFinal;
    this.logs.set(key, log);
  }

  chunk(task: number, attempt: number, from: number, count = Infinity): StreamChunk {
    const { records, positions } = this.encode(task, attempt);
    const to = Math.min(records.length, from + count);
    return {
      task, attempt, flush: false, end: null, error: "",
      records: concat(...records.slice(from, to)),
      position: positions[to]!,
    };
  }

  async fetchParts(reads: readonly PartRead[], find: string): Promise<readonly Part[]> {
    await Promise.resolve();
    this.reads.push(...reads);
    if (this.failures > 0) {
      this.failures -= 1;
      throw new Error("the connection broke");
    }
    return reads.map((read) => this.part(read, find));
  }

  private readonly encoded = new Map<string, ReturnType<MemoryLogs["encodeNow"]>>();

  /** Returns the records of an attempt. They are made again only after further lines were written. */
  private encode(task: number, attempt: number): ReturnType<MemoryLogs["encodeNow"]> {
    const key = `${task}.${attempt}`;
    const { lines } = this.logs.get(key) ?? { lines: [] };
    const known = this.encoded.get(key);
    if (known?.records.length === lines.length) return known;
    const made = this.encodeNow(lines);
    this.encoded.set(key, made);
    return made;
  }

  private encodeNow(lines: readonly Written[]) {
    const offsets: [number, number, number] = [0, 0, 0];
    const positions = [0];
    const starts: Offsets[] = [[0, 0, 0]];
    const records = lines.map(({ source, timeMs, text }) => {
      const bytes = record(source, timeMs, offsets[source]!, `${text}\n`);
      offsets[source]! += bytesOf(text).length + 1;
      positions.push(positions.at(-1)! + bytes.length);
      starts.push([...offsets]);
      return bytes;
    });
    return { lines, records, positions, starts };
  }

  private part(read: PartRead, find: string): Part {
    const { task, attempt, place, backwards, stop } = read;
    const log = this.logs.get(`${task}.${attempt}`);
    const { lines, records, positions, starts } = this.encode(task, attempt);
    const count = records.length;
    let at = backwards ? count : 0;
    if (place && "position" in place) at = positions.findIndex((position) => position >= place.position);
    else if (place && "timeMs" in place) at = lines.findIndex((line) => line.timeMs >= place.timeMs);
    else if (place) {
      const source = SOURCES.indexOf(place.source);
      at = lines.findIndex((line, index) => line.source === source && starts[index + 1]![source]! > place.offset);
      if (at >= 0 && backwards) at += 1;
    }
    if (at < 0) at = count;
    let from = backwards ? Math.max(0, at - this.maxLines) : at;
    let to = backwards ? at : Math.min(count, at + this.maxLines);
    if (stop) to = Math.max(from, Math.min(to, positions.indexOf(stop)));
    const kept = records.slice(from, to).filter((_, index) => !find || new RegExp(find).test(lines[from + index]!.text));
    return {
      task, attempt, records: concat(...kept),
      begin: positions[from]!, end: positions[to]!, size: positions[count]!, offsets: starts[to]!,
      atEnd: to === count, complete: to === count && (log?.isFinal ?? false), missingReason: "", error: "",
    };
  }
}
