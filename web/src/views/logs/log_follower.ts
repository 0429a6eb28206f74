// Follows the logs of a document. Two loops run side by side:
//
// 1. The stream delivers each line of the logs that the page can keep up with.
// 2. A log that grows faster than the page can draw is left out of the stream. The second loop reads the end of such
//    a log a few times per second, until the log is slow enough for the stream again. The lines in between are read by
//    their positions when the user scrolls to them.

import { ControllerService, type StreamTaskLogsResponse } from "../../gen/iris/rpc/cluster_pb";
import { pauseBeforeRetry } from "../../rpc/connection";
import { describeError } from "../../rpc/errors";
import { keepStream } from "../../rpc/streams";
import { chunkOf, type WireFilter } from "./controller_logs";
import type { LogDocument } from "./engine/log_document";
import { DamagedRecordsError } from "./engine/records";
import { countLines, IDLE_JUMP_MS, JUMP_MS, Pace } from "./engine/pace";

const PAUSE_MS = 2_000; // Before a log is read again that could not be read.
// A stream may go on for hours. While a log cannot be read, the stream of the other logs is opened again at intervals of
// this time, so that it delivers the log once the log can be read.
const REOPEN_MS = 15_000;

export interface Followed {
  readonly document: LogDocument;
  readonly jobId: string;
  readonly isOneAttempt: boolean;
  readonly filter: WireFilter;
  /** Whether the user sees the end of the logs. */
  readonly isSeen: () => boolean;
  /** Is called when there is something new to draw. */
  readonly onNews: () => void;
  /** Is called with an error after which an end of a log is not read again. */
  readonly onFailure: (error: unknown) => void;
  readonly signal: AbortSignal;
}

export class LogFollower {
  private readonly pace = new Pace(performance.now());
  /** Ends the present stream, so that it is opened with other logs. */
  private round = new AbortController();
  private isRunning = false;
  private isJumping = false;
  /** Records of the present stream were damaged, so the next stream is opened after a pause. */
  private isDamaged = false;
  private endPause: (() => void) | null = null;
  private endJumpPause: (() => void) | null = null;

  constructor(private readonly followed: Followed) {}

  /** Follows the logs until all have ended. Resolves at once if the logs are followed already. */
  async run(): Promise<void> {
    if (this.isRunning) return;
    this.isRunning = true;
    try {
      await this.follow();
    } finally {
      this.isRunning = false;
    }
  }

  /** Ends a pause, because the controller has sent the status of a task. */
  noteStatus(): void {
    this.endPause?.();
  }

  /** Opens the stream again now, with the logs that could not be read. */
  reopen(): void {
    this.round.abort();
  }

  /** Reads the ends of fast logs soon, because the user looks at the end again. */
  noteLook(): void {
    this.endJumpPause?.();
  }

  private async follow(): Promise<void> {
    const { document, signal } = this.followed;
    while (!signal.aborted) {
      if (document.hasUnopenedEnds) await this.openEnds();
      const round = (this.round = new AbortController());
      if (document.streamPositions().length > 0) {
        const reopening = setInterval(() => document.hasUnreadEnds && round.abort(), REOPEN_MS);
        try {
          await this.stream(AbortSignal.any([signal, round.signal]), round);
        } finally {
          clearInterval(reopening);
        }
        if (this.isDamaged) await this.pause(signal);
        this.isDamaged = false;
        if (round.signal.aborted) continue;
        // The stream ends when all its logs have ended, and also when a log cannot be read.
        if (document.streamPositions().length === 0) continue;
      } else if (!document.isBehind && !document.hasUnopenedEnds && document.lanes.every((lane) => lane.isOver)) {
        return;
      }
      await this.pause(round.signal);
    }
  }

  private async openEnds(): Promise<void> {
    try {
      await this.followed.document.openEnds();
    } catch (error) {
      if (describeError(error).kind !== "connection") throw error;
    }
  }

  private stream(signal: AbortSignal, round: AbortController): Promise<void> {
    const { document, jobId, isOneAttempt, filter } = this.followed;
    return keepStream({
      method: ControllerService.method.streamTaskLogs,
      request: () => ({
        jobId,
        positions: document.streamPositions().map(({ task, attempt, offsets }) => ({
          taskIndex: task,
          attemptId: attempt,
          offsets: offsets.map(BigInt),
        })),
        follow: true,
        oneAttempt: isOneAttempt,
        filter,
      }),
      onMessage: (message) => {
        if (!signal.aborted) this.receive(message, round);
      },
      signal,
    });
  }

  private receive({ chunks }: StreamTaskLogsResponse, round: AbortController): void {
    if (chunks.length === 0) return;
    const { document, onNews } = this.followed;
    const bytes = chunks.reduce((sum, { records }) => sum + records.length, 0);
    const lines = chunks.reduce((sum, { records }) => sum + countLines(records), 0);
    if (this.pace.accepts(bytes, lines, performance.now())) {
      try {
        for (const chunk of chunks) document.receive(chunkOf(chunk));
      } catch (error) {
        if (!(error instanceof DamagedRecordsError)) throw error;
        this.isDamaged = true;
        round.abort(); // The next stream delivers the records once more.
      }
      // The server of a log broke, so the stream has nothing more of this log. The stream of the other logs goes on.
      if (chunks.some(({ end }) => end && !end.complete)) setTimeout(() => round.abort(), PAUSE_MS);
      onNews();
      return;
    }
    // None of the message was processed. Its logs are read again from their ends, or later by a new stream.
    document.fallBehind(chunks.map(({ taskIndex }) => taskIndex), performance.now());
    round.abort();
    void this.jump();
  }

  private async jump(): Promise<void> {
    if (this.isJumping) return;
    this.isJumping = true;
    const { document, signal, onNews, onFailure } = this.followed;
    try {
      while (document.isBehind && !signal.aborted) {
        if (await this.readEnds()) this.round.abort();
        onNews();
        if (document.isBehind) await this.jumpPause();
      }
    } catch (error) {
      if (!signal.aborted) onFailure(error);
    } finally {
      this.isJumping = false;
    }
  }

  /** Reads the ends of fast logs, and returns whether a stream can deliver some of these logs again. */
  private async readEnds(): Promise<boolean> {
    try {
      return await this.followed.document.jump(() => performance.now());
    } catch (error) {
      if (this.followed.signal.aborted || describeError(error).kind !== "connection") throw error;
      return false; // The next jump reads the ends again.
    }
  }

  private async jumpPause(): Promise<void> {
    const isSeen = this.followed.isSeen() && !globalThis.document.hidden;
    const waiting = new AbortController();
    this.endJumpPause = () => waiting.abort();
    // The user must not cause more jumps than one per `JUMP_MS`.
    await pauseBeforeRetry(JUMP_MS, this.followed.signal);
    if (!isSeen) await pauseBeforeRetry(IDLE_JUMP_MS - JUMP_MS, AbortSignal.any([this.followed.signal, waiting.signal]));
    this.endJumpPause = null;
  }

  private async pause(changed: AbortSignal): Promise<void> {
    const waiting = new AbortController();
    this.endPause = () => waiting.abort();
    await pauseBeforeRetry(PAUSE_MS, AbortSignal.any([this.followed.signal, changed, waiting.signal]));
    this.endPause = null;
  }
}
