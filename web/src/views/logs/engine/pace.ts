// How fast the page follows logs. A task can write a million times faster than a person reads. The page takes all lines
// up to a rate, and of a faster log only the end, a few times per second.

/** While a log is too fast, its end is read and drawn at intervals of this many ms. */
export const JUMP_MS = 500;
/** The interval in ms while nobody sees the end of the log. */
export const IDLE_JUMP_MS = 3_000;

// A person cannot read 100 lines per second. These limits also let through the bursts of a program that starts.
const BYTES_PER_S = 1 << 20;
const LINES_PER_S = 2_000;
const BURST_BYTES = 4 << 20;
const BURST_LINES = 20_000;

/** Says whether the page can keep up with a stream. The limits are for all logs of a page together. */
export class Pace {
  private bytes = BURST_BYTES;
  private lines = BURST_LINES;
  private lastMs: number;

  constructor(nowMs: number) {
    this.lastMs = nowMs;
  }

  /** Whether the page processes a message with these amounts. If it does not, the message costs nothing. */
  accepts(bytes: number, lines: number, nowMs: number): boolean {
    const seconds = Math.max(0, nowMs - this.lastMs) / 1000;
    this.lastMs = nowMs;
    this.bytes = Math.min(BURST_BYTES, this.bytes + seconds * BYTES_PER_S);
    this.lines = Math.min(BURST_LINES, this.lines + seconds * LINES_PER_S);
    if (bytes > this.bytes || lines > this.lines) return false;
    this.bytes -= bytes;
    this.lines -= lines;
    return true;
  }
}

/** How much a log has grown between two jumps to its end. */
export interface Growth {
  readonly bytes: number;
  readonly lines: number;
  readonly elapsedMs: number;
}

/** Whether a stream can deliver a log again that was too fast. Half of the rates, so that the page does not alternate. */
export function isCalm({ bytes, lines, elapsedMs }: Growth): boolean {
  const seconds = elapsedMs / 1000;
  return bytes <= (seconds * BYTES_PER_S) / 2 && lines <= (seconds * LINES_PER_S) / 2;
}

const NEWLINE = 10;

/** Returns about how many lines are in records. Counting is much cheaper than making the lines. */
export function countLines(records: Uint8Array): number {
  let lines = 0;
  for (let at = 0; at < records.length; at += 1) if (records[at] === NEWLINE) lines += 1;
  return lines;
}
