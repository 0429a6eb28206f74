// The profile of the tasks of a job: samples them for some seconds, and draws the flame graph.

import { useEffect, useRef, useState } from "preact/hooks";
import { countText } from "../../../parts/numbers";
import { visibleText } from "../../../parts/visible_text";
import type { Problem, ProfileHost } from "../host";
import { tasksText } from "../stacks/merge";
import { FlameGraph } from "./flame_graph";
import { functionShares, ProfileSum, slices, speedscope, type SummedStack } from "./profile_sum";

const DEFAULT_S = 10;
const MOST_S = 3_600;
const RATE = 100; // samples per second and process
const SHOWN_FUNCTIONS = 20;

interface Run {
  readonly totalS: number;
  readonly doneS: number;
}

interface Result {
  readonly sum: ProfileSum;
  readonly stacks: readonly SummedStack[];
  /** The number of the profile, so that a new profile gets a new graph. */
  readonly number: number;
}

/** A profile that may be running, and the last result. */
interface Sampling {
  /** null = no profile is running. */
  readonly run: Run | null;
  readonly result: Result | null;
  readonly problem: Problem | null;
  readonly start: (seconds: number, withIdle: boolean) => Promise<void>;
  /** Ends the profile, and keeps its samples. */
  readonly stop: () => void;
}

function useSampling(host: ProfileHost): Sampling {
  const [run, setRun] = useState<Run | null>(null);
  const [result, setResult] = useState<Result | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const abort = useRef(new AbortController());
  const isLeft = useRef(false);
  useEffect(() => () => {
    isLeft.current = true;
    abort.current.abort();
  }, []);
  const start = async (seconds: number, withIdle: boolean) => {
    const { signal } = (abort.current = new AbortController());
    const sum = new ProfileSum();
    setProblem(null);
    setRun({ totalS: seconds, doneS: 0 });
    host.announce(`Sampling for ${counted(seconds, "second")}.`);
    let doneS = 0;
    for (const slice of slices(seconds)) {
      try {
        sum.add(await host.sampleStacks(slice, RATE, withIdle, signal), slice);
      } catch (error) {
        if (!signal.aborted) setProblem(host.explain(error));
        break;
      }
      doneS += slice;
      setRun({ totalS: seconds, doneS });
      if (sum.isOver || signal.aborted) break;
    }
    if (isLeft.current) return;
    setRun(null);
    if (sum.numTasks === 0) return;
    setResult((before) => ({ sum, stacks: sum.stacks, number: (before?.number ?? 0) + 1 }));
    host.announce(summaryOf(sum));
  };
  return { run, result, problem, start, stop: () => abort.current.abort() };
}

/** The view. Nothing is sampled before the user asks for it. */
export function Profile({ host }: { host: ProfileHost }) {
  const { run, result, problem, start, stop } = useSampling(host);
  return (
    <div class="profile">
      <Form run={run} hasResult={result !== null} start={start} stop={stop} />
      {problem && (
        <p class="error-text" role="alert">
          {problem.text} {problem.advice}
        </p>
      )}
      {result && <Shown key={result.number} result={result} host={host} />}
      {!result && !run && (
        <p class="muted">
          The workers sample the call stacks {RATE} times a second. The tasks continue, and their samples are summed.
        </p>
      )}
    </div>
  );
}

interface FormProps extends Pick<Sampling, "run" | "start" | "stop"> {
  readonly hasResult: boolean;
}

