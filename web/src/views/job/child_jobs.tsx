// The child jobs of a job as a tree.

import { useEffect, useRef, useState } from "preact/hooks";
import { ControllerService, type JobStatus } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { StateBadge } from "../../parts/state";
import { Duration } from "../../parts/time";
import { visibleText } from "../../parts/visible_text";
import { showError } from "../../frame/toasts";
import { keepStream } from "../../rpc/streams";
import { controller } from "../../rpc/transport";
import { treeOf, type JobNode } from "./job_model";

const MOST_JOBS = 1_000;

/** The tree of child jobs. While the job runs, a stream keeps the tree up to date. */
export function ChildJobs({ jobId, isFinal }: { jobId: string; isFinal: boolean }) {
  const jobs = useRef(new Map<bigint, JobStatus>());
  const [hasMore, setMore] = useState(false);
  const [, redraw] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    const filter = { idPrefix: `${jobId}/`, pageSize: MOST_JOBS };
    const replace = (all: readonly JobStatus[], more: boolean) => {
      jobs.current = new Map(all.map((job) => [job.number, job]));
      setMore(more);
      redraw((count) => count + 1);
    };
    if (isFinal) {
      controller.listJobs(filter, { signal: abort.signal }).then(
        ({ jobs: all, nextPageToken }) => replace(all, nextPageToken !== ""),
        showError,
      );
    } else {
      keepStream({
        method: ControllerService.method.watchJobs,
        request: () => filter,
        onMessage: (message) => {
          if (message.isSnapshot) jobs.current.clear();
          for (const number of message.left) jobs.current.delete(number);
          for (const job of message.jobs) jobs.current.set(job.number, job);
          if (message.counts) replace([...jobs.current.values()], message.nextPageToken !== "");
        },
        signal: abort.signal,
      }).catch(showError);
    }
    return () => abort.abort();
  }, [jobId, isFinal]);
  const all = [...jobs.current.values()].sort((a, b) => Number(a.number - b.number));
  if (all.length === 0) return null;
  return (
    <section aria-labelledby="children-title">
      <h2 id="children-title">
        Child jobs <span class="muted">{all.length}{hasMore && ", and more"}</span>
      </h2>
      <Branch nodes={treeOf(all)} />
    </section>
  );
}

function Branch({ nodes }: { nodes: readonly JobNode[] }) {
  return (
    <ul class="job-tree">
      {nodes.map(({ job, children }) => (
        <li key={job.jobId}>
          <div class="failure-head">
            <StateBadge state={job.state} />
            <a href={hrefOf("job", job.jobId)} dir="ltr">{visibleText(job.jobId.slice(job.jobId.lastIndexOf("/") + 1))}</a>
            <span class="muted">{job.numTasks > 1 ? `${job.numTasks} tasks` : "1 task"}</span>
            <Duration startMs={Number(job.submittedAtMs)} endMs={Number(job.finishedAtMs)} />
            <span class="muted one-line">{visibleText(job.statusMessage || job.error)}</span>
          </div>
          {children.length > 0 && <Branch nodes={children} />}
        </li>
      ))}
    </ul>
  );
}
