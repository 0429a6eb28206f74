"""One caller cannot use up all streams of a worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.cluster import launch, wait_for_state
from support.controller_thread import serving
from support.process_engine import ProcessEngine, Slots
from support.tokens import controller_token, token

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.errors import ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.caller import READER, TASK
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import stream
from iris.rpc.cluster_connect import WorkerServiceClientSync
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.peer import Peer

DESCRIPTORS = 400  # so that the limits are low: 50 streams in all, 10 of each caller
OF_CALLER = 10


class Follower:
    """Follows a log at a worker, with a token of the test's choice."""

    def __init__(self, address: str, job_id: str, opened: ExitStack) -> None:
        self._address = address
        self._request = pb.StreamTaskLogsRequest(job_id=job_id, positions=[pb.LogPosition()], follow=True)
        self._opened = opened

    def follow(self, with_token: str) -> None:
        """Open a stream, which stays open until the test ends, and read its first message."""
        transport = HttpTransport(self._address)
        self._opened.callback(transport.close)
        stub = WorkerServiceClientSync(
            self._address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(lambda: with_token),),
            http_client=transport.connect_client(),
        )
        messages = stream(stub.stream_task_logs(self._request), Peer(self._address, "the worker"))
        self._opened.enter_context(closing(messages))
        next(messages)


@pytest.fixture
def worker_with_few_streams(tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """The address and id of a worker, and a job that it runs."""
    program = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", sys.executable, "-m", "iris.cluster.worker")
    slots = Slots(tmp_path, program=program)
    with serving(ProcessEngine(slots), Store(None), worker_limits=WorkerLimits(drain_s=1)) as controller:
        slots.address = controller.address
        with RemoteClusterClient(controller.address) as client:
            job_id = launch(client, ["sleep", "300"])
            task = wait_for_state(client, job_id, pb.JOB_STATE_RUNNING).tasks[0]
            yield task.worker_address, task.worker_id, job_id
            client.terminate_job(job_id)
    slots.close()


def test_a_caller_at_its_stream_limit_does_not_block_other_callers(
    worker_with_few_streams: tuple[str, str, str],
) -> None:
    address, worker_id, job_id = worker_with_few_streams
    with ExitStack() as opened:
        follower = Follower(address, job_id, opened)
        ann = token(READER, name="ann")
        for _ in range(OF_CALLER):
            follower.follow(ann)
        for again in (ann, token(READER, name="ann")):  # with another token it is the same caller
            with pytest.raises(ResourceExhaustedError, match=f"'reader ann' has {OF_CALLER} streams open"):
                follower.follow(again)
        follower.follow(token(READER, name="bob"))
        follower.follow(token(TASK, name="ann", job_id=job_id, task_index=0, attempt_id=0))
        for _ in range(OF_CALLER + 1):  # the controller reads for many
            follower.follow(controller_token(worker_id))
