// The table of machines.

import type { Controller_Machine as Machine } from "../../gen/iris/rpc/cluster_pb";
import { changeQuery } from "../../frame/router";
import { hrefOf } from "../../frame/routes";
import { countText } from "../../parts/numbers";
import { sharesOf, tasksText, type Share } from "./amounts";
import { Meter } from "./meter";

const SHOWN_JOBS = 3;

/** The machines, each with its state, its resources and the jobs that hold it. */
export function MachineTable({ machines, chosen }: { machines: readonly Machine[]; chosen: string }) {
  const hasGpus = machines.some((machine) => (machine.total?.gpu ?? 0) > 0);
  const hasLabels = machines.some((machine) => Object.keys(machine.labels).length > 0);
  return (
    <div class="table-box">
      <table class="list stack machine-table">
        <caption class="visually-hidden">Machines</caption>
        <thead>
          <tr>
            <th scope="col">Machine</th>
            <th scope="col">State</th>
            <th scope="col">CPU allocated</th>
            <th scope="col">Memory allocated</th>
            {hasGpus && <th scope="col">GPUs allocated</th>}
            <th scope="col">Held by</th>
            {hasLabels && <th scope="col">Labels</th>}
          </tr>
        </thead>
        <tbody>
          {machines.map((machine) => (
            <MachineRow key={machine.name} machine={machine} isChosen={machine.name === chosen} {...{ hasGpus, hasLabels }} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface RowProps {
  machine: Machine;
  isChosen: boolean;
  hasGpus: boolean;
  hasLabels: boolean;
}

function MachineRow({ machine, isChosen, hasGpus, hasLabels }: RowProps) {
  const shares = new Map(sharesOf([machine]).map((share) => [share.name, share]));
  return (
    <tr class={isChosen ? "chosen" : ""}>
      <th scope="row">
        <button
          type="button"
          class="link-button"
          aria-expanded={isChosen}
          title={isChosen ? "Close the details" : "Show the details"}
          onClick={() => changeQuery({ machine: isChosen ? "" : machine.name })}
        >
          <bdi>{machine.name}</bdi>
        </button>
      </th>
      <td>
        <MachineState machine={machine} />
      </td>
      <MeterCell share={shares.get("CPU")} label="CPU" />
      <MeterCell share={shares.get("Memory")} label="Memory" />
      {hasGpus && <MeterCell share={shares.get("GPU")} label="GPUs" />}
      <td class="wide-cell" data-label="Held by">
        <Holders machine={machine} />
      </td>
      {hasLabels && (
        <td data-label="Labels">
          <Labels machine={machine} />
        </td>
      )}
    </tr>
  );
}

function MeterCell({ share, label }: { share: Share | undefined; label: string }) {
  return <td data-label={label}>{share ? <Meter share={share} /> : <span class="muted">–</span>}</td>;
}

/** Whether the machine gets tasks, with a shape beside the word. */
export function MachineState({ machine }: { machine: Machine }) {
  const [kind, word] = machine.whyAvoided ? ["full", "full"] : machine.alive ? ["alive", "alive"] : ["dead", "not alive"];
  return (
    <span class={`machine-state machine-${kind}`} title={machine.whyAvoided || undefined}>
      <svg viewBox="0 0 12 12" aria-hidden="true">
        {kind === "alive" ? <circle cx="6" cy="6" r="4" /> : kind === "full" ? <path d="M6 1.5L11 10.5H1z" /> : <path d="M2.5 2.5l7 7M9.5 2.5l-7 7" />}
      </svg>
      {word}
    </span>
  );
}

function Holders({ machine }: { machine: Machine }) {
  const bySize = [...machine.holdings].sort((a, b) => b.taskIndices.length - a.taskIndices.length);
  if (bySize.length === 0) return <span class="muted">no job</span>;
  return (
    <>
      {bySize.slice(0, SHOWN_JOBS).map(({ jobId, taskIndices }) => (
        <div key={jobId} class="holder">
          <a href={hrefOf("job", jobId)}>
            <bdi>{jobId}</bdi>
          </a>{" "}
          <span class="muted">{taskIndices.length > 2 ? `${countText(taskIndices.length)} tasks` : tasksText(taskIndices)}</span>
        </div>
      ))}
      {bySize.length > SHOWN_JOBS && <span class="muted">and {countText(bySize.length - SHOWN_JOBS)} more jobs</span>}
    </>
  );
}

/** The labels of a machine. */
export function Labels({ machine }: { machine: Machine }) {
  return (
    <>
      {Object.entries(machine.labels)
        .sort()
        .map(([key, value]) => (
          <span key={key} class="label">
            <bdi>{`${key}=${value}`}</bdi>
          </span>
        ))}
    </>
  );
}
