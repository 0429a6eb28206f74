// The rows of the log that are drawn, and how the user moves through them. The element scrolls over the drawn rows. Near
// their ends, the session adds rows at one end and drops rows at the other, and the row in sight stays where it is.

import { useLayoutEffect, useRef } from "preact/hooks";
import { BlockRows, SkippedRow, UnfinishedRow, type RowSettings } from "./rows";
import type { LogSession } from "./log_session";

const NEAR_END_SCREENS = 1.5; // Rows are added when fewer than this many screens of rows are left.
const AT_END_PIXELS = 12;

interface Anchor {
  readonly key: string;
  readonly top: number;
}

export interface ViewportProps {
  readonly session: LogSession;
  readonly settings: RowSettings;
  readonly wraps: boolean;
  readonly onKey: (event: KeyboardEvent) => void;
  readonly onSelect: (key: string) => void;
  /** Is called with the part of the document that is in sight, and whether this is the whole document. */
  readonly onMove: (fraction: number, isWhole: boolean) => void;
}

export function Viewport({ session, settings, wraps, onKey, onSelect, onMove }: ViewportProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const anchor = useRef<Anchor | null>(null);
  const expectedTop = useRef(-1); // The position to which the program has scrolled. Other positions are the user's.
  const version = session.version.value;
  const { window } = session.document;
  const { shownVersion } = window;

  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    place(element, session, anchor.current);
    expectedTop.current = element.scrollTop;
    session.scroll = session.isFollowing.peek() ? "end" : "keep";
    anchor.current = anchorOf(element);
    onMove(fractionInSight(session, anchor.current), isWholeInSight(session, element));
    addRows(element);
  }, [version, session, settings.showsTimes, wraps]);

  // In another width, wrapped lines have another height. Without this effect, the end would leave the sight.
  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return undefined;
    const observer = new ResizeObserver(() => {
      if (!session.isFollowing.peek()) return;
      element.scrollTop = element.scrollHeight;
      expectedTop.current = element.scrollTop;
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [session]);

  const addRows = (element: HTMLElement) => {
    const margin = NEAR_END_SCREENS * element.clientHeight;
    if (element.scrollTop < margin) session.extend("up");
    if (!session.isFollowing.peek() && element.scrollHeight - element.scrollTop - element.clientHeight < margin) {
      session.extend("down");
    }
  };

  const onScroll = () => {
    const element = scroller.current;
    if (!element) return;
    const byUser = Math.abs(element.scrollTop - expectedTop.current) > 1;
    expectedTop.current = -1;
    anchor.current = anchorOf(element);
    if (byUser) {
      const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < AT_END_PIXELS;
      if (isAtEnd) session.followAgain();
      else session.letGo();
      onMove(fractionInSight(session, anchor.current), isWholeInSight(session, element));
    }
    addRows(element);
  };

  // At the first drawn row, the wheel moves nothing, and therefore the element sends no scroll event.
  const onWheel = ({ deltaY }: WheelEvent) => {
    if (deltaY < 0 && session.document.window.hasMoreAbove) session.letGo();
    if (scroller.current) addRows(scroller.current);
  };

  const onClick = (event: MouseEvent) => {
    const target = event.target as HTMLElement;
    const row = target.closest<HTMLElement>("[data-key]");
    if (!row || target.closest("a") || !getSelection()?.isCollapsed) return;
    onSelect(row.dataset["key"]!);
  };

  return (
    <div
      ref={scroller}
      id="log-rows"
      class={`log-scroller mono${wraps ? " log-wraps" : ""}`}
      role="log"
      aria-live="off"
      aria-label="Log. Keys: j and k move by a line, g and G to the beginning and the end, / finds, n and N go to matches."
      aria-busy={session.isReading.value}
      tabIndex={0}
      onScroll={onScroll}
      onWheel={onWheel}
      onKeyDown={onKey}
      onClick={onClick}
    >
      <SkippedRow bytes={session.document.skippedBytes()} />
      {session.document.blocks.map((block) => (
        <BlockRows key={block.id} block={block} settings={settings} window={window} shownVersion={shownVersion} />
      ))}
      {session.document.isAtEnd &&
        session.document.unfinishedLines().map((line) => (
          <UnfinishedRow key={`${line.task}.${line.attempt}.${line.source}`} line={line} settings={settings} />
        ))}
    </div>
  );
}

/** Scrolls to where the session wants the view. */
function place(element: HTMLElement, session: LogSession, before: Anchor | null): void {
  const { scroll } = session;
  if (scroll === "end") element.scrollTop = element.scrollHeight;
  else if (scroll === "beginning") element.scrollTop = 0;
  else if (scroll === "keep") {
    const row = before && rowOf(element, before.key);
    if (row) element.scrollTop += row.getBoundingClientRect().top - element.getBoundingClientRect().top - before.top;
  } else {
    const row = rowOf(element, scroll.key);
    if (!row) return;
    const top = row.getBoundingClientRect().top - element.getBoundingClientRect().top;
    const isInSight = top >= 0 && top + row.clientHeight <= element.clientHeight;
    if (!isInSight) element.scrollTop += top - element.clientHeight / 3;
  }
}

function rowOf(element: HTMLElement, key: string): HTMLElement | null {
  return element.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`);
}

/** Returns the first row in sight, and where it is. */
function anchorOf(element: HTMLElement): Anchor | null {
  const { top } = element.getBoundingClientRect();
  for (const block of element.children) {
    if (block.getBoundingClientRect().bottom <= top) continue;
    for (const row of block.querySelectorAll<HTMLElement>("[data-key]")) {
      const box = row.getBoundingClientRect();
      if (box.bottom > top) return { key: row.dataset["key"]!, top: box.top - top };
    }
  }
  return null;
}

function isWholeInSight({ document, isReading }: LogSession, element: HTMLElement): boolean {
  return !document.window.hasMoreAbove && document.isAtEnd && !isReading.peek() && element.scrollHeight <= element.clientHeight;
}

function fractionInSight(session: LogSession, anchor: Anchor | null): number {
  if (session.isFollowing.peek()) return 1;
  const row = anchor && session.rows().find(({ key }) => key === anchor.key);
  return row ? session.document.fractionOf(row) : 1;
}

/** Scrolls so that a row is in sight. */
export function showRow(key: string): void {
  const element = document.getElementById("log-rows");
  if (element) rowOf(element, key)?.scrollIntoView({ block: "nearest" });
}

/** Returns the key of the first row in sight; empty if there is none. */
export function firstKeyInSight(): string {
  const element = document.getElementById("log-rows");
  return (element && anchorOf(element)?.key) ?? "";
}
