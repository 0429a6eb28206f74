// The contract between the page and its later programs, which the page loads when their view is opened.
//
// A later program is a bundle of its own, so that the first load of the page stays small. It has its own copy of the
// view library, and shares no state with the page: everything that it needs from the page is in its host.

import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  Controller_OpenTunnelRequestSchema,
  Controller_WriteTunnelRequestSchema,
  ExecEvent,
  ReadStacksResponse,
  SampleStacksResponse,
  TunnelMessage,
  WriteTunnelResponse,
} from "../../gen/iris/rpc/cluster_pb";

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

export interface ProfileHost extends Host {
  /** Samples the tasks for 1 to 10 seconds. `rate` is the number of samples per second and process. */
  readonly sampleStacks: (seconds: number, rate: number, withIdle: boolean, signal: AbortSignal) => Promise<SampleStacksResponse>;
}

type OpenRequest = MessageInitShape<typeof Controller_OpenTunnelRequestSchema>;
type WriteRequest = MessageInitShape<typeof Controller_WriteTunnelRequestSchema>;

/** The calls of a command that runs in a task. The host adds the job and the task to each request. */
export interface ExecCalls {
  /**
   * Keeps a tunnel open through lost connections. `request` is called for each connection. The promise resolves when the
   * controller ends the stream, and rejects if the controller refuses it.
   */
  readonly follow: (request: () => OpenRequest, onMessage: (message: TunnelMessage) => void, signal: AbortSignal) => Promise<void>;
  readonly write: (request: WriteRequest, signal: AbortSignal) => Promise<WriteTunnelResponse>;
  /** Ends a tunnel. The call is made even if the browser is closing the tab. */
  readonly close: (request: WriteRequest) => void;
  /** Returns the bytes of a message `ExecControl`. */
  readonly encodeControl: (size: { readonly rows: number; readonly columns: number }) => Uint8Array;
  readonly decodeEvent: (bytes: Uint8Array) => ExecEvent;
  /** Returns whether a failed call should be repeated. */
  readonly isOutage: (error: unknown) => boolean;
  readonly explain: Host["explain"];
  /** Waits for a time in ms, or until the signal is aborted. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
}

export interface TerminalHost extends Host {
  readonly taskIndex: number;
  readonly calls: ExecCalls;
}

/** Draws a view in an element, and returns the function that removes it. */
export type Mount<H extends Host> = (element: HTMLElement, host: H) => () => void;

/** The program `inspect.js`. */
export interface InspectProgram {
  readonly BUILD: string;
  readonly mountStacks: Mount<StacksHost>;
  readonly mountProfile: Mount<ProfileHost>;
}

/** The program `terminal.js`. */
export interface TerminalProgram {
  readonly BUILD: string;
  readonly mountTerminal: Mount<TerminalHost>;
}
