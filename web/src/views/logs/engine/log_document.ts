// The logs of one or several tasks as one document of rows: what is in the window, where it is in the whole, and what a
// stream adds at the end. All reading goes through one queue, so that two movements never mix their rows.

import { entriesOf, type AttemptLog } from "./attempt_log";
import { Lane, type Place } from "./lane";
import { LogWindow, rowKey, type Block, type WindowRow } from "./log_window";
import type { Line } from "./lines";
import { isCalm } from "./pace";
import { PageCache } from "./page_cache";
import { BEGINNING, SOURCES, type Offsets, type Source } from "./records";
import { findMatch, type Direction, type Match } from "./search";
import type { AttemptStatus, LogServer, Part, PartRead, StreamChunk } from "./server";

/** How many rows a movement shows first. It fills the largest screens. */
export const SCREEN_ROWS = 300;
const CACHE_BYTES = 48 << 20;
const LANE_BYTES = 32 << 10; // To merge lanes, the page needs one page of each lane in memory at the same time.
const READS_OF_A_CALL = 64;
const MOST_BYTES_OF_A_CALL = 2 << 20;
/** How many bytes a jump reads at the end of a log: enough for a screen, and not many lines even if lines are short. */
const JUMP_BYTES = 64 << 10;
const MOST_SIZED_ATTEMPTS = 60; // The sizes of this many earlier attempts are read for the scrollbar.

export interface StreamPosition {
  readonly task: number;
  readonly attempt: number;
  readonly offsets: Offsets;
}

export interface DocumentOptions {
  readonly tasks: readonly number[];
  /** The shown attempt of each task; null shows all attempts. */
  readonly attempt: number | null;
  /** Whether the server leaves out lines because of a filter. */
  readonly isFiltered: boolean;
  /** Is called after each reading, for example to show how far a filter has searched. */
  readonly onRead?: () => void;
}

export class LogDocument {
  readonly lanes: readonly Lane[];
  readonly window: LogWindow;
  /** How many lines a stream has added since the last reset of the count. */
  addedLines = 0;
  /** Whether `jump` has left out lines since the last reset, so that more lines were added than `addedLines`. */
  hasJumped = false;
  /** How many bytes of records the server has read for this document. */
  searchedBytes = 0;
  private readonly laneOfTask: ReadonlyMap<number, Lane>;
  /** For each lane, the attempt that a stream reads next; null until the end of the lane was read. */
  private readonly streamed = new Map<Lane, number | null>();
  /** The lanes that grow faster than the page draws lines, and when each end was read last, in ms. */
  private readonly behind = new Map<Lane, number>();
  /** What was in the window before the movement that is under way; null if there is no movement. */
  private drawn: readonly Block[] | null = null;
  private queue: Promise<unknown> = Promise.resolve();
  private readonly closing = new AbortController();

  constructor(
    private readonly server: LogServer,
    private readonly options: DocumentOptions,
  ) {
    const cache = new PageCache(Math.max(CACHE_BYTES, options.tasks.length * LANE_BYTES));
    const { tasks, attempt, isFiltered } = options;
    this.lanes = tasks.map((task) => new Lane(task, cache, isFiltered, attempt ?? 0, attempt !== null));
    this.laneOfTask = new Map(this.lanes.map((lane) => [lane.task, lane]));
    this.window = new LogWindow(this.lanes, isFiltered);
    this.window.reset(this.lanes.map((lane) => lane.beginning));
  }

  close(): void {
    this.closing.abort();
  }

  // What the controller says.

  /** Applies the status of a task. Tasks that are not shown are ignored. */
  applyStatus(task: number, attempts: readonly AttemptStatus[], isFinal: boolean): void {
    this.laneOfTask.get(task)?.applyStatus(attempts, isFinal);
  }

