// The machines of the cluster.

import type { Route } from "../../frame/routes";
import { Empty } from "../../parts/empty";

/** The machines of the cluster. */
export function MachinesView(_: { route: Route }) {
  return (
    <>
      <h1>Machines</h1>
      <Empty title="Nothing is shown here yet" />
    </>
  );
}
