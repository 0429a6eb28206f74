// The tab's side of the shared worker: `tunnelledFetch` is a `fetch` for streams, which the worker carries.
//
// Browsers open at most six connections of HTTP/1.1 to a server, for all tabs together. Without the worker, six streams
// would block all other calls of all tabs.

import { HTTP1_STREAMS, HTTP2_STREAMS, PING_MS, type FromWorker, type ToWorker } from "./protocol";

// If the worker has not answered after this time, the tab opens its streams itself.
const START_MS = 5_000;

/** The error of a stream that the worker has closed, because other tabs need its connection. */
export class SuspendedError extends Error {
  override readonly name = "SuspendedError";
}

/** Returns whether a stream has ended because the worker needed its connection. */
export function isSuspended(error: unknown): boolean {
  return error instanceof SuspendedError || (error instanceof Error && error.cause instanceof SuspendedError);
}

interface OpenStream {
  head: (response: Response) => void;
  fail: (error: Error) => void;
  body: ReadableStreamDefaultController<Uint8Array> | null;
}

/** The connection of this tab to the worker. */
export class Tunnel {
  private readonly streams = new Map<number, OpenStream>();
  private lastId = 0;

  constructor(private readonly port: MessagePort) {
    port.onmessage = (event: MessageEvent<FromWorker>) => this.receive(event.data);
  }

  send(message: ToWorker): void {
    this.port.postMessage(message);
  }

  /** Makes a request like `fetch`. The body of the answer is a stream. */
  fetch(url: string, init: RequestInit, body: Uint8Array<ArrayBuffer>, isShareable: boolean): Promise<Response> {
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
      this.send({ kind: "open", id, url, headers, body, isShareable });
    });
  }

  /** Ends all streams of this tab, because the browser closes the tab or keeps it for the back button. */
  leave(): void {
    this.send({ kind: "bye" });
    for (const id of [...this.streams.keys()]) this.receive({ kind: "broken", id, text: "the tab was left" });
  }

  private receive(message: FromWorker): void {
    if (message.kind === "ready") return;
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

// Streams of these calls begin with the whole state. Therefore tabs with the same request can share one stream.
const SHAREABLE = /\/(WatchJob|WatchJobs)$/;

let starting: Promise<Tunnel | null> | null = null;

/** Makes a request of a stream like `fetch`, through the worker. Without a worker, the tab makes the request itself. */
export const tunnelledFetch: typeof fetch = async (input, init) => {
  starting ??= start();
  const connected = await starting;
  const body = init?.body;
  if (!connected || typeof input !== "string" || !(body instanceof Uint8Array)) return fetch(input as RequestInfo, init);
  return connected.fetch(input, init ?? {}, new Uint8Array(body), SHAREABLE.test(input));
};

/** Tells the worker that the user looks at this tab, before the tab opens a suspended stream again. */
export async function noteLook(): Promise<void> {
  (await starting)?.send({ kind: "seen" });
}

async function start(): Promise<Tunnel | null> {
  if (typeof SharedWorker === "undefined") return null;
  try {
    const worker = new SharedWorker(new URL("worker.js", document.baseURI), { name: "iris 1", type: "module" });
    const isReady = await new Promise<boolean>((resolve) => {
      worker.port.onmessage = () => resolve(true);
      worker.onerror = () => resolve(false);
      setTimeout(() => resolve(false), START_MS);
    });
    if (!isReady) {
      worker.port.close();
      return null;
    }
    const connected = new Tunnel(worker.port);
    connected.send({ kind: "hello", limit: speaksHttp2() ? HTTP2_STREAMS : HTTP1_STREAMS });
    keepAlive(connected);
    return connected;
  } catch {
    return null; // Some browsers forbid workers, for example with strict settings for privacy.
  }
}

function keepAlive(connected: Tunnel): void {
  setInterval(() => connected.send({ kind: "ping" }), PING_MS);
  const look = () => {
    if (!document.hidden) connected.send({ kind: "seen" });
  };
  document.addEventListener("visibilitychange", look);
  window.addEventListener("focus", look);
  window.addEventListener("pageshow", look);
  window.addEventListener("pagehide", () => connected.leave());
}

function speaksHttp2(): boolean {
  const [navigation] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  return ["h2", "h3"].includes(navigation?.nextHopProtocol ?? "");
}
