// The rows that are on the page: a run of rows of one or several lanes, merged by time. The run grows at both ends, and
// is shortened at the end that is out of sight.

import { styleOf } from "../../../parts/states";
import type { Lane, Place, Row, Separator, Step } from "./lane";
import { continues, joinLines, keyOf } from "./lines";
import type { PartRead } from "./server";

export interface WindowRow {
  readonly key: string;
  readonly row: Row;
  /** The index of the lane. */
  readonly lane: number;
  readonly before: Place;
  readonly after: Place;
}

/** A group of rows that does not change any more, except the last group. The view draws a group again if it changes. */
export interface Block {
  readonly id: number;
  readonly rows: readonly WindowRow[];
}

const BLOCK_ROWS = 100;
const BLOCK_BYTES = 64 << 10; // Long lines make smaller groups, because a group is drawn at once.

/** Reads parts, so that the lanes can continue. */
export type ReadParts = (reads: readonly PartRead[]) => Promise<void>;

interface Edge {
  top: Place;
  bottom: Place;
}

export class LogWindow {
  blocks: readonly Block[] = [];
  private edges: Edge[] = [];
  private nextId = 1;
  /** Increases with each reset. A reading that was begun before a reset has no effect. */
  private epoch = 0;
  private readonly hidesRows: boolean;

  /**
   * @param isFiltered - whether the server leaves out lines. A movement then reads each lane once, perhaps without a
   *   row, because the server may have to search many gigabytes for the next rows. New lines are drawn meanwhile.
   */
  constructor(
    private readonly lanes: readonly Lane[],
    private readonly isFiltered = false,
  ) {
    this.hidesRows = isFiltered && lanes.length > 1;
  }

  /** The number of shown rows. */
  get rowCount(): number {
    return this.blocks.reduce((count, block) => count + this.shownRows(block.rows), 0);
  }

  /**
   * Whether a row is shown. In a filtered log of several tasks, the rows of attempts would drown the matching lines.
   * Therefore a task without a line shows only its failures and its losses of lines.
   */
  isShown({ row, lane }: WindowRow): boolean {
    if (!this.hidesRows || row.kind === "line" || row.kind === "gap") return true;
    return this.lanes[lane]!.hasEntries || (row.kind === "end" && isBad(row));
  }

  /** Changes when rows of the window become visible that were not shown before. */
  get shownVersion(): number {
    return this.hidesRows ? this.lanes.filter((lane) => lane.hasEntries).length : 0;
  }

  get first(): WindowRow | undefined {
    return this.blocks[0]?.rows[0];
  }

  get last(): WindowRow | undefined {
    return this.blocks.at(-1)?.rows.at(-1);
  }

  /** Empties the window, and places it between rows: one place for each lane. */
  reset(places: readonly Place[]): void {
    this.epoch += 1;
    this.blocks = [];
    this.edges = places.map((place) => ({ top: place, bottom: place }));
  }

  /** Adds rows at the bottom, of which up to `count` are shown, and returns how many were added. */
  async extendDown(count: number, read: ReadParts): Promise<number> {
    const rows = await this.collect(count, read, "bottom");
    if (!rows) return 0;
    const blocks = [...this.blocks];
    const last = blocks.at(-1);
    let open: WindowRow[] = [];
    let id = this.nextId++;
    if (last && !isFull(last.rows)) {
      blocks.pop();
      open = [...last.rows];
      id = last.id;
    }
    for (const row of rows) {
      const joined = joinRows(open.at(-1), row);
      if (joined) open.pop();
      open.push(joined ?? row);
      if (!isFull(open)) continue;
      blocks.push({ id, rows: open });
      open = [];
      id = this.nextId++;
    }
    if (open.length) blocks.push({ id, rows: open });
    this.blocks = blocks;
    return rows.length;
  }

  /** Adds rows at the top, of which up to `count` are shown, and returns how many were added. */
  async extendUp(count: number, read: ReadParts): Promise<number> {
    const rows = await this.collect(count, read, "top");
    if (!rows?.length) return 0;
    rows.reverse();
    const blocks: Block[] = [];
    let open: WindowRow[] = [];
    const [firstBlock, ...rest] = this.blocks;
    const first = firstBlock?.rows[0];
    const across = first && joinRows(rows.at(-1), first);
    if (across) {
      // A page ends in the middle of a line. The two parts are one row.
      rows.pop();
      this.blocks = [{ id: firstBlock!.id, rows: [across, ...firstBlock!.rows.slice(1)] }, ...rest];
    }
    for (const row of rows) {
      const joined = joinRows(open.at(-1), row);
      if (joined) open.pop();
      open.push(joined ?? row);
      if (isFull(open)) {
        blocks.push({ id: this.nextId++, rows: open });
        open = [];
      }
    }
    if (open.length) blocks.push({ id: this.nextId++, rows: open });
    this.blocks = [...blocks, ...this.blocks];
    return rows.length + (across ? 1 : 0);
  }

  /** The place of a lane before its first row in the window. */
  topOf(lane: number): Place | undefined {
    return this.edges[lane]?.top;
  }

  /** Whether there may be rows below the window. */
  get hasMoreBelow(): boolean {
    return this.edges.some((edge, index) => this.lanes[index]!.next(edge.bottom) !== null);
  }