  /** Reads the ends of the lanes, from which a stream continues. A lane that cannot be read is read again next time. */
  openEnds(): Promise<void> {
    return this.run(async () => {
      const lanes = this.lanes.filter((lane) => (this.streamed.get(lane) ?? null) === null);
      const reads: PartRead[] = [];
      for (const lane of lanes) {
        const newest = this.options.attempt ?? lane.attempts.length - 1;
        if (!lane.attempts[newest]) {
          this.streamed.set(lane, Math.max(0, newest)); // A stream waits for the attempt.
          continue;
        }
        const oldest = this.lanes.length === 1 && this.options.attempt === null ? newest - MOST_SIZED_ATTEMPTS : newest;
        for (let attempt = Math.max(lane.first, oldest); attempt <= newest; attempt += 1) {
          reads.push({ task: lane.task, attempt, place: null, backwards: true, stop: 0 });
        }
      }
      for (const part of await this.readParts(reads)) {
        const lane = this.laneOfTask.get(part.task)!;
        const newest = this.options.attempt ?? lane.attempts.length - 1;
        if (part.attempt !== newest || part.error) continue;
        if (!part.complete) lane.log(part.attempt).followFrom(part.end, part.offsets);
        this.streamed.set(lane, part.complete ? part.attempt + 1 : part.attempt);
      }
    });
  }

  /** From where a stream continues: a position for each lane that is not over and not too fast. */
  streamPositions(): StreamPosition[] {
    const positions: StreamPosition[] = [];
    for (const lane of this.lanes) {
      const attempt = this.streamed.get(lane) ?? null;
      if (attempt === null || this.behind.has(lane) || lane.isOver || (lane.onlyOne && attempt !== lane.first)) continue;
      positions.push({ task: lane.task, attempt, offsets: lane.attempts[attempt]?.offsets ?? BEGINNING });
    }
    return positions;
  }

  /** Whether the ends of some lanes could not be read yet. */
  get hasUnopenedEnds(): boolean {
    return this.lanes.some((lane) => (this.streamed.get(lane) ?? null) === null);
  }

  /** Whether the ends of some lanes cannot be read now, so that the present stream does not deliver them. */
  get hasUnreadEnds(): boolean {
    return this.lanes.some((lane) => {
      const attempt = this.streamed.get(lane) ?? null;
      return attempt === null || Boolean(lane.attempts[attempt]?.hasLostStream);
    });
  }

  /** Adds a chunk of a stream. `window.extendDown` then finds the new rows. */
  receive(chunk: StreamChunk): void {
    const lane = this.laneOfTask.get(chunk.task);
    if (!lane || this.behind.has(lane)) return;
    if (lane.onlyOne && chunk.attempt !== lane.first) return;
    const log = lane.log(chunk.attempt);
    if (chunk.error) {
      log.error = chunk.error;
      log.isBlocked = log.hasLostStream = true;
      return;
    }
    this.addedLines += log.addChunk(chunk).length;
    if (chunk.end?.complete) this.streamed.set(lane, chunk.attempt + 1);
  }

  // Logs that are too fast.

  /** Leaves the logs of tasks out of the stream, because they grow too fast. `jump` reads their ends. */
  fallBehind(tasks: readonly number[], nowMs: number): void {
    for (const task of tasks) {
      const lane = this.laneOfTask.get(task);
      if (lane && !this.behind.has(lane)) this.behind.set(lane, nowMs);
    }
  }

  /** Whether some logs are too fast for a stream. */
  get isBehind(): boolean {
    return this.behind.size > 0;
  }

  /**
   * Reads the present ends of logs that are too fast: with one call, so at most 64 logs, in turn. Resolves to whether a
   * stream can deliver some of these logs again.
   */
  jump(clockMs: () => number): Promise<boolean> {
    return this.run(async () => {
      const lanes = [...this.behind.keys()].slice(0, READS_OF_A_CALL);
      const attemptOf = (lane: Lane) => this.streamed.get(lane) ?? lane.first;
      const reads = lanes.map((lane) => ({ task: lane.task, attempt: attemptOf(lane), place: null, backwards: true, stop: 0 }));
      let isSlower = false;
      for (const part of await this.readParts(reads, Math.min(MOST_BYTES_OF_A_CALL, JUMP_BYTES * reads.length))) {
        const lane = this.laneOfTask.get(part.task)!;
        const elapsedMs = clockMs() - this.behind.get(lane)!;
        this.behind.delete(lane); // The lane becomes the last one in the order of the map.
        // A stream delivers the next attempt, and says what is wrong with a log.
        const grown = part.error ? null : lane.log(part.attempt).jumpTo(part);
        if (part.complete) this.streamed.set(lane, part.attempt + 1);
        if (!grown || part.complete || isCalm({ ...grown, elapsedMs })) isSlower = true;
        else this.behind.set(lane, clockMs());
        if (grown?.bytes) this.hasJumped = true;
      }
      return isSlower;
    });
  }

