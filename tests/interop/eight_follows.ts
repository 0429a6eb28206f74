// Follows eight logs at once. #state shows how many logs have had their first line, and at last how many have ended.

import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { ControllerService } from "../../examples/clients/typescript/gen/iris/rpc/cluster_pb.js";

const parameters = new URLSearchParams(location.search);
const withToken: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${parameters.get("token")}`);
  return next(request);
};
const transport = createConnectTransport({ baseUrl: parameters.get("address")!, interceptors: [withToken] });
const client = createClient(ControllerService, transport);
const state = document.getElementById("state")!;
let begun = 0;

async function follow(taskIndex: number): Promise<void> {
  let isFirst = true;
  const positions = [{ taskIndex }];
  for await (const { chunks } of client.streamTaskLogs({ jobId: parameters.get("job")!, positions, follow: true })) {
    if (isFirst && chunks.some((chunk) => chunk.records.length > 0)) {
      isFirst = false;
      begun += 1;
      state.textContent = `${begun} begun`;
    }
  }
}

await Promise.all(Array.from({ length: 8 }, (_, index) => follow(index)));
const entries = performance.getEntriesByType("resource") as PerformanceResourceTiming[];
const versions = new Set(entries.map((entry) => entry.nextHopProtocol).filter((version) => version !== ""));
state.textContent = `8 ended ${[...versions].join(" ")}`;
