// One command in a task, in a terminal: joins the terminal to the channels of a tunnel, and waits for the end.
//
// 1. `follow` opens the tunnel, and opens it again after each lost connection. Bytes have positions, and each side keeps
//    its bytes until the other side has passed them on. Therefore a broken connection neither loses nor repeats a byte.
// 2. `writeParts` sends with one call at a time. Keys that are pressed during a call share the next call.
// 3. The session ends when the worker has reported the exit code and all output was shown. In every other case it fails.
//
// src/iris/client/exec/session.py is the same for `iris shell`. Time and calls come from outside, so that the module can
// be tested without a browser.

import {
  ChannelReset,
  ExecStream,
  type ChannelPart,
  type ExecEvent,
  type TunnelMessage,
} from "../../../gen/iris/rpc/cluster_pb";
import { Backoff } from "../../../rpc/backoff";
import type { ExecCalls } from "../host";
import { Channel, type PartToSend } from "./channel";

export interface Size {
  readonly rows: number;
  readonly columns: number;
}

/** How a session has ended. Without an exit code, it is unknown how the command ended, or the command never started. */
export interface Outcome {
  readonly exitCode: number | null;
  /** Why the command did not start, was ended, or is lost; empty if it ended by itself. */
  readonly error: string;
}

export interface SessionEvents {
  /** Shows bytes of the command, and calls `done` when they were processed. */
  readonly onOutput: (bytes: Uint8Array, done: () => void) => void;
  /** The command has started. */
  readonly onStarted: () => void;
  /** Why the command has not started yet, for people. */
  readonly onWaiting: (text: string) => void;
  readonly onEnd: (outcome: Outcome) => void;
}

// After passing on this many bytes, the page acknowledges them at once; fewer bytes after a time in ms.
const ACKNOWLEDGED_BYTES = 512 * 1024;
const ACKNOWLEDGED_MS = 80;
const AGAIN_MS = 100; // The pause before a refused part is sent again.
const UNKNOWN_END = "It is unknown how the command ended, and output may be missing.";

export class ExecSession {
  private readonly control: Channel;
  private readonly stdio = new Channel(2, { exec: { stream: ExecStream.STDIO } });
  private readonly abort = new AbortController();
  private attemptId: number | null = null;
  private isOpen = false;
  private hasStarted = false;
  private exit: Outcome | null = null;
  private received = new Uint8Array(0); // The beginning of a message of the channel CONTROL.
  private acknowledging: ReturnType<typeof setTimeout> | undefined;
  private wake: () => void = () => undefined;
  private readonly reopening = new Backoff();
  private readonly writing = new Backoff();

  constructor(
    private readonly calls: ExecCalls,
    private readonly tunnelId: string,
    size: Size,
    private readonly events: SessionEvents,
  ) {
    const command = { terminal: true, input: true, ...size, envVars: { TERM: "xterm-256color", COLORTERM: "truecolor" } };
    this.control = new Channel(1, { exec: { stream: ExecStream.CONTROL, command } });
  }

  /** Starts the command. */
  start(): void {
    void this.follow();
    void this.writeParts();
  }

  /** Sends bytes to the command. */
  input(bytes: Uint8Array): void {
    if (this.abort.signal.aborted) return;
    this.stdio.outgoing.add(bytes);
    this.wake();
  }

  /** Tells the command that its terminal has another size. */
  resize(size: Size): void {
    if (this.abort.signal.aborted) return;
    this.control.outgoing.add(framed(this.calls.encodeControl(size)));
    this.wake();
  }

  /** Ends the session because nobody looks at it any more. A command that still runs gets SIGHUP, and SIGKILL later. */
  close(): void {
    if (this.abort.signal.aborted) return;
    this.abort.abort();
    clearTimeout(this.acknowledging);
    this.wake();
    if (this.attemptId !== null) this.calls.close({ tunnelId: this.tunnelId, attemptId: this.attemptId });
  }

  private end(outcome: Outcome): void {
    if (this.abort.signal.aborted) return;
    this.close();
    this.events.onEnd(outcome);
  }

  private fail(error: string): void {
    this.end({ exitCode: null, error });
  }

  // From the worker.

  private async follow(): Promise<void> {
    const { signal } = this.abort;
    const request = () => ({
      tunnelId: this.tunnelId,
      ...(this.attemptId !== null && { attemptId: this.attemptId, resume: true }),
    });
    while (!signal.aborted) {
      try {
        await this.calls.follow(request, (message) => this.apply(message), signal);
      } catch (error) {
        if (signal.aborted) return;
        if (this.attemptId === null || !this.calls.isOutage(error)) {
          this.refused(error);
          return;
        }
      }
      if (!signal.aborted) await this.calls.pause(this.reopening.next(), signal);
    }
  }

  private refused(error: unknown): void {
    const { text, advice } = this.calls.explain(error) ?? { text: "The call was cancelled.", advice: "" };
    this.fail(`${text} ${this.hasStarted ? UNKNOWN_END : advice}`.trim());
  }

