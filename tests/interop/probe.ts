// Makes calls that fail and a stream that the client leaves, and prints what the client library reports as JSON.
//
//   node probe.mjs ADDRESS TOKEN PROTOCOL HTTP_VERSION

import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ControllerService, ErrorInfoSchema } from "./gen/iris/rpc/cluster_pb.js";
import { fromBinary } from "@bufbuild/protobuf";

const [baseUrl, token, protocol, httpVersion] = process.argv.slice(2) as [string, string, string, "1.1" | "2"];

function connect(authorization: string) {
  const withToken: Interceptor = (next) => (request) => {
    request.header.set("authorization", authorization);
    return next(request);
  };
  const options = { baseUrl, httpVersion, interceptors: [withToken] };
  const make = { connect: createConnectTransport, grpc: createGrpcTransport, "grpc-web": createGrpcWebTransport };
  return createClient(ControllerService, make[protocol as keyof typeof make](options));
}

async function failureOf(call: () => Promise<unknown>) {
  try {
    await call();
    return { code: "ok" };
  } catch (caught) {
    const error = ConnectError.from(caught);
    const [detail] = error.details as { type: string; value: Uint8Array }[];
    const reason = detail ? fromBinary(ErrorInfoSchema, detail.value).reason : "";
    return { code: Code[error.code], reason };
  }
}

const client = connect(`Bearer ${token}`);

// Opens a stream and receives its first message. The stream ends when the result is aborted.
async function openStream(): Promise<AbortController> {
  const control = new AbortController();
  await client.watchJob({ jobId: "waiting" }, { signal: control.signal })[Symbol.asyncIterator]().next();
  return control;
}

// Opens a stream as soon as the server has noticed that the client has left an earlier one.
async function openStreamWhenFree(): Promise<AbortController> {
  for (;;) {
    try {
      return await openStream();
    } catch (error) {
      if (ConnectError.from(error).code !== Code.ResourceExhausted) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

const results: Record<string, unknown> = {
  notFound: await failureOf(() => client.getJobStatus({ jobId: "unknown" })),
  unauthenticated: await failureOf(() => connect("Bearer x").listJobs({})),
  streamNotFound: await failureOf(async () => {
    for await (const _ of client.watchJob({ jobId: "unknown" }));
  }),
  deadline: await failureOf(async () => {
    for await (const _ of client.watchJob({ jobId: "waiting" }, { timeoutMs: 200 }));
  }),
};
const first = await openStreamWhenFree();
results.second = await failureOf(openStream); // The quota of the caller is one stream.
first.abort();
(await openStreamWhenFree()).abort();
console.log(JSON.stringify(results));
