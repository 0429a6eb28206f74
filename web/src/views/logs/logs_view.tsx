// The logs of a job: one task, several, or all, merged by time.

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo, useState } from "preact/hooks";
import { changeQuery, route } from "../../frame/router";
import { hrefOf, type Route } from "../../frame/routes";
import { showToast } from "../../frame/toasts";
import { Loading } from "../../parts/empty";
import { bytesText, countText } from "../../parts/numbers";
import { StateBadge } from "../../parts/state";
import { STATES } from "../../parts/states";
import { connection } from "../../rpc/connection";
import type { Failure } from "../../rpc/errors";
import { sessionUrl } from "../../rpc/session";
import { visibleText } from "./engine/ansi";
import { markerOf } from "./engine/highlight";
import { JobWatch, type WatchedJob } from "./job_watch";
import { LogSession } from "./log_session";
import { downloadPath, parseFilter, parseLogsQuery, parseTasks, type LogsQuery } from "./logs_query";
import type { RowSettings } from "./rows";
import { LogScrollbar } from "./scrollbar";
import { FindBar, Toolbar } from "./toolbar";
import { firstKeyInSight, showRow, Viewport } from "./viewport";
import "./logs.css";

/** The logs of a job. */
export function LogsView({ route: { jobId, query: parameters } }: { route: Route }) {
  const watch = useMemo(() => new JobWatch(jobId), [jobId]);
  useEffect(() => () => watch.close(), [watch]);
  const watched = watch.watched.value;
  const failure = watch.failure.value;
  const query = parseLogsQuery(parameters);
  if (!watched) {
    return (
      <>
        <Title jobId={jobId} />
        {failure ? <FailureNotice failure={failure} /> : <Loading what="the logs" />}
      </>
    );
  }
  return (
    <>
      {failure && <FailureNotice failure={failure} />}
      <Logs jobId={jobId} watched={watched} query={query} />
    </>
  );
}

function Logs({ jobId, watched, query }: { jobId: string; watched: WatchedJob; query: LogsQuery }) {
  const { job, tasks } = watched;
  const chosen = useMemo(() => parseTasks(query.tasks, job.numTasks), [query.tasks, job.numTasks]);
  // A filter by age must not change while the log is shown.
  const filter = useMemo(() => parseFilter(query, Date.now()), [query.grep, query.since, query.until, query.sources.join(",")]);
  const shown = chosen ?? [];
  const session = useMemo(() => {
    const made = new LogSession(jobId, shown, query.attempt, filter);
    made.applyTasks([...tasks.values()]);
    return made;
  }, [jobId, shown.join(","), query.attempt, filter]);
  const isValid = chosen !== null && filter.wrong === "";
  useEffect(() => {
    if (isValid) session.open(query.line);
    return () => session.close();
  }, [session, isValid]);
  useEffect(() => session.applyTasks([...tasks.values()]), [session, tasks]);

  const [isOpen, setOpen] = useState(false);
  const attempts = Math.max(1, ...shown.map((index) => tasks.get(index)?.attempts.length ?? 0));
  const downloadUrl = sessionUrl(downloadPath(jobId, shown, shown.length === job.numTasks, query));
  const failure = session.failure.value;
  const problems = {
    tasks: chosen ? "" : `Expected tasks from 0 to ${job.numTasks - 1}, for example 0,2-5.`,
    since: filter.wrong === "since" ? "Expected a time such as 10m or 14:05." : "",
    until: filter.wrong === "until" ? "Expected a time such as 10m or 14:05." : "",
    grep: failure?.reason === "INVALID_ARGUMENT" ? failure.text : "",
  };
  return (
    <section class="logs">
      <Title jobId={jobId} watched={watched} />
      <div class={`log-controls${isOpen ? "" : " log-controls-closed"}`}>
        <Toolbar
          query={query} taskCount={job.numTasks} attempts={attempts} problems={problems} downloadUrl={downloadUrl}
          isOpen={isOpen} onOpen={() => setOpen(!isOpen)}
        />
        {isValid && <OpenFind session={session} query={query} />}
      </div>
      {isValid && <OpenLog key={session} session={session} watched={watched} query={query} downloadUrl={downloadUrl} />}
    </section>
  );
}

interface OpenLogProps {
  readonly session: LogSession;
  readonly watched: WatchedJob;
  readonly query: LogsQuery;
  readonly downloadUrl: string;
}

