// Draws the timeline on a canvas.

import type { TaskStatus } from "../../../gen/iris/rpc/cluster_pb";
import type { Surface } from "../../../parts/canvas";
import { styleOf } from "../../../parts/states";
import { clockTime } from "../../../parts/time_text";
import { spansOf, tickStep, tickText, xOf, type Scale, type Span } from "./layout";

/** The height of the labels of the time, in pixels. */
export const AXIS_PX = 22;
const LABELLED_ROW = 13; // Of lower rows, only some have a number, because there is no room for all numbers.
/** The width of the column with the numbers of the tasks, in pixels. */
export const GUTTER_PX = 52;

export interface Picture {
  /** The tasks of all rows. */
  readonly rows: readonly TaskStatus[];
  readonly rowPx: number;
  /** How far the rows are scrolled, in pixels. */
  readonly scrollPx: number;
  readonly scale: Scale;
  readonly submittedMs: number;
  readonly nowMs: number;
  /** The index of the chosen row; -1 without one. */
  readonly chosen: number;
  /** Whether the job took longer than a day, so that the labels need a date. */
  readonly isLong: boolean;
}

/** Draws the rows that are visible, and the labels of the time above them. */
export function drawTimeline(surface: Surface, picture: Picture): void {
  const { context, width, height, colour } = surface;
  const { rows, rowPx, scrollPx, chosen } = picture;
  context.font = "11px system-ui, sans-serif";
  drawGrid(surface, picture);
  context.save();
  context.beginPath();
  context.rect(0, AXIS_PX, width, height - AXIS_PX);
  context.clip();
  const first = Math.max(0, Math.floor(scrollPx / rowPx));
  const end = Math.min(rows.length, Math.ceil((scrollPx + height - AXIS_PX) / rowPx));
  const step = [1, 2, 5].find((count) => count * rowPx >= LABELLED_ROW) ?? 5;
  for (let row = first; row < end; row += 1) {
    const task = rows[row];
    if (!task) continue;
    const y = AXIS_PX + row * rowPx - scrollPx;
    if (row === chosen) {
      context.fillStyle = colour("--selected");
      context.fillRect(0, y, width, rowPx);
    }
    if (row % step === 0) {
      context.fillStyle = colour("--muted");
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillText(String(task.taskIndex), GUTTER_PX - 8, Math.max(y + rowPx / 2, AXIS_PX + 7 - scrollPx));
    }
    for (const span of spansOf(task, picture.submittedMs, picture.nowMs)) drawSpan(surface, picture, span, y);
  }
  context.restore();
}

function drawSpan({ context, width, colour }: Surface, { scale, rowPx }: Picture, span: Span, y: number): void {
  const left = Math.max(GUTTER_PX, GUTTER_PX + xOf(scale, span.startMs));
  const right = Math.min(width, GUTTER_PX + xOf(scale, span.endMs));
  if (right < GUTTER_PX || left > width) return;
  const gap = rowPx > 8 ? 2 : rowPx > 5 ? 1 : 0;
  const [top, high] = [y + gap, rowPx - 2 * gap];
  const wide = Math.max(1, right - left);
  if (span.phase === "queued") {
    context.fillStyle = colour("--border");
    context.fillRect(left, top + high / 2 - 0.5, wide, 1);
    return;
  }
  context.fillStyle = colour(`--state-${styleOf(span.phase === "building" ? 2 : span.state).css}`);
  if (span.phase === "building") {
    context.globalAlpha = 0.55;
    context.fillRect(left, top + high / 4, wide, high / 2);
    context.globalAlpha = 1;
  } else {
    context.fillRect(left, top, wide, high);
  }
  // A colour alone does not tell everyone how an attempt ended. A failed attempt ends with a cross, and a stopped one
  // with a square notch.
  if (span.isLast && rowPx >= LABELLED_ROW && wide > 10) drawEnd(context, span, right - 9, top + high / 2, colour("--surface"));
}

function drawEnd(context: CanvasRenderingContext2D, span: Span, x: number, y: number, colour: string): void {
  const { name } = styleOf(span.state);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = 1.5;
  context.beginPath();
  if (name === "FAILED" || name === "WORKER_FAILED") {
    context.moveTo(x - 3, y - 3);
    context.lineTo(x + 3, y + 3);
    context.moveTo(x + 3, y - 3);
    context.lineTo(x - 3, y + 3);
  } else if (name === "SUCCEEDED") {
    context.moveTo(x - 3, y);
    context.lineTo(x - 1, y + 3);
    context.lineTo(x + 4, y - 3);
  } else {
    context.rect(x - 2.5, y - 2.5, 5, 5);
  }
  context.stroke();
}

function drawGrid({ context, width, height, colour }: Surface, { scale, submittedMs, isLong }: Picture): void {
  const step = tickStep(scale);
  context.fillStyle = colour("--muted");
  context.strokeStyle = colour("--border");
  context.lineWidth = 1;
  context.textAlign = "left";
  context.textBaseline = "middle";
  // The labels count from the submission, because the length of a phase matters more than the time of the day.
  const first = Math.ceil((scale.startMs - submittedMs) / step);
  context.beginPath();
  for (let tick = first; submittedMs + tick * step <= scale.endMs; tick += 1) {
    const x = Math.round(GUTTER_PX + xOf(scale, submittedMs + tick * step)) + 0.5;
    context.moveTo(x, AXIS_PX - 4);
    context.lineTo(x, height);
    const text = tick === 0 ? (isLong ? clockTime(submittedMs) : "0") : tickText(tick * step);
    if (x + 3 + context.measureText(text).width < width) context.fillText(text, x + 3, AXIS_PX / 2);
  }
  context.moveTo(0, AXIS_PX - 0.5);
  context.lineTo(width, AXIS_PX - 0.5);
  context.stroke();
}
