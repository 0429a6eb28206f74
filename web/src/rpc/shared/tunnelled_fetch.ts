// `tunnelledFetch` is a `fetch` for streams, which the shared worker carries for all tabs.
//
// Browsers open at most six connections of HTTP/1.1 to a server, for all tabs together. Without the worker, six streams
// would block all other calls of all tabs.

import { HTTP1_STREAMS, HTTP2_STREAMS, PING_MS, WORKER_NAME } from "./protocol";
import { WorkerLink } from "./worker_link";

// Streams of these calls begin with the whole state. Therefore tabs with the same request can share one stream.
const SHAREABLE = /\/(WatchJob|WatchJobs)$/;
// The cluster ends a terminal whose stream is closed for a minute.
const LASTING = /\/OpenExec$/;

const link = new WorkerLink({
  start: () => {
    // Some browsers have no shared workers. Then this line throws an exception.
    const worker = new SharedWorker(new URL("worker.js", document.baseURI), { name: WORKER_NAME, type: "module" });
    return { port: worker.port, onFailure: (callback) => (worker.onerror = callback) };
  },
  onReady: (tunnel) => tunnel.send({ kind: "hello", limit: speaksHttp2() ? HTTP2_STREAMS : HTTP1_STREAMS }),
  startMs: 5_000,
  replyMs: 15_000,
});

/** Makes a request of a stream like `fetch`, through the worker. Without a worker, the tab makes the request itself. */
export const tunnelledFetch: typeof fetch = async (input, init) => {
  const tunnel = await link.reach();
  const body = init?.body;
  if (!tunnel || typeof input !== "string" || !(body instanceof Uint8Array)) return fetch(input as RequestInfo, init);
  return tunnel.fetch(input, init ?? {}, new Uint8Array(body), {
    isShareable: SHAREABLE.test(input),
    isLasting: LASTING.test(input),
  });
};

/** Tells the worker that the user looks at this tab, before the tab opens a suspended stream again. */
export function noteLook(): void {
  link.current?.send({ kind: "seen" });
}

/** Waits until the worker has a connection for a suspended stream, or the signal is aborted. */
export function untilTurn(signal: AbortSignal): Promise<void> {
  return link.current?.turn(signal) ?? Promise.resolve();
}

function speaksHttp2(): boolean {
  const [navigation] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  return ["h2", "h3"].includes(navigation?.nextHopProtocol ?? "");
}

setInterval(() => link.current?.probe(), PING_MS);
const look = () => {
  if (!document.hidden) noteLook();
};
document.addEventListener("visibilitychange", look);
window.addEventListener("focus", look);
window.addEventListener("pageshow", look);
window.addEventListener("pagehide", () => link.current?.leave());
