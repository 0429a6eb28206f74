// The present time as a signal. Ages and countdowns that read the signal are drawn again each second.

import { signal, type ReadonlySignal } from "@preact/signals";

const current = signal(Date.now());

/** The time in ms since the epoch, set once a second while the tab is visible. */
export const now: ReadonlySignal<number> = current;

setInterval(() => {
  if (!document.hidden) current.value = Date.now();
}, 1_000);
document.addEventListener("visibilitychange", () => {
  current.value = Date.now();
});
