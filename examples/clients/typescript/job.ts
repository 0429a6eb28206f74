// Submits a job, follows its log, and says how it ended.
//
//   node job.mjs PROTOCOL HTTP_VERSION COMMAND...
//   node job.mjs grpc 2 python train.py
//
// PROTOCOL is connect, grpc or grpc-web. HTTP_VERSION is 1.1 or 2; gRPC needs 2.
// IRIS_CONTROLLER_ADDRESS (http://… or https://…) and IRIS_TOKEN name the cluster.

import { ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ControllerService, JobState } from "./gen/iris/rpc/cluster_pb.js";
import { readRecords } from "./records.js";

const [protocol, version, ...command] = process.argv.slice(2);
const withToken: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${process.env.IRIS_TOKEN}`);
  return next(request);
};
const options = {
  baseUrl: process.env.IRIS_CONTROLLER_ADDRESS!,
  httpVersion: version as "1.1" | "2",
  interceptors: [withToken],
};
const transport =
  protocol === "grpc"
    ? createGrpcTransport(options)
    : protocol === "grpc-web"
      ? createGrpcWebTransport(options)
      : createConnectTransport(options);
const client = createClient(ControllerService, transport);

try {
  const { jobId } = await client.launchJob({ name: `node-${crypto.randomUUID()}`, command });
  console.error(`submitted ${jobId}`);

  for await (const { chunks } of client.streamTaskLogs({ jobId, follow: true })) {
    for (const { records, error } of chunks) {
      for (const { source, data, missing } of readRecords(records)) {
        if (missing) console.error(`[a part of the log is missing: ${missing}]`);
        (source === "stdout" ? process.stdout : process.stderr).write(data);
      }
      if (error) console.error(`[the log cannot be read: ${error}]`);
    }
  }

  let state = JobState.UNSPECIFIED;
  for await (const { job } of client.watchJob({ jobId })) state = job?.state ?? state;
  const { job } = await client.getJobStatus({ jobId });
  console.error(`${jobId} ended ${JobState[state]}${job?.error ? `: ${job.error}` : ""}`);
  process.exitCode = state === JobState.SUCCEEDED ? 0 : 1;
} catch (error) {
  const { code, rawMessage } = ConnectError.from(error);
  console.error(`the call failed with code ${code}: ${rawMessage}`);
  process.exitCode = 2;
}
