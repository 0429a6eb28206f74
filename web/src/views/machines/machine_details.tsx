// The details of one machine: all its jobs, and what its tasks have used over time.

import type { Controller_Machine as Machine } from "../../gen/iris/rpc/cluster_pb";
import { changeQuery } from "../../frame/router";
import { hrefOf } from "../../frame/routes";
import { sharesOf, tasksText } from "./amounts";
import { Labels, MachineState } from "./machine_rows";
import { Meter } from "./meter";
import { WorkerUsage } from "./worker_usage";

/** The details. `beat` changes whenever the use of the machine may have changed. */
export function MachineDetails({ machine, beat }: { machine: Machine; beat: number }) {
  return (
    <section class="details" aria-label={`Machine ${machine.name}`}>
      <div class="details-head">
        <h2>
          <bdi>{machine.name}</bdi>
        </h2>
        <MachineState machine={machine} />
        <Labels machine={machine} />
        <button type="button" class="quiet-button details-close" onClick={() => changeQuery({ machine: "" })}>
          Close
        </button>
      </div>
      {machine.whyAvoided && <p>It gets no new tasks: {machine.whyAvoided}.</p>}
      <div class="meters">
        {sharesOf([machine]).map((share) => (
          <Meter key={share.name} share={share} isLarge />
        ))}
      </div>
      {machine.holdings.length > 0 && (
        <ul class="holdings">
          {machine.holdings.map(({ jobId, taskIndices }) => (
            <li key={jobId}>
              <a href={hrefOf("job", jobId)}>
                <bdi>{jobId}</bdi>
              </a>{" "}
              <span class="muted">{tasksText(taskIndices)}</span>
            </li>
          ))}
        </ul>
      )}
      <WorkerUsage workerIds={machine.workerIds} beat={beat} />
    </section>
  );
}
