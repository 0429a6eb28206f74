// The machines: what there is, who holds it, what waits for what, and what is used.

import "./machines.css";
import { useState } from "preact/hooks";
import type { Controller_Machine as Machine } from "../../gen/iris/rpc/cluster_pb";
import { changeQuery } from "../../frame/router";
import type { Route } from "../../frame/routes";
import { Empty, Loading } from "../../parts/empty";
import { countText } from "../../parts/numbers";
import { sharesOf } from "./amounts";
import { MachineDetails } from "./machine_details";
import { MachineTable } from "./machine_rows";
import { Meter } from "./meter";
import { Queue } from "./queue";
import { useCluster } from "./watch_cluster";
import { MOST_WORKERS, WorkerUsage } from "./worker_usage";

const PARTS = { includeMachines: true };
const SHOWN_MACHINES = 200;

/** The machines and the queue, live. */
export function MachinesView({ route }: { route: Route }) {
  const { now, problem, beat } = useCluster(PARTS);
  const [showsAll, setShowsAll] = useState(false);
  if (problem) {
    return (
      <Frame>
        <Empty title="The machines cannot be shown">
          <p>{problem}</p>
        </Empty>
      </Frame>
    );
  }
  if (!now?.queue) {
    return (
      <Frame>
        <Loading what="machines" />
      </Frame>
    );
  }
  const wanted = route.query.get("filter") ?? "";
  const chosen = route.query.get("machine") ?? "";
  const matching = now.machines.filter((machine) => matches(machine, wanted));
  const shown = showsAll ? matching : matching.slice(0, SHOWN_MACHINES);
  const details = now.machines.find((machine) => machine.name === chosen);
  return (
    <Frame>
      {now.queue.problem && (
        <p class="warning" role="alert">
          The engine cannot be reached, and this is its last known state: {now.queue.problem}
        </p>
      )}
      <Summary machines={now.machines} beat={beat} />
      <h2>
        Waiting{" "}
        <span class="muted numbers">
          {countText(now.queue.numWaiting)} {now.queue.numWaiting === 1 ? "gang" : "gangs"}
        </span>
      </h2>
      <p class="muted">
        Each independent task is a gang. Tasks that wait because of --max-parallel, --after or a retry pause are not counted,
        because they are not in the queue yet.
      </p>
      <Queue queue={now.queue} />
      <div class="machines-head">
        <h2>
          Machines <span class="muted numbers">{countText(matching.length)}</span>
        </h2>
        {now.machines.length > 1 && (
          <input
            type="search"
            aria-label="Filter machines by name, label or job"
            placeholder="Name, label or job"
            value={wanted}
            onInput={(event) => changeQuery({ filter: event.currentTarget.value })}
          />
        )}
      </div>
      {details && <MachineDetails machine={details} beat={beat} />}
      {chosen && !details && <p class="muted">There is no machine {chosen} any more.</p>}
      {now.machines.length === 0 ? (
        <Empty title="There are no machines">
          <p>Jobs wait until the engine has a machine.</p>
        </Empty>
      ) : (
        <MachineTable machines={shown} chosen={chosen} />
      )}
      {shown.length < matching.length && (
        <button type="button" class="button" onClick={() => setShowsAll(true)}>
          Show all {countText(matching.length)} machines
        </button>
      )}
    </Frame>
  );
}

function Frame({ children }: { children: preact.ComponentChildren }) {
  return (
    <section class="machines" aria-labelledby="machines-title">
      <h1 id="machines-title">Machines</h1>
      {children}
    </section>
  );
}

function Summary({ machines, beat }: { machines: readonly Machine[]; beat: number }) {
  const [isOpen, setOpen] = useState(false);
  const workerIds = machines.flatMap((machine) => machine.workerIds);
  return (
    <>
      <div class="meters">
        {sharesOf(machines).map((share) => (
          <Meter key={share.name} share={share} isLarge />
        ))}
      </div>
      {workerIds.length > 0 && workerIds.length <= MOST_WORKERS && (
        <details class="over-time" onToggle={(event) => setOpen(event.currentTarget.open)}>
          <summary>Use of all machines over time</summary>
          {isOpen && <WorkerUsage workerIds={workerIds} beat={beat} />}
        </details>
      )}
    </>
  );
}

function matches(machine: Machine, wanted: string): boolean {
  const texts = [
    machine.name,
    ...Object.entries(machine.labels).map(([key, value]) => `${key}=${value}`),
    ...machine.holdings.map((holding) => holding.jobId),
  ];
  return texts.some((text) => text.toLowerCase().includes(wanted.trim().toLowerCase()));
}
