"""The worker's calls, as the controller and the clients make them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import is_alive, launch, running_cluster, shell, wait_for_end, wait_for_state
from support.tokens import controller_token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import call
from iris.rpc.cluster_connect import WorkerServiceClientSync
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.peer import Peer


class WorkerClient:
    """A stub of one worker that raises our errors."""

    def __init__(self, address: str) -> None:
        self._peer = Peer(address, "the worker")
        self._transport = HttpTransport(address)
        self.stub = WorkerServiceClientSync(
            address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(lambda: controller_token(self.health().worker_id)),),
            http_client=self._transport.connect_client(),
        )

    def fetch(self, task_id: str, **wanted: object) -> pb.Worker.FetchTaskLogsResponse:
        log_filter = pb.Worker.FetchLogsFilter(**wanted)  # type: ignore[arg-type]
        request = pb.Worker.FetchTaskLogsRequest(task_id=task_id, filter=log_filter)
        return call(self.stub.fetch_task_logs, request, self._peer)

    def status(self, task_id: str) -> pb.TaskStatus:
        return call(self.stub.get_task_status, pb.Worker.GetTaskStatusRequest(task_id=task_id), self._peer)

    def kill(self, task_id: str, **more: int) -> None:
        call(self.stub.kill_task, pb.Worker.KillTaskRequest(task_id=task_id, **more), self._peer)

    def run(self, request: pb.Worker.RunTaskRequest) -> pb.Worker.RunTaskResponse:
        return call(self.stub.run_task, request, self._peer)

    def drain(self, timeout_s: float) -> None:
        call(self.stub.drain, pb.Worker.DrainRequest(), self._peer, timeout_s=timeout_s)

    def health(self) -> pb.HealthResponse:
        return call(self.stub.health_check, pb.Empty(), self._peer)

    def tasks(self) -> list[pb.TaskStatus]:
        return list(call(self.stub.list_tasks, pb.Worker.ListTasksRequest(), self._peer).tasks)

    def close(self) -> None:
        self._transport.close()


@pytest.fixture
def worker(cluster: RemoteClusterClient) -> Iterator[WorkerClient]:
    client = WorkerClient(wait_until(cluster.list_workers, "a worker")[0].address)
    yield client
    client.close()


@pytest.fixture
def finished(cluster: RemoteClusterClient) -> tuple[str, WorkerClient]:
    """A task that has written ten lines, and its worker."""
    job_id = launch(cluster, shell("for i in 0 1 2 3 4 5 6 7 8 9; do echo line $i; done"))
    task = wait_for_end(cluster, job_id).tasks[0]
    return task.task_id, WorkerClient(task.worker_address)


def lines(page: pb.Worker.FetchTaskLogsResponse) -> list[str]:
    return [entry.data for entry in page.logs]


def test_fetch_task_logs_applies_filters(finished: tuple[str, WorkerClient]) -> None:
    task_id, worker = finished
    everything = [f"line {i}" for i in range(10)]
    page = worker.fetch(task_id)
    assert lines(page) == everything
    assert (page.next_line, page.at_end, page.complete, page.attempt_id) == (10, True, True, 0)
    assert lines(worker.fetch(task_id, start_line=7)) == everything[7:]
    assert lines(worker.fetch(task_id, start_line=-2)) == everything[-2:]
    assert lines(worker.fetch(task_id, regex="[13579]$")) == everything[1::2]
    limited = worker.fetch(task_id, regex="[13579]$", max_lines=2)
    assert (lines(limited), limited.next_line, limited.at_end) == (["line 1", "line 3"], 4, False)
    last_ms = page.logs[-1].timestamp_ms
    assert lines(worker.fetch(task_id, start_ms=last_ms)) == []
    assert lines(worker.fetch(task_id, end_ms=last_ms)) == everything
    worker.close()


def test_fetch_task_logs_refuses_invalid_filters(finished: tuple[str, WorkerClient]) -> None:
    task_id, worker = finished
    with pytest.raises(InvalidArgumentError, match=r"\(unclosed"):
        worker.fetch(task_id, regex="(unclosed")
    with pytest.raises(InvalidArgumentError, match="max_lines must be a whole number from 0 to 2147483647, got -1"):
        worker.fetch(task_id, max_lines=-1)
    worker.close()


def test_a_log_is_complete_only_when_its_attempt_is_final(cluster: RemoteClusterClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = launch(cluster, shell(f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; printf tail"))
    wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    task = cluster.get_task_status(job_id, 0)
    worker = WorkerClient(task.worker_address)
    page = wait_until(lambda: (p := worker.fetch(task.task_id)).logs and p, "the first line")
    assert (lines(page), page.at_end, page.complete) == (["first"], True, False)
    gate.touch()
    wait_for_end(cluster, job_id)
    page = worker.fetch(task.task_id, start_line=page.next_line)
    assert (lines(page), page.complete) == (["tail"], True), "all that was written before its exit is reported"
    assert page.logs[0].partial
    worker.close()


def test_unknown_and_malformed_task_ids_are_refused(worker: WorkerClient) -> None:
    for verb in (worker.status, worker.fetch, worker.kill):
        with pytest.raises(NotFoundError, match="nobody/task-0"):
            verb("nobody/task-0")
        with pytest.raises(InvalidArgumentError, match="x/task-"):
            verb("x/task-")


def test_repeated_run_task_call_returns_the_same_attempt(worker: WorkerClient) -> None:
    job_id = f"by-hand-{os.getpid()}"
    request = pb.Worker.RunTaskRequest(
        job_id=job_id, task_id=f"{job_id}/task-3", task_index=3, num_tasks=4, command=["sleep", "300"]
    )
    assert worker.run(request).task_id == request.task_id
    worker.run(request)
    assert [task.task_id for task in worker.tasks()].count(request.task_id) == 1
    # The controller did not ask for this attempt: it tells the worker so in its answer to the report, and it ends.
    wait_until(lambda: worker.status(request.task_id).state == pb.TASK_STATE_KILLED, "the unwanted attempt to end")
    wrong = pb.Worker.RunTaskRequest(job_id="a", task_id="b/task-0", command=["true"])
    with pytest.raises(InvalidArgumentError, match="does not belong to job 'a'"):
        worker.run(wrong)


def test_health_check_counts_running_tasks(worker: WorkerClient) -> None:
    health = worker.health()
    assert health.healthy
    assert health.uptime_ms > 0
    assert health.running_tasks >= 0


def test_kill_task_accepts_a_grace_period(cluster: RemoteClusterClient) -> None:
    job_id = launch(cluster, shell("trap '' TERM; echo up; while :; do sleep 0.05; done"), kill_grace_period_ms=600_000)
    wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    task = cluster.get_task_status(job_id, 0)
    worker = WorkerClient(task.worker_address)
    wait_until(lambda: worker.fetch(task.task_id).logs, "the task to be up")
    worker.kill(task.task_id)  # SIGTERM is ignored, SIGKILL is ten minutes away
    worker.kill(task.task_id, term_timeout_ms=50)
    job = wait_for_end(cluster, job_id)
    assert job.state == pb.JOB_STATE_KILLED
    assert job.tasks[0].term_signal == signal.SIGKILL
    worker.close()


def test_end_of_an_attempt_is_reported_when_the_controller_answers_again(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as client:
        gate, done = tmp_path / "gate", tmp_path / "done"
        job_id = launch(client, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; touch {done}; exit 3"))
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        server.process.send_signal(signal.SIGSTOP)
        try:
            gate.touch()
            wait_until(done.exists, "the task to end while nobody listens")
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert wait_for_end(client, job_id).exit_code == 3


def test_no_process_of_an_attempt_survives_its_worker(tmp_path: Path) -> None:
    """This includes processes that left the process group, and the group of a process that cleared its environment."""
    pids = tmp_path / "pids"
    script = f"""
        setsid sleep 301 & echo $! >> {pids}.new
        env -i sleep 302 & echo $! >> {pids}.new
        sleep 303 & echo $! >> {pids}.new
        echo $$ >> {pids}.new; mv {pids}.new {pids}
        wait"""
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as client:
        job_id = launch(client, shell(script), max_retries_preemption=0)
        started = [int(pid) for pid in wait_until(lambda: pids.exists() and pids.read_text(), "its processes").split()]
        assert all(is_alive(pid) for pid in started)
        parent = int(Path(f"/proc/{started[-1]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        wait_until(lambda: not [pid for pid in started if is_alive(pid)], "the end of all of them")
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_WORKER_FAILED


def test_a_rendezvous_without_hosts_or_port_is_refused(worker: WorkerClient) -> None:
    request = pb.Worker.RunTaskRequest(
        job_id="met", task_id="met/task-1", task_index=1, num_tasks=2, command=["true"], rendezvous=pb.RENDEZVOUS_TORCH
    )
    with pytest.raises(InvalidArgumentError, match="needs the hosts"):
        worker.run(request)
    request.hosts.append("127.0.0.1")
    with pytest.raises(FailedPreconditionError, match="task 1 has no port for the rendezvous of its gang"):
        worker.run(request)


def test_a_cancelled_drain_call_does_not_stop_attempts(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running_cluster(tmp_path / "state") as server, RemoteClusterClient(server.address) as cluster:
        job_id = launch(cluster, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done"))
        wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
        worker = WorkerClient(cluster.list_workers()[0].address)
        try:
            for _ in range(2):
                with pytest.raises(DeadlineExceededError):
                    worker.drain(0.2)
            assert worker.health().running_tasks == 1
            gate.touch()
            worker.drain(30)
            assert cluster.get_job_status(job_id).state == pb.JOB_STATE_SUCCEEDED
        finally:
            worker.close()
