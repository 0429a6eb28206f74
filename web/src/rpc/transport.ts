// Calls the controller that served the page. All addresses are relative to the page, so that any path prefix works.

import { createClient, type Client, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ControllerService } from "../gen/iris/rpc/cluster_pb";
import { authorise, noteRefusal } from "./session";

/** The address below which the controller answers calls, without a slash at its end. */
export const BASE_URL = new URL(".", document.baseURI).href.replace(/\/$/, "");

const session: Interceptor = (next) => async (request) => {
  authorise(request.header);
  try {
    return await next(request);
  } catch (error) {
    noteRefusal(error);
    throw error;
  }
};

export const transport = createConnectTransport({ baseUrl: BASE_URL, interceptors: [session], useBinaryFormat: true });

/** The calls of the controller. Use `openStream` or `keepStream` for streams, so that tabs share them. */
export const controller: Client<typeof ControllerService> = createClient(ControllerService, transport);
