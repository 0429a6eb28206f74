"""Standard input of a job, from the client to the task."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from support.cluster import unique, wait_for_end
from support.lossy_world import lossy_world

from iris.rpc import cluster_pb2 as pb


def test_input_that_ends_while_the_workspace_is_fetched_reaches_the_task(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz"):
        pass
    workspace = packed.getvalue()
    with lossy_world(tmp_path) as world:
        fetches = world.controller_proxy.lose("ControllerService/FetchBundle", "request", 1_000_000)
        job_id = world.case("ControllerService/WriteStdin", "request", 0).launch(
            "cat",
            name=unique("reader"),
            stdin=True,
            bundle_blob=workspace,
            bundle_hash=hashlib.sha256(workspace).hexdigest(),
        )
        answer = world.direct.write_stdin(job_id, b"once\n", position=0, end=True)
        assert (answer.position, answer.closed) == (5, False)
        fetches.left = 0
        assert wait_for_end(world.direct, job_id).state == pb.JOB_STATE_SUCCEEDED
        lines = world.direct.fetch_task_logs(f"{job_id}/task-0")
        assert [line.data for line in lines if line.source == "stdout"] == ["once"]
