// Keeps a stream of the cluster open while a view is shown.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { useEffect, useState } from "preact/hooks";
import { ControllerService, type Controller_WatchClusterRequestSchema } from "../../gen/iris/rpc/cluster_pb";
import { describeError } from "../../rpc/errors";
import { keepStream } from "../../rpc/streams";
import { ClusterState, type ClusterNow } from "./cluster_state";

type Parts = Omit<MessageInitShape<typeof Controller_WatchClusterRequestSchema>, "eventsAfter" | "$typeName">;

export interface Watched {
  /** The cluster; null before the first message. */
  readonly now: ClusterNow | null;
  /** Why the controller refuses the stream, for people; empty if it does not. */
  readonly problem: string;
  /** Grows with each message and each beat. */
  readonly beat: number;
}

/** Returns parts of the cluster, live. `parts` must be the same object each time. */
export function useCluster(parts: Parts): Watched {
  const [watched, setWatched] = useState<Watched>({ now: null, problem: "", beat: 0 });
  useEffect(() => {
    const abort = new AbortController();
    const state = new ClusterState();
    keepStream({
      method: ControllerService.method.watchCluster,
      request: () => ({ ...parts, eventsAfter: state.lastEvent }),
      onMessage: (message) => {
        const now = state.apply(message);
        setWatched((before) => ({ now: now ?? before.now, problem: "", beat: before.beat + 1 }));
      },
      signal: abort.signal,
    }).catch((error: unknown) => {
      const { kind, text } = describeError(error);
      if (kind !== "cancelled") setWatched((before) => ({ ...before, problem: text }));
    });
    return () => abort.abort();
  }, [parts]);
  return watched;
}