function OpenLog({ session, watched, query, downloadUrl }: OpenLogProps) {
  const fraction = useSignal(1);
  const isWhole = useSignal(false);
  const marker = useMemo(() => markerOf(query.find || query.grep), [query.find, query.grep]);
  const showsTasks = session.tasks.length > 1;
  const settings: RowSettings = useMemo(
    () => ({ showsTimes: query.showsTimes, showsTasks, marker, selected: query.line, downloadUrl }),
    [query.showsTimes, showsTasks, marker, query.line, downloadUrl],
  );
  const select = (key: string) => {
    session.letGo();
    changeQuery({ line: key });
  };
  const move = (by: number) => {
    const rows = session.rows();
    const selected = rows.findIndex(({ key }) => key === query.line);
    const next = selected >= 0 ? selected + by : rows.findIndex(({ key }) => key === firstKeyInSight());
    const row = rows[Math.min(rows.length - 1, Math.max(0, next))];
    if (!row) return;
    select(row.key);
    showRow(row.key);
  };
  const keys: Readonly<Record<string, () => void>> = {
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    g: () => session.toBeginning(),
    Home: () => session.toBeginning(),
    G: () => session.toEnd(),
    End: () => session.toEnd(),
    f: () => session.toEnd(),
    n: () => void find(session, "next"),
    N: () => void find(session, "previous"),
    "/": () => document.getElementById("log-find")?.focus(),
    w: () => changeQuery({ wrap: query.wraps ? "" : "1" }),
    t: () => changeQuery({ times: query.showsTimes ? "" : "1" }),
    c: () => void copyLink(),
    Escape: () => changeQuery({ line: "" }),
  };
  const onKey = (event: KeyboardEvent) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  };
  return (
    <>
      <Notices session={session} watched={watched} />
      <div class="log-frame">
        <Viewport
          session={session} settings={settings} wraps={query.wraps} onKey={onKey} onSelect={select}
          onMove={(next, isAllInSight) => {
            fraction.value = next;
            isWhole.value = isAllInSight;
          }}
        />
        <LogScrollbar session={session} fraction={fraction.value} isWhole={isWhole.value} />
        <BackToEnd session={session} />
      </div>
      <StatusBar session={session} watched={watched} selected={query.line} />
    </>
  );
}

function OpenFind({ session, query }: { session: LogSession; query: LogsQuery }) {
  return (
    <FindBar
      query={query}
      search={session.search.value}
      onFind={(direction) => void find(session, direction)}
      onStop={() => session.stopSearch()}
      onLeave={() => document.getElementById("log-rows")?.focus()}
    />
  );
}

/** Selects the next or the previous match of the pattern in the address. */
async function find(session: LogSession, direction: "next" | "previous"): Promise<void> {
  const { find: pattern, line } = parseLogsQuery(route.peek().query);
  if (!pattern) return;
  session.letGo();
  // A selected line that is far out of sight is not in the window.
  const rows = session.rows();
  const from = rows.find(({ key }) => key === line) ?? rows.find(({ key }) => key === firstKeyInSight());
  const match = await session.find(pattern, direction, from);
  if (match) changeQuery({ line: match.key });
}

function Title({ jobId, watched }: { jobId: string; watched?: WatchedJob }) {
  return (
    <h1 class="log-title">
      Logs of <a href={hrefOf("job", jobId)}>{visibleText(jobId)}</a> {watched && <StateBadge state={watched.job.state} />}
    </h1>
  );
}

function FailureNotice({ failure, onRetry }: { failure: Failure; onRetry?: () => void }) {
  return (
    <p class="log-notice log-notice-failure" role="alert">
      {visibleText(failure.text)} {failure.advice}{" "}
      {onRetry && <button type="button" class="quiet-button" onClick={onRetry}>Try again</button>}
    </p>
  );
}

/** Why there is nothing to see: tasks that wait or never started, and logs that cannot be read. */
function Notices({ session, watched }: { session: LogSession; watched: WatchedJob }) {
  const missing = useMemo(() => missingLogs(session.tasks, watched), [session, watched]);
  const failure = session.failure.value;
  const errors = useComputed(() => (session.version.value, session.document.errors())).value;
  return (
    <>
      {failure && <FailureNotice failure={failure} onRetry={() => session.retry()} />}
      {errors.length > 0 && (
        <p class="log-notice log-notice-failure" role="alert">
          The log of {errors.map(({ task, attempt }) => `task ${task}, attempt ${attempt}`).slice(0, 3).join("; ")}
          {errors.length > 3 && ` and of ${errors.length - 3} more`} cannot be read: {visibleText(errors[0]!.text)}. The page
          tries again by itself.{" "}
          <button type="button" class="quiet-button" onClick={() => session.retry()}>Try now</button>
        </p>
      )}
      {missing && <p class="log-notice" role="status">{missing}</p>}
    </>
  );
}

