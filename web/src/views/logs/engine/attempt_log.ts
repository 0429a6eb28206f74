// The log of one attempt, as far as the page knows it: its status, its pages in memory, and its growing end.

import { LineAssembler, type Entry, type Line } from "./lines";
import type { Page, PageCache } from "./page_cache";
import { BEGINNING, type Offsets } from "./records";
import type { AttemptStatus, Outcome, Part, PartRead, StreamChunk } from "./server";

// The growing end of a log becomes a page of the cache when it has more entries than this. Smaller pages are dropped
// from memory and read again one by one.
const TAIL_ENTRIES = 2_000;

/** The last page of a log, which grows while a stream delivers the log. */
interface Tail {
  begin: number;
  end: number;
  entries: Entry[];
  readonly assembler: LineAssembler;
}

/** A range of positions of which the page has shown samples only, because the task wrote too fast. */
export interface Skipped {
  readonly from: number;
  readonly to: number;
}

export class AttemptLog {
  readonly id: string;
  workerId = "";
  startedMs = 0;
  finishedMs = 0;
  outcome: Outcome | null = null;
  /** The position at which the log ends, as far as the page knows. */
  size = 0;
  /** The whole log was written, and the page knows its end. */
  isComplete = false;
  /** Why the end of the log was lost; empty if it was not. */
  missingReason = "";
  /** Why the log could not be read when it was read last; empty if it could. */
  error = "";
  /** The log is not read at the moment, because of its error. */
  isBlocked = false;
  /** A stream has given the log up, because of an error. Another stream must be opened for it. */
  hasLostStream = false;
  /** Whether the page has received a line or a gap of the log. */
  hasEntries = false;
  /** What the page has skipped most recently; null if it has skipped nothing. */
  skipped: Skipped | null = null;
  /** An unfinished line is shown only after the server has asked for it, so that it does not flicker. */
  private showsUnfinished = false;
  private tail: Tail | null = null;

  constructor(
    readonly task: number,
    readonly attempt: number,
    private readonly cache: PageCache,
    private readonly isFiltered: boolean,
  ) {
    this.id = `${task}.${attempt}`;
  }

  /** Whether a stream delivers the rest of the log. */
  get isFollowed(): boolean {
    return this.tail !== null;
  }

  /** The position from which a stream delivers the log; 0 if there is no stream. Parts are read up to here. */
  get followedFrom(): number {
    return this.tail?.begin ?? 0;
  }

  /** From where a stream continues. */
  get offsets(): Offsets {
    return this.tail?.assembler.offsets ?? BEGINNING;
  }

  applyStatus(status: AttemptStatus): void {
    this.workerId = status.workerId;
    this.startedMs = status.startedMs;
    this.finishedMs = status.finishedMs;
    this.outcome = status.outcome ?? this.outcome;
  }

  /** Stores a part that was read as a page. A part with an error has no page. */
  addPart(part: Part, { place, backwards }: PartRead): void {
    this.error = part.error;
    this.isBlocked = Boolean(part.error);
    if (part.error) return;
    if (part.complete) {
      this.isComplete = true;
      this.missingReason = part.missingReason;
    }
    // The log may be shorter than before, because its end was lost with its worker, or because the log was removed.
    this.size = place === null && backwards ? part.end : Math.max(this.size, part.size);
    // The page must be found at the position that was asked for, or it would be read again and again.
    const asked = place !== null && "position" in place ? place.position : null;
    const begin = asked !== null && !backwards ? asked : part.begin;
    const end = asked !== null && backwards ? asked : Math.max(begin, part.end);
    const entries = entriesOf(part);
    if (entries.length > 0) this.hasEntries = true;
    this.cache.add(this.id, { begin, end, entries, isLast: part.atEnd, isComplete: part.complete });
  }

  /** Follows the log from the end of a part on. */
  followFrom(position: number, offsets: Offsets): void {
    const assembler = new LineAssembler(this.task, this.attempt, offsets, this.isFiltered);
    this.tail = { begin: position, end: position, entries: [], assembler };
  }

