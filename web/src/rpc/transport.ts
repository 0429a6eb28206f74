// Calls the controller that served the page, in the session of the page.

import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ControllerService } from "../gen/iris/rpc/cluster_pb";
import { inSession, PAGE_URL } from "./session";

export const transport = createConnectTransport({
  baseUrl: PAGE_URL.replace(/\/$/, ""),
  interceptors: [inSession],
  useBinaryFormat: true,
});

/** The calls of the controller. Use `openStream` or `keepStream` for streams, so that tabs share them. */
export const controller: Client<typeof ControllerService> = createClient(ControllerService, transport);
