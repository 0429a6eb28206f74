// Numbers of the wire as numbers and texts of the page.

/** Returns a 64-bit number of the wire as a number. All counts, sizes and times of Iris are below 2^53. */
export function toNumber(value: bigint): number {
  return Number(value);
}

/** Returns a count with separators, for example `10,000`. */
export function countText(count: number): string {
  return count.toLocaleString("en-US");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Returns a size in bytes with its unit, for example `512 B` or `1.5 GiB`. */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}
