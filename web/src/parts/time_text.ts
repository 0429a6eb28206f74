// Times and durations as text. All functions are pure.

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Returns a duration with its two largest units, for example `850ms`, `4.2s`, `3m 05s`, `2h 10m` or `5d 3h`. */
export function durationText(ms: number): string {
  const span = Math.max(0, ms);
  if (span < SECOND) return `${Math.round(span)}ms`;
  if (span < 10 * SECOND) return `${(Math.floor(span / 100) / 10).toFixed(1)}s`;
  return secondsText(span);
}

/** Returns a duration in whole seconds, for durations that grow while the user watches: `4s`, `3m 05s`, `2h 10m`. */
export function secondsText(ms: number): string {
  const span = Math.max(0, ms);
  if (span < MINUTE) return `${Math.floor(span / SECOND)}s`;
  if (span < HOUR) return `${Math.floor(span / MINUTE)}m ${twoDigits((span % MINUTE) / SECOND)}s`;
  if (span < DAY) return `${Math.floor(span / HOUR)}h ${twoDigits((span % HOUR) / MINUTE)}m`;
  return `${Math.floor(span / DAY)}d ${Math.floor((span % DAY) / HOUR)}h`;
}

/** Returns a moment of the local time zone, for example `2026-11-30 09:04:53`. */
export function momentText(ms: number): string {
  const date = new Date(ms);
  const day = [date.getFullYear(), twoDigits(date.getMonth() + 1), twoDigits(date.getDate())].join("-");
  return `${day} ${clockTime(ms)}`;
}

/** Returns the time of the day in the local time zone, for example `09:04:53`. */
export function clockTime(ms: number): string {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(":");
}

function twoDigits(value: number): string {
  return String(Math.floor(value)).padStart(2, "0");
}
