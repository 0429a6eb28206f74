// The connection of a tab to the shared worker, which carries the tab's streams.

import type { FromWorker, ToWorker } from "./protocol";

/** The error of a stream that the worker has closed, because other tabs need its connection. */
export class SuspendedError extends Error {
  override readonly name = "SuspendedError";
}

/** Returns whether a stream has ended because the worker needed its connection. */
export function isSuspended(error: unknown): boolean {
  return error instanceof SuspendedError || (error instanceof Error && error.cause instanceof SuspendedError);
}

/** See the message `open` of the protocol. */
export interface StreamKind {
  readonly isShareable: boolean;
  readonly isLasting: boolean;
}

interface OpenStream {
  head: (response: Response) => void;
  fail: (error: Error) => void;
  body: ReadableStreamDefaultController<Uint8Array> | null;
}

// A timer that fires this much too late has been held back by the browser, and proves nothing about the worker.
const LATE_MS = 1_000;

/** The connection of this tab to the worker. The worker must answer a ping within `replyMs`, or it is dead. */
export class Tunnel {
  /** The worker is dead. All streams have been broken. */
  isDead = false;
  private readonly streams = new Map<number, OpenStream>();
  private readonly turns = new Map<number, () => void>();
  private lastId = 0;
  private hasHeard = false;
  private probing: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly port: MessagePort,
    private readonly replyMs: number,
  ) {
    port.onmessage = (event: MessageEvent<FromWorker>) => this.receive(event.data);
  }

  /** Finds out whether the worker is alive. Browsers do not tell a tab that a shared worker has crashed. */
  probe(): void {
    if (this.probing !== undefined || this.isDead) return;
    this.hasHeard = false;
    this.send({ kind: "ping" });
    const dueMs = Date.now() + this.replyMs;
    this.probing = setTimeout(() => {
      this.probing = undefined;
      if (this.hasHeard) return;
      if (Date.now() - dueMs > LATE_MS) this.probe();
      else this.die();
    }, this.replyMs);
  }

  /** Waits until the worker has a connection for a suspended stream, or the signal is aborted. */
  turn(signal: AbortSignal): Promise<void> {
    const id = ++this.lastId;
    return new Promise((resolve) => {
      const end = () => {
        signal.removeEventListener("abort", cancel);
        this.turns.delete(id);
        resolve();
      };
      const cancel = () => {
        this.send({ kind: "unwait", id });
        end();
      };
      if (this.isDead || signal.aborted) return resolve();
      this.turns.set(id, end);
      signal.addEventListener("abort", cancel);
      this.send({ kind: "wait", id });
      return undefined;
    });
  }

  send(message: ToWorker): void {
    this.port.postMessage(message);
  }

  /** Makes a request like `fetch`. The body of the answer is a stream. */
  fetch(url: string, init: RequestInit, body: Uint8Array<ArrayBuffer>, kind: StreamKind): Promise<Response> {
    const id = ++this.lastId;
    const headers = [...new Headers(init.headers)] as [string, string][];
    return new Promise<Response>((resolve, reject) => {
      const aborted = () => new DOMException("The page has closed the stream.", "AbortError");
      if (init.signal?.aborted) {
        reject(aborted()); // The view was left while the worker started.
        return;
      }
      const stream: OpenStream = { head: resolve, fail: reject, body: null };
      this.streams.set(id, stream);
      init.signal?.addEventListener("abort", () => {
        if (!this.streams.delete(id)) return;
        this.send({ kind: "close", id });
        const error = aborted();
        stream.body?.error(error);
        reject(error);
      });
      this.send({ kind: "open", id, url, headers, body, ...kind });
      this.probe();
    });
  }

  /** Ends all streams of this tab, because the browser closes the tab or keeps it for the back button. */
  leave(): void {
    this.send({ kind: "bye" });
    this.breakAll("the tab was left");
  }

  private die(): void {
    this.isDead = true;
    this.port.close();
    this.breakAll("the shared worker does not answer");
    for (const end of [...this.turns.values()]) end();
  }

  private breakAll(text: string): void {
    for (const id of [...this.streams.keys()]) this.receive({ kind: "broken", id, text });
  }

  private receive(message: FromWorker): void {
    this.hasHeard = true;
    if (message.kind === "ready" || message.kind === "pong") return;
    if (message.kind === "turn") {
      this.turns.get(message.id)?.();
      return;
    }
    const stream = this.streams.get(message.id);
    if (!stream) return; // The tab has closed the stream meanwhile.
    switch (message.kind) {
      case "head":
        stream.head(this.response(message.id, stream, message.status, message.headers));
        break;
      case "data":
        stream.body?.enqueue(message.bytes);
        break;
      case "end":
        this.streams.delete(message.id);
        stream.body?.close();
        break;
      case "broken":
      case "suspended": {
        this.streams.delete(message.id);
        const isBroken = message.kind === "broken";
        const error = isBroken ? new TypeError(`the connection was lost: ${message.text}`) : new SuspendedError();
        stream.fail(error);
        stream.body?.error(error);
        break;
      }
    }
  }

  private response(id: number, stream: OpenStream, status: number, headers: readonly (readonly [string, string])[]): Response {
    const received = new ReadableStream<Uint8Array>({
      start: (controller) => {
        stream.body = controller;
      },
    });
    // The second stream asks the first one for a chunk only when the reader has processed the chunk before.
    const counted = new TransformStream<Uint8Array, Uint8Array>(
      {
        transform: (bytes, controller) => {
          controller.enqueue(bytes);
          this.send({ kind: "ack", id, bytes: bytes.length });
        },
      },
      { highWaterMark: 1 },
      { highWaterMark: 0 },
    );
    return new Response(received.pipeThrough(counted), { status, headers: headers.map(([name, value]) => [name, value]) });
  }
}
