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
    keepStream({
      method: ControllerService.method.watchJob,
      request: () => ({ jobId, includeTasks: true }),
      onMessage: ({ job }) => {
        if (!job) return;
        const tasks = new Map(this.current.peek()?.tasks ?? []);
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
