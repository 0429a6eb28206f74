// The messages between a tab and the shared worker, which carries the streams of all tabs.
//
// A stream is carried as the HTTP answer of one call: its head, and its bytes in whole envelopes of the Connect protocol.
// The worker does not decode the messages in the envelopes.

export type ToWorker =
  /** The first message of a tab. `limit` is the number of streams that may be open at the same time. */
  | { readonly kind: "hello"; readonly limit: number }
  | {
      readonly kind: "open";
      /** The number of the stream, which is unique in its tab. */
      readonly id: number;
      readonly url: string;
      readonly headers: readonly (readonly [string, string])[];
      readonly body: Uint8Array<ArrayBuffer>;
      /** Whether tabs with the same request may share the stream. The stream must begin with the whole state. */
      readonly isShareable: boolean;
      /** Whether the stream must stay open in a hidden tab, too, because the cluster ends something without it. */
      readonly isLasting: boolean;
    }
  | { readonly kind: "close"; readonly id: number }
  /** The tab has processed some bytes of a stream, so that the worker may send more. */
  | { readonly kind: "ack"; readonly id: number; readonly bytes: number }
  /** The user looks at the tab now. */
  | { readonly kind: "seen" }
  /** The tab still exists. The worker answers with `pong`. */
  | { readonly kind: "ping" }
  /** A stream of the tab was suspended, and the tab waits for its turn to open the stream again. */
  | { readonly kind: "wait"; readonly id: number }
  /** The tab waits no more. */
  | { readonly kind: "unwait"; readonly id: number }
  /** The tab is closed, or kept by the browser for the back button. All its streams end. */
  | { readonly kind: "bye" };

export type FromWorker =
  | { readonly kind: "ready" }
  | { readonly kind: "pong" }
  /** The tab may open the stream for which it has sent `wait`. */
  | { readonly kind: "turn"; readonly id: number }
  | { readonly kind: "head"; readonly id: number; readonly status: number; readonly headers: readonly (readonly [string, string])[] }
  | { readonly kind: "data"; readonly id: number; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly kind: "end"; readonly id: number }
  /** The connection was lost, or could not be opened. */
  | { readonly kind: "broken"; readonly id: number; readonly text: string }
  /** The worker has closed the stream, because tabs that the user has looked at more recently need the connection. */
  | { readonly kind: "suspended"; readonly id: number };

/** The number of streams that HTTP/1.1 allows: browsers open six connections, and two are kept for other calls. */
export const HTTP1_STREAMS = 4;
/** The number of streams over HTTP/2, where all streams share one connection. */
export const HTTP2_STREAMS = 64;
/** The name of the worker. Tabs that run another release of the page have a worker of their own. */
export const WORKER_NAME = "iris 3";
/** The time between two pings of a tab, in ms. Browsers may delay the timers of hidden tabs by a minute. */
export const PING_MS = 20_000;
/** A suspended stream is opened again at most once in this time, in ms. */
export const TURN_PAUSE_MS = 3_000;
/**
 * A stream that was suspended, and has been open for this time since, in ms, does not take turns any more. In turns over
 * HTTP/1.1, a stream is suspended before: each pause can suspend one of the other streams first.
 */
export const STAYING_MS = (HTTP1_STREAMS + 1) * TURN_PAUSE_MS;
