// How the job was submitted: command, resources, policies, and the names of its environment variables.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { isFieldSet } from "@bufbuild/protobuf";
import {
  Placement,
  Rendezvous,
  ResourceSpecProtoSchema,
  type Controller_GetSubmissionResponse,
  type JobStatus,
} from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { bytesText, countText } from "../../parts/numbers";
import { CopyButton } from "../../parts/copy";
import { Moment } from "../../parts/time";
import { durationText } from "../../parts/time_text";
import { commandLine, visibleText } from "../../parts/visible_text";
import { controller } from "../../rpc/transport";
import { describeError } from "../../rpc/errors";

const MOST_OPEN_NAMES = 6; // A longer list of environment variables is folded.

/** The facts as a list of names and values. Values of environment variables are never sent to the page. */
export function Facts({ job }: { job: JobStatus }) {
  const [answer, setAnswer] = useState<Controller_GetSubmissionResponse | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    controller.getSubmission({ jobId: job.jobId }, { signal: abort.signal }).then(setAnswer, (error: unknown) => {
      const { kind, text } = describeError(error);
      if (kind !== "cancelled") setProblem(text);
    });
    return () => abort.abort();
  }, [job.jobId]);
  const submission = answer?.submission;
  const variables = Object.keys(submission?.environment?.envVars ?? {}).sort();
  return (
    <dl class="facts">
      {submission && <Entrypoint answer={answer} />}
      {problem && <Fact name="Submission">cannot be loaded: {problem}</Fact>}
      <Fact name="Tasks">
        {countText(job.numTasks)}
        {submission && job.numTasks > 1 && (submission.independentTasks ? ", independent" : ", a gang")}
        {job.numInputs > 0 && `, ${numbered(job.numInputs, "input", "inputs")}`}
      </Fact>
      {submission && <Fact name="Resources of each task">{resourcesText(submission)}</Fact>}
      {submission && <Fact name="Policies">{policiesText(submission)}</Fact>}
      {submission && <Texts name="Machines" texts={machineTexts(submission)} />}
      <Texts name="Ports" texts={submission?.ports} />
      <Texts name="Outputs" texts={submission?.outputs} />
      {submission?.workingDirectory && <Texts name="Runs in" texts={[submission.workingDirectory]} />}
      {variables.length > 0 && (
        <Fact name="Environment">
          <details class="environment" open={variables.length <= MOST_OPEN_NAMES}>
            <summary>{variables.length === 1 ? "1 name" : `${variables.length} names`}</summary>
            <span class="names">
              {variables.map((name) => (
                <code key={name}>{visibleText(name)}</code>
              ))}
            </span>
          </details>
        </Fact>
      )}
      {submission?.bundleHash && (
        <Fact name="Workspace">
          <code>{submission.bundleHash.slice(0, 12)}</code>
        </Fact>
      )}
      {job.startedAtMs > 0n && <Fact name="Started"><Moment ms={Number(job.startedAtMs)} /></Fact>}
      {job.finishedAtMs > 0n && <Fact name="Ended"><Moment ms={Number(job.finishedAtMs)} /></Fact>}
      {job.parentJobId && (
        <Fact name="Parent job">
          <a href={hrefOf("job", job.parentJobId)}>{visibleText(job.parentJobId)}</a>
        </Fact>
      )}
      {job.waitsFor.length > 0 && (
        <Fact name="Waits for">
          {job.waitsFor.map(({ jobId }) => (
            <a key={jobId} href={hrefOf("job", jobId)}>{visibleText(jobId)} </a>
          ))}
        </Fact>
      )}
    </dl>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** A fact of several texts; nothing without a text. */
function Texts({ name, texts }: { name: string; texts: readonly string[] | undefined }) {
  return texts?.length ? <Fact name={name}>{visibleText(texts.join(", "))}</Fact> : null;
}

function Entrypoint({ answer }: { answer: Controller_GetSubmissionResponse }) {
  const words = answer.submission?.command ?? [];
  if (words.length === 0) {
    return <Fact name="Callable">{answer.callableBytes ? `a Python callable, ${bytesText(Number(answer.callableBytes))} pickled` : "not stored any more"}</Fact>;
  }
  const line = commandLine(words);
  return (
    <Fact name="Command">
      <span class="command">
        <code dir="ltr" tabIndex={0} role="region" aria-label="Command">{visibleText(line)}</code>
        <CopyButton text={line} label="the command" />
      </span>
    </Fact>
  );
}

type Submission = NonNullable<Controller_GetSubmissionResponse["submission"]>;

/** Returns the resources of a task for people, for example `2 cores, 4.0 GiB memory, 1 GPU`. */
function resourcesText({ resources, independentTasks }: Submission): string {
  const millicores = Number(resources?.cpuMillicores ?? 0n) || 1_000 * (resources?.cpu ?? 0);
  const memory = Number(resources?.memoryBytes ?? 0n);
  const device = resources?.device?.device;
  const parts = [];
  if (millicores) parts.push(`${millicores / 1_000} ${millicores === 1_000 ? "core" : "cores"}`);
  if (memory) parts.push(`${bytesText(memory)} memory`);
  if (device?.case === "gpu") parts.push(`${Math.max(device.value.count, 1)} GPU${device.value.count > 1 ? "s" : ""} ${device.value.variant}`.trim());
  if (parts.length > 0) return parts.join(", ");
  // The controller has the same rule in `counts_a_core`.
  const { field } = ResourceSpecProtoSchema;
  const isGiven = resources && (resources.device || isFieldSet(resources, field.cpu) || isFieldSet(resources, field.cpuMillicores));
  return independentTasks && !isGiven ? "1 core, the default of independent tasks" : "nothing reserved";
}

/** Returns the conditions for the machines of the tasks, for example `each task on a machine of its own`. */
function machineTexts({ placement, constraints, rendezvous }: Submission): string[] {
  const texts = constraints.map(({ key, value }) => `${key}=${value?.value.value}`);
  if (placement === Placement.SPREAD) texts.unshift("each task on a machine of its own");
  if (placement === Placement.TOGETHER) texts.unshift("all tasks on one machine");
  if (rendezvous) texts.push(`rendezvous ${Rendezvous[rendezvous]?.toLowerCase()}`);
  return texts;
}

function policiesText(submission: Submission): string {
  const parts = [
    `${numbered(submission.maxRetriesFailure, "retry", "retries")} of failures`,
    `${submission.maxRetriesPreemption} of lost workers`,
  ];
  if (submission.retryOn.length) parts.push(`retries only after exit code ${submission.retryOn.join(", ")}`);
  if (submission.failOn.length) parts.push(`no retry after exit code ${submission.failOn.join(", ")}`);
  if (submission.maxTaskFailures) parts.push(`tolerates ${numbered(submission.maxTaskFailures, "failed task", "failed tasks")}`);
  if (submission.maxParallel) parts.push(`${numbered(submission.maxParallel, "task", "tasks")} at a time`);
  if (submission.timeoutSeconds) parts.push(`attempt timeout ${durationText(submission.timeoutSeconds * 1_000)}`);
  if (submission.jobTimeoutSeconds) parts.push(`job timeout ${durationText(submission.jobTimeoutSeconds * 1_000)}`);
  if (submission.schedulingTimeoutSeconds) parts.push(`scheduling timeout ${durationText(submission.schedulingTimeoutSeconds * 1_000)}`);
  return parts.join(", ");
}

function numbered(count: number, one: string, several: string): string {
  return `${countText(count)} ${count === 1 ? one : several}`;
}