  private apply(message: TunnelMessage): void {
    if (this.abort.signal.aborted) return;
    this.reopening.answered();
    if (message.waiting) this.events.onWaiting(message.waiting);
    if (message.opened) {
      this.attemptId = message.opened.attemptId;
      const known = new Set(message.opened.channels.map(Number));
      if (this.channels.some((one) => one.hasArrived && !known.has(one.number) && !one.incoming.hasEnd)) {
        this.fail(`The worker does not know the session any more. ${UNKNOWN_END}`);
        return;
      }
      for (const channel of this.channels) channel.rewind();
      this.isOpen = true;
      this.wake();
    }
    for (const part of message.parts) this.accept(part);
    if (message.closed) this.fail(`${message.closed.text}.${this.hasStarted ? ` ${UNKNOWN_END}` : ""}`);
  }

  private get channels(): readonly Channel[] {
    return [this.control, this.stdio];
  }

  private accept(part: ChannelPart): void {
    const channel = this.channels.find(({ number }) => BigInt(number) === part.channel);
    if (!channel || this.abort.signal.aborted) return;
    const before = channel.incoming.hasEnd;
    const bytes = channel.accept(part);
    const isEnd = channel.incoming.hasEnd && !before;
    if (bytes && channel === this.control) this.hear(bytes, isEnd);
    else if (bytes && (bytes.length > 0 || isEnd)) {
      this.events.onOutput(bytes, () => this.passedOn(this.stdio, bytes.length + Number(isEnd)));
    }
    if (part.reset) this.wasReset(part.reset, part.resetText);
  }

  private wasReset(code: ChannelReset, text: string): void {
    const isKnown = code === ChannelReset.LIMIT || (code === ChannelReset.ATTEMPT_ENDED && !this.hasStarted);
    this.fail(`${text}.${isKnown ? "" : ` ${UNKNOWN_END}`}`);
  }

  /** Takes the messages of the channel CONTROL: each follows its length, a number of 4 bytes. */
  private hear(bytes: Uint8Array, isEnd: boolean): void {
    const all = new Uint8Array(this.received.length + bytes.length);
    all.set(this.received);
    all.set(bytes, this.received.length);
    let rest = all;
    while (rest.length >= 4) {
      const end = 4 + new DataView(rest.buffer, rest.byteOffset).getUint32(0);
      if (rest.length < end) break;
      this.happened(this.calls.decodeEvent(rest.slice(4, end)));
      rest = rest.subarray(end);
    }
    this.received = rest.slice();
    this.passedOn(this.control, bytes.length + Number(isEnd));
    if (isEnd && !this.exit) this.fail(`The worker has reported no exit code. ${UNKNOWN_END}`);
  }

  private happened({ exit }: ExecEvent): void {
    if (!this.hasStarted && !exit?.error) this.events.onStarted();
    this.hasStarted = true;
    if (exit) this.exit ??= { exitCode: exit.exitCode, error: exit.error };
  }

  private passedOn(channel: Channel, count: number): void {
    if (this.abort.signal.aborted) return;
    channel.incoming.passedOn += count;
    // The exit code may overtake the output, but the session ends only after both.
    if (this.exit && this.stdio.incoming.isDone) this.end(this.exit);
    else if (channel.untold >= ACKNOWLEDGED_BYTES) this.acknowledge();
    else this.acknowledging ??= setTimeout(() => this.acknowledge(), ACKNOWLEDGED_MS);
  }

  private acknowledge(): void {
    clearTimeout(this.acknowledging);
    this.acknowledging = undefined;
    for (const channel of this.channels) channel.acknowledge();
    this.wake();
  }

  // To the worker.

  private async writeParts(): Promise<void> {
    const { signal } = this.abort;
    while (!signal.aborted) {
      const woken = new Promise<void>((resolve) => (this.wake = resolve));
      const parts = this.isOpen ? this.takeParts() : [];
      if (parts.length === 0) {
        await woken;
        continue;
      }
      try {
        const attemptId = this.attemptId ?? 0;
        const { again } = await this.calls.write({ tunnelId: this.tunnelId, attemptId, parts }, signal);
        this.writing.reset();
        for (const part of parts) this.channels.find(({ number }) => BigInt(number) === part.channel)?.confirm(part);
        if (again.length > 0) {
          for (const channel of this.channels) if (again.includes(BigInt(channel.number))) channel.rewind();
          await this.calls.pause(AGAIN_MS, signal);
        }
      } catch (error) {
        if (signal.aborted) return;
        if (!this.calls.isOutage(error)) {
          this.refused(error);
          return;
        }
        for (const channel of this.channels) channel.rewind();
        await this.calls.pause(this.writing.next(), signal);
      }
    }
  }

  private takeParts(): PartToSend[] {
    return this.channels.map((channel) => channel.take()).filter((part) => part !== null);
  }
}

function framed(message: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + message.length);
  new DataView(bytes.buffer).setUint32(0, message.length);
  bytes.set(message, 4);
  return bytes;
}
