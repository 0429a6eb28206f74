// The timeline of all attempts, drawn on a canvas, with a table of the same content.

import { useEffect, useRef, useState } from "preact/hooks";
import type { TaskStatus } from "../../../gen/iris/rpc/cluster_pb";
import { useCanvas } from "../../../parts/canvas";
import { now } from "../../../parts/clock";
import { styleOf } from "../../../parts/states";
import { durationText } from "../../../parts/time_text";
import { AttemptTable } from "./attempt_table";
import { AXIS_PX, drawTimeline, GUTTER_PX } from "./draw";
import { inOrder, momentAt, moved, ORDERS, rowHeight, spansOf, zoomed, type Order, type Scale, type Span } from "./layout";

const HEIGHT_PX = 440;
const ZOOM = 1.5;

interface Props {
  tasks: readonly TaskStatus[];
  submittedMs: number;
  /** When the job ended; 0 while it has not ended. */
  finishedMs: number;
  onOpen: (taskIndex: number) => void;
}

/** The timeline of a job. Arrow keys choose a task, plus and minus zoom, and Enter opens the task. */
export function Timeline({ tasks, submittedMs, finishedMs, onOpen }: Props) {
  const [order, setOrder] = useState<Order>("index");
  const [part, setPart] = useState<{ startMs: number; endMs: number } | null>(null);
  const [chosen, setChosen] = useState(-1);
  const [hovered, setHovered] = useState<{ row: number; x: number; y: number } | null>(null);
  const [scrollPx, setScroll] = useState(0);
  const scroller = useRef<HTMLDivElement>(null);
  const nowMs = finishedMs || now.value;
  const rows = inOrder(tasks, order, nowMs);
  const rowPx = rowHeight(rows.length, HEIGHT_PX - AXIS_PX);
  const rowsPx = rows.length * rowPx;
  const heightPx = Math.min(HEIGHT_PX, AXIS_PX + rowsPx + 2);
  const endMs = Math.max(nowMs, submittedMs + (finishedMs ? 100 : 1_000));
  const isLong = endMs - submittedMs > 86_400_000;

  const scaleOf = (width: number): { scale: Scale; whole: Scale } => {
    const whole = { startMs: submittedMs, endMs: endMs + (endMs - submittedMs) * 0.02, width: Math.max(1, width - GUTTER_PX) };
    return { whole, scale: part ? moved({ ...whole, ...part }, 0, whole) : whole };
  };
  const { canvas, width } = useCanvas((surface) => {
    const { scale } = scaleOf(surface.width);
    drawTimeline(surface, { rows, rowPx, scrollPx, scale, submittedMs, nowMs, chosen, isLong });
  });
  const zoom = (factor: number, x?: number) => {
    const { scale, whole } = scaleOf(width);
    const next = zoomed(scale, factor, momentAt(scale, x === undefined ? scale.width / 2 : x - GUTTER_PX), whole);
    setPart(next.endMs - next.startMs >= whole.endMs - whole.startMs ? null : next);
  };
  const move = (share: number) => {
    const { scale, whole } = scaleOf(width);
    if (part) setPart(moved(scale, share * (scale.endMs - scale.startMs), whole));
  };
  const choose = (row: number) => {
    const next = Math.min(Math.max(row, 0), rows.length - 1);
    setChosen(next);
    const element = scroller.current;
    if (!element) return;
    const [top, bottom] = [next * rowPx, (next + 1) * rowPx - (heightPx - AXIS_PX)];
    if (element.scrollTop > top) element.scrollTop = top;
    if (element.scrollTop < bottom) element.scrollTop = bottom;
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor((heightPx - AXIS_PX) / rowPx) - 1);
    const actions: Record<string, () => void> = {
      ArrowDown: () => choose(chosen + 1),
      ArrowUp: () => choose(chosen - 1),
      PageDown: () => choose(chosen + page),
      PageUp: () => choose(chosen - page),
      Home: () => choose(0),
      End: () => choose(rows.length - 1),
      ArrowLeft: () => move(-0.1),
      ArrowRight: () => move(0.1),
      "+": () => zoom(1 / ZOOM),
      "=": () => zoom(1 / ZOOM),
      "-": () => zoom(ZOOM),
      "0": () => setPart(null),
      Enter: () => open(chosen),
    };
    const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  const open = (row: number) => {
    const task = rows[row];
    if (task) onOpen(task.taskIndex);
  };
  // The wheel zooms only together with Ctrl, so that the page still scrolls. Preact's listener would be passive.
  const latestZoom = useRef(zoom);
  latestZoom.current = zoom;
  useEffect(() => {
    const element = scroller.current;
    const onWheel = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      latestZoom.current(event.deltaY > 0 ? ZOOM : 1 / ZOOM, event.offsetX);
    };
    element?.addEventListener("wheel", onWheel, { passive: false });
    return () => element?.removeEventListener("wheel", onWheel);
  }, []);
  const shownRow = hovered?.row ?? chosen;
  const shown = rows[shownRow];
  const rowAt = (event: MouseEvent): number =>
    event.offsetY < AXIS_PX ? -1 : Math.floor((event.offsetY - AXIS_PX + scrollPx) / rowPx);

  return (
    <>
      <div class="section-tools">
        <h2 id="timeline-title">Timeline</h2>
        <label>
          Order <OrderSelect order={order} onChange={setOrder} />
        </label>
        <span class="button-group" role="group" aria-label="Zoom of the timeline">
          <button type="button" class="quiet-button" aria-label="Zoom in" onClick={() => zoom(1 / ZOOM)}>+</button>
          <button type="button" class="quiet-button" aria-label="Zoom out" onClick={() => zoom(ZOOM)}>−</button>
          <button type="button" class="quiet-button" disabled={!part} onClick={() => setPart(null)}>Whole time</button>
        </span>
        <Legend />
      </div>
      <div class="timeline">
        <div
          ref={scroller}
          class="timeline-scroller"
          tabIndex={0}
          role="group"
          aria-label={`Timeline of ${rows.length} tasks. Arrow keys choose a task, plus and minus zoom, Enter opens the task. The table of attempts has the same content.`}
          style={{ height: `${heightPx}px` }}
          onKeyDown={onKeyDown}
          onScroll={(event) => setScroll(event.currentTarget.scrollTop)}
        >
          <div class="timeline-canvas" style={{ height: `${heightPx}px` }}>
            <canvas
              ref={canvas}
              aria-hidden="true"
              onMouseMove={(event) => {
                const row = rowAt(event);
                setHovered(rows[row] ? { row, x: event.offsetX, y: event.offsetY } : null);
              }}
              onMouseLeave={() => setHovered(null)}
              onClick={(event) => open(rowAt(event))}
            />
          </div>
          <div style={{ height: `${Math.max(0, AXIS_PX + rowsPx - heightPx)}px` }} />
        </div>
        {hovered && shown && (
          <div class="timeline-tip" style={tipPlace(hovered, width)}>
            <SpanList task={shown} submittedMs={submittedMs} nowMs={nowMs} />
          </div>
        )}
      </div>
      <p class="chosen-row" role="status">
        {chosen >= 0 && rows[chosen] ? rowText(rows[chosen], spansOf(rows[chosen], submittedMs, nowMs)) : ""}
      </p>
      <AttemptTable tasks={rows} submittedMs={submittedMs} nowMs={nowMs} onOpen={onOpen} />
    </>
  );
}

