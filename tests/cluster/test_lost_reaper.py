"""A worker that has lost its reaper ends: nobody would end what it runs if it were killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.cluster import is_alive, launch, reapers, wait_for_end
from support.standing_cluster import Proofs, standing_cluster
from support.waiting import wait_until

from iris.rpc import cluster_pb2 as pb


def test_worker_ends_when_its_reaper_dies_and_its_tasks_restart_on_the_next_worker(tmp_path: Path) -> None:
    proofs = Proofs(tmp_path / "proofs")
    with standing_cluster(tmp_path / "state") as cluster:
        with cluster.client() as client:
            job_id = launch(client, proofs.command())
            proofs.wait_for()
            worker = cluster.worker("local-0").pid
            (reaper,) = reapers(worker)
            os.kill(reaper, signal.SIGKILL)
            # Not always the second attempt: that may have been given to the worker that was about to end.
            wait_until(lambda: len(proofs.attempts(0)) == 2, "another run")
            wait_until(lambda: not is_alive(worker), "the end of the worker")
            proofs.open()
            job = wait_for_end(client, job_id)
        assert (job.state, job.failure_count) == (pb.JOB_STATE_SUCCEEDED, 0)
        assert job.preemption_count == len(job.tasks[0].attempts) - 1
        proofs.assert_no_overlap()
    assert "its reaper has ended" in (tmp_path / "state" / "workers" / "local-0.log").read_text()
