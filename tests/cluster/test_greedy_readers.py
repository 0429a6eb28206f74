"""Readers that ask for all that there is, all the time: no worker is lost, and its tasks go on."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.cluster import launch, running_cluster, wait_for_state
from support.stored_jobs import store_ended_jobs
from support.tokens import token

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.caller import READER
from iris.rpc.pages import LONGEST_PAGE

JOBS = 3000
TASKS = 3000
# Before lists had pages and were made in slices, one round of these readers took four times as long.
LEASE_S = 5.0
READERS = 8
ROUNDS = 2
SERVICE = "/iris.cluster.ControllerService/"


@pytest.fixture(scope="module")
def busy_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster with a short lease that remembers thousands of jobs, one of them of thousands of tasks."""
    directory: Path = tmp_path_factory.mktemp("busy")
    store_ended_jobs(directory / "controller.db", JOBS, {"wide": TASKS})
    with running_cluster(directory, lease=LEASE_S) as server:
        yield server


@pytest.fixture
def remote(busy_cluster: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(busy_cluster.address) as client:
        yield client


class Reader:
    """Asks again and again, as a program that knows no pages: its answers are looked at by the test."""

    def __init__(self, address: str, method: str, body: bytes, codec: str, name: str, number: int = 0) -> None:
        self._url = urlsplit(address)
        self._method = method
        self._body = body
        self._number = number
        self._headers = {
            "content-type": f"application/{codec}",
            "authorization": f"Bearer {token(READER, name=name)}",
        }
        self.answers: list[tuple[int, bytes]] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        with closing(http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=100)) as connection:
            for count in range(ROUNDS):
                # Where the request has a place for a number, no two of all readers are alike.
                body = self._body.replace(b"%", b"%d" % (LONGEST_PAGE - self._number * ROUNDS - count))
                connection.request("POST", SERVICE + self._method, body, self._headers)
                answer = connection.getresponse()
                self.answers.append((answer.status, answer.read()))


@pytest.mark.parametrize(
    ("method", "body", "codec"),
    [
        ("ListJobs", b"", "proto"),
        ("ListJobs", b"{}", "json"),
        ("ListJobs", b'{"pageSize":%}', "json"),
        ("GetJobStatus", pb.Controller.GetJobStatusRequest(job_id="wide").SerializeToString(), "proto"),
        ("GetJobStatus", b'{"jobId":"wide"}', "json"),
        ("ListTasks", b'{"jobId":"wide","pageSize":%}', "json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_worker_keeps_its_lease_while_many_readers_request_all_data(
    busy_cluster: LocalServer, remote: RemoteClusterClient, method: str, body: bytes, codec: str
) -> None:
    job_id = launch(remote, ["sleep", "300"])
    wait_for_state(remote, job_id, pb.JOB_STATE_RUNNING)
    readers = [
        Reader(busy_cluster.address, method, body, codec, f"greedy-{number % 2}", number) for number in range(READERS)
    ]
    for reader in readers:
        reader.thread.join()
    assert [[status for status, _ in reader.answers] for reader in readers] == [[200] * ROUNDS] * READERS
    job = remote.get_job_status(job_id)
    assert (job.state, job.preemption_count, len(job.tasks[0].attempts)) == (pb.JOB_STATE_RUNNING, 0, 1)
    remote.terminate_job(job_id)


def test_answer_without_a_page_size_is_bounded_and_has_a_next_token(busy_cluster: LocalServer) -> None:
    reader = Reader(busy_cluster.address, "ListJobs", b"{}", "json", "ann")
    reader.thread.join()
    for _, body in reader.answers:
        answer = json.loads(body)
        assert len(answer["jobs"]) == LONGEST_PAGE
        assert answer["nextPageToken"]


def test_clients_list_all_jobs_and_all_tasks_of_a_job(busy_cluster: LocalServer) -> None:
    with IrisClient.remote(busy_cluster.address) as client:
        listed = [job.job_id for job in client.list_jobs() if job.job_id.startswith("ended-")]
        assert listed == [f"ended-{number}" for number in range(JOBS)]
        assert [task.task_index for task in client.list_tasks("wide")] == list(range(TASKS))
        assert [task.task_index for task in client.status("wide").tasks] == list(range(TASKS))
