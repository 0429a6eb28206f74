// The program of page.html.

import { ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { ControllerService, JobState } from "./gen/iris/rpc/cluster_pb.js";
import { readRecords } from "./records.js";

const parameters = new URLSearchParams(location.search);
const withToken: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${parameters.get("token")}`);
  return next(request);
};
const options = { baseUrl: parameters.get("address")!, interceptors: [withToken], useHttpGet: true };
const transport =
  parameters.get("protocol") === "grpc-web" ? createGrpcWebTransport(options) : createConnectTransport(options);
const client = createClient(ControllerService, transport);
const log = document.getElementById("log")!;
const shownState = document.getElementById("state")!;

async function followLog(jobId: string): Promise<void> {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder(), build: new TextDecoder() };
  for await (const { chunks } of client.streamTaskLogs({ jobId, follow: true })) {
    for (const { records, error } of chunks) {
      for (const { source, data, missing } of readRecords(records)) {
        log.append(decoders[source].decode(data, { stream: true }));
        if (missing) log.append(`[a part of the log is missing: ${missing}]\n`);
      }
      if (error) log.append(`[the log cannot be read: ${error}]\n`);
    }
  }
}

try {
  const command = parameters.getAll("command");
  const { jobId } = await client.launchJob({ name: `page-${crypto.randomUUID()}`, command });
  shownState.textContent = `submitted ${jobId}`;
  await followLog(jobId);
  let state = JobState.UNSPECIFIED;
  for await (const { job } of client.watchJob({ jobId })) state = job?.state ?? state;
  const { job } = await client.getJobStatus({ jobId });
  shownState.textContent = `${jobId} ended ${JobState[state]}${job?.error ? `: ${job.error}` : ""}`;
} catch (error) {
  const { code, rawMessage } = ConnectError.from(error);
  shownState.textContent = `the call failed with code ${code}: ${rawMessage}`;
}
