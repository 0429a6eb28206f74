// The state of one job and its tasks, as a stream delivers it.

import { signal, type ReadonlySignal } from "@preact/signals";
import { ControllerService, type JobStatus, type TaskStatus } from "../../gen/iris/rpc/cluster_pb";
import { describeError, type Failure } from "../../rpc/errors";
import { keepStream } from "../../rpc/streams";

export interface WatchedJob {
  readonly job: JobStatus;
  /** The tasks by index. */
  readonly tasks: ReadonlyMap<number, TaskStatus>;
}

export class JobWatch {
  private readonly current = signal<WatchedJob | null>(null);
  private readonly failed = signal<Failure | null>(null);
  private readonly closing = new AbortController();

  constructor(jobId: string) {
    let isFirst = true;
    keepStream({
      method: ControllerService.method.watchJob,
      request: () => ({ jobId, includeTasks: true }),
      onOpen: () => {
        isFirst = true;
      },
      onMessage: ({ job }) => {
        if (!job) return;
        // A connection begins with all tasks. The earlier ones may be of a removed job with the same name.
        const tasks = new Map(isFirst ? [] : this.current.peek()?.tasks);
        isFirst = false;
        for (const task of job.tasks) tasks.set(task.taskIndex, task);
        this.current.value = { job, tasks };
      },
      signal: this.closing.signal,
    }).catch((error: unknown) => {
      this.failed.value = describeError(error);
    });
  }

  get watched(): ReadonlySignal<WatchedJob | null> {
    return this.current;
  }

  get failure(): ReadonlySignal<Failure | null> {
    return this.failed;
  }

  close(): void {
    this.closing.abort();
  }
}
