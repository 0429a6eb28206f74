// Makes lines from the records of one attempt.

import { decodeRecords, SOURCES, type DataRecord, type Offsets } from "./records";

/** The most bytes of a line that the page keeps. The rest of a longer line is only counted. */
export const MAX_LINE_BYTES = 16 << 10;

/** A line, a part of a line, or a gap. */
export interface Line {
  readonly kind: "line";
  readonly task: number;
  readonly attempt: number;
  /** The index in `SOURCES`. */
  readonly source: number;
  readonly timeMs: number;
  /** How many bytes of the source come before the line. */
  readonly start: number;
  /** How many bytes of the source come before the next line. */
  readonly end: number;
  /** The bytes without the newline. Only the first bytes of a very long line are here. */
  readonly data: Uint8Array;
  /** How many bytes of the line are not in `data`. */
  readonly skipped: number;
  /** The line has no newline: it is being written, a gap cuts it off, or the log ends with it. */
  readonly partial: boolean;
}

export interface Gap {
  readonly kind: "gap";
  readonly task: number;
  readonly attempt: number;
  readonly source: number;
  readonly timeMs: number;
  readonly start: number;
  readonly end: number;
  readonly reason: string;
}

export type Entry = Line | Gap;

/** The bytes of an unfinished line. */
interface Pending {
  start: number;
  timeMs: number;
  pieces: Uint8Array[];
  length: number;
  skipped: number;
}

const NEWLINE = 10;
const CARRIAGE_RETURN = 13;

/**
 * Assembles the lines of one attempt across records. Records that were received before are ignored, so that a stream
 * can be opened again at any position.
 */
export class LineAssembler {
  private readonly received: [number, number, number];
  private readonly pending: (Pending | null)[] = [null, null, null];

  /**
   * @param task - the index of the task
   * @param offsets - where the first line of each source begins
   * @param isPacked - whether the records contain whole lines only, and leave out lines. A jump of the offset then means
   *   bytes that a filter or a limit has left out. Otherwise a jump means bytes that were not sent.
   */
  constructor(
    private readonly task: number,
    private readonly attempt: number,
    offsets: Offsets,
    private readonly isPacked: boolean,
  ) {
    this.received = [...offsets];
  }

  /** Up to where each source has arrived. A stream continues from here. */
  get offsets(): Offsets {
    return [...this.received];
  }

  /**
   * Returns the lines and gaps that records complete.
   *
   * @throws DamagedRecordsError - The records are damaged. None of them was read, so that no line of them is lost when
   *   the stream is opened again at `offsets`.
   */
  read(records: Uint8Array): Entry[] {
    const entries: Entry[] = [];
    for (const record of [...decodeRecords(records)]) {
      if (record.gap !== null) {
        this.jump(record.source, record.offset, record.timeMs, entries);
        this.addGap(record.source, record.offset + record.gap.missing, record.timeMs, record.gap.reason, entries);
      } else {
        this.readData(record, entries);
      }
    }
    return entries;
  }

  /** Returns the unfinished lines as they are now. */
  unfinished(): Line[] {
    return this.pending.flatMap((pending, source) => (pending ? [this.line(source, pending, true)] : []));
  }

  /** Returns the unfinished lines, because nothing follows them. */
  finish(): Line[] {
    const lines = this.unfinished();
    this.pending.fill(null);
    return lines;
  }

  private readData({ source, timeMs, offset, payload }: DataRecord, entries: Entry[]): void {
    const known = this.received[source]! - offset;
    if (known >= payload.length && !(known === 0 && payload.length === 0)) return;
    const bytes = known > 0 ? payload.subarray(known) : payload;
    let at = Math.max(offset, offset + known);
    if (known < 0) {
      at = offset;
      this.jump(source, offset, timeMs, entries);
    }
    let start = 0;
    for (let newline; (newline = bytes.indexOf(NEWLINE, start)) >= 0; start = newline + 1) {
      const line = bytes.subarray(start, newline);
      const pending = this.pending[source];
      if (pending) {
        this.append(pending, at + start, line);
        pending.timeMs = timeMs;
        entries.push(this.line(source, pending, false, at + newline + 1));
        this.pending[source] = null;
      } else {
        entries.push(this.wholeLine(source, timeMs, at + start, line));
      }
    }
    this.received[source] = at + bytes.length;
    if (start === bytes.length) return;
    const pending = (this.pending[source] ??= { start: at + start, timeMs, pieces: [], length: 0, skipped: 0 });
    pending.timeMs = timeMs;
    this.append(pending, at + start, bytes.subarray(start));
  }

