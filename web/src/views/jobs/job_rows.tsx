// The rows of the list of jobs.

import type { JobStatus } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { countText, toNumber } from "../../parts/numbers";
import { StateBadge, StateBar } from "../../parts/state";
import { Age, Duration } from "../../parts/time";
import { change } from "./filters";
import { taskCounts } from "./task_counts";

/** The headings of the columns. */
export function JobHeadings() {
  return (
    <div role="row" aria-rowindex={1} class="job-row job-headings">
      <span role="columnheader">State</span>
      <span role="columnheader">Job</span>
      <span role="columnheader">Tasks</span>
      <span role="columnheader">Age</span>
      <span role="columnheader">Duration</span>
      <span role="columnheader">Owner</span>
      <span role="columnheader">Why it waits or failed</span>
    </div>
  );
}

/** The cells of one job. */
export function JobCells({ job }: { job: JobStatus }) {
  const note = job.error || job.statusMessage;
  return (
    <div class="job-row" role="presentation">
      <span role="cell">
        <StateBadge state={job.state} />
      </span>
      <span role="cell" class="job-name">
        <a href={hrefOf("job", job.jobId)} data-row-focus title={job.jobId}>
          <bdi>{job.jobId}</bdi>
        </a>
      </span>
      <span role="cell" class="job-tasks">
        <StateBar counts={taskCounts(job)} />
        <span class="muted numbers">
          {countText(job.tasksSucceeded)}/{countText(job.numTasks)}
        </span>
      </span>
      <span role="cell" class="job-age">
        <Age ms={toNumber(job.submittedAtMs)} />
      </span>
      <span role="cell" class="job-duration numbers">
        <Duration startMs={toNumber(job.startedAtMs)} endMs={toNumber(job.finishedAtMs)} />
      </span>
      <span role="cell" class="job-owner">
        {job.owner ? (
          <button type="button" class="link-button" title={`Show the jobs of ${job.owner}`} onClick={() => change({ owner: job.owner })}>
            <bdi>{job.owner}</bdi>
          </button>
        ) : (
          <span class="muted">–</span>
        )}
      </span>
      <span role="cell" class="job-note muted" title={note}>
        <bdi>{note}</bdi>
      </span>
    </div>
  );
}
