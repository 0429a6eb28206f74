// The gangs that wait for machines, and the gang for which machines are kept free.

import { useState } from "preact/hooks";
import type {
  Controller_MachineQueue as MachineQueue,
  Controller_WaitingGang as WaitingGang,
} from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { countText, toNumber } from "../../parts/numbers";
import { Age } from "../../parts/time";
import { needText } from "./amounts";

// A long queue is folded after this number of rows, because the machines are shown below the queue.
const FIRST_ROWS = 10;

/** The waiting gangs, the oldest first. Each independent task is a gang, and a job has one row for its tasks. */
export function Queue({ queue }: { queue: MachineQueue }) {
  const [showsAll, setShowsAll] = useState(false);
  const { waiting, numWaiting } = queue;
  const rows = rowsOf(waiting);
  const shown = showsAll ? rows : rows.slice(0, FIRST_ROWS);
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
            {shown.map(({ key, gang, gangs }) => (
              <tr key={key}>
                <td class="wide-cell queue-job">
                  <a href={hrefOf("job", gang.jobId)}>
                    <bdi>{gang.jobId}</bdi>
                  </a>
                  {gangs > 1 && <span class="muted"> {countText(gangs)}{"\u00a0"}tasks</span>}
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
      {shown.length < rows.length && (
        <button type="button" class="button" onClick={() => setShowsAll(true)}>
          Show all {rows.length} rows
        </button>
      )}
      {numWaiting > waiting.length && (
        <p class="muted">
          The rows cover the first {countText(waiting.length)} of {countText(numWaiting)} waiting gangs.
        </p>
      )}
    </>
  );
}

interface Row {
  readonly key: string;
  /** The oldest gang of the row. */
  readonly gang: WaitingGang;
  gangs: number;
}

/** Returns one row for the gangs of a job that need the same and wait for the same reason, in the order of the queue. */
function rowsOf(waiting: readonly WaitingGang[]): Row[] {
  const rows = new Map<string, Row>();
  for (const gang of waiting) {
    const key = [gang.jobId, needText(gang), gang.hasReservation, gang.reason].join("\n");
    const row = rows.get(key);
    if (row) row.gangs += 1;
    else rows.set(key, { key, gang, gangs: 1 });
  }
  return [...rows.values()];
}
