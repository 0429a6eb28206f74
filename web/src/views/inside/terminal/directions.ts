// The two directions of a channel: positions, bytes that are kept, ends and acknowledgements. The module is pure, and
// does what src/iris/rpc/tunnels/directions.py does.
//
// The end of a direction counts as one more byte. Therefore a direction of 10 bytes is complete when its receiver has
// acknowledged 11.

/** Bytes of one direction. */
export interface Piece {
  /** The number of bytes before `data`. */
  readonly position: number;
  readonly data: Uint8Array<ArrayBuffer>;
}

/** The direction in which the page sends. Bytes are kept until the worker has acknowledged them. */
export class Outgoing {
  private kept = new Uint8Array(0);
  /** The position of the first kept byte. */
  private first = 0;
  /** The position up to which bytes were taken. */
  private taken = 0;
  private acknowledged = 0;

  get isAllTaken(): boolean {
    return this.taken === this.first + this.kept.length;
  }

  add(data: Uint8Array): void {
    const longer = new Uint8Array(this.kept.length + data.length);
    longer.set(this.kept);
    longer.set(data, this.kept.length);
    this.kept = longer;
  }

  /** Returns the next bytes to send, at most `maxBytes`; null if everything was taken. */
  take(maxBytes: number): Piece | null {
    if (this.isAllTaken) return null;
    const position = this.taken;
    const data = this.kept.slice(position - this.first, position - this.first + maxBytes);
    this.taken = position + data.length;
    return { position, data };
  }

  /** Drops the bytes that the worker has passed on. */
  acknowledge(received: number): void {
    if (received <= this.acknowledged) return; // Each part repeats the number, and a copy of a long paste takes time.
    this.acknowledged = Math.min(received, this.first + this.kept.length);
    // The worker may acknowledge bytes that it got before a rewind.
    this.taken = Math.max(this.taken, this.acknowledged);
    this.kept = this.kept.slice(this.acknowledged - this.first);
    this.first = this.acknowledged;
  }

  /** Takes again everything that is not acknowledged, because sent bytes may be lost. */
  rewind(): void {
    this.taken = this.acknowledged;
  }
}

/** The direction in which the page receives. */
export class Incoming {
  /** The number of bytes, with the end, that were passed on. */
  passedOn = 0;
  private accepted = 0;
  private ended = false;

  /** Whether the end has arrived. */
  get hasEnd(): boolean {
    return this.ended;
  }

  /** Whether everything, the end included, was passed on. */
  get isDone(): boolean {
    return this.ended && this.passedOn === this.accepted + 1;
  }

  /** Accepts received bytes, and returns the new ones. Returns null if bytes before `position` are missing. */
  accept(position: number, data: Uint8Array, isEnd: boolean): Uint8Array | null {
    if (position > this.accepted) return null;
    const fresh = data.subarray(Math.min(this.accepted - position, data.length));
    this.accepted += fresh.length;
    this.ended ||= isEnd && position + data.length === this.accepted;
    return fresh;
  }
}
