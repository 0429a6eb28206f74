// A list of rows of equal height, of which only the visible ones are in the document.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

const SPARE_ROWS = 12; // Rows above and below the visible part, so that scrolling shows no gap.

export interface VirtualRowsProps<T> {
  readonly items: readonly T[];
  /** Returns a key that stays the same while the item is in the list. */
  readonly keyOf: (item: T) => string | number | bigint;
  /** The height of each row in CSS pixels. */
  readonly rowHeight: number;
  readonly render: (item: T, index: number) => ComponentChildren;
  /** What stands above the rows, and stays in view: the row of headings. */
  readonly head?: ComponentChildren;
  /** What follows the last row. */
  readonly foot?: ComponentChildren;
  readonly class?: string;
  /** The accessible name of the table. */
  readonly label: string;
  readonly busy?: boolean;
}

/**
 * The rows as a table for screen readers. The arrow keys, Home, End and the page keys move the focus from row to row:
 * each row has one element with the attribute `data-row-focus`.
 *
 * While the user has scrolled down, rows that are added above do not move the visible rows.
 */
export function VirtualRows<T>(props: VirtualRowsProps<T>) {
  const { items, keyOf, rowHeight, render } = props;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 1_000 });
  const anchor = useRef<{ key: unknown; index: number } | null>(null);
  const wanted = useRef<number | null>(null); // the row that gets the focus once it is in the document

  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const measure = () => setView({ top: element.scrollTop, height: element.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    element.addEventListener("scroll", measure, { passive: true });
    measure();
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", measure);
    };
  }, []);

  useLayoutEffect(() => {
    const element = box.current;
    const held = anchor.current;
    if (element && held && element.scrollTop > 0) {
      const index = items.findIndex((item) => keyOf(item) === held.key);
      if (index >= 0 && index !== held.index) element.scrollTop += (index - held.index) * rowHeight;
    }
  }, [items]);

  const first = Math.max(0, Math.floor(view.top / rowHeight) - SPARE_ROWS);
  const last = Math.min(items.length, Math.ceil((view.top + view.height) / rowHeight) + SPARE_ROWS);
  const top = Math.min(items.length - 1, Math.floor(view.top / rowHeight));
  useLayoutEffect(() => {
    const item = items[top];
    anchor.current = item === undefined ? null : { key: keyOf(item), index: top };
    if (wanted.current !== null && focusRow(box.current, wanted.current)) wanted.current = null;
  });

  const move = (event: KeyboardEvent) => {
    const row = (event.target as HTMLElement).closest<HTMLElement>("[data-row]");
    if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(view.height / rowHeight) - 1);
    const next = targetRow(event.key, Number(row.dataset["row"]), page, items.length);
    if (next === null) return;
    event.preventDefault();
    if (!focusRow(box.current, next)) {
      wanted.current = next;
      box.current?.scrollTo({ top: Math.max(0, next * rowHeight - view.height / 2) });
    }
  };

  return (
    <div ref={box} class={`virtual-rows ${props.class ?? ""}`} onKeyDown={move}>
      <div
        role="table"
        aria-label={props.label}
        aria-rowcount={items.length + (props.head ? 1 : 0)}
        aria-busy={props.busy ?? false}
      >
        {props.head && (
          <div role="rowgroup" class="virtual-head">
            {props.head}
          </div>
        )}
        <div role="rowgroup" class="virtual-body" style={{ height: `${items.length * rowHeight}px` }}>
          {items.slice(first, last).map((item, offset) => {
            const index = first + offset;
            return (
              <div
                key={String(keyOf(item))}
                role="row"
                class="virtual-row"
                data-row={index}
                aria-rowindex={index + (props.head ? 2 : 1)}
                style={{ transform: `translateY(${index * rowHeight}px)`, height: `${rowHeight}px` }}
              >
                {render(item, index)}
              </div>
            );
          })}
        </div>
      </div>
      {props.foot}
    </div>
  );
}

/** Returns the row to which a key moves; null if the key moves nowhere. */
export function targetRow(key: string, row: number, page: number, rows: number): number | null {
  const moves: Readonly<Record<string, number>> = {
    ArrowDown: row + 1,
    j: row + 1,
    ArrowUp: row - 1,
    k: row - 1,
    PageDown: row + page,
    PageUp: row - page,
    Home: 0,
    End: rows - 1,
  };
  const target = moves[key];
  return target === undefined || rows === 0 ? null : Math.min(rows - 1, Math.max(0, target));
}

function focusRow(box: HTMLElement | null, index: number): boolean {
  const target = box?.querySelector<HTMLElement>(`[data-row="${index}"] [data-row-focus]`);
  target?.focus();
  target?.scrollIntoView({ block: "nearest" });
  return Boolean(target);
}
