// The gangs that wait for machines, and the gang for which machines are kept free.

import type { Controller_MachineQueue as MachineQueue } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { countText, toNumber } from "../../parts/numbers";
import { Age } from "../../parts/time";
import { needText } from "./amounts";

/** The waiting gangs, the oldest first. */
export function Queue({ queue }: { queue: MachineQueue }) {
  const { waiting, numWaiting } = queue;
  if (numWaiting === 0) return <p class="muted">Nothing waits for machines.</p>;
  return (
    <>
      <div class="table-box">
        <table class="list stack">
          <caption class="visually-hidden">Gangs that wait for machines, the oldest first</caption>
          <thead>
            <tr>
              <th scope="col">Job</th>
              <th scope="col">Needs</th>
              <th scope="col">Waits since</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {waiting.map((gang, index) => (
              <tr key={`${gang.jobId} ${index}`}>
                <td class="wide-cell queue-job">
                  <a href={hrefOf("job", gang.jobId)}>
                    <bdi>{gang.jobId}</bdi>
                  </a>
                </td>
                <td class="queue-needs" data-label="Needs">{needText(gang)}</td>
                <td class="numbers queue-needs" data-label="Waits since">
                  <Age ms={toNumber(gang.sinceMs)} />
                </td>
                <td class="wide-cell" data-label="Why">
                  {gang.hasReservation && (
                    <strong class="reserved" title="Machines that become free are kept for this gang, so that later gangs do not delay it.">
                      Machines are kept for it.{" "}
                    </strong>
                  )}
                  <bdi>{gang.reason || "It has not been tried yet."}</bdi>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {numWaiting > waiting.length && (
        <p class="muted">
          The list has the first {countText(waiting.length)} of {countText(numWaiting)} waiting gangs.
        </p>
      )}
    </>
  );
}