  /**
   * Follows the log from its present end on, which `part` contains. A stream does not deliver the lines in between:
   * they are read by their positions. Returns how many bytes and about how many lines were added to the log since then.
   */
  jumpTo(part: Part): { bytes: number; lines: number } {
    const { tail } = this;
    const from = tail?.end ?? 0;
    const bytes = part.end - from;
    if (bytes < 0 && !part.complete) return { bytes: 0, lines: 0 }; // Another server has less of the log.
    if (tail && tail.entries.length > 0 && tail.end > tail.begin) this.closeTail(tail);
    if (part.begin > from) {
      const isNew = this.skipped === null || (tail !== null && tail.end > tail.begin);
      this.skipped = { from: isNew ? from : this.skipped!.from, to: part.end };
    }
    if (part.complete) this.tail = null;
    else this.followFrom(part.end, part.offsets);
    const entries = this.cache.from(this.id, part.begin)?.entries.length ?? 0;
    return { bytes, lines: part.end > part.begin ? (entries * bytes) / (part.end - part.begin) : entries };
  }

  /**
   * Adds a chunk of a stream, and returns the new entries.
   *
   * @throws DamagedRecordsError - The records are damaged. The stream must be opened again at `offsets`.
   */
  addChunk(chunk: StreamChunk): readonly Entry[] {
    if (!this.tail) {
      if (this.isComplete) return []; // A part of the end was read meanwhile, and nothing follows it.
      this.followFrom(0, BEGINNING);
    }
    const tail = this.tail!;
    const added: Entry[] = tail.assembler.read(chunk.records);
    this.error = "";
    this.isBlocked = this.hasLostStream = false;
    if (added.length) this.showsUnfinished = false;
    if (chunk.flush) this.showsUnfinished = true;
    if (chunk.end?.complete) {
      added.push(...tail.assembler.finish());
      this.isComplete = true;
      this.missingReason = chunk.end.missingReason;
      this.outcome ??= chunk.end;
    }
    for (const entry of added) tail.entries.push(entry);
    if (added.length > 0) this.hasEntries = true;
    tail.end = Math.max(tail.end, chunk.position);
    this.size = Math.max(this.size, tail.end);
    if (tail.entries.length > TAIL_ENTRIES && tail.end > tail.begin && !this.isComplete) this.closeTail(tail);
    return added;
  }

  /** Returns the page that begins at a position; undefined if it is not in memory. */
  pageFrom(begin: number): Page | undefined {
    const tail = this.tail;
    if (tail && begin === tail.begin) {
      return { ...tail, isLast: true, isComplete: this.isComplete };
    }
    return this.cache.from(this.id, begin);
  }

  /** Returns the page that ends at a position; undefined if it is not in memory. */
  pageUpTo(end: number): Page | undefined {
    return this.cache.upTo(this.id, end);
  }

  /** Returns the page at the end of the log; undefined if it is not in memory. */
  endPage(): Page | undefined {
    return this.lastPage() ?? (this.size > 0 ? this.pageUpTo(this.size) : this.pageFrom(0));
  }

  /** Returns the growing page at the end of the log; undefined if no stream delivers the log. */
  lastPage(): Page | undefined {
    return this.tail ? this.pageFrom(this.tail.begin) : undefined;
  }

  /** Returns the lines at the end of the log that have no newline yet. */
  unfinishedLines(): readonly Line[] {
    return this.showsUnfinished && this.tail ? this.tail.assembler.unfinished() : [];
  }

  private closeTail(tail: Tail): void {
    const { begin, end, entries } = tail;
    this.cache.add(this.id, { begin, end, entries, isLast: false, isComplete: false });
    this.tail = { begin: end, end, entries: [], assembler: tail.assembler };
  }
}

/** Returns the lines and gaps of a part of a log. */
export function entriesOf(part: Part): Entry[] {
  if (part.records.length === 0) return [];
  // The first record may be anywhere in its source, because the records are packed.
  const assembler = new LineAssembler(part.task, part.attempt, BEGINNING, true);
  const entries = assembler.read(part.records);
  entries.push(...assembler.finish());
  return entries;
}
