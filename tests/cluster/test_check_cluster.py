"""What the controller finds out about itself and its workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.standing_cluster import standing_cluster
from support.waiting import wait_until

from iris.versions import VERSION


def test_stopped_worker_is_reported_with_the_reason_and_answers_after_it_continues(tmp_path: Path) -> None:
    with standing_cluster(tmp_path / "state", workers=2) as cluster, cluster.client() as client:
        cluster.wait_for_workers(2)
        answer = client.check_cluster()
        assert [check.worker.worker_id for check in answer.workers] == ["local-0", "local-1"]
        assert (answer.num_workers, answer.engine_problem, answer.status.engine) == (2, "", "local")
        assert 0 < answer.open_files < answer.max_files
        for check in answer.workers:
            assert (check.problem, check.HasField("clock_offset_ms")) == ("", True)
            metadata = check.worker.metadata
            assert (metadata.version, metadata.HasField("has_py_spy")) == (VERSION, True)
            assert metadata.enforcement in ("cgroup", "watch")
        pid = cluster.worker("local-1").pid
        os.kill(pid, signal.SIGSTOP)
        try:
            problems = wait_until(
                lambda: (
                    (found := {check.worker.worker_id: check.problem for check in client.check_cluster().workers})[
                        "local-1"
                    ]
                    and found
                ),
                "the problem of the stopped worker",
            )
            assert problems["local-0"] == ""
            assert "local-1" in problems["local-1"]
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(
            lambda: not any(check.problem for check in client.check_cluster().workers), "an answer of each worker"
        )