function Form({ run, hasResult, start, stop }: FormProps) {
  const [secondsText, setSecondsText] = useState(String(DEFAULT_S));
  const [withIdle, setWithIdle] = useState(false);
  const seconds = Number(secondsText);
  const isValid = Number.isInteger(seconds) && seconds >= 1 && seconds <= MOST_S;
  const onSubmit = (event: Event) => {
    event.preventDefault();
    if (run) stop();
    else if (isValid) void start(seconds, withIdle);
  };
  return (
    <>
      <form class="profile-tools" onSubmit={onSubmit} noValidate>
        <button type="submit" class="button" aria-disabled={!run && !isValid}>
          {run ? "Stop" : hasResult ? "Profile again" : "Profile"}
        </button>
        <label>
          for{" "}
          <input
            type="number" class="profile-seconds" inputMode="numeric" min={1} max={MOST_S} value={secondsText} disabled={run !== null}
            aria-label="Seconds" aria-invalid={!isValid} aria-describedby={isValid ? undefined : "profile-seconds-problem"}
            onInput={({ currentTarget: { value } }) => setSecondsText(value)}
          />{" "}
          seconds
        </label>
        <label title="Also count the samples of threads that wait.">
          <input type="checkbox" checked={withIdle} disabled={run !== null}
            onChange={({ currentTarget: { checked } }) => setWithIdle(checked)} />{" "}
          Waiting threads
        </label>
        {run && (
          <span class="profile-progress">
            <progress value={run.doneS} max={run.totalS} aria-label="Progress of the profile" /> {run.doneS} of {run.totalS} s
          </span>
        )}
      </form>
      {!isValid && (
        <p id="profile-seconds-problem" class="error-text">
          Seconds must be a whole number from 1 to {countText(MOST_S)}, got {visibleText(secondsText) || "nothing"}.
        </p>
      )}
    </>
  );
}

function Shown({ result: { sum, stacks }, host }: { result: Result; host: ProfileHost }) {
  return (
    <>
      <p>
        {summaryOf(sum)}{" "}
        {stacks.length > 0 && (
          <button type="button" class="button" onClick={() => download(host, stacks)}>
            Download for speedscope
          </button>
        )}
      </p>
      {sum.unsampled.map(({ problem, taskIndices }) => (
        <p key={problem} dir="auto">
          No samples of {tasksText(taskIndices, sum.numTasks)}: {visibleText(problem)}
        </p>
      ))}
      {stacks.length > 0 && (
        <>
          <FlameGraph stacks={stacks} />
          <Functions stacks={stacks} samples={sum.samples} />
        </>
      )}
      {stacks.length === 0 && sum.unsampled.length < sum.numTasks && (
        <p>No thread used the CPU. “Waiting threads” counts threads that wait, and the stacks show where they wait.</p>
      )}
    </>
  );
}

function Functions({ stacks, samples }: { stacks: readonly SummedStack[]; samples: number }) {
  const shares = functionShares(stacks).slice(0, SHOWN_FUNCTIONS);
  const percent = (count: number) => `${((100 * count) / samples).toFixed(1)} %`;
  return (
    <details class="profile-functions">
      <summary>Functions as a table</summary>
      <div class="scrolled" tabIndex={0} role="region" aria-label="Functions">
        <table class="plain-table">
          <thead>
            <tr><th>Own code</th><th>Total</th><th>Function</th></tr>
          </thead>
          <tbody>
            {shares.map((share) => (
              <tr key={`${share.function} ${share.file}`}>
                <td>{percent(share.self)}</td>
                <td>{percent(share.total)}</td>
                <td class="mono">
                  {visibleText(share.function)} <span class="muted">{visibleText(share.file)}</span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

function summaryOf(sum: ProfileSum): string {
  const sampled = sum.numTasks - sum.unsampled.reduce((count, { taskIndices }) => count + taskIndices.length, 0);
  return `${counted(sum.samples, "sample")} of ${counted(sampled, "task")} in ${counted(sum.seconds, "second")}.`;
}

function download({ jobId, taskIndex }: ProfileHost, stacks: readonly SummedStack[]): void {
  const name = taskIndex === null ? jobId : `${jobId}/task-${taskIndex}`;
  const url = URL.createObjectURL(new Blob([speedscope(name, stacks, RATE)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${name.replaceAll("/", "-")}.speedscope.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // The browser has begun to save the file.
}

function counted(count: number, noun: string): string {
  return `${countText(count)} ${noun}${count === 1 ? "" : "s"}`;
}
