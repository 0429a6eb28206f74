// Explains failed calls to people: what is wrong, and what to do next.

import { fromBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../gen/iris/rpc/cluster_pb";

export interface Failure {
  /**
   * `cancelled`: the page gave up the call. `sign-in`: the token is missing or refused. `connection`: the controller
   * cannot be reached, or asks to try again. `refused`: any other error.
   */
  readonly kind: "cancelled" | "sign-in" | "connection" | "refused";
  /** The error, for people. */
  readonly text: string;
  /** What to do next, for people; may be empty. */
  readonly advice: string;
  /** The stable code of the cause, for example `JOB_NOT_FOUND`; empty if the controller has sent none. */
  readonly reason: string;
}

/** Returns a description of the error of a call. */
export function describeError(error: unknown): Failure {
  const failed = ConnectError.from(error);
  const reason = reasonOf(failed);
  const text = failed.rawMessage || "The call failed without a message.";
  if (isAborted(error) || failed.code === Code.Canceled) return { kind: "cancelled", text, advice: "", reason };
  if (failed.code === Code.Unauthenticated) return { kind: "sign-in", text, advice: "Sign in again.", reason };
  if (failed.code === Code.PermissionDenied) {
    return { kind: "refused", text, advice: "Sign in with a token that may do this.", reason };
  }
  if (reason === "" && TRANSPORT_CODES.has(failed.code)) {
    const advice = "Check that the cluster is up, and that a proxy or SSH forward is open.";
    return { kind: "connection", text: "The controller cannot be reached.", advice, reason };
  }
  if (failed.code === Code.Unavailable || failed.code === Code.DeadlineExceeded) {
    return { kind: "connection", text, advice: "Try again in some seconds.", reason };
  }
  return { kind: "refused", text, advice: "", reason };
}

// The type of the detail that each error of Iris carries. `ErrorInfo` of the proto file has the same fields.
const DETAIL_TYPE = "google.rpc.ErrorInfo";

/** Returns the code of the cause, for example `JOB_NOT_FOUND`. An error that Iris did not send has no such code. */
function reasonOf(failed: ConnectError): string {
  for (const detail of failed.details) {
    if ("type" in detail && detail.type === DETAIL_TYPE) return fromBinary(ErrorInfoSchema, detail.value).reason;
  }
  return "";
}

// The codes of an error without a detail, which comes from the browser or from a proxy. connect-web reports a server
// that cannot be reached as Unknown, and an answer that was cut as one of the others.
const TRANSPORT_CODES: ReadonlySet<Code> = new Set([
  Code.Unknown,
  Code.Internal,
  Code.InvalidArgument,
  Code.DataLoss,
  Code.Unavailable,
  Code.DeadlineExceeded,
]);

function isAborted(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
