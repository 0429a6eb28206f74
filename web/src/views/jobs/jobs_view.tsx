// The list of jobs, which follows all changes.

import "./jobs.css";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { announce } from "../../frame/announcer";
import { hrefOf, type Route } from "../../frame/routes";
import { ControllerService } from "../../gen/iris/rpc/cluster_pb";
import { Command } from "../../parts/copy";
import { Empty, Loading } from "../../parts/empty";
import { countText } from "../../parts/numbers";
import { VirtualRows } from "../../parts/virtual_rows";
import { useMedia } from "../../parts/media";
import { describeError, type Failure } from "../../rpc/errors";
import { keepStream } from "../../rpc/streams";
import { choosesAll, conditionsOf, requestOf, type Conditions } from "./conditions";
import { clearFilters, Filters } from "./filters";
import { JobListState, total, type ListedJobs } from "./job_list";
import { JobCells, JobHeadings } from "./job_rows";

const ROW_HEIGHT = 34;
const NARROW_ROW_HEIGHT = 64; // On a phone, a job has two lines.
/** The media query for phones. `jobs.css` has the same width. */
const NARROW = "(max-width: 760px)";

/** The list of jobs. */
export function JobsView({ route }: { route: Route }) {
  const key = route.query.toString();
  const conditions = useMemo(() => conditionsOf(route.query), [key]);
  const { listed, shownFor, failure, isBusy } = useJobs(conditions, key);
  const counts = listed?.counts ?? new Map<number, number>();
  const isNarrow = useMedia(NARROW);
  const view = useRef<HTMLElement>(null);
  useSearchKey(view);
  useEffect(() => {
    if (listed && !isBusy) announce(`${countText(total(counts, conditions.states))} jobs`);
  }, [isBusy, key]);
  return (
    <section class="jobs" ref={view} aria-labelledby="jobs-title">
      <h1 id="jobs-title">Jobs</h1>
      <Filters conditions={conditions} counts={counts} />
      {failure && <Refused failure={failure} />}
      {!listed && !failure && <Loading what="jobs" />}
      {listed && listed.jobs.length === 0 && <NoJobs conditions={conditions} isBusy={isBusy} />}
      {listed && listed.jobs.length > 0 && (
        <VirtualRows
          key={shownFor} // a list for other conditions begins at its top
          class="job-table"
          label="Jobs"
          busy={isBusy}
          items={listed.jobs}
          keyOf={(job) => job.number}
          rowHeight={isNarrow ? NARROW_ROW_HEIGHT : ROW_HEIGHT}
          head={<JobHeadings />}
          render={(job) => <JobCells job={job} />}
          foot={<Pages conditions={conditions} listed={listed} query={route.query} />}
        />
      )}
    </section>
  );
}

interface ShownJobs {
  readonly listed: ListedJobs | null;
  /** The query for which `listed` was loaded. */
  readonly shownFor: string;
  readonly failure: Failure | null;
  /** Whether new conditions load. The earlier list stays meanwhile. */
  readonly isBusy: boolean;
}

/** Follows the jobs that meet the conditions of a query. */
function useJobs(conditions: Conditions, query: string): ShownJobs {
  const [shown, setShown] = useState<ShownJobs>({ listed: null, shownFor: "", failure: null, isBusy: true });
  useEffect(() => {
    const stop = new AbortController();
    const state = new JobListState();
    setShown((before) => ({ ...before, failure: null, isBusy: true }));
    keepStream({
      method: ControllerService.method.watchJobs,
      request: () => requestOf(conditions, Date.now()),
      signal: stop.signal,
      onMessage: (message) => {
        const listed = state.apply(message);
        if (listed && !stop.signal.aborted) setShown({ listed, shownFor: query, failure: null, isBusy: false });
      },
    }).catch((error: unknown) => {
      if (stop.signal.aborted) return;
      setShown({ listed: null, shownFor: query, failure: describeError(error), isBusy: false });
    });
    return () => stop.abort();
  }, [query]);
  return shown;
}

/** Moves the focus to the search when the user types a slash, and from the search to the first row with the arrow key. */
function useSearchKey(view: { current: HTMLElement | null }): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const search = view.current?.querySelector<HTMLInputElement>("[data-search]");
      if (event.key === "/" && !target.closest("input, textarea, select, dialog")) {
        event.preventDefault();
        search?.focus();
        search?.select();
      } else if (event.key === "ArrowDown" && (target === search || target === document.body || target.id === "main")) {
        event.preventDefault();
        view.current?.querySelector<HTMLElement>("[data-row-focus]")?.focus();
      }
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}

function Refused({ failure }: { failure: Failure }) {
  return (
    <Empty title="The jobs cannot be shown">
      <p>{failure.text}</p>
      <p>{failure.advice}</p>
    </Empty>
  );
}

function NoJobs({ conditions, isBusy }: { conditions: Conditions; isBusy: boolean }) {
  if (isBusy) return <Loading what="jobs" />;
  if (conditions.page) {
    return (
      <Empty title="There are no older jobs">
        <p>
          Go to the <a href={hrefOf("jobs")}>newest jobs</a>.
        </p>
      </Empty>
    );
  }
  if (!choosesAll(conditions)) {
    return (
      <Empty title="No job meets these conditions">
        <button type="button" class="button" onClick={clearFilters}>
          Show all jobs
        </button>
      </Empty>
    );
  }
  return (
    <Empty title="There are no jobs yet">
      <p>Submit the first job in a terminal. It appears here at once.</p>
      <Command text="iris run -- echo hello" />
      <p>This command runs four tasks that start together, and follows their logs:</p>
      <Command text="iris run -n 4 -- python train.py" />
    </Empty>
  );
}

function Pages({ conditions, listed, query }: { conditions: Conditions; listed: ListedJobs; query: URLSearchParams }) {
  const all = total(listed.counts, conditions.states);
  const parameters = (page: string) => [...query].filter(([name]) => name !== "page").concat([["page", page]]) as [string, string][];
  return (
    <div class="job-pages">
      <span class="muted numbers">
        {listed.jobs.length === all ? `${countText(all)} jobs` : `${countText(listed.jobs.length)} of ${countText(all)} jobs`}
      </span>
      {conditions.page && <a href={hrefOf("jobs", "", parameters(""))}>Newest jobs</a>}
      {listed.nextPage && <a href={hrefOf("jobs", "", parameters(listed.nextPage))}>Older jobs</a>}
    </div>
  );
}
