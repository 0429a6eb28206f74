"""What attempts wrote stays readable when they have ended, when their workers are gone, and after all was restarted."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.async_client import open_async_client
from support.cluster import running_cluster, shell
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.plain_http import ask
from support.ports import free_port
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.client import IrisClient, Job
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.machine import this_machine
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.segments import has_end, list_segments
from iris.cluster.types import ResourceSpec
from iris.errors import WorkerUnreachableError
from iris.rpc import cluster_pb2 as pb

# Numbered lines with their times, until a file is there.
WRITER = """
import os, sys, time
number = 0
while not os.path.exists(sys.argv[1]):
    number += 1
    print(number, time.time(), flush=True)
    time.sleep(0.01)
"""
PROMISED_S = 2.0


@dataclass
class Writer:
    """A task that writes."""

    until: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", WRITER, str(self.until)]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path / "until")
    yield writer
    writer.until.touch()


@dataclass
class Log:
    """An attempt's log as it was read: the times of its lines, the gaps, and how it ended."""

    times: list[float]
    missing: int
    reasons: set[str]
    end: pb.LogEnd


def read(client: IrisClient, job: Job, attempt_id: int = 0, task_index: int = 0, route: Any = "controller") -> Log:
    """Reads an attempt of a writer; its lines come in order, and none is missing before the last."""
    with client.stream_task_logs(
        job.job_id, task_index, attempt_id=attempt_id, follow=False, route=route, on_notice=quiet
    ) as stream:
        lines = list(stream)
        log = Log([], 0, set(), stream.ends[task_index])
    for line in lines:
        if line.missing_bytes:
            log.missing += line.missing_bytes
            log.reasons.add(line.message)
        elif line.source == "stdout" and not line.partial:
            number, written_s = line.message.split()
            assert int(number) == len(log.times) + 1
            log.times.append(float(written_s))
    return log


def quiet(text: str) -> None:
    """For `on_notice`."""


def wait_for_lines(client: IrisClient, job: Job, count: int, task_index: int = 0) -> int:
    """Waits until a task's worker has so many lines of it; how many those are."""
    return wait_until(
        lambda: (seen := len(client.fetch_task_logs(job.job_id, task_index))) >= count and seen, f"{count} lines"
    )


def wait_for_attempt(client: IrisClient, job: Job, attempt_id: int, task_index: int = 0) -> None:
    """Waits until an attempt of a task runs."""
    wait_until(
        lambda: (
            (task := client.task_status(job.job_id, task_index)).current_attempt_id == attempt_id
            and task.state == pb.TASK_STATE_RUNNING
        ),
        f"attempt {attempt_id}",
    )


def worker_of(server: LocalServer) -> int:
    """Return the process id of the only worker of a cluster on this machine."""
    (worker,) = psutil.Process(server.process.pid).children()
    return worker.pid


# --- on one machine: what workers write lies in the state directory at once


def test_logs_survive_a_killed_worker_and_a_restart_of_the_cluster(tmp_path: Path, writer: Writer) -> None:
    directory = tmp_path / "state"
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        job = client.run(writer.command)
        seen = wait_for_lines(client, job, 100)
        os.kill(worker_of(server), signal.SIGKILL)
        wait_for_attempt(client, job, 1)
        first = read(client, job)
        assert len(first.times) >= seen
        assert first.end.complete
        assert "worker was killed" in first.end.missing_reason
        assert read(client, job, route="worker").times == first.times
        second = wait_for_lines(client, job, 10)
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        assert read(client, job).times == first.times
        log = read(client, job, 1)
        assert len(log.times) >= second
        assert not log.end.missing_reason  # that worker ended as it should
        assert client.fetch_task_logs(job.job_id, 0, attempt_id=0)[-1].message.startswith(f"{len(first.times)} ")
        writer.until.touch()
        assert client.wait(job.job_id).state == pb.JOB_STATE_SUCCEEDED


def missing_ends(texts: Iterable[str]) -> list[str]:
    """Return the messages that say that the end of a log is missing."""
    return [text for text in texts if "is missing" in text]


def test_each_reader_is_told_once_that_the_end_of_a_log_is_missing(tmp_path: Path, writer: Writer) -> None:
    with (
        running_cluster(tmp_path / "state") as server,
        IrisClient.remote(server.address) as client,
        closing(open_async_client(lambda: AsyncIrisClient.remote(server.address))) as async_client,
    ):
        job = client.run(writer.command, max_retries_preemption=0)
        wait_for_lines(client, job, 10)
        os.kill(worker_of(server), signal.SIGKILL)
        assert client.wait(job.job_id).state == pb.JOB_STATE_WORKER_FAILED
        wait_until(lambda: read(client, job).end.complete, "the end of the log")
        message = f"task 0, attempt 0: the end of the log is missing: {read(client, job).end.missing_reason}"
        for reader in (client, async_client):
            for follow, tail in ((False, None), (True, None), (True, 2), (False, 2)):
                notices: list[str] = []
                lines = reader.stream_task_logs(job.job_id, 0, follow=follow, tail=tail, on_notice=notices.append)
                assert list(lines)
                assert missing_ends(notices) == [message], (reader, follow, tail)
        for query in ("", "follow=true", "follow=true&tail=2", "tail=2"):
            answer = ask(server.address, "GET", f"/v1/jobs/{job.job_id}/logs?format=ndjson&{query}")
            events = [json.loads(line) for line in answer.body.splitlines()]
            texts = [event["text"] for event in events if event.get("event") == "notice"]
            assert missing_ends(texts) == [message], query


