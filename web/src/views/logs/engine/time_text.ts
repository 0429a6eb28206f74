// Reads the times that a filter accepts, as `iris logs` does: an age, a moment of the local time zone, or seconds since
// the epoch.

const UNITS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * Returns a time in ms since the epoch; null if the text is no time.
 *
 * @param text - for example `90`, `90s`, `10m`, `2h30m`, `1d`, `14:05`, `2026-11-30`, `2026-11-30 14:05:10`, or `@` and
 *   seconds since the epoch
 */
export function parseTime(text: string, nowMs: number): number | null {
  const trimmed = text.trim();
  if (/^(?:\d+(?:\.\d+)?[smhd])+$/.test(trimmed)) {
    let ago = 0;
    for (const [, count, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)([smhd])/g)) ago += Number(count) * UNITS[unit!]!;
    return Math.max(0, Math.round(nowMs - ago));
  }
  // A larger number without a unit is probably a date without dashes, as in `iris logs`.
  if (/^\d{1,7}(?:\.\d+)?$/.test(trimmed)) return Math.max(0, Math.round(nowMs - Number(trimmed) * 1_000));
  if (/^@\d+(?:\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed.slice(1)) * 1_000);
  const clock = /^(\d{1,2}):(\d{2})(?::(\d{2}))?$/.exec(trimmed);
  if (clock) {
    const [hour, minute, second] = clock.slice(1).map((part) => Number(part ?? 0)) as [number, number, number];
    if (hour > 23 || minute > 59 || second > 59) return null;
    return new Date(nowMs).setHours(hour, minute, second, 0);
  }
  const day = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(Z|[+-]\d{2}:?\d{2})?)?$/.exec(trimmed);
  if (!day) return null;
  const time = Date.parse(`${day[1]}T${day[2] ?? "00:00"}${day[3] ?? ""}`);
  return Number.isNaN(time) ? null : time;
}
