// One job with its tasks.

import type { Route } from "../../frame/routes";
import { Empty } from "../../parts/empty";

/** One job with its tasks. */
export function JobView(_: { route: Route }) {
  return (
    <>
      <h1>Job</h1>
      <Empty title="Nothing is shown here yet" />
    </>
  );
}
