// The log of one task through all its attempts, as one sequence of rows.

import { AttemptLog } from "./attempt_log";
import type { Entry } from "./lines";
import type { PageCache } from "./page_cache";
import type { AttemptStatus, PartRead } from "./server";

/** The line that separates attempts: where an attempt begins, or how it ended. */
export interface Separator {
  readonly kind: "start" | "end";
  readonly task: number;
  readonly attempt: number;
  readonly timeMs: number;
  readonly log: AttemptLog;
}

export type Row = Entry | Separator;

/**
 * A place between two rows of a lane: before the first row of an attempt, between its lines, or before its last row.
 * `index` counts the entries from the position `begin` on. A `begin` of Infinity is the end of the log.
 */
export interface Place {
  readonly attempt: number;
  readonly stage: "start" | "lines" | "end";
  readonly begin: number;
  readonly index: number;
}

/** A row and the place beyond it, or a part of a log that must be read first. Null: there is no such row yet. */
export type Step = { readonly row: Row; readonly place: Place } | { readonly read: PartRead } | null;

export class Lane {
  readonly attempts: AttemptLog[] = [];
  /** Whether the task is final, so that no further attempt will come. */
  isFinal = false;

  /** @param first - the first shown attempt. @param onlyOne - whether only this attempt is shown. */
  constructor(
    readonly task: number,
    private readonly cache: PageCache,
    private readonly isFiltered: boolean,
    readonly first = 0,
    readonly onlyOne = false,
  ) {}

  /** Returns the log of an attempt. A new attempt is added with all attempts before it. */
  log(attempt: number): AttemptLog {
    for (let number = this.attempts.length; number <= attempt; number += 1) {
      this.attempts.push(new AttemptLog(this.task, number, this.cache, this.isFiltered));
    }
    return this.attempts[attempt]!;
  }

  applyStatus(attempts: readonly AttemptStatus[], isFinal: boolean): void {
    for (const status of attempts) this.log(status.attempt).applyStatus(status);
    this.isFinal = isFinal;
  }

  /** Whether the page has received everything that there will ever be. */
  get isOver(): boolean {
    const last = this.onlyOne ? this.attempts[this.first] : this.attempts.at(-1);
    if (this.onlyOne && last) return last.isComplete;
    return this.isFinal && (last === undefined || last.isComplete);
  }

  /** Whether the page has received a line or a gap of the task. */
  get hasEntries(): boolean {
    return this.attempts.some((log) => log.hasEntries);
  }

  get beginning(): Place {
    return { attempt: this.first, stage: "start", begin: 0, index: 0 };
  }

  /** The end of the newest attempt, so far. */
  get end(): Place {
    const attempt = this.onlyOne ? this.first : Math.max(this.first, this.attempts.length - 1);
    const log = this.attempts[attempt];
    if (!log) return this.beginning;
    if (log.isComplete && log.outcome) return { attempt: attempt + 1, stage: "start", begin: 0, index: 0 };
    const last = log.lastPage();
    return { attempt, stage: "lines", begin: last?.begin ?? Infinity, index: last?.entries.length ?? 0 };
  }

  /** Returns the row after a place. */
  next(place: Place): Step {
    for (;;) {
      const log = this.shown(place.attempt);
      if (!log) return null;
      if (place.stage === "start") {
        return { row: separator("start", log), place: { attempt: log.attempt, stage: "lines", begin: 0, index: 0 } };
      }
      if (place.stage === "end") {
        if (!log.outcome || !log.isComplete) return null;
        const after: Place = { attempt: log.attempt + 1, stage: "start", begin: 0, index: 0 };
        return { row: separator("end", log), place: after };
      }
      if (place.begin === Infinity) {
        if (!log.isComplete) return null;
        place = { ...place, stage: "end" };
        continue;
      }
      const page = log.pageFrom(place.begin);
      if (!page) return log.isBlocked ? null : { read: readOf(log, { position: place.begin }, false) };
      const entry = page.entries[place.index];
      if (entry) return { row: entry, place: { ...place, index: place.index + 1 } };
      if (page.isLast) {
        if (log.isComplete && page.isComplete) {
          place = { ...place, stage: "end" };
          continue;
        }
        // The page was the last one when it was read. The log may have grown since.
        if (log.isFollowed ? log.followedFrom === page.begin || log.followedFrom < page.end : !log.isComplete) return null;
        if (page.begin === page.end) return { read: readOf(log, { position: page.begin }, false) };
      }
      place = { ...place, begin: page.end, index: place.index - page.entries.length };
    }
  }

  /** Returns the row before a place. */
  previous(place: Place): Step {
    for (;;) {
      const log = this.attempts[place.attempt];
      if (place.stage === "start") {
        const before = this.shown(place.attempt - 1);
        if (!before) return null;
        return { row: separator("end", before), place: { attempt: before.attempt, stage: "end", begin: 0, index: 0 } };
      }
      if (!log) return null;
      if (place.stage === "end" || place.begin === Infinity) {
        const last = log.endPage();
        if (!last && log.isBlocked) return { row: separator("start", log), place: startOf(log) };
        if (!last) return { read: readOf(log, null, true) };
        place = { attempt: log.attempt, stage: "lines", begin: last.begin, index: last.entries.length };
        continue;
      }
      if (place.index === 0) {
        if (place.begin === 0) return { row: separator("start", log), place: startOf(log) };
        const before = log.pageUpTo(place.begin);
        // The lines before an error must not be skipped. They are read when the error was forgotten.
        if (!before) return log.isBlocked ? null : { read: readOf(log, { position: place.begin }, true) };
        place = { ...place, begin: before.begin, index: before.entries.length };
        continue;
      }
      const page = log.pageFrom(place.begin);
      if (!page) return log.isBlocked ? null : { read: readOf(log, { position: place.begin }, false) };
      const entry = page.entries[place.index - 1];
      if (entry) return { row: entry, place: { ...place, index: place.index - 1 } };
      if (page.isLast) place = { ...place, index: page.entries.length };
      else place = { ...place, begin: page.end, index: place.index - page.entries.length };
    }
  }

  private shown(attempt: number): AttemptLog | undefined {
    if (attempt < this.first || (this.onlyOne && attempt !== this.first)) return undefined;
    return this.attempts[attempt];
  }
}

function startOf(log: AttemptLog): Place {
  return { attempt: log.attempt, stage: "start", begin: 0, index: 0 };
}

function readOf(log: AttemptLog, place: { position: number } | null, backwards: boolean): PartRead {
  return { task: log.task, attempt: log.attempt, place, backwards, stop: backwards ? 0 : log.followedFrom };
}

function separator(kind: "start" | "end", log: AttemptLog): Separator {
  return { kind, task: log.task, attempt: log.attempt, timeMs: kind === "start" ? log.startedMs : log.finishedMs, log };
}
