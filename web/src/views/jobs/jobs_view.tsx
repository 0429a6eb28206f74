// The list of jobs.

import type { Route } from "../../frame/routes";
import { Empty } from "../../parts/empty";

/** The list of jobs. */
export function JobsView(_: { route: Route }) {
  return (
    <>
      <h1>Jobs</h1>
      <Empty title="Nothing is shown here yet" />
    </>
  );
}
