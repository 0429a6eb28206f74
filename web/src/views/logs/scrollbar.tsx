// The scrollbar over the whole log. It moves over bytes, or over time if several tasks are shown, because the page does
// not know how many lines there are.

import { useRef, useState } from "preact/hooks";
import { bytesText } from "../../parts/numbers";
import { momentText } from "../../parts/time_text";
import type { LogSession } from "./log_session";

const STEP = 0.01;
const PAGE = 0.1;
const THUMB_PX = 28;
const DRAG_MS = 120; // While the user drags, the log is read at most this often.

interface Props {
  readonly session: LogSession;
  /** The part of the log that is above the row in sight. */
  readonly fraction: number;
  /** Whether all rows are in sight. The thumb then fills the scrollbar. */
  readonly isWhole: boolean;
}

export function LogScrollbar({ session, fraction, isWhole }: Props) {
  const track = useRef<HTMLDivElement>(null);
  const [dragged, setDragged] = useState<number | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const shown = dragged ?? fraction;
  const text = placeText(session, shown);

  const at = (event: PointerEvent) => {
    const box = track.current!.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientY - box.top) / box.height));
  };
  const onDown = (event: PointerEvent) => {
    event.preventDefault();
    track.current!.setPointerCapture(event.pointerId);
    track.current!.focus();
    setDragged(at(event));
  };
  const onDrag = (event: PointerEvent) => {
    if (dragged === null) return;
    const now = at(event);
    setDragged(now);
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      session.toFraction(now);
    }, DRAG_MS);
  };
  const onUp = (event: PointerEvent) => {
    if (dragged === null) return;
    clearTimeout(timer.current);
    timer.current = undefined;
    setDragged(null);
    session.toFraction(at(event));
  };
  const onKey = (event: KeyboardEvent) => {
    const steps: Readonly<Record<string, number>> = { ArrowUp: -STEP, ArrowDown: STEP, PageUp: -PAGE, PageDown: PAGE };
    const step = steps[event.key];
    if (event.key === "Home") session.toBeginning();
    else if (event.key === "End") session.toEnd();
    else if (step !== undefined) session.toFraction(Math.min(1, Math.max(0, fraction + step)));
    else return;
    event.preventDefault();
  };

  return (
    <div
      ref={track}
      class="log-scrollbar"
      role="scrollbar"
      aria-label="Place in the log"
      aria-controls="log-rows"
      aria-orientation="vertical"
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(shown * 100)}
      aria-valuetext={text}
      tabIndex={0}
      onPointerDown={onDown}
      onPointerMove={onDrag}
      onPointerUp={onUp}
      onPointerCancel={() => setDragged(null)}
      onKeyDown={onKey}
    >
      <div class="log-thumb" style={isWhole ? { top: "0", height: "100%" } : { top: `calc(${shown * 100}% - ${shown * THUMB_PX}px)`, height: `${THUMB_PX}px` }}>
        {dragged !== null && <span class="log-thumb-text">{text}</span>}
      </div>
    </div>
  );
}

function placeText(session: LogSession, fraction: number): string {
  const { document } = session;
  if (document.lanes.length === 1) return `${bytesText(fraction * document.totalBytes())} of ${bytesText(document.totalBytes())}`;
  const { fromMs, toMs } = document.timeSpan();
  return fromMs ? momentText(fromMs + fraction * (toMs - fromMs)) : "";
}
