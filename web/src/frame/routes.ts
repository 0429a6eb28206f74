// The addresses of the views. An address is the hash of the page's URL, so that the page works below any path.
//
// `#/jobs`, `#/jobs/JOB`, `#/jobs/JOB/logs`, `#/machines`, `#/cluster` and `#/signin`, each with an optional query such
// as `?state=FAILED`. `stacks`, `profile` and `terminal` can stand in place of `logs`. A job id is one segment: its slashes
// are escaped.

export type ViewName = "jobs" | "job" | JobTab | "machines" | "cluster" | "signin" | "unknown";
/** The views of one job beside the view `job`. */
export type JobTab = "logs" | "stacks" | "profile" | "terminal";

export interface Route {
  readonly view: ViewName;
  /** The id of the job in the views of one job; empty for the other views. */
  readonly jobId: string;
  /** The filters and choices of the view. */
  readonly query: URLSearchParams;
}

const JOB_TABS: readonly JobTab[] = ["logs", "stacks", "profile", "terminal"];
const PLAIN_VIEWS: readonly ViewName[] = ["jobs", "machines", "cluster", "signin"];

/** Returns the route of a hash such as `#/jobs?state=FAILED`. A hash without a path is the list of jobs. */
export function parseRoute(hash: string): Route {
  const [path = "", ...rest] = hash.replace(/^#/, "").split("?");
  const query = new URLSearchParams(rest.join("?"));
  const [first = "", job, tab, ...more] = path.replace(/^\//, "").split("/");
  if (first === "" && job === undefined) return { view: "jobs", jobId: "", query };
  if (first === "jobs" && job && more.length === 0) {
    const jobId = decoded(job);
    if (jobId && tab === undefined) return { view: "job", jobId, query };
    const found = JOB_TABS.find((name) => name === tab);
    if (jobId && found) return { view: found, jobId, query };
  }
  const plain = PLAIN_VIEWS.find((name) => name === first);
  if (plain && job === undefined) return { view: plain, jobId: "", query };
  return { view: "unknown", jobId: "", query };
}

/** Returns the address of a view, for example `#/jobs/train?task=2`. Empty values of the query are left out. */
export function hrefOf(view: ViewName, jobId = "", query: Iterable<[string, string]> = []): string {
  const tab = JOB_TABS.find((name) => name === view);
  const path = view === "job" || tab ? `jobs/${encodeURIComponent(jobId)}` : view;
  const parameters = new URLSearchParams([...query].filter(([, value]) => value !== "")).toString();
  return `#/${path}${tab ? `/${tab}` : ""}${parameters && `?${parameters}`}`;
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return ""; // The segment contains a broken escape.
  }
}
