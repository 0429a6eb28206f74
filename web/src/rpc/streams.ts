// Streams of the controller: `openStream` opens one, and `keepStream` opens it again after each lost connection.

import type { DescMessage, DescMethodServerStreaming, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { createConnectTransport } from "@connectrpc/connect-web";
import { describeError } from "./errors";
import { pauseBeforeRetry, streamBroke, streamContinues, streamPaused, streamWorks, untilLook } from "./connection";
import { Backoff } from "./backoff";
import { inSession, noteRefusal, sessionPath } from "./session";
import { STAYING_MS } from "./shared/protocol";
import { isSuspended } from "./shared/tunnel";
import { noteLook, tunnelledFetch, untilTurn } from "./shared/tunnelled_fetch";
import { BASE_URL } from "./transport";

type Method<I extends DescMessage, O extends DescMessage> = DescMethodServerStreaming<I, O>;

// Each stream of the controller sends a beat at least every 15 s. A stream that is silent for longer than this time has
// lost its connection without an error.
const SILENCE_MS = 40_000;

// The shared worker carries the streams of all tabs.
const transport = createConnectTransport({
  baseUrl: BASE_URL,
  interceptors: [inSession],
  useBinaryFormat: true,
  fetch: tunnelledFetch,
});

/**
 * Opens a stream, and calls `onMessage` with each message in order. The promise resolves when the controller ends the
 * stream, and rejects if the stream breaks or `signal` is aborted.
 *
 * @param method - for example `ControllerService.method.watchJob`
 */
export async function openStream<I extends DescMessage, O extends DescMessage>(
  method: Method<I, O>,
  request: MessageInitShape<I>,
  onMessage: (message: MessageShape<O>) => void,
  signal: AbortSignal,
): Promise<void> {
  const once = (async function* () {
    yield request;
  })();
  const response = await transport.stream(method, signal, undefined, undefined, once);
  for await (const message of response.message) onMessage(message);
}

export interface KeptStream<I extends DescMessage, O extends DescMessage> {
  readonly method: Method<I, O>;
  /** Returns the request. It is called for each connection, so that a log continues at its position. */
  readonly request: () => MessageInitShape<I>;
  readonly onMessage: (message: MessageShape<O>) => void;
  /** Is called before the first message of each connection. */
  readonly onOpen?: () => void;
  readonly signal: AbortSignal;
}

/**
 * Keeps a stream open until the controller ends it, or `signal` is aborted. After a lost connection the stream is
 * opened again, after pauses that grow to 15 s, and the bar of the page says that the connection was lost. The pauses
 * grow also if each connection breaks soon after its first message.
 *
 * If the tabs of the page follow more streams than the browser has connections, the stream is open in turns: every few
 * seconds it gets what is new. It stays open again when the user looks at this tab.
 *
 * The promise rejects if the controller refuses the stream, for example because the job is unknown.
 */
export async function keepStream<I extends DescMessage, O extends DescMessage>(stream: KeptStream<I, O>): Promise<void> {
  const { method, request, onMessage, onOpen, signal } = stream;
  const backoff = new Backoff();
  let sinceMs = 0;
  let staying: ReturnType<typeof setTimeout> | undefined;
  try {
    while (!signal.aborted) {
      let isFirst = true;
      const used = sessionPath();
      const watchdog = new Watchdog(signal);
      const open = new AbortController();
      try {
        await openStream(
          method,
          request(),
          (message) => {
            watchdog.reset();
            if (isFirst) {
              isFirst = false;
              sinceMs = 0;
              backoff.answered();
              streamWorks(stream);
              staying = setTimeout(() => streamContinues(stream), STAYING_MS);
              void untilLook(AbortSignal.any([signal, open.signal])).then((hasLooked) => {
                if (!hasLooked) return;
                // The stream has its turn now, and keeps its connection.
                noteLook();
                streamContinues(stream);
              });
              onOpen?.();
            }
            onMessage(message);
          },
          watchdog.signal,
        );
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (isSuspended(error)) {
          streamPaused(stream);
          if (await lookOrTurn(signal)) streamContinues(stream);
          continue;
        }
        noteRefusal(error, used);
        const failure = describeError(error);
        if (failure.kind !== "connection" && !watchdog.isSilent) throw error;
        sinceMs ||= Date.now();
        const waitMs = backoff.next();
        streamBroke(stream, { sinceMs, retryAtMs: Date.now() + waitMs, why: failure.reason && failure.text });
        await pauseBeforeRetry(waitMs, signal);
      } finally {
        open.abort();
        clearTimeout(staying);
        watchdog.stop();
      }
    }
  } finally {
    streamWorks(stream);
    streamContinues(stream);
  }
}

/** Waits until the user looks at this tab, and resolves to true; or until a visible tab has its turn, to false. */
async function lookOrTurn(signal: AbortSignal): Promise<boolean> {
  const waiting = new AbortController();
  const either = AbortSignal.any([signal, waiting.signal]);
  const turn = untilVisible(either).then(() => untilTurn(either));
  const hasLooked = await Promise.race([untilLook(either), turn.then(() => false)]);
  waiting.abort();
  if (hasLooked) noteLook();
  return hasLooked;
}

/** Waits until this tab is visible, or the signal is aborted. */
function untilVisible(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const check = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", check);
      signal.removeEventListener("abort", check);
      resolve();
    };
    document.addEventListener("visibilitychange", check);
    signal.addEventListener("abort", check);
    check();
  });
}

/** Aborts a stream that is silent for too long, and a stream whose signal is aborted. */
class Watchdog {
  isSilent = false;
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly forward = () => this.controller.abort();

  constructor(private readonly parent: AbortSignal) {
    parent.addEventListener("abort", this.forward);
    this.reset();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  reset(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.isSilent = true;
      this.controller.abort();
    }, SILENCE_MS);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.parent.removeEventListener("abort", this.forward);
  }
}