  /** How many bytes before the first row of the window the page has skipped, because tasks wrote too fast. */
  skippedBytes(): number {
    return this.lanes.reduce((sum, lane, index) => {
      const top = this.window.topOf(index);
      const log = top && lane.attempts[top.attempt];
      if (!top || !log?.skipped) return sum;
      const { from, to } = log.skipped;
      const position = positionOf(log, top);
      return position > from && position <= to ? sum + position - from : sum;
    }, 0);
  }

  // Movements.

  /** Moves to the end, unless the movement is not wanted any more when its turn comes. */
  toEnd(rows = SCREEN_ROWS, isWanted = () => true): Promise<void> {
    return this.run(async () => {
      if (!isWanted()) return;
      this.window.reset(this.lanes.map((lane) => lane.end));
      await this.window.extendUp(rows, this.store);
      await this.window.extendDown(SCREEN_ROWS, this.store);
    });
  }

  toBeginning(): Promise<void> {
    return this.run(async () => {
      this.window.reset(this.lanes.map((lane) => lane.beginning));
      await this.window.extendDown(SCREEN_ROWS, this.store);
    });
  }

  /**
   * Adds rows at the bottom, and resolves to their number. Then rows at the top are dropped while more than `mostRows()`
   * rows remain. They are dropped before the next movement begins, because rows that were dropped during a movement would
   * be missing between the rows that the movement adds.
   */
  extendDown(rows = SCREEN_ROWS, mostRows = () => Infinity): Promise<number> {
    return this.run(async () => {
      const added = await this.window.extendDown(rows, this.store);
      this.window.trimTop(mostRows());
      return added;
    });
  }

  /** Adds rows at the top, and drops rows at the bottom, like `extendDown`. */
  extendUp(rows = SCREEN_ROWS, mostRows = () => Infinity): Promise<number> {
    return this.run(async () => {
      const added = await this.window.extendUp(rows, this.store);
      this.window.trimBottom(mostRows());
      return added;
    });
  }

  /** Moves to a part of the document: 0 is the beginning and 1 the end, by bytes for one lane, by time for several. */
  toFraction(fraction: number): Promise<void> {
    return this.run(async () => {
      const only = this.lanes.length === 1 ? this.lanes[0]! : null;
      if (!only) {
        const { fromMs, toMs } = this.timeSpan();
        await this.placeAtTime(fromMs + fraction * (toMs - fromMs));
        return;
      }
      let position = fraction * this.totalBytes();
      let log = only.attempts[only.first];
      for (const next of this.shownLogs(only)) {
        log = next;
        if (position < next.size) break;
        position -= next.size;
      }
      if (!log) return;
      const place = await this.placeIn(log, { position: Math.floor(Math.min(position, log.size)) });
      await this.showAround([place]);
    });
  }

  toTime(timeMs: number): Promise<void> {
    return this.run(() => this.placeAtTime(timeMs));
  }

  /**
   * Moves to the row of a permalink, and resolves to the key of the row that is there; null if there is no such row.
   */
  toRow(key: string): Promise<string | null> {
    return this.run(async () => {
      const wanted = parseKey(key);
      const lane = wanted && this.laneOfTask.get(wanted.task);
      const log = wanted && lane?.attempts[wanted.attempt];
      if (!log || !lane) return null;
      let place: Place;
      if (wanted.byte === null) {
        const isStart = wanted.what === "start";
        place = { attempt: log.attempt, stage: isStart ? "start" : "lines", begin: isStart ? 0 : Infinity, index: 0 };
      } else {
        place = await this.placeOfByte(log, wanted.what as Source, wanted.byte);
      }
      const step = await this.firstRow(lane, place);
      await this.showAround(await this.placesBeside(lane, place, step?.timeMs ?? 0));
      return this.window.blocks.some((block) => block.rows.some((row) => row.key === key)) ? key : (step?.key ?? null);
    });
  }

  /** Finds the next or previous line that matches a pattern; null if there is none. `progress` gets positions. */
  find(
    pattern: string,
    direction: Direction,
    from: WindowRow | undefined,
    signal: AbortSignal,
    progress: (searchedBytes: number) => void,
  ): Promise<Match | null> {
    return findMatch({ lanes: this.lanes, server: this.server, pattern, direction, from, signal, progress });
  }

  /** Lets the next movement read logs again that could not be read. */
  forgetErrors(): void {
    for (const lane of this.lanes) for (const log of lane.attempts) log.isBlocked = false;
  }

  // What is in the document.

