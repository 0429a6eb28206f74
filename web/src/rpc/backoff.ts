// Pauses that grow after each failure, with jitter.

const FIRST_MS = 300;
const LONGEST_MS = 15_000;
// A stream that breaks sooner after its first message counts as a failure. Otherwise a controller that drops each stream
// after the first message would get requests without growing pauses. _STEADY_S of src/iris/system/backoff.py is the same.
const STEADY_MS = 5_000;

/** The pauses of one stream. `random` returns a number from 0 to 1, and `nowMs` a time in ms. */
export class Backoff {
  private failures = 0;
  private answeredMs: number | null = null;

  constructor(
    private readonly random: () => number = Math.random,
    private readonly nowMs: () => number = () => performance.now(),
  ) {}

  /** Returns the next pause in ms: half of the present limit at least. The limit doubles up to 15 s. */
  next(): number {
    if (this.answeredMs !== null && this.nowMs() - this.answeredMs >= STEADY_MS) this.reset();
    this.answeredMs = null;
    const limit = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.failures);
    this.failures += 1;
    return Math.round(limit * (0.5 + this.random() / 2));
  }

  /** Records a message of the stream. A stream that works for 5 s after its first message ends the row of failures. */
  answered(): void {
    this.answeredMs ??= this.nowMs();
  }

  /** Begins again with the shortest pause, because a call was successful. */
  reset(): void {
    this.failures = 0;
  }
}
