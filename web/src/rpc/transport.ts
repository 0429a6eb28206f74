// Calls the controller that served the page, in the session of the page.

import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ControllerService } from "../gen/iris/rpc/cluster_pb";
import { inSession, PAGE_URL } from "./session";

/** The address below which the controller answers calls, without a slash at its end. */
export const BASE_URL = PAGE_URL.replace(/\/$/, "");

// A call may search much of a log, or bring 2 MiB over a slow connection.
const DEADLINE_MS = 60_000;

export const transport = createConnectTransport({
  baseUrl: BASE_URL,
  interceptors: [inSession],
  useBinaryFormat: true,
  defaultTimeoutMs: DEADLINE_MS,
});

/** The calls of the controller. Use `openStream` or `keepStream` for streams, so that tabs share them. */
export const controller: Client<typeof ControllerService> = createClient(ControllerService, transport);
