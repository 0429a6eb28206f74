// The controller and its settings.

import type { Route } from "../../frame/routes";
import { Empty } from "../../parts/empty";

/** The controller and its settings. */
export function ClusterView(_: { route: Route }) {
  return (
    <>
      <h1>Cluster</h1>
      <Empty title="Nothing is shown here yet" />
    </>
  );
}