  /** Continues at a later offset. */
  private jump(source: number, offset: number, timeMs: number, entries: Entry[]): void {
    const missing = offset - this.received[source]!;
    if (missing <= 0) return;
    if (!this.isPacked) {
      this.addGap(source, offset, timeMs, "it was not sent", entries);
      return;
    }
    const pending = this.pending[source];
    if (pending) pending.skipped += missing; // The middle of a long line was left out.
    this.received[source] = offset;
  }

  private addGap(source: number, end: number, timeMs: number, reason: string, entries: Entry[]): void {
    const start = this.received[source]!;
    if (end <= start) return;
    const pending = this.pending[source];
    if (pending) entries.push(this.line(source, pending, true, start));
    this.pending[source] = null;
    entries.push({ kind: "gap", task: this.task, attempt: this.attempt, source, timeMs, start, end, reason });
    this.received[source] = end;
  }

  private append(pending: Pending, at: number, bytes: Uint8Array): void {
    if (pending.length + bytes.length <= MAX_LINE_BYTES) {
      // A copy, so that a short piece of a long message does not keep the message in memory.
      if (bytes.length) pending.pieces.push(bytes.slice());
      pending.length += bytes.length;
      return;
    }
    const state = bytes.lastIndexOf(CARRIAGE_RETURN, bytes.length - 2);
    if (state >= 0) {
      // A progress bar: only its last state is kept, because a terminal would show only this state.
      pending.start = at + state;
      pending.pieces = [];
      pending.length = pending.skipped = 0;
      bytes = bytes.subarray(state);
    }
    const kept = bytes.subarray(0, MAX_LINE_BYTES - pending.length);
    if (kept.length) pending.pieces.push(kept.slice());
    pending.length += kept.length;
    pending.skipped += bytes.length - kept.length;
  }

  private line(source: number, pending: Pending, partial: boolean, end = this.received[source]!): Line {
    const { start, timeMs, skipped } = pending;
    const data = join(pending.pieces);
    pending.pieces = [data];
    return { kind: "line", task: this.task, attempt: this.attempt, source, timeMs, start, end, data, skipped, partial };
  }

  private wholeLine(source: number, timeMs: number, start: number, bytes: Uint8Array): Line {
    const end = start + bytes.length + 1;
    if (bytes.length > MAX_LINE_BYTES) {
      const pending: Pending = { start, timeMs, pieces: [], length: 0, skipped: 0 };
      this.append(pending, start, bytes);
      return this.line(source, pending, false, end);
    }
    const { task, attempt } = this;
    return { kind: "line", task, attempt, source, timeMs, start, end, data: bytes, skipped: 0, partial: false };
  }
}

function join(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const joined = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}

/** Whether an entry continues a line, of which an earlier page has the beginning. */
export function continues(before: Entry, entry: Entry): before is Line {
  return (
    before.kind === "line" && entry.kind === "line" && before.partial && before.end === entry.start &&
    before.source === entry.source && before.attempt === entry.attempt && before.task === entry.task
  );
}

/** Returns one line for two parts of the line. */
export function joinLines(before: Line, line: Line): Line {
  const start = before.start;
  if (line.data[0] === CARRIAGE_RETURN) return { ...line, start };
  const length = before.data.length + line.data.length;
  if (before.skipped > 0 || length > MAX_LINE_BYTES) {
    return { ...line, start, data: before.data, skipped: before.skipped + line.data.length + line.skipped };
  }
  return { ...line, start, data: join([before.data, line.data]) };
}

/** Returns a key of an entry that no other entry of the same job has. */
export function keyOf(entry: Entry): string {
  return `${entry.task}.${entry.attempt}.${SOURCES[entry.source]}.${entry.end - 1}`;
}
