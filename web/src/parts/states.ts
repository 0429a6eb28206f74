// The states of jobs and tasks: names, order and CSS classes. Jobs and tasks use the same numbers.

export interface StateStyle {
  /** The name on the wire without its prefix, for example `WORKER_FAILED`. */
  readonly name: string;
  /** The name for people, for example `worker failed`. */
  readonly label: string;
  /** The last part of the CSS class, for example `worker-failed`. */
  readonly css: string;
  readonly isFinal: boolean;
}

const NAMES = ["UNSPECIFIED", "PENDING", "BUILDING", "RUNNING", "SUCCEEDED", "FAILED", "KILLED", "WORKER_FAILED", "UNSCHEDULABLE"];

/** All states, by their number. */
export const STATES: readonly StateStyle[] = NAMES.map((name, number) => ({
  name,
  label: name.toLowerCase().replace("_", " "),
  css: name.toLowerCase().replace("_", "-"),
  isFinal: number >= 4,
}));

const UNKNOWN: StateStyle = { name: "UNSPECIFIED", label: "unknown", css: "unspecified", isFinal: false };

/** Returns the style of a state. A state that a newer controller has added is unknown. */
export function styleOf(state: number): StateStyle {
  return (state > 0 && STATES[state]) || UNKNOWN;
}

/** Returns the number of a state by its name on the wire; 0 if there is no such state. */
export function stateNumber(name: string): number {
  return Math.max(0, NAMES.indexOf(name.toUpperCase()));
}
