// One job with its tasks.

import "./job.css";
import { changeQuery } from "../../frame/router";
import { hrefOf, type Route } from "../../frame/routes";
import type { JobStatus } from "../../gen/iris/rpc/cluster_pb";
import { Empty, Loading } from "../../parts/empty";
import { countText } from "../../parts/numbers";
import { StateBadge, StateBar } from "../../parts/state";
import { styleOf } from "../../parts/states";
import { Duration, Moment } from "../../parts/time";
import { visibleText } from "../../parts/visible_text";
import { mayLookInside } from "../../rpc/session";
import { JobActions } from "./actions";
import { ChildJobs } from "./child_jobs";
import { Endpoints } from "./endpoints";
import { Facts } from "./facts";
import { Failures, reasonName } from "./failures";
import { HangBanner } from "./hang_banner";
import { countStates, exitText, hasFailed } from "./job_model";
import { NewestLines } from "./last_lines";
import { TaskGrid } from "./task_grid";
import { TaskPanel } from "./task_panel";
import { Timeline } from "./timeline/timeline";
import { UsagePlots } from "./usage/usage_plots";
import { useWatchedJob } from "./watch_job";

/** One job with its tasks. The parameter `task` of the address chooses a task. */
export function JobView({ route }: { route: Route }) {
  const { jobId } = route;
  const { model, beat, failure } = useWatchedJob(jobId);
  const { job } = model;
  if (failure) {
    return (
      <>
        <JobTitle jobId={jobId} />
        <Empty title={failure.reason === "JOB_NOT_FOUND" ? "There is no such job" : "The job cannot be shown"}>
          <p>{visibleText(failure.text)}</p>
          <p>{failure.advice || <a href={hrefOf("jobs")}>List of jobs</a>}</p>
        </Empty>
      </>
    );
  }
  if (!job) {
    return (
      <>
        <JobTitle jobId={jobId} />
        <Loading what="the job" />
      </>
    );
  }
  const tasks = model.known();
  const select = (taskIndex: number) => changeQuery({ task: String(taskIndex) }, { replace: false });
  const selected = route.query.has("task") ? Number(route.query.get("task")) : -1;
  const task = model.tasks[selected];
  const isFinal = styleOf(job.state).isFinal;
  const only = job.numTasks === 1 && !task ? model.tasks[0] : undefined;
  return (
    <article class="job">
      <div class="job-head">
        <JobTitle jobId={jobId} />
        <JobActions job={job} tasks={tasks} />
      </div>
      <JobState job={job} />
      <HangBanner job={job} onSelect={select} />
      <Failures jobId={jobId} tasks={tasks} onSelect={select} />
      <section aria-labelledby="tasks-title">
        <div class="section-tools">
          <h2 id="tasks-title">
            Tasks <span class="muted">{countText(job.numTasks)}</span>
          </h2>
          <Counts counts={countStates(tasks)} />
          <a href={hrefOf("logs", jobId)}>{job.numTasks > 1 ? "Logs of all tasks" : "Log"}</a>
          {job.tasksRunning > 0 && mayLookInside(job.owner) && (
            <>
              <a href={hrefOf("stacks", jobId)}>Stacks</a>
              <a href={hrefOf("profile", jobId)}>Profile</a>
            </>
          )}
        </div>
        <div class="state-bar-line">
          <StateBar counts={countStates(tasks)} />
        </div>
        <TaskGrid tasks={tasks} selected={selected} onSelect={select} />
        {only && !hasFailed(only) && <NewestLines task={only} beat={beat} />}
        {task && <TaskPanel job={job} task={task} beat={beat} onClose={() => changeQuery({ task: "" })} />}
      </section>
      <section aria-labelledby="timeline-title">
        <Timeline
          tasks={tasks}
          submittedMs={Number(job.submittedAtMs)}
          finishedMs={Number(job.finishedAtMs)}
          onOpen={select}
        />
      </section>
      <section aria-labelledby="usage-title">
        <h2 id="usage-title">Usage of all tasks</h2>
        <UsagePlots jobId={jobId} tasks={[]} beat={beat} />
      </section>
      <ChildJobs jobId={jobId} isFinal={isFinal} />
      {!isFinal && <Endpoints jobId={jobId} beat={beat} />}
      <section aria-labelledby="details-title">
        <h2 id="details-title">Details</h2>
        <Facts job={job} />
      </section>
    </article>
  );
}

function JobTitle({ jobId }: { jobId: string }) {
  const parts = jobId.split("/");
  return (
    <h1 class="job-title" dir="ltr">
      {parts.slice(0, -1).map((part, index) => (
        <span key={index}>
          <a href={hrefOf("job", parts.slice(0, index + 1).join("/"))}>{visibleText(part)}</a>
          <span class="muted">/</span>
        </span>
      ))}
      {visibleText(parts[parts.length - 1] ?? "")}
    </h1>
  );
}

function JobState({ job }: { job: JobStatus }) {
  const ending = exitText(job);
  const reason = reasonName(job.failureReason);
  const why = job.error || job.statusMessage;
  const isInBanner = why === job.hang?.text; // The banner says it.
  return (
    <>
      <p class="failure-head">
        <StateBadge state={job.state} />
        <Duration startMs={Number(job.submittedAtMs)} endMs={Number(job.finishedAtMs)} />
        {ending && <span>{ending}</span>}
        {reason && reason !== "EXIT_CODE" && <code class="reason">{reason}</code>}
        <span class="muted">
          submitted <Moment ms={Number(job.submittedAtMs)} />
          {job.owner && ` by ${visibleText(job.owner)}`}
        </span>
      </p>
      {why && why !== ending && !isInBanner && <p class={[5, 7, 8].includes(job.state) ? "error-text" : undefined} dir="auto">{visibleText(why)}</p>}
    </>
  );
}

function Counts({ counts }: { counts: readonly { state: number; count: number }[] }) {
  return (
    <span class="state-counts">
      {counts.map(({ state, count }) => (
        <span key={state} class="state-count">
          <span class="numbers">{countText(count)}</span> <StateBadge state={state} />
        </span>
      ))}
    </span>
  );
}