function OrderSelect({ order, onChange }: { order: Order; onChange: (order: Order) => void }) {
  return (
    <select value={order} onChange={(event) => onChange(event.currentTarget.value as Order)}>
      {Object.entries(ORDERS).map(([key, label]) => (
        <option key={key} value={key}>{label}</option>
      ))}
    </select>
  );
}

function Legend() {
  return (
    <span class="legend muted" aria-hidden="true">
      <span><i class="legend-queued" />queued</span>
      <span><i class="legend-building" />building</span>
      <span><i class="legend-running" />running</span>
    </span>
  );
}

function tipPlace({ x, y }: { x: number; y: number }, width: number): { left: string; top: string } {
  return { left: `${Math.max(4, Math.min(x + 14, width - 320))}px`, top: `${y + 18}px` };
}

function SpanList({ task, submittedMs, nowMs }: { task: TaskStatus; submittedMs: number; nowMs: number }) {
  return (
    <>
      <strong>Task {task.taskIndex}</strong> <span class="muted">{styleOf(task.state).label}</span>
      <ul>
        {spansOf(task, submittedMs, nowMs).slice(-8).map((span, index) => (
          <li key={index}>{spanText(span)}</li>
        ))}
      </ul>
    </>
  );
}

/** Returns a span for people, for example `attempt 0: running for 3m 05s, failed`. */
function spanText(span: Span): string {
  const end = span.isLast ? `, ${styleOf(span.state).label}` : "";
  return `attempt ${span.attemptId}: ${span.phase} for ${durationText(span.endMs - span.startMs)}${end}`;
}

function rowText(task: TaskStatus, spans: readonly Span[]): string {
  return `Task ${task.taskIndex}, ${styleOf(task.state).label}: ${spans.slice(-6).map(spanText).join("; ") || "not started"}`;
}
