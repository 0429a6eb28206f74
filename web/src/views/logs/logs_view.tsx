// The logs of a job.

import type { Route } from "../../frame/routes";
import { Empty } from "../../parts/empty";

/** The logs of a job. */
export function LogsView(_: { route: Route }) {
  return (
    <>
      <h1>Logs</h1>
      <Empty title="Nothing is shown here yet" />
    </>
  );
}
