// One open document of logs: it follows the stream, reads what comes into sight, and tells the view when to draw.

import { signal } from "@preact/signals";
import type { TaskStatus } from "../../gen/iris/rpc/cluster_pb";
import { STATES } from "../../parts/states";
import { Backoff } from "../../rpc/backoff";
import { pauseBeforeRetry } from "../../rpc/connection";
import { describeError, type Failure } from "../../rpc/errors";
import { attemptsOf, ControllerLogs, wireFilter } from "./controller_logs";
import { LogDocument, SCREEN_ROWS } from "./engine/log_document";
import type { WindowRow } from "./engine/log_window";
import type { Match, Direction } from "./engine/search";
import { LogFollower } from "./log_follower";
import { isFiltering, type ParsedFilter } from "./logs_query";

// The most rows that are drawn. Rows out of sight are dropped at the other end.
export const MAX_ROWS = 2_400;
const PAUSE_MS = 2_000; // Before rows are read again that could not be read.
const MOST_ADDED_ROWS = 600; // After more new lines than this, the view shows only the last ones.
const JUMP_ROWS = 150; // These rows are drawn several times per second, and fill a screen of 2,400 pixels.

export interface SearchState {
  readonly isRunning: boolean;
  /** How many bytes of records the server has searched. */
  readonly searchedBytes: number;
  /** What came of the search, for people; empty if there was a match and all logs were searched. */
  readonly result: string;
}

/** Why the view moves, so that it knows which row to keep in sight. */
export type Scroll = "keep" | "end" | "beginning" | { readonly key: string };

export class LogSession {
  readonly document: LogDocument;
  /** Increases when the view must be drawn again. */
  readonly version = signal(0);
  readonly isFollowing = signal(false);
  readonly isReading = signal(true);
  /** How many lines came since the view stopped following. */
  readonly newLines = signal(0);
  /** How many bytes of records the server has read, for a filter. */
  readonly searchedBytes = signal(0);
  readonly isFiltered: boolean;
  readonly failure = signal<Failure | null>(null);
  readonly search = signal<SearchState>({ isRunning: false, searchedBytes: 0, result: "" });
  /** Where the view scrolls when it is drawn next. */
  scroll: Scroll = "end";
  private readonly closing = new AbortController();
  private readonly follower: LogFollower;
  private searching: AbortController | null = null;
  private frame = 0;
  private isUpdating = false;
  private needsUpdate = false;
  private isOpen = false;
  private isForgetting = false;
  /** The pauses between the readings of logs that cannot be read. Some of these logs never can be. */
  private readonly rereading = new Backoff();

  constructor(
    jobId: string,
    readonly tasks: readonly number[],
    attempt: number | null,
    filter: ParsedFilter,
  ) {
    const server = new ControllerLogs(jobId, wireFilter(filter));
    const isFiltered = isFiltering(filter);
    this.isFiltered = isFiltered;
    this.document = new LogDocument(server, {
      tasks,
      attempt,
      isFiltered,
      onRead: () => {
        this.searchedBytes.value = this.document.searchedBytes;
      },
    });
    this.follower = new LogFollower({
      document: this.document,
      jobId,
      isOneAttempt: attempt !== null,
      filter: wireFilter(filter),
      isSeen: () => this.isFollowing.peek(),
      onNews: () => this.schedule(),
      onFailure: (error) => {
        this.failure.value = describeError(error);
      },
      signal: this.closing.signal,
    });
  }

  /** Shows the line of a permalink, or the end of the log, and follows the log. */
  open(line: string): void {
    void this.guard(async () => {
      await this.document.openEnds();
      const found = line === "" ? null : await this.document.toRow(line);
      if (found) this.scroll = { key: found };
      else await this.document.toEnd();
      this.isFollowing.value = found === null;
      this.scroll = found ? { key: found } : "end";
      this.isOpen = true;
      this.isReading.value = false;
      this.draw();
      void this.guard(() => this.follower.run());
    });
  }

