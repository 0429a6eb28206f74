// The contract between the page and its later programs, which the page loads when their view is opened.
//
// A later program is a bundle of its own, so that the first load of the page stays small. It has its own copy of the
// view library, and shares no state with the page: everything that it needs from the page is in its host.

import type { ReadStacksResponse } from "../../gen/iris/rpc/cluster_pb";

/** Why a call has failed, for people. */
export interface Problem {
  readonly text: string;
  /** What to do next; may be empty. */
  readonly advice: string;
}

export interface Host {
  readonly jobId: string;
  /** The chosen task; null stands for all tasks. */
  readonly taskIndex: number | null;
  /** Returns why a call has failed; null if the page itself has given up the call. */
  readonly explain: (error: unknown) => Problem | null;
  /** Reads a text to users of a screen reader. */
  readonly announce: (text: string) => void;
}

export interface StacksHost extends Host {
  readonly readStacks: (withVariables: boolean, signal: AbortSignal) => Promise<ReadStacksResponse>;
}

/** Draws a view in an element, and returns the function that removes it. */
export type Mount<H extends Host> = (element: HTMLElement, host: H) => () => void;

/** The program `inspect.js`. */
export interface InspectProgram {
  readonly BUILD: string;
  readonly mountStacks: Mount<StacksHost>;
}
