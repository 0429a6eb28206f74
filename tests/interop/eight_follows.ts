// Follows a log eight times at once. #state shows how many follows have had their first line, and at last that all have
// ended. Over HTTP/1.1 a browser would open six connections, and the other follows would wait.

import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ControllerService } from "./gen/iris/rpc/cluster_pb.js";

const parameters = new URLSearchParams(location.search);
const withToken: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${parameters.get("token")}`);
  return next(request);
};
const transport = createConnectTransport({ baseUrl: parameters.get("address")!, interceptors: [withToken] });
const client = createClient(ControllerService, transport);
const state = document.getElementById("state")!;
let begun = 0;

async function follow(): Promise<void> {
  let isFirst = true;
  for await (const { chunks } of client.streamTaskLogs({ jobId: parameters.get("job")!, follow: true })) {
    if (isFirst && chunks.some((chunk) => chunk.records.length > 0)) {
      isFirst = false;
      begun += 1;
      state.textContent = `${begun} begun`;
    }
  }
}

await Promise.all(Array.from({ length: 8 }, follow));
state.textContent = "8 ended";