def test_logs_of_a_worker_that_never_returns_are_readable(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    most = ResourceSpec(memory=this_machine().memory_bytes // 5)  # of what a third of the machine has: one to a worker
    with running_cluster(directory, workers=3) as server, IrisClient.remote(server.address) as client:
        job = client.run(shell("echo $IRIS_TASK_INDEX $IRIS_WORKER_ID"), replicas=3, resources=most)
        job.wait()
        said = sorted(line.message for line in job.logs())
        assert len({line.split()[1] for line in said}) == 3
    with running_cluster(directory, workers=1) as server, IrisClient.remote(server.address) as client:
        for route in ("auto", "controller"):
            with client.stream_job_logs(job.job_id, route=route, on_notice=quiet) as lines:
                assert sorted(line.message for line in lines) == said
                assert all(end.complete and not end.missing_reason for end in lines.ends.values())
        assert [line.message for index in range(3) for line in client.fetch_task_logs(job.job_id, index)] == said


# --- on other machines: workers hand it over


@dataclass
class Cluster:
    """A controller of the test's own, on an engine that starts no workers.

    Attributes:
        engine: As the controller has it now.
        running: The controller that runs now.
        directory: Where everything is kept.
        port: The controller's, also after a restart.
    """

    engine: FakeEngine
    running: ControllerThread
    directory: Path

    @property
    def kept(self) -> LogDirectories:
        return LogDirectories(self.directory / "kept")

    def lose(self) -> None:
        """The engine says that its worker is lost."""
        self.running.call(lambda: self.engine.lose(self.engine.submitted[-1], 0))


@contextmanager
def controller(directory: Path, engine: FakeEngine | None = None, port: int = 0) -> Iterator[Cluster]:
    engine = engine or FakeEngine()
    keeping = Keeping(LogDirectories(directory / "kept"))
    port = port or free_port()  # A test may start the next controller on the same port.
    with serving(engine, Store(directory / "controller.db"), kept_logs=keeping, port=port) as running:
        yield Cluster(engine, running, directory)


def test_uploaded_log_of_a_killed_remote_worker_is_readable(tmp_path: Path, writer: Writer) -> None:
    """Its disk is gone with it: what it wrote until 2 s before is there."""
    with (
        controller(tmp_path) as cluster,
        running_worker(cluster.running.address, tmp_path / "worker") as worker,
        IrisClient.remote(cluster.running.address) as client,
    ):
        job = client.run(writer.command)
        wait_for_lines(client, job, 300)
        killed_s = time.time()
        worker.kill()
        worker.wait()
        shutil.rmtree(tmp_path / "worker")
        cluster.lose()
        wait_until(lambda: client.task_status(job.job_id, 0).attempts[0].state == pb.TASK_STATE_WORKER_FAILED)
        log = read(client, job)
        assert log.times[-1] > killed_s - PROMISED_S
        assert log.end.complete
        assert log.end.missing_reason
        assert log.end.bytes_missing == log.missing
        job.terminate()


def test_log_upload_continues_after_restarts_of_the_controller(tmp_path: Path, writer: Writer) -> None:
    with ExitStack() as workers:
        with controller(tmp_path) as cluster, IrisClient.remote(cluster.running.address) as client:
            address = cluster.running.address
            port = int(address.rpartition(":")[2])
            workers.enter_context(running_worker(address, tmp_path / "worker"))
            job = client.run(writer.command)
            wait_for_attempt(client, job, 0)
            path = cluster.kept.attempt(f"{job.job_id}/task-0", 0)
            wait_until(lambda: list_segments(path), "something of the log")
        for _ in range(2):
            enough = bytes_in(path) + 1000
            with controller(tmp_path, cluster.engine.for_next_controller(), port) as cluster:
                wait_until(lambda enough=enough: bytes_in(path) > enough, "more of the log")
        with controller(tmp_path, cluster.engine.for_next_controller(), port), IrisClient.remote(address) as client:
            writer.until.touch()
            assert client.wait(job.job_id).state == pb.JOB_STATE_SUCCEEDED
            wait_until(lambda: has_end(path), "the end of the log")
            (written,) = (tmp_path / "worker").glob("attempts/*/0/log")
            assert files(path) == files(written)
            wait_until(lambda: not (written.parent / "handover").exists(), "the worker to have noted that")
            shutil.rmtree(tmp_path / "worker" / "attempts")
            log = read(client, job)
            assert log.times
            assert not log.end.missing_reason
            assert not log.missing


def test_restarted_worker_uploads_the_rest_of_the_logs(tmp_path: Path, writer: Writer) -> None:
    with ExitStack() as workers:
        with controller(tmp_path) as cluster, IrisClient.remote(cluster.running.address) as client:
            address = cluster.running.address
            port = int(address.rpartition(":")[2])
            worker = workers.enter_context(running_worker(address, tmp_path / "worker"))
            job = client.run(writer.command)
            wait_for_attempt(client, job, 0)
            kept = cluster.kept.attempt(f"{job.job_id}/task-0", 0)
            wait_until(lambda: list_segments(kept), "something of the log")
        (written,) = (tmp_path / "worker").glob("attempts/*/0/log")
        size = bytes_in(kept)
        wait_until(lambda: bytes_in(written) > size + 5000, "what is not handed over")
        worker.kill()
        worker.wait()
        with (
            controller(tmp_path, cluster.engine.for_next_controller(), port) as cluster,
            running_worker(address, tmp_path / "worker"),
            IrisClient.remote(address) as client,
        ):
            wait_until(lambda: not (written.parent / "handover").exists(), "that nothing is left to hand over")
            wait_for_attempt(client, job, 1)
            assert files(kept).items() >= files(written).items()
            log = read(client, job)
            assert "worker was killed" in log.end.missing_reason
            writer.until.touch()
            client.wait(job.job_id)


def test_worker_uploads_all_its_logs_before_it_ends(tmp_path: Path, writer: Writer) -> None:
    with controller(tmp_path) as cluster, IrisClient.remote(cluster.running.address) as client:
        with running_worker(cluster.running.address, tmp_path / "worker"):
            job = client.run(writer.command)
            wait_for_lines(client, job, 50)
        (written,) = (tmp_path / "worker").glob("attempts/*/0/log")
        assert files(cluster.kept.attempt(f"{job.job_id}/task-0", 0)) == files(written)
        job.terminate()


@pytest.mark.parametrize("follow", [False, True])
def test_reader_through_the_controller_gets_an_error_for_an_unreachable_worker(
    tmp_path: Path, writer: Writer, follow: bool
) -> None:
    """It may come back, so how long to wait is up to the reader."""
    with controller(tmp_path) as cluster, IrisClient.remote(cluster.running.address) as client:
        with running_worker(cluster.running.address, tmp_path / "worker") as worker:
            job = client.run(writer.command)
            wait_for_lines(client, job, 1)
            worker.kill()
            worker.wait()
            with pytest.raises(WorkerUnreachableError):
                list(job.logs(route="controller", follow=follow, patience_s=1, on_notice=quiet))
        cluster.lose()
        job.terminate()


def test_stream_of_a_kept_log_ends_when_its_reader_leaves(tmp_path: Path) -> None:
    with (
        controller(tmp_path) as cluster,
        running_worker(cluster.running.address, tmp_path / "worker"),
        IrisClient.remote(cluster.running.address) as client,
    ):
        job = client.run(shell("head -c 30000000 /dev/zero | tr '\\0' '\\n'"))
        job.wait()
        wait_until(lambda: has_end(cluster.kept.attempt(f"{job.job_id}/task-0", 0)), "the end of the log")
        streams = cluster.running.controller.log_sources.budget
        gc.disable()  # else it would tidy up what nobody closed
        try:
            with job.logs(route="controller") as lines:
                next(lines)
                assert streams.count == 1
            wait_until(lambda: streams.count == 0, "the stream to be forgotten")
        finally:
            gc.enable()


def test_log_of_another_job_with_the_same_name_is_not_stored(tmp_path: Path) -> None:
    """A worker's directory outlives a controller's memory: attempts of the same names come again."""
    with controller(tmp_path / "one") as cluster, IrisClient.remote(cluster.running.address) as client:
        with running_worker(cluster.running.address, tmp_path / "worker"):
            client.run(shell("echo of the first"), name="same").wait()
        (written,) = (tmp_path / "worker").glob("attempts/*/0")
        # As if it had been killed before all was handed over, and its incarnation was that.
        (written / "handover").write_text('["same/task-0", 0, "of the first"]')
    with controller(tmp_path / "two") as cluster, IrisClient.remote(cluster.running.address) as client:
        job = client.run(shell("echo of the second"), name="same")
        with running_worker(cluster.running.address, tmp_path / "worker"):
            job.wait()
            path = cluster.kept.attempt("same/task-0", 0)
            wait_until(lambda: has_end(path), "the end of the log")
            with client.stream_task_logs("same", 0, route="controller") as lines:
                assert [line.message for line in lines] == ["of the second"]


def test_logs_of_an_earlier_job_are_not_shown_for_a_new_job_of_the_same_name(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        client.run(shell("echo of the first"), name="same").wait()
    for path in directory.glob("controller.db*"):
        path.unlink()
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        job = client.run(shell("sleep 0.1; echo of the second"), name="same")
        assert [line.message for line in job.logs(follow=True)] == ["of the second"]
        job.wait()
        assert [line.message for line in job.logs(route="controller")] == ["of the second"]


def bytes_in(path: Path) -> int:
    """How much lies in a directory."""
    return sum(file.stat().st_size for file in path.iterdir())


def files(path: Path) -> dict[str, bytes]:
    """What lies in a directory."""
    return {file.name: file.read_bytes() for file in path.iterdir()}
