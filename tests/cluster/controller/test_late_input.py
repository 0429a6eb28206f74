"""The controller's part of standard input, with a worker whose answers come from the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from support.answering_server import Answer, Connection, Server, http
from support.cluster import launch, wait_for_end
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import Resources
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2 as pb

ACCEPTED = http("200 OK", pb.Worker.WriteStdinResponse(position=5).SerializeToString(), "application/proto")
REFUSED = http("401 Unauthorized", b'{"code": "unauthenticated", "message": "no token"}', "application/json")


class SlowWorker:
    """A worker that never answers an order to run tasks, and answers `WriteStdin` when the test sets `go`.

    Args:
        answer: The answer to `WriteStdin`.
    """

    def __init__(self, answer: Answer = ACCEPTED) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()
        self.server = Server([self._answer])
        self._to_write = answer

    def _answer(self, connection: Connection) -> bool:
        if not any(b"WriteStdin" in request for request in self.server.requests):
            self.server.closing.wait()
            return False
        self.asked.set()
        assert self.go.wait(30)
        return self._to_write(connection)


@contextmanager
def serving_with(worker: SlowWorker) -> Iterator[tuple[ControllerThread, RemoteClusterClient]]:
    """Serve a controller with one machine, on which the given worker runs. The worker is closed at the end."""
    with (
        serving(FakeEngine({"w": Resources.of(cpu=1)}), Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        try:
            request = pb.Controller.RegisterWorkerRequest(worker_id="w", address=worker.server.address, incarnation="1")
            assert controller.run(controller.controller.reports.register(request)).accepted
            yield controller, client
        finally:
            worker.go.set()
            worker.server.close()


def launch_reader(worker: SlowWorker, client: RemoteClusterClient) -> str:
    """Submit a job with standard input. Return the job's id once the worker was called to run the job's task."""
    job_id = launch(client, ["cat"], stdin=True)
    wait_until(lambda: len(worker.server.requests) == 1, "the order to run the task")
    return job_id


def test_worker_that_refuses_the_token_of_the_controller_counts_as_unavailable_to_the_writer_of_input() -> None:
    worker = SlowWorker(REFUSED)
    worker.go.set()
    with serving_with(worker) as (_, client):
        job_id = launch_reader(worker, client)
        with pytest.raises(UnavailableError, match="no token"):
            client.write_stdin(job_id, b"data\n", position=0)


def test_late_answer_about_input_of_an_ended_job_does_not_count_for_a_new_job_with_the_same_name() -> None:
    worker = SlowWorker()
    with serving_with(worker) as (controller, client), ThreadPoolExecutor(1) as pool:
        job_id = launch_reader(worker, client)
        writing = pool.submit(client.write_stdin, job_id, b"data\n", position=0)
        assert worker.asked.wait(30)
        end = pb.Controller.ReportTaskStateRequest(
            worker_id="w", task_id=f"{job_id}/task-0", job_id=job_id, state=pb.TASK_STATE_SUCCEEDED
        )
        request = pb.Controller.ReportTaskStatesRequest(worker_id="w", incarnation="1", reports=[end])
        controller.run(controller.controller.reports.report_states(request))
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
        worker.go.set()
        assert writing.result(30).position == 5
        client.forget_job(job_id)
        assert launch(client, ["cat"], stdin=True, name=job_id) == job_id
        assert not controller.call(lambda: controller.controller.stdin.is_taken(job_id))