function missingLogs(shown: readonly number[], { job, tasks }: WatchedJob): string {
  const known = shown.flatMap((index) => tasks.get(index) ?? []);
  const waiting = known.filter(({ state }) => STATES[state]?.name === "PENDING");
  const unstarted = known.filter(({ state, attempts }) => STATES[state]?.isFinal && attempts.length === 0);
  const first = waiting[0] ?? unstarted[0];
  if (!first) return "";
  const status = waiting.length
    ? first.statusMessage || job.statusMessage || "its turn in the queue has not come"
    : first.error || job.error || "the job was ended";
  const reason = visibleText(status.replace(/^waiting: /, "")); // The notice itself says that the task waits.
  const count = waiting.length || unstarted.length;
  const [one, several] = waiting.length ? ["waits", "wait"] : ["never started", "never started"];
  return `${count === 1 ? `Task ${first.taskIndex} ${one}` : `${countText(count)} tasks ${several}, task ${first.taskIndex}`}: ${reason}`;
}

function BackToEnd({ session }: { session: LogSession }) {
  const count = session.newLines.value;
  if (session.isFollowing.value || session.isReading.value || (count === 0 && session.document.isAtEnd)) return null;
  const more = session.document.hasJumped ? "More than " : "";
  const text = count > 0 ? `${more}${countText(count)} new ${count === 1 ? "line" : "lines"}, back to the end` : "Back to the end";
  return (
    <button type="button" class="button button-primary log-back" onClick={() => session.toEnd()}>
      {text}
    </button>
  );
}

function StatusBar({ session, watched, selected }: { session: LogSession; watched: WatchedJob; selected: string }) {
  const isOver = (session.version.value, session.document.lanes.every((lane) => lane.isOver));
  const skipped = session.document.skippedBytes();
  const isSearching = session.isFiltered && session.isReading.value && !session.failure.value;
  const state = isSearching
    ? `Searching for matching lines… ${bytesText(session.searchedBytes.value)} so far.`
    : isOver
      ? isBlank(session)
        ? `${session.isFiltered ? "No line matches the filter" : "The tasks have written nothing"}; every task has ended.`
        : `This is the whole log${session.isFiltered ? ", filtered" : ""}; every task has ended.`
      : session.isFollowing.value && session.document.isBehind
        ? "Following the end only: new lines come too fast to show them all."
        : session.isFollowing.value
          ? connection.value
            ? "New lines appear when the connection is back."
            : "Following: new lines appear as they are written."
          : "Not following.";
  return (
    <p class="log-status muted">
      <span role="status">{state}</span>
      {skipped > 0 && <span>About {bytesText(skipped)} before these lines were skipped. Scroll up to read them.</span>}
      {!isOver && watched.job.numTasks > 1 && session.tasks.length > 1 && <span>{countText(session.tasks.length)} tasks, merged by time</span>}
      {session.isFiltered && session.tasks.length > 1 && (
        <span>Tasks without a matching line show only failures and lost lines.</span>
      )}
      {selected && (
        <span>
          Selected line: <button type="button" class="quiet-button" onClick={() => void copyLink()}>Copy its link (c)</button>
          <button type="button" class="quiet-button" onClick={() => changeQuery({ line: "" })}>Clear (Esc)</button>
        </span>
      )}
    </p>
  );
}

/** Returns whether all rows of the log are known, and none of them is a line or a gap. */
function isBlank(session: LogSession): boolean {
  const { document, failure, isReading } = session;
  const isKnown = !isReading.value && !failure.value && document.errors().length === 0 && !document.window.hasMoreAbove && document.isAtEnd;
  return isKnown && !session.rows().some(({ row }) => row.kind === "line" || row.kind === "gap");
}

async function copyLink(): Promise<void> {
  try {
    await navigator.clipboard.writeText(location.href);
    showToast("The link is copied.");
  } catch {
    showToast("The browser does not allow this page to copy. Copy the address of the page instead.", "error");
  }
}
