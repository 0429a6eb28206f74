"""Changes that the controller gets while it carries out the consequences of an earlier batch of changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.cluster import launch, wait_for_end
from support.controller_thread import serving
from support.fake_engine import FakeEngine

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb


class FullDisk(Store):
    """A store that cannot write while its disk is full."""

    full = False

    def write(self, changes: Changes) -> None:
        if self.full:
            raise ResourceExhaustedError("no space left on device")
        super().write(changes)


def test_job_that_ends_while_another_job_leaves_the_queue_counts_as_ended_only_after_its_end_is_saved(
    tmp_path: Path,
) -> None:
    store = FullDisk(tmp_path / "controller.db")
    with serving(FakeEngine(), store) as thread, RemoteClusterClient(thread.address) as client:
        controller = thread.controller
        launch(client, ["true"], name="small")
        launch(client, ["true"], 2000, name="many", independent_tasks=True)

        async def terminate_both() -> None:
            """Terminate both jobs, the small job while the gangs of the other job are being released."""
            small, many = controller.jobs.by_id["small"], controller.jobs.by_id["many"]
            controller.saver.job_changed(small)  # The same batch saves the small job and the end of the other job.
            terminating = asyncio.create_task(controller.control.terminate_job("many"))
            while not (many.job.is_finished and controller.saver.is_current(many)):  # noqa: ASYNC110
                await asyncio.sleep(0)
            store.full = True
            with pytest.raises(ResourceExhaustedError, match="no space left"):
                await controller.control.terminate_job("small")
            await terminating

        thread.run(terminate_both())
        states = {job.job_id: job.state for job in client.list_jobs()}
        assert states == {"small": pb.JOB_STATE_PENDING, "many": pb.JOB_STATE_KILLED}
        assert client.get_job_status("small").state == pb.JOB_STATE_PENDING
        store.full = False
        assert wait_for_end(client, "small").state == pb.JOB_STATE_KILLED