  /** Whether there may be rows above the window. */
  get hasMoreAbove(): boolean {
    return this.edges.some((edge, index) => this.lanes[index]!.previous(edge.top) !== null);
  }

  /** Drops whole blocks at the top while more than `maxRows` rows remain. */
  trimTop(maxRows: number): void {
    let blocks = this.blocks;
    let rows = this.rowCount;
    while (blocks.length > 1 && rows - this.shownRows(blocks[0]!.rows) >= maxRows) {
      for (const row of blocks[0]!.rows) this.edges[row.lane]!.top = row.after;
      rows -= this.shownRows(blocks[0]!.rows);
      blocks = blocks.slice(1);
    }
    this.blocks = blocks;
  }

  /** Drops whole blocks at the bottom while more than `maxRows` rows remain. */
  trimBottom(maxRows: number): void {
    let blocks = this.blocks;
    let rows = this.rowCount;
    while (blocks.length > 1 && rows - this.shownRows(blocks.at(-1)!.rows) >= maxRows) {
      const last = blocks.at(-1)!.rows;
      for (const row of [...last].reverse()) this.edges[row.lane]!.bottom = row.before;
      rows -= this.shownRows(last);
      blocks = blocks.slice(0, -1);
    }
    this.blocks = blocks;
  }

  /** Returns the next rows beyond an end of the window, in the order from the window; null after a reset. */
  private async collect(count: number, read: ReadParts, end: "top" | "bottom"): Promise<WindowRow[] | null> {
    const { epoch, lanes } = this;
    const steps: (Step | undefined)[] = lanes.map(() => undefined);
    const rows: WindowRow[] = [];
    let shown = 0;
    let hasRead = false;
    const asked = new Set<string>();
    while (shown < count) {
      const reads: PartRead[] = [];
      let best = -1;
      let bestMs = 0;
      for (let index = 0; index < lanes.length; index += 1) {
        const edge = this.edges[index];
        if (!edge) return null;
        const lane = lanes[index]!;
        let step = steps[index];
        if (step === undefined) {
          step = steps[index] = end === "bottom" ? lane.next(edge.bottom) : lane.previous(edge.top);
        }
        if (step === null) continue;
        if ("read" in step) {
          reads.push(step.read);
          continue;
        }
        const timeMs = step.row.timeMs;
        // Rows of the same time keep the order of the lanes, in both directions.
        if (best < 0 || (end === "bottom" ? timeMs < bestMs : timeMs >= bestMs)) {
          best = index;
          bestMs = timeMs;
        }
      }
      if (reads.length) {
        if (this.isFiltered && hasRead) break;
        hasRead = true;
        // A server that has less of a log than another one may answer without any progress. Do not ask without end.
        const wanted = reads.map((each) => JSON.stringify(each));
        if (wanted.every((each) => asked.has(each))) break;
        for (const each of wanted) asked.add(each);
        try {
          await read(reads);
        } catch (error) {
          if (rows.length === 0 || epoch !== this.epoch) throw error;
          break; // The places have moved beyond the collected rows, so these rows must not be lost.
        }
        if (epoch !== this.epoch) return null;
        steps.fill(undefined);
        continue;
      }
      if (best < 0) break;
      const step = steps[best] as { row: Row; place: Place };
      const edge = this.edges[best]!;
      const key = rowKey(step.row);
      if (end === "bottom") {
        rows.push({ key, row: step.row, lane: best, before: edge.bottom, after: step.place });
        edge.bottom = step.place;
      } else {
        rows.push({ key, row: step.row, lane: best, before: step.place, after: edge.top });
        edge.top = step.place;
      }
      if (this.isShown(rows.at(-1)!)) shown += 1;
      steps[best] = undefined;
    }
    return rows;
  }

  private shownRows(rows: readonly WindowRow[]): number {
    return rows.reduce((count, row) => count + (this.isShown(row) ? 1 : 0), 0);
  }
}

/** Whether an attempt has failed, or the end of its log was lost. */
function isBad({ log }: Separator): boolean {
  const { isFinal, name } = styleOf(log.outcome?.state ?? 0);
  return log.missingReason !== "" || (isFinal && name !== "SUCCEEDED" && name !== "KILLED");
}

/** Returns the key of a row, which permalinks contain. */
export function rowKey(row: Row): string {
  return row.kind === "line" || row.kind === "gap" ? keyOf(row) : `${row.task}.${row.attempt}.${row.kind}`;
}

/** Returns one row for two parts of a line; undefined if the rows are not parts of one line. */
function joinRows(before: WindowRow | undefined, row: WindowRow): WindowRow | undefined {
  if (!before || before.lane !== row.lane || row.row.kind !== "line" || before.row.kind !== "line") return undefined;
  if (!continues(before.row, row.row)) return undefined;
  const line = joinLines(before.row, row.row);
  return { key: rowKey(line), row: line, lane: row.lane, before: before.before, after: row.after };
}

function isFull(rows: readonly WindowRow[]): boolean {
  if (rows.length >= BLOCK_ROWS) return true;
  let bytes = 0;
  for (const { row } of rows) bytes += row.kind === "line" ? row.data.length : 0;
  return bytes >= BLOCK_BYTES;
}
