// All tasks of a job as a grid. Each cell has the colour and the shape of the task's state.

import { useState } from "preact/hooks";
import type { TaskStatus } from "../../gen/iris/rpc/cluster_pb";
import { useCanvas, type Surface } from "../../parts/canvas";
import { styleOf } from "../../parts/states";
import { cellAfter, cellAt, gridOf, type Grid } from "./grid_layout";
import { exitText } from "./job_model";

interface Props {
  tasks: readonly TaskStatus[];
  selected: number;
  onSelect: (taskIndex: number) => void;
}

/** The grid. Arrow keys choose a task, and Enter opens it. */
export function TaskGrid({ tasks, selected, onSelect }: Props) {
  const [chosen, setChosen] = useState(-1);
  const [hovered, setHovered] = useState(-1);
  const { canvas, width } = useCanvas((surface) => draw(surface, tasks, gridOf(tasks.length, surface.width), chosen, selected));
  const grid = gridOf(tasks.length, width || 600);
  const shown = tasks[hovered >= 0 ? hovered : chosen];
  const onKeyDown = (event: KeyboardEvent) => {
    const next = cellAfter(grid, tasks.length, chosen, event.key);
    const task = tasks[chosen];
    if (next !== null) setChosen(next);
    else if ((event.key === "Enter" || event.key === " ") && task) onSelect(task.taskIndex);
    else return;
    event.preventDefault();
  };
  return (
    <>
      <div
        class="task-grid"
        tabIndex={0}
        role="group"
        aria-label={`Grid of ${tasks.length} tasks. Arrow keys choose a task, Enter opens it.`}
        onKeyDown={onKeyDown}
      >
        <canvas
          ref={canvas}
          aria-hidden="true"
          style={{ height: `${grid.heightPx}px` }}
          onMouseMove={(event) => setHovered(cellAt(grid, tasks.length, event.offsetX, event.offsetY))}
          onMouseLeave={() => setHovered(-1)}
          onClick={(event) => {
            const task = tasks[cellAt(grid, tasks.length, event.offsetX, event.offsetY)];
            if (task) onSelect(task.taskIndex);
          }}
        />
      </div>
      <p class="chosen-row" role="status">
        {shown ? cellText(shown) : ""}
      </p>
    </>
  );
}

function cellText(task: TaskStatus): string {
  const parts = [`Task ${task.taskIndex}`, styleOf(task.state).label, exitText(task), task.statusMessage || task.error];
  return parts.filter((part) => part !== "").join(", ").slice(0, 300);
}

function draw(surface: Surface, tasks: readonly TaskStatus[], grid: Grid, chosen: number, selected: number): void {
  const { context, colour } = surface;
  const inner = grid.cellPx - (grid.cellPx > 10 ? 3 : 1);
  for (const [index, task] of tasks.entries()) {
    const x = (index % grid.columns) * grid.cellPx;
    const y = Math.floor(index / grid.columns) * grid.cellPx;
    const { name, css } = styleOf(task.state);
    context.fillStyle = context.strokeStyle = colour(`--state-${css}`);
    context.lineWidth = 1.5;
    if (OUTLINED.has(name)) context.strokeRect(x + 1, y + 1, inner - 2, inner - 2);
    else context.fillRect(x, y, inner, inner);
    if (inner >= 11) drawMark(context, name, x + inner / 2, y + inner / 2, OUTLINED.has(name) ? colour(`--state-${css}`) : colour("--surface"));
    if (index === chosen || task.taskIndex === selected) {
      context.strokeStyle = colour("--text");
      context.lineWidth = 2;
      context.strokeRect(x - 0.5, y - 0.5, inner + 1, inner + 1);
    }
  }
}

// The cells of tasks that have no process are outlined.
const OUTLINED: ReadonlySet<string> = new Set(["PENDING", "BUILDING", "UNSPECIFIED", "UNSCHEDULABLE"]);

function drawMark(context: CanvasRenderingContext2D, name: string, x: number, y: number, colour: string): void {
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = 1.5;
  context.beginPath();
  if (name === "FAILED") lines(context, x, y, [[-3, -3, 3, 3], [3, -3, -3, 3]]);
  else if (name === "SUCCEEDED") lines(context, x, y, [[-3.5, 0, -1, 3], [-1, 3, 3.5, -3]]);
  else if (name === "WORKER_FAILED") lines(context, x, y, [[0, -3.5, 4, 3], [4, 3, -4, 3], [-4, 3, 0, -3.5]]);
  else if (name === "KILLED") context.rect(x - 2.5, y - 2.5, 5, 5);
  else if (name === "RUNNING") {
    context.moveTo(x - 2, y - 3.5);
    context.lineTo(x + 3.5, y);
    context.lineTo(x - 2, y + 3.5);
    context.fill();
    return;
  } else if (name === "UNSCHEDULABLE") lines(context, x, y, [[-3, 0, 3, 0]]);
  else if (name === "BUILDING") lines(context, x, y, [[0, -3, 0, 3], [-3, 0, 3, 0]]);
  context.stroke();
}

function lines(context: CanvasRenderingContext2D, x: number, y: number, segments: readonly number[][]): void {
  for (const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] of segments) {
    context.moveTo(x + x1, y + y1);
    context.lineTo(x + x2, y + y2);
  }
}
