// The layout of the grid of tasks. The module is pure.

export interface Grid {
  readonly columns: number;
  readonly rows: number;
  /** The width and height of a cell, with the space between cells. */
  readonly cellPx: number;
  readonly heightPx: number;
}

// The largest number of tasks for each size of the cells.
const SIZES = [
  { most: 200, cellPx: 22 },
  { most: 1_500, cellPx: 16 },
  { most: 4_000, cellPx: 12 },
  { most: Infinity, cellPx: 8 },
];

/** Returns the grid for a number of tasks in an element of a width. */
export function gridOf(count: number, width: number): Grid {
  const cellPx = SIZES.find(({ most }) => count <= most)?.cellPx ?? 8;
  const columns = Math.max(1, Math.min(count, Math.floor(width / cellPx)));
  const rows = Math.ceil(count / columns);
  return { columns, rows, cellPx, heightPx: rows * cellPx };
}

/** Returns the index of the cell at a point; -1 outside of all cells. */
export function cellAt(grid: Grid, count: number, x: number, y: number): number {
  const column = Math.floor(x / grid.cellPx);
  const index = Math.floor(y / grid.cellPx) * grid.columns + column;
  return x < 0 || y < 0 || column >= grid.columns || index >= count ? -1 : index;
}

/** Returns the cell that a key leads to; null for a key without a meaning. */
export function cellAfter(grid: Grid, count: number, index: number, key: string): number | null {
  const steps: Readonly<Record<string, number>> = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, Home: -count, End: count,
  };
  const step = steps[key];
  if (step === undefined) return null;
  if (index < 0 && key !== "End") return Math.min(0, count - 1); // Any key chooses the first cell first, also if it is the only cell.
  const next = index + step;
  if (key === "Home" || key === "End") return Math.min(Math.max(next, 0), count - 1);
  return next < 0 || next >= count ? index : next;
}
