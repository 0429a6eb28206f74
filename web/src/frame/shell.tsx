// The frame around each view: navigation, theme, the bar about a lost connection, messages and questions.

import { effect } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { needsSignIn } from "../rpc/session";
import { ClusterView } from "../views/cluster/cluster_view";
import { ProfileView, StacksView, TerminalView } from "../views/inside/inside_views";
import { JobView } from "../views/job/job_view";
import { JobsView } from "../views/jobs/jobs_view";
import { LogsView } from "../views/logs/logs_view";
import { MachinesView } from "../views/machines/machines_view";
import { isUsingLink, SignInView } from "../views/signin/signin_view";
import { Account } from "./account";
import { ConnectionBar } from "./connection_bar";
import { Dialogs } from "./dialog";
import { FailureBoundary } from "./failure_boundary";
import { route } from "./router";
import { hrefOf, type Route, type ViewName } from "./routes";
import { switchTheme, theme } from "./theme";
import { Toasts } from "./toasts";

const VIEWS: Readonly<Record<ViewName, ComponentType<{ route: Route }>>> = {
  jobs: JobsView,
  job: JobView,
  logs: LogsView,
  stacks: StacksView,
  profile: ProfileView,
  terminal: TerminalView,
  machines: MachinesView,
  cluster: ClusterView,
  signin: SignInView,
  unknown: UnknownView,
};
const NAVIGATION: readonly { view: ViewName; label: string; covers: readonly ViewName[] }[] = [
  { view: "jobs", label: "Jobs", covers: ["jobs", "job", "logs", "stacks", "profile", "terminal"] },
  { view: "machines", label: "Machines", covers: ["machines"] },
  { view: "cluster", label: "Cluster", covers: ["cluster"] },
];

/** The whole page. */
export function Shell() {
  const now = route.value;
  const shown: ViewName = needsSignIn.value || isUsingLink() ? "signin" : now.view;
  const View = VIEWS[shown];
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  useEffect(() => {
    // A screen reader begins to read the new view. At the start of the page, the focus stays at the top.
    if (!first.current) main.current?.focus({ preventScroll: true });
    first.current = false;
  }, [shown, now.jobId]);
  return (
    <>
      <a class="skip-link" href="#main" onClick={(event) => skip(event, main.current)}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href={hrefOf("jobs")} aria-label="Iris, list of jobs">
          <svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6" /><circle cx="8" cy="8" r="2" /></svg>
          Iris
        </a>
        <nav aria-label="Views">
          {NAVIGATION.map(({ view, label, covers }) => (
            <a key={view} href={hrefOf(view)} aria-current={covers.includes(shown) ? "page" : undefined}>
              {label}
            </a>
          ))}
        </nav>
        <button type="button" class="quiet-button theme-switch" onClick={switchTheme} aria-label={`Theme: ${theme.value}`}>
          <span class="theme-switch-name">Theme: </span>
          {theme.value}
        </button>
        <Account />
      </header>
      <ConnectionBar />
      <main id="main" ref={main} tabIndex={-1}>
        <FailureBoundary key={`${shown} ${now.jobId}`}>
          <View route={now} />
        </FailureBoundary>
      </main>
      <Toasts />
      <Dialogs />
    </>
  );
}

function UnknownView() {
  return (
    <section class="notice">
      <h1>There is no such view</h1>
      <p>
        The address of this page is wrong or incomplete. Go to the <a href={hrefOf("jobs")}>list of jobs</a>.
      </p>
    </section>
  );
}

function skip(event: Event, main: HTMLElement | null): void {
  event.preventDefault(); // The hash is the route. Following the link would leave the view.
  main?.focus();
}

/** Sets the title of the browser's tab to the view's name. */
export function keepTitle(): void {
  effect(() => {
    const { view, jobId } = route.value;
    const label = jobId ? `${jobId}${view === "job" ? "" : ` ${view}`}` : (NAVIGATION.find((n) => n.view === view)?.label ?? "");
    document.title = label ? `${label} · Iris` : "Iris";
  });
}