  close(): void {
    this.closing.abort();
    this.searching?.abort();
    this.document.close();
    cancelAnimationFrame(this.frame);
  }

  applyTasks(tasks: readonly TaskStatus[]): void {
    for (const task of tasks) {
      this.document.applyStatus(task.taskIndex, attemptsOf(task), STATES[task.state]?.isFinal ?? false);
    }
    this.follower.noteStatus();
    this.schedule();
  }

  // Movements of the user.

  toEnd(): void {
    this.move(async () => {
      await this.document.toEnd();
      this.scroll = "end";
      this.isFollowing.value = true;
      this.countAnew();
      this.follower.noteLook();
    });
  }

  toBeginning(): void {
    this.letGo();
    this.move(async () => {
      await this.document.toBeginning();
      this.scroll = "beginning";
    });
  }

  toFraction(fraction: number): void {
    if (fraction >= 0.999) return this.toEnd();
    this.letGo();
    this.move(async () => {
      const before = this.document.window.first;
      await this.document.toFraction(fraction);
      const row = this.rowAt(fraction) ?? before;
      this.scroll = row ? { key: row.key } : "beginning";
    });
    return undefined;
  }

  async toRow(key: string): Promise<void> {
    if (this.has(key)) {
      this.letGo();
      this.scroll = { key };
      this.draw();
      return;
    }
    this.letGo();
    await this.move(async () => {
      const found = await this.document.toRow(key);
      if (found) this.scroll = { key: found };
    });
  }

  /** Adds rows at an end of the window. The view calls this method when the user comes near the end. */
  extend(end: "up" | "down"): void {
    const { window } = this.document;
    if (this.isReading.peek() || !this.isOpen || !(end === "up" ? window.hasMoreAbove : window.hasMoreBelow)) return;
    // While the view follows the log, rows above are needed only to fill the screen.
    if (end === "up" && this.isFollowing.peek() && window.rowCount >= JUMP_ROWS) return;
    const { document } = this;
    const most = () => MAX_ROWS;
    this.move(async () => {
      const reading = end === "up" ? document.extendUp(SCREEN_ROWS, most) : document.extendDown(SCREEN_ROWS, most);
      const added = await this.restAfterFailure(reading);
      if (added === 0) {
        // The view asks again as soon as it is drawn. With a filter, each reading searches a further part of the log.
        if (!this.isFiltered) await pauseBeforeRetry(PAUSE_MS, this.closing.signal);
        return;
      }
      this.scroll = this.isFollowing.peek() ? "end" : "keep";
    });
  }

  /** Shows the error of a reading, and waits, because the view asks for the same rows again as soon as it is drawn. */
  private async restAfterFailure<T>(reading: Promise<T>): Promise<T> {
    try {
      return await reading;
    } catch (error) {
      if (!this.closing.signal.aborted) this.failure.value = describeError(error);
      await pauseBeforeRetry(PAUSE_MS, this.closing.signal);
      throw error;
    }
  }

  /** Stops following, because the user has scrolled up. */
  letGo(): void {
    if (this.isFollowing.peek()) this.countAnew();
    this.isFollowing.value = false;
    if (this.scroll === "end") this.scroll = "keep";
  }

  /** Follows again, because the user has scrolled to the end. */
  followAgain(): void {
    if (!this.document.isAtEnd) return;
    this.isFollowing.value = true;
    this.countAnew();
  }

  /** Reads logs again that could not be read. */
  retry(): void {
    this.failure.value = null;
    this.document.forgetErrors();
    if (!this.isOpen) return this.open("");
    this.follower.reopen();
    void this.guard(() => this.follower.run());
    return this.toEnd();
  }

