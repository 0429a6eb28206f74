// Pauses that grow after each failure, with jitter.

const FIRST_MS = 300;
const LONGEST_MS = 15_000;

/** The pauses of one stream. `random` returns a number from 0 to 1. */
export class Backoff {
  private failures = 0;

  constructor(private readonly random: () => number = Math.random) {}

  /** Returns the next pause in ms: half of the present limit at least. The limit doubles up to 15 s. */
  next(): number {
    const limit = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.failures);
    this.failures += 1;
    return Math.round(limit * (0.5 + this.random() / 2));
  }

  /** Begins again with the shortest pause, because the stream works. */
  reset(): void {
    this.failures = 0;
  }
}
