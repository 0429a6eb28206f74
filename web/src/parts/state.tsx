// The state of a job or a task as a badge, and the states of many tasks as a bar. Each state has a shape and a word,
// because some people cannot tell the colours apart.

import type { JSX } from "preact";
import { styleOf } from "./states";

const SHAPES: Readonly<Record<string, JSX.Element>> = {
  PENDING: <circle cx="8" cy="8" r="5" class="outline" />,
  BUILDING: <path d="M8 2.5L13.5 8 8 13.5 2.5 8z" class="outline" />,
  RUNNING: <path d="M4 2.5v11l9.5-5.5z" />,
  SUCCEEDED: <path d="M3 8.5l3.5 3.5L13 4.5" class="line" />,
  FAILED: <path d="M3.5 3.5l9 9M12.5 3.5l-9 9" class="line" />,
  KILLED: <rect x="3.5" y="3.5" width="9" height="9" />,
  WORKER_FAILED: <path d="M8 2l6.5 12h-13z" class="outline" />,
  UNSCHEDULABLE: <path d="M3 8h10" class="line" />,
  UNSPECIFIED: <circle cx="8" cy="8" r="2" />,
};

/** The shape of a state, in the state's colour. */
export function StateShape({ state }: { state: number }) {
  const { name, css } = styleOf(state);
  return (
    <svg class={`state-shape state-${css}`} viewBox="0 0 16 16" aria-hidden="true">
      {SHAPES[name]}
    </svg>
  );
}

/** The shape and the word of a state. */
export function StateBadge({ state }: { state: number }) {
  const { label, css } = styleOf(state);
  return (
    <span class={`state-badge state-${css}`}>
      <StateShape state={state} />
      {label}
    </span>
  );
}

/** How many tasks are in a state. */
export interface StateCount {
  readonly state: number;
  readonly count: number;
}

/** The states of tasks as a bar whose parts are as wide as their counts. `label` names what is counted. */
export function StateBar({ counts, label = "tasks" }: { counts: readonly StateCount[]; label?: string }) {
  const shown = counts.filter(({ count }) => count > 0);
  const text = shown.map(({ state, count }) => `${count} ${styleOf(state).label}`).join(", ");
  return (
    <svg class="state-bar" role="img" aria-label={`${label}: ${text || "none"}`} viewBox="0 0 100 8" preserveAspectRatio="none">
      <title>{text || `no ${label}`}</title>
      {segments(shown).map(({ state, x, width }) => (
        <rect key={state} class={`state-${styleOf(state).css}`} x={x} y="0" width={width} height="8" />
      ))}
    </svg>
  );
}

const SMALLEST_WIDTH = 3; // One failed task of a thousand must be visible.

function segments(counts: readonly StateCount[]): { state: number; x: number; width: number }[] {
  const total = counts.reduce((sum, { count }) => sum + count, 0);
  const widths = counts.map(({ count }) => Math.max(SMALLEST_WIDTH, (100 * count) / total));
  const scale = 100 / widths.reduce((sum, width) => sum + width, 0);
  let x = 0;
  return counts.map(({ state }, index) => {
    const width = (widths[index] ?? 0) * scale;
    x += width;
    return { state, x: x - width, width };
  });
}