  /** Finds the next or the previous match, and resolves to it. */
  async find(pattern: string, direction: Direction, from: WindowRow | undefined): Promise<Match | null> {
    this.searching?.abort();
    const searching = (this.searching = new AbortController());
    const report = (isRunning: boolean, searchedBytes: number, result = "") => {
      if (this.searching === searching) this.search.value = { isRunning, searchedBytes, result };
    };
    report(true, 0);
    try {
      const match = await this.document.find(pattern, direction, from, searching.signal, (bytes) => report(true, bytes));
      report(false, 0, match ? match.unsearched : `No ${direction} match`);
      if (match) await this.toRow(match.key);
      return match;
    } catch (error) {
      const { kind, text } = describeError(error);
      report(false, 0, kind === "cancelled" ? "The search was stopped" : text);
      return null;
    }
  }

  stopSearch(): void {
    this.searching?.abort();
  }

  /** The shown rows. */
  rows(): WindowRow[] {
    const { window, blocks } = this.document;
    return blocks.flatMap((block) => block.rows.filter((row) => window.isShown(row)));
  }

  private has(key: string): boolean {
    return this.document.window.blocks.some((block) => block.rows.some((row) => row.key === key));
  }

  /** Returns the row nearest to a part of the document. */
  private rowAt(fraction: number): WindowRow | undefined {
    return this.rows().find((row) => this.document.fractionOf(row) >= fraction) ?? this.document.window.last;
  }

  private countAnew(): void {
    this.document.addedLines = 0;
    this.document.hasJumped = false;
    this.newLines.value = 0;
  }

  private draw(): void {
    this.version.value += 1;
    if (this.document.errors().length > 0) this.forgetErrorsLater();
    else this.rereading.reset();
  }

  /** Reads logs again after a while that could not be read. The view asks for rows again when it is drawn. */
  private forgetErrorsLater(): void {
    if (this.isForgetting) return;
    this.isForgetting = true;
    void pauseBeforeRetry(Math.max(PAUSE_MS, this.rereading.next()), this.closing.signal).then(() => {
      this.isForgetting = false;
      if (this.closing.signal.aborted || !this.isOpen) return;
      this.document.forgetErrors();
      // If the end could not be read, there are no lines to go on from.
      const isEmpty = this.rows().every(({ row }) => row.kind === "start" || row.kind === "end");
      if (isEmpty && this.isFollowing.peek()) this.toEnd();
      else this.draw();
    });
  }

  private move(work: () => Promise<void>): Promise<void> {
    return this.guard(async () => {
      this.isReading.value = true;
      try {
        await work();
      } finally {
        this.isReading.value = false;
        this.draw();
      }
    });
  }

  private async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      if (this.isOpen) this.failure.value = null;
    } catch (error) {
      if (this.closing.signal.aborted) return;
      this.failure.value = describeError(error);
    }
  }

  /** Draws once in the next frame, however many chunks arrive until then. */
  private schedule(): void {
    this.needsUpdate = true;
    if (this.frame || this.isUpdating || !this.isOpen) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      void this.update();
    });
  }

  private async update(): Promise<void> {
    this.isUpdating = true;
    this.needsUpdate = false;
    try {
      const { document } = this;
      if (this.isFollowing.peek()) {
        const isFar = document.hasJumped || document.addedLines > MOST_ADDED_ROWS;
        // Reset before the wait, because more lines can arrive meanwhile. The next update then shows their end.
        document.addedLines = 0;
        document.hasJumped = false;
        if (isFar) await document.toEnd(JUMP_ROWS, () => this.isFollowing.peek());
        // The user may have scrolled up meanwhile, to rows that must then stay.
        else await document.extendDown(MOST_ADDED_ROWS, () => (this.isFollowing.peek() ? 2 * SCREEN_ROWS : MAX_ROWS));
        if (this.isFollowing.peek()) this.scroll = "end";
        if (document.window.hasMoreBelow) this.needsUpdate = true;
      } else {
        this.newLines.value = document.addedLines;
        this.scroll = "keep";
      }
      this.draw();
    } catch (error) {
      if (!this.closing.signal.aborted) this.failure.value = describeError(error);
    } finally {
      this.isUpdating = false;
      if (this.needsUpdate && !this.closing.signal.aborted) this.schedule();
    }
  }
}
