// The cluster: the controller and its disk, the workers and their leases, the tokens, and the recent events.

import "./cluster.css";
import type { ComponentChildren } from "preact";
import type { Controller_ClusterStatus as ClusterStatus } from "../../gen/iris/rpc/cluster_pb";
import type { Route } from "../../frame/routes";
import { Empty, Loading } from "../../parts/empty";
import { bytesText, countText, toNumber } from "../../parts/numbers";
import { Age, Moment } from "../../parts/time";
import { secondsText } from "../../parts/time_text";
import { isAdmin, me } from "../../rpc/session";
import { useCluster } from "../machines/watch_cluster";
import { Events } from "./events";
import { Tokens } from "./tokens";
import { Workers } from "./workers";

const PARTS = { includeWorkers: true, includeStatus: true, includeEvents: true };

/** The controller and its parts, live. */
export function ClusterView({ route }: { route: Route }) {
  const { now, problem } = useCluster(PARTS);
  return (
    <section class="cluster" aria-labelledby="cluster-title">
      <h1 id="cluster-title">Cluster</h1>
      {problem && (
        <Empty title="The cluster cannot be shown">
          <p>{problem}</p>
        </Empty>
      )}
      {!problem && !now?.status && <Loading what="the cluster" />}
      {now?.status && (
        <>
          {now.status.shortage && (
            <p class="warning" role="alert">
              The controller accepts no new jobs: {now.status.shortage}
            </p>
          )}
          <Facts status={now.status} />
          <h2>
            Workers <span class="muted numbers">{countText(now.workers.length)}</span>
          </h2>
          <Workers workers={now.workers} leaseMs={now.status.leaseS * 1_000} />
          {isAdmin.value && <Tokens />}
          <h2>Recent events</h2>
          <Events events={now.events} route={route} />
        </>
      )}
    </section>
  );
}

function Facts({ status }: { status: ClusterStatus }) {
  const user = me.value;
  const started = toNumber(status.startedAtMs);
  return (
    <dl class="facts">
      <Fact name="Engine">{status.engine}</Fact>
      <Fact name="Release of Iris">{status.version}</Fact>
      <Fact name="Controller up for">
        <Age ms={started} />
      </Fact>
      <Fact name="Jobs">
        {countText(status.numUnfinishedJobs)} unfinished, {countText(status.numEndedJobs)} ended
      </Fact>
      <Fact name="Lease of a worker">{secondsText(status.leaseS * 1_000)}</Fact>
      <Fact name="Disk of the controller">
        <Disk status={status} />
      </Fact>
      {user && (
        <Fact name="You">
          <bdi>{user.name}</bdi>, with the role {user.role}, signed in until <Moment ms={toNumber(user.expiresAtMs)} />
        </Fact>
      )}
    </dl>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Disk({ status }: { status: ClusterStatus }) {
  const total = toNumber(status.diskTotalBytes);
  if (total === 0) return <>none: the jobs are in memory only</>;
  const free = toNumber(status.diskFreeBytes);
  return (
    <>
      {bytesText(free)} of {bytesText(total)} free; the database has {bytesText(toNumber(status.databaseBytes))}
      <span class="meter-bar" aria-hidden="true">
        <span class="meter-allocated" style={{ width: `${Math.round((1 - free / total) * 100)}%` }} />
      </span>
    </>
  );
}
