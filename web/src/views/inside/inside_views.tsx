// The views that look inside the running tasks of a job. Their programs are loaded when they are opened.

import "./inside.css";
import type { ComponentChildren } from "preact";
import { announce } from "../../frame/announcer";
import { hrefOf, type JobTab, type Route } from "../../frame/routes";
import type { JobStatus } from "../../gen/iris/rpc/cluster_pb";
import { Empty, Loading } from "../../parts/empty";
import { visibleText } from "../../parts/visible_text";
import { describeError } from "../../rpc/errors";
import { mayLookInside, me } from "../../rpc/session";
import { controller } from "../../rpc/transport";
import { useWatchedJob } from "../job/watch_job";
import { execCalls } from "./exec_calls";
import type { Host, InspectProgram, ProfileHost, StacksHost, TerminalHost, TerminalProgram } from "./host";
import { LaterProgram } from "./later_program";

/** Where all tasks of a job are. The parameter `task` of the address chooses one task. */
export function StacksView({ route }: { route: Route }) {
  return (
    <InsideView route={route} title="Stacks" action="read the stacks of its tasks">
      {(common) => (
        <LaterProgram<InspectProgram, StacksHost>
          name="inspect"
          what="the stacks"
          mountOf={(program) => program.mountStacks}
          host={{
            ...common,
            readStacks: (withVariables, signal) =>
              controller.readStacks({ jobId: common.jobId, taskIndices: chosen(common), withVariables }, { signal }),
          }}
        />
      )}
    </InsideView>
  );
}

/** Where all tasks of a job spend their time. The parameter `task` of the address chooses one task. */
export function ProfileView({ route }: { route: Route }) {
  return (
    <InsideView route={route} title="Profile" action="profile its tasks">
      {(common) => (
        <LaterProgram<InspectProgram, ProfileHost>
          name="inspect"
          what="the profile"
          mountOf={(program) => program.mountProfile}
          host={{
            ...common,
            sampleStacks: (seconds, rate, withIdle, signal) =>
              controller.sampleStacks({ jobId: common.jobId, taskIndices: chosen(common), seconds, rate, withIdle }, { signal }),
          }}
        />
      )}
    </InsideView>
  );
}

/** A shell in a task. The parameter `task` of the address chooses the task; without it, it is task 0. */
export function TerminalView({ route }: { route: Route }) {
  const query = new URLSearchParams(route.query);
  if (!query.get("task")) query.set("task", "0");
  return (
    <InsideView route={{ ...route, query }} title="Terminal" action="run commands in its tasks" isForOneTask>
      {({ jobId, taskIndex, ...common }) => (
        <LaterProgram<TerminalProgram, TerminalHost>
          name="terminal"
          what="the terminal"
          mountOf={(program) => program.mountTerminal}
          host={{ ...common, jobId, taskIndex: taskIndex ?? 0, calls: execCalls(jobId, taskIndex ?? 0, explain) }}
        />
      )}
    </InsideView>
  );
}

function chosen({ taskIndex }: Host): number[] {
  return taskIndex === null ? [] : [taskIndex];
}

interface InsideProps {
  readonly route: Route;
  readonly title: string;
  /** What only the owner and admins may do. */
  readonly action: string;
  /** Whether the view always shows one task only. */
  readonly isForOneTask?: boolean;
  readonly children: (host: Host) => ComponentChildren;
}

/** The title of a view, and the view itself if the user may use it. */
function InsideView({ route, title, action, isForOneTask = false, children }: InsideProps) {
  const { jobId, query } = route;
  const taskIndex = taskOf(query);
  const { model, failure } = useWatchedJob(jobId);
  const { job } = model;
  // A job that was shown stays, so that a lost stream of the job does not end a shell.
  const isUnknown = failure && (!job || failure.reason === "JOB_NOT_FOUND");
  return (
    <article class="inside" key={`${jobId} ${taskIndex}`}>
      <InsideTitle route={route} title={title} numTasks={isForOneTask ? 1 : (job?.numTasks ?? 1)} taskIndex={taskIndex} />
      {isUnknown ? (
        <Empty title={failure.reason === "JOB_NOT_FOUND" ? "There is no such job" : "The job cannot be shown"}>
          <p>{visibleText(failure.text)}</p>
          <p>{failure.advice || <a href={hrefOf("jobs")}>List of jobs</a>}</p>
        </Empty>
      ) : !job || !me.value ? (
        <Loading what="the job" />
      ) : !mayLookInside(job.owner) ? (
        <NotAllowed job={job} action={action} />
      ) : taskIndex !== null && !(taskIndex < job.numTasks) ? (
        <Empty title={`The job has no task ${query.get("task")}`}>
          <p>Its tasks are 0 to {job.numTasks - 1}.</p>
        </Empty>
      ) : (
        children({ jobId, taskIndex, announce, explain })
      )}
    </article>
  );
}

interface TitleProps {
  readonly route: Route;
  readonly title: string;
  readonly numTasks: number;
  readonly taskIndex: number | null;
}

function InsideTitle({ route: { jobId, view }, title, numTasks, taskIndex }: TitleProps) {
  return (
    <div class="inside-head">
      <h1 dir="ltr">
        <a href={hrefOf("job", jobId)}>{visibleText(jobId)}</a>
        <span class="muted"> {taskIndex === null || Number.isNaN(taskIndex) ? "" : `task ${taskIndex} `}</span>
        {title}
      </h1>
      {taskIndex !== null && numTasks > 1 && <a href={hrefOf(view as JobTab, jobId)}>{title} of all tasks</a>}
    </div>
  );
}

function NotAllowed({ job, action }: { job: JobStatus; action: string }) {
  return (
    <Empty title="You may not look inside this job">
      <p>
        Only the owner of a job ({visibleText(job.owner || "nobody")}) and admins can {action}. You are signed in as{" "}
        {visibleText(me.value?.name ?? "")} with the role {me.value?.role}.
      </p>
      <p>
        <a href={hrefOf("job", job.jobId)}>Back to the job</a>
      </p>
    </Empty>
  );
}

/** Returns the task that the address names: null without a task, and NaN if the parameter is no index. */
function taskOf(query: URLSearchParams): number | null {
  const text = query.get("task") ?? "";
  if (text === "") return null;
  return /^\d{1,9}$/.test(text) ? Number(text) : NaN;
}

function explain(error: unknown): { text: string; advice: string } | null {
  const { kind, text, advice } = describeError(error);
  return kind === "cancelled" ? null : { text: visibleText(text), advice };
}