  /**
   * The rows to draw. During a movement these are the rows before it, because the window may be empty until the new
   * rows were read. Drawing an empty window would lose the place to which the user has scrolled.
   */
  get blocks(): readonly Block[] {
    return this.drawn ?? this.window.blocks;
  }

  /** The lines without a newline at the ends of the lanes. */
  unfinishedLines(): Line[] {
    return this.lanes.flatMap((lane) => lane.attempts.flatMap((log) => [...log.unfinishedLines()]));
  }

  /** The logs that cannot be read. */
  errors(): { task: number; attempt: number; text: string }[] {
    return this.lanes.flatMap(({ task, attempts }) =>
      attempts.filter((log) => log.error).map((log) => ({ task, attempt: log.attempt, text: log.error })),
    );
  }

  /** Whether the window shows the last row that there is now. */
  get isAtEnd(): boolean {
    return !this.window.hasMoreBelow;
  }

  totalBytes(): number {
    return this.lanes.reduce(
      (total, lane) => total + this.shownLogs(lane).reduce((sum, log) => sum + log.size, 0),
      0,
    );
  }

  /** Where a row is in the document, from 0 to 1. */
  fractionOf(row: WindowRow): number {
    if (this.lanes.length > 1) {
      const { fromMs, toMs } = this.timeSpan();
      return toMs > fromMs ? clamp((row.row.timeMs - fromMs) / (toMs - fromMs)) : 0;
    }
    const lane = this.lanes[0];
    const total = this.totalBytes();
    if (!lane || total === 0) return 0;
    let before = 0;
    for (const log of this.shownLogs(lane)) {
      if (log.attempt === row.row.attempt) return clamp((before + positionOf(log, row.before)) / total);
      before += log.size;
    }
    return 0;
  }

  /** The time of the first and of the last row, as far as it is known. */
  timeSpan(): { fromMs: number; toMs: number } {
    let fromMs = Infinity;
    let toMs = 0;
    for (const lane of this.lanes) {
      for (const log of this.shownLogs(lane)) {
        if (log.startedMs) fromMs = Math.min(fromMs, log.startedMs);
        toMs = Math.max(toMs, log.finishedMs || Date.now());
      }
    }
    return fromMs <= toMs ? { fromMs, toMs } : { fromMs: 0, toMs: 0 };
  }

  private shownLogs(lane: Lane): AttemptLog[] {
    return lane.onlyOne ? lane.attempts.slice(lane.first, lane.first + 1) : lane.attempts;
  }

  // Reading.

