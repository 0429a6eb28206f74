// The calls of a terminal: the exec session of one task, as `iris shell` uses it.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ControllerService, ExecControlSchema, ExecEventSchema } from "../../gen/iris/rpc/cluster_pb";
import { describeError } from "../../rpc/errors";
import { inSession } from "../../rpc/session";
import { keepStream } from "../../rpc/streams";
import { BASE_URL, controller } from "../../rpc/transport";
import type { ExecCalls, Host } from "./host";

const WRITE_MS = 20_000;

// The browser finishes these requests after it has closed the tab.
const closing = createClient(
  ControllerService,
  createConnectTransport({
    baseUrl: BASE_URL,
    interceptors: [inSession],
    useBinaryFormat: true,
    fetch: (input, init) => fetch(input as RequestInfo, { ...init, keepalive: true }),
  }),
);

/** Returns the calls for commands in a task. */
export function execCalls(jobId: string, taskIndex: number, explain: Host["explain"]): ExecCalls {
  const place = { jobId, taskIndex };
  return {
    follow: (request, onMessage, signal) =>
      keepStream({ method: ControllerService.method.openExec, request: () => ({ ...request(), ...place }), onMessage, signal }),
    write: (request, signal) => controller.writeExec({ ...request, ...place }, { signal, timeoutMs: WRITE_MS }),
    close: (request) => {
      // If the call fails, the worker ends the command after a minute without this tab.
      closing.writeExec({ ...request, ...place, close: true }).catch(() => undefined);
    },
    encodeControl: (size) => toBinary(ExecControlSchema, create(ExecControlSchema, size)),
    decodeEvent: (bytes) => fromBinary(ExecEventSchema, bytes),
    isOutage: (error) =>
      describeError(error).kind === "connection" || ConnectError.from(error).code === Code.ResourceExhausted,
    explain,
    pause: (ms, signal) =>
      new Promise((resolve) => {
        const timer = setTimeout(resolve, ms);
        signal.addEventListener("abort", () => {
          clearTimeout(timer);
          resolve();
        });
      }),
  };
}
