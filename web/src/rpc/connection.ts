// Whether the page's streams reach the controller, for the bar that says that the connection was lost.

import { computed, signal, type ReadonlySignal } from "@preact/signals";

export interface LostConnection {
  /** When the first of the broken streams was lost, in ms since the epoch. */
  readonly sinceMs: number;
  /** When the next stream is opened again, in ms since the epoch. */
  readonly retryAtMs: number;
  /** What the controller has answered, for people; empty if nothing has answered. */
  readonly why: string;
}

const broken = signal<ReadonlyMap<object, LostConnection>>(new Map());
const paused = signal<ReadonlySet<object>>(new Set());
const retries = new Set<() => void>();

/** The lost connection; null while all streams work. */
export const connection: ReadonlySignal<LostConnection | null> = computed(() => {
  const all = [...broken.value.values()];
  if (all.length === 0) return null;
  return {
    sinceMs: Math.min(...all.map((lost) => lost.sinceMs)),
    retryAtMs: Math.min(...all.map((lost) => lost.retryAtMs)),
    why: all.find((lost) => lost.why)?.why ?? "",
  };
});

/** Whether streams of this tab are open in turns only, because other tabs use all connections of the browser. */
export const isPaused: ReadonlySignal<boolean> = computed(() => paused.value.size > 0);

/** Records that a stream is broken. `stream` is any object that stands for the stream. */
export function streamBroke(stream: object, lost: LostConnection): void {
  broken.value = new Map(broken.peek()).set(stream, lost);
}

/** Records that a stream works again. */
export function streamWorks(stream: object): void {
  if (!broken.peek().has(stream)) return;
  const rest = new Map(broken.peek());
  rest.delete(stream);
  broken.value = rest;
}

/** Records that a stream is suspended, and is open in turns only. */
export function streamPaused(stream: object): void {
  if (!paused.peek().has(stream)) paused.value = new Set(paused.peek()).add(stream);
}

/** Records that a stream stays open, or is not needed any more. */
export function streamContinues(stream: object): void {
  if (paused.peek().has(stream)) paused.value = new Set([...paused.peek()].filter((one) => one !== stream));
}

/** Opens all broken and paused streams now. */
export function retryNow(): void {
  for (const retry of [...retries]) retry();
}

/** Waits for a time, or until the user asks to try now, the browser gets a network, or the signal is aborted. */
export function pauseBeforeRetry(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      retries.delete(end);
      window.removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    retries.add(end);
    window.addEventListener("online", end);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}

const LOOKS = ["focus", "pointerdown", "keydown", "visibilitychange"] as const;

/** Waits until the user turns to this tab or asks to try now, and resolves to true; to false if the signal is aborted. */
export function untilLook(signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const end = () => {
      if (document.hidden && !signal.aborted) return;
      retries.delete(end);
      for (const name of LOOKS) window.removeEventListener(name, end, true);
      signal.removeEventListener("abort", end);
      resolve(!signal.aborted);
    };
    retries.add(end);
    for (const name of LOOKS) window.addEventListener(name, end, true);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}
