// Moments and durations. The exact time is in the element's title and in its `datetime`.

import { now } from "./clock";
import { durationText, momentText, secondsText } from "./time_text";

/** How long ago a moment was, for example `3m 05s`. A moment of 0 shows a dash. */
export function Age({ ms }: { ms: number }) {
  if (!ms) return <span class="muted">–</span>;
  return (
    <time dateTime={new Date(ms).toISOString()} title={momentText(ms)}>
      {secondsText(now.value - ms)}
    </time>
  );
}

/** The time from `startMs` to `endMs`, or until now if `endMs` is 0. A start of 0 shows a dash. */
export function Duration({ startMs, endMs }: { startMs: number; endMs: number }) {
  if (!startMs) return <span class="muted">–</span>;
  const title = `${momentText(startMs)} to ${endMs ? momentText(endMs) : "now"}`;
  return <span title={title}>{endMs ? durationText(endMs - startMs) : secondsText(now.value - startMs)}</span>;
}

/** A moment in the local time zone. A moment of 0 shows a dash. */
export function Moment({ ms }: { ms: number }) {
  if (!ms) return <span class="muted">–</span>;
  return <time dateTime={new Date(ms).toISOString()}>{momentText(ms)}</time>;
}
