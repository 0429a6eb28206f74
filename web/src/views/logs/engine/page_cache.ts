// The pages of logs that are in memory. A page holds the lines that were completed between two positions of the log of
// one attempt. The oldest unused pages are dropped.

import type { Entry } from "./lines";

export interface Page {
  /** The position at which the page begins, in bytes of records. */
  readonly begin: number;
  /** The position at which the next page begins. */
  readonly end: number;
  readonly entries: readonly Entry[];
  /** Nothing came after the page when it was read. */
  readonly isLast: boolean;
  /** Nothing will come after the page. */
  readonly isComplete: boolean;
}

const ENTRY_COST = 100; // About how many bytes an entry takes besides its text.

export class PageCache {
  private readonly pages = new Map<string, { page: Page; bytes: number }>();
  private readonly byEnd = new Map<string, number>();
  private bytes = 0;

  /** @param maxBytes - about how many bytes all pages may take */
  constructor(private readonly maxBytes: number) {}

  /** Returns the page that begins at a position; undefined if it is not in memory. */
  from(log: string, begin: number): Page | undefined {
    const key = `${log} ${begin}`;
    const found = this.pages.get(key);
    if (!found) return undefined;
    this.pages.delete(key); // The order of the map is the order of use.
    this.pages.set(key, found);
    return found.page;
  }

  /** Returns the page that ends at a position; undefined if it is not in memory. */
  upTo(log: string, end: number): Page | undefined {
    const begin = this.byEnd.get(`${log} ${end}`);
    return begin === undefined ? undefined : this.from(log, begin);
  }

  /** Stores a page of a log. A page that begins at the same position is replaced. */
  add(log: string, page: Page): void {
    this.remove(log, page.begin);
    const bytes = page.entries.reduce((sum, entry) => sum + ENTRY_COST + (entry.kind === "line" ? entry.data.length : 0), 0);
    this.pages.set(`${log} ${page.begin}`, { page, bytes });
    if (page.end > page.begin) this.byEnd.set(`${log} ${page.end}`, page.begin);
    this.bytes += bytes;
    for (const key of this.pages.keys()) {
      if (this.bytes <= this.maxBytes || this.pages.size <= 1) break;
      const space = key.lastIndexOf(" ");
      this.remove(key.slice(0, space), Number(key.slice(space + 1)));
    }
  }

  private remove(log: string, begin: number): void {
    const key = `${log} ${begin}`;
    const known = this.pages.get(key);
    if (!known) return;
    this.pages.delete(key);
    this.bytes -= known.bytes;
    const endKey = `${log} ${known.page.end}`;
    if (this.byEnd.get(endKey) === begin) this.byEnd.delete(endKey);
  }
}
