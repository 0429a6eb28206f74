// Watches a job, and draws a view again a few times in a second.

import { useEffect, useRef, useState } from "preact/hooks";
import { ControllerService } from "../../gen/iris/rpc/cluster_pb";
import { describeError, type Failure } from "../../rpc/errors";
import { keepStream } from "../../rpc/streams";
import { JobModel } from "./job_model";

// Workers measure tasks more often than this, but nobody sees the difference in a plot.
const USAGE_MS = 8_000;
// A job of a thousand short tasks changes up to fifty times in a second. Nobody can follow that, and drawing each change
// would make the page slow.
const REDRAW_MS = 200;

export interface WatchedJob {
  readonly model: JobModel;
  /** Increases with each message of the stream, at most once in `USAGE_MS`. */
  readonly beat: number;
  /** Why the job cannot be watched; null while it can. */
  readonly failure: Failure | null;
}

/** Watches a job with its tasks until the component is removed. */
export function useWatchedJob(jobId: string): WatchedJob {
  const model = useRef(new JobModel());
  const [, setFrame] = useState(0);
  const [beat, setBeat] = useState(0);
  const [failure, setFailure] = useState<Failure | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let drawnMs = 0;
    let measuredMs = Date.now();
    const redraw = () => {
      timer ??= setTimeout(() => {
        timer = undefined;
        drawnMs = Date.now();
        setFrame((count) => count + 1);
      }, Math.max(0, drawnMs + REDRAW_MS - Date.now()));
    };
    const watching = keepStream({
      method: ControllerService.method.watchJob,
      request: () => ({ jobId, includeTasks: true }),
      onMessage: ({ job }) => {
        if (job) {
          model.current.apply(job);
          redraw();
        }
        if (Date.now() - measuredMs >= USAGE_MS) {
          measuredMs = Date.now();
          setBeat((count) => count + 1);
        }
      },
      signal: abort.signal,
    });
    watching.then(
      () => setBeat((count) => count + 1), // The job has ended: the plots get their last points.
      (error: unknown) => setFailure(describeError(error)),
    );
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [jobId]);
  return { model: model.current, beat, failure };
}
