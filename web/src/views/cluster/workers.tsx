// The workers and their leases.

import type { Controller_WorkerHealthStatus as WorkerHealth } from "../../gen/iris/rpc/cluster_pb";
import { hrefOf } from "../../frame/routes";
import { countText } from "../../parts/numbers";
import { secondsText } from "../../parts/time_text";

const SHOWN_WORKERS = 100;
const SHOWN_JOBS = 3;

/** The workers, those with problems first. `leaseMs` is how long a worker may be silent. */
export function Workers({ workers, leaseMs }: { workers: readonly WorkerHealth[]; leaseMs: number }) {
  if (workers.length === 0) return <p class="muted">No worker is registered now. On Ray and Slurm, workers start with the jobs.</p>;
  const sorted = [...workers].sort((a, b) => Number(isWell(a)) - Number(isWell(b)));
  return (
    <>
      <div class="table-box">
        <table class="list stack">
          <caption class="visually-hidden">Workers and their leases</caption>
          <thead>
            <tr>
              <th scope="col">Worker</th>
              <th scope="col">Lease</th>
              <th scope="col">Host</th>
              <th scope="col">Jobs</th>
              <th scope="col">Address</th>
            </tr>
          </thead>
          <tbody>
            {sorted.slice(0, SHOWN_WORKERS).map((worker) => (
              <tr key={worker.workerId}>
                <th scope="row">
                  <bdi>{worker.workerId}</bdi>
                </th>
                <td>
                  <Lease worker={worker} leaseMs={leaseMs} />
                </td>
                <td data-label="Host">
                  <bdi>{worker.metadata?.hostname || "–"}</bdi>
                </td>
                <td data-label="Jobs">
                  <Jobs jobIds={worker.runningJobIds} />
                </td>
                <td class="mono wide-cell" data-label="Address">{worker.address}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {workers.length > SHOWN_WORKERS && (
        <p class="muted">
          The list has {SHOWN_WORKERS} of {countText(workers.length)} workers. Workers with problems come first.
        </p>
      )}
    </>
  );
}

function isWell(worker: WorkerHealth): boolean {
  return worker.healthy && !worker.shortOf;
}

function Lease({ worker, leaseMs }: { worker: WorkerHealth; leaseMs: number }) {
  if (!worker.healthy) {
    const missed = worker.consecutiveFailures;
    return (
      <span class="machine-state machine-dead">
        <svg viewBox="0 0 12 12" aria-hidden="true">
          <path d="M2.5 2.5l7 7M9.5 2.5l-7 7" />
        </svg>
        silent{missed > 0 ? `, ${countText(missed)} missed` : ""}; it is declared lost after {secondsText(leaseMs)}
      </span>
    );
  }
  if (worker.shortOf) {
    return (
      <span class="machine-state machine-full">
        <svg viewBox="0 0 12 12" aria-hidden="true">
          <path d="M6 1.5L11 10.5H1z" />
        </svg>
        starts no tasks: {worker.shortOf}
      </span>
    );
  }
  return (
    <span class="machine-state machine-alive">
      <svg viewBox="0 0 12 12" aria-hidden="true">
        <circle cx="6" cy="6" r="4" />
      </svg>
      held
    </span>
  );
}

function Jobs({ jobIds }: { jobIds: readonly string[] }) {
  if (jobIds.length === 0) return <span class="muted">none</span>;
  return (
    <>
      {jobIds.slice(0, SHOWN_JOBS).map((jobId) => (
        <div key={jobId}>
          <a href={hrefOf("job", jobId)}>
            <bdi>{jobId}</bdi>
          </a>
        </div>
      ))}
      {jobIds.length > SHOWN_JOBS && <span class="muted">and {countText(jobIds.length - SHOWN_JOBS)} more</span>}
    </>
  );
}
