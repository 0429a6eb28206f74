"""The example that trains with torch, where torch is installed: a rank is killed, and the others go on with it from the
checkpoint."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from support.cluster import running_cluster

from iris.client import IrisClient
from iris.rpc import cluster_pb2 as pb

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_torch.py"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.timeout(300),  # importing torch in four processes at once takes a while
]


def train(client: IrisClient, checkpoints: Path, *options: str, retries: int) -> tuple[pb.JobStatus, list[str]]:
    """Runs the example over four tasks; answers with what rank 0 said, in all its attempts."""
    job = client.run(
        [sys.executable, str(EXAMPLE), "--checkpoints", str(checkpoints), *options],
        replicas=4,
        rendezvous="torch",
        max_retries_failure=retries,
    )
    status = job.wait(timeout=280)
    attempts = range(len(status.tasks[0].attempts))
    lines = [line for n in attempts for line in client.fetch_task_logs(job.job_id, 0, attempt_id=n)]
    return status, [line.message for line in lines if line.source == "stdout"]


def test_example_training_with_torch_survives_a_killed_rank(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    with running_cluster(tmp_path / "cluster", workers=2) as server, IrisClient.remote(server.address) as client:
        options = ("--steps", "40", "--kill-rank", "2", "--kill-at-step", "25")
        status, said = train(client, checkpoints, *options, retries=1)
        assert status.state == pb.JOB_STATE_SUCCEEDED
        assert [len(task.attempts) for task in status.tasks] == [2] * 4
        assert status.tasks[2].attempts[0].term_signal == 9
        assert status.failure_count == 1, "the others are restarted at no cost"
        assert [line.partition(":")[0] for line in said] == [
            "attempt 0 starts",
            "step 10",
            "step 20",
            "attempt 1 continues from step 20",
            "step 30",
            "step 40",
        ]
        losses = [float(line.split()[3].rstrip(",")) for line in said if line.startswith("step")]
        assert losses[-1] < losses[0], "and it has learned"

        _, said = train(client, checkpoints, "--steps", "50", retries=0)
        assert [line.partition(":")[0] for line in said] == ["attempt 0 continues from step 40", "step 50"]