  private run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.queue.then(async () => {
      this.closing.signal.throwIfAborted();
      this.drawn = this.window.blocks;
      try {
        return await work();
      } finally {
        this.drawn = null;
      }
    });
    this.queue = result.catch(() => {}); // The caller of `run` handles the error.
    return result;
  }

  private readonly store = async (reads: readonly PartRead[]): Promise<void> => {
    await this.readParts(reads);
  };

  private async readParts(reads: readonly PartRead[], maxBytes?: number): Promise<Part[]> {
    const parts: Part[] = [];
    for (let at = 0; at < reads.length; at += READS_OF_A_CALL) {
      const some = reads.slice(at, at + READS_OF_A_CALL);
      parts.push(...(await this.server.fetchParts(some, "", this.closing.signal, maxBytes)));
    }
    parts.forEach((part, index) => {
      this.laneOfTask.get(part.task)?.log(part.attempt).addPart(part, reads[index]!);
      this.searchedBytes += part.end - part.begin;
    });
    this.options.onRead?.();
    return parts;
  }

  private async showAround(places: readonly Place[]): Promise<void> {
    this.window.reset(places);
    await this.window.extendDown(SCREEN_ROWS, this.store);
    await this.window.extendUp(SCREEN_ROWS, this.store);
  }

  private async placeAtTime(timeMs: number): Promise<void> {
    await this.showAround(await this.placesAtTime(this.lanes, timeMs));
  }

  private async placesAtTime(lanes: readonly Lane[], timeMs: number): Promise<Place[]> {
    const logs = lanes.map((lane) => {
      const shown = this.shownLogs(lane).filter((log) => log.startedMs > 0 && log.startedMs <= timeMs);
      return shown.at(-1);
    });
    const reads = logs.flatMap((log) =>
      log ? [{ task: log.task, attempt: log.attempt, place: { timeMs: Math.floor(timeMs) }, backwards: false, stop: log.followedFrom }] : [],
    );
    const parts = await this.readParts(reads);
    return lanes.map((lane, index) => {
      const log = logs[index];
      if (!log) return lane.beginning;
      const part = parts.find(({ task }) => task === lane.task);
      const place = placeFromPart(log, part);
      const last = log.lastPage();
      if (!last || place.begin !== last.begin) return place;
      const later = last.entries.findIndex((entry) => entry.timeMs >= timeMs);
      return { ...place, index: later < 0 ? last.entries.length : later };
    });
  }

  private async placeIn(log: AttemptLog, place: { position: number }): Promise<Place> {
    if (log.isFollowed && place.position >= log.followedFrom) return placeFromPart(log, undefined);
    const read = { task: log.task, attempt: log.attempt, place, backwards: false, stop: log.followedFrom };
    const [part] = await this.readParts([read]);
    const found = placeFromPart(log, part);
    return found.begin === part?.begin ? { ...found, begin: place.position } : found;
  }

  private async placeOfByte(log: AttemptLog, source: Source, byte: number): Promise<Place> {
    const id = SOURCES.indexOf(source);
    const last = log.lastPage();
    const inTail = last?.entries.findIndex((entry) => entry.source === id && entry.start <= byte && byte < entry.end) ?? -1;
    if (last && inTail >= 0) return { attempt: log.attempt, stage: "lines", begin: last.begin, index: inTail };
    const place = { source, offset: byte };
    const read = { task: log.task, attempt: log.attempt, place, backwards: false, stop: log.followedFrom };
    const [part] = await this.readParts([read]);
    if (!part || part.error) return placeFromPart(log, part);
    const index = entriesOf(part).findIndex((entry) => entry.source === id && byte < entry.end);
    return { ...placeFromPart(log, part), index: Math.max(0, index) };
  }

  /** Returns the places of all lanes for a place of one lane. The other lanes are placed at the same time. */
  private async placesBeside(lane: Lane, place: Place, timeMs: number): Promise<Place[]> {
    const others = this.lanes.filter((other) => other !== lane);
    const places = others.length ? await this.placesAtTime(others, timeMs) : [];
    return this.lanes.map((each) => (each === lane ? place : places[others.indexOf(each)]!));
  }

  private async firstRow(lane: Lane, place: Place): Promise<{ key: string; timeMs: number } | null> {
    const asked = new Set<string>();
    for (;;) {
      const step = lane.next(place) ?? lane.previous(place);
      if (step === null) return null;
      if (!("read" in step)) return { key: rowKey(step.row), timeMs: step.row.timeMs };
      const wanted = JSON.stringify(step.read);
      if (asked.has(wanted)) return null; // The reading has brought nothing.
      asked.add(wanted);
      await this.readParts([step.read]);
    }
  }
}

function placeFromPart(log: AttemptLog, part: Part | undefined): Place {
  const last = log.lastPage();
  const { attempt } = log;
  // A place in the part that a stream delivers is in the page that the stream fills.
  if (last && (!part || part.begin >= last.begin)) return { attempt, stage: "lines", begin: last.begin, index: 0 };
  return { attempt, stage: "lines", begin: part && !part.error ? part.begin : 0, index: 0 };
}

function positionOf(log: AttemptLog, { stage, begin, index }: Place): number {
  if (stage === "start") return 0;
  if (stage === "end" || begin === Infinity) return log.size;
  const page = log.pageFrom(begin);
  if (!page || page.entries.length === 0) return begin;
  return begin + Math.min(1, index / page.entries.length) * (page.end - page.begin);
}

function clamp(fraction: number): number {
  return Math.min(1, Math.max(0, fraction));
}

interface ParsedKey {
  readonly task: number;
  readonly attempt: number;
  readonly what: Source | "start" | "end";
  /** The last byte of the line; null for a separator. */
  readonly byte: number | null;
}

/** Returns the parts of the key of a row; null if the text is no such key. */
export function parseKey(key: string): ParsedKey | null {
  const match = /^(\d{1,9})\.(\d{1,9})\.(?:(start|end)|(stdout|stderr|build)\.(\d{1,15}))$/.exec(key);
  if (!match) return null;
  const what = (match[3] ?? match[4]) as ParsedKey["what"];
  return { task: Number(match[1]), attempt: Number(match[2]), what, byte: match[5] === undefined ? null : Number(match[5]) };
}
