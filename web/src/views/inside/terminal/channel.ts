// One channel of a tunnel, from the side of the page. The module is pure: a queue of parts to send, and the effects of
// received parts. src/iris/rpc/tunnels/channel.py is the same for Python.

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ChannelPart, ChannelPartSchema } from "../../../gen/iris/rpc/cluster_pb";
import { Incoming, Outgoing } from "./directions";

// Parts are small, so that the channels of a tunnel take turns.
const MAX_PART_BYTES = 64 * 1024;

export type PartToSend = MessageInitShape<typeof ChannelPartSchema>;
type Target = NonNullable<PartToSend["target"]>;

export class Channel {
  readonly outgoing = new Outgoing();
  readonly incoming = new Incoming();
  /** Whether the worker certainly knows the channel. */
  hasArrived = false;
  private isTargetTaken = false;
  /** The acknowledgement in the last part that was taken. */
  private told = 0;
  private mustAcknowledge = false;

  /** @param target - where the worker connects the channel */
  constructor(
    readonly number: number,
    private readonly target: Target,
  ) {}

  /** The number of bytes that were passed on, and that the worker has not been told. */
  get untold(): number {
    return this.incoming.passedOn - this.told;
  }

  /** Makes the next `take` return an acknowledgement, even if there is no data to send. */
  acknowledge(): void {
    this.mustAcknowledge ||= this.untold > 0;
  }

  /** Returns the next part to send; null if there is nothing to send. */
  take(): PartToSend | null {
    const isNew = !this.isTargetTaken;
    const piece = this.outgoing.take(MAX_PART_BYTES);
    if (!isNew && !piece && !this.mustAcknowledge) return null;
    this.isTargetTaken = true;
    this.mustAcknowledge = false;
    this.told = this.incoming.passedOn;
    return {
      channel: BigInt(this.number),
      received: BigInt(this.told),
      ...(isNew && { target: this.target }),
      ...(piece && { position: BigInt(piece.position), data: piece.data }),
    };
  }

  /** Records that a part which `take` returned has certainly arrived. */
  confirm(part: PartToSend): void {
    if (part.target) this.hasArrived = true;
  }

  /** Sends again everything that may be lost. */
  rewind(): void {
    this.outgoing.rewind();
    this.told = 0;
    this.mustAcknowledge = this.untold > 0;
    this.isTargetTaken = this.hasArrived;
  }

  /** Applies a part from the worker, and returns its new bytes. */
  accept(part: ChannelPart): Uint8Array | null {
    this.outgoing.acknowledge(Number(part.received));
    return this.incoming.accept(Number(part.position), part.data, part.end);
  }
}
