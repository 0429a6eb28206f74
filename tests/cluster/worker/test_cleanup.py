"""Directories and logs of attempts are removed after their time, unless they are still needed."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import AWAY
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.cleanup import Cleanup
from iris.cluster.worker.controller_link.connection import ControllerConnection, connect
from iris.cluster.worker.limits.enforcement import Enforcement
from iris.cluster.worker.paths import AttemptDir, WorkerDir
from iris.cluster.worker.process.launcher import Launcher
from iris.cluster.worker.supervision.reaper import Reaper
from iris.cluster.worker.supervision.shutdown import Shutdown
from iris.cluster.worker.worker import Worker, WorkerSettings
from iris.errors import NotFoundError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import Credentials
from iris.rpc.http.tls import ClientTls

pytestmark = pytest.mark.anyio
KEEP_S = 1000.0
KEEP_LOG_S = 100.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Disk:
    """A worker that starts no process, with its directory and a clock."""

    def __init__(self, root: Path, controller: socket.socket, logs: LogDirectories | None = None) -> None:
        address = f"http://127.0.0.1:{controller.getsockname()[1]}"
        self.directory = WorkerDir(root, logs)
        registry = AttemptRegistry("w", self.directory)
        settings = WorkerSettings(
            worker_id="w",
            incarnation="one",
            token="token",
            bind_host="127.0.0.1",
            advertise_host="127.0.0.1",
            base_env={},
            file_limit=1024,
        )
        self.worker = Worker(
            settings,
            directory=self.directory,
            registry=registry,
            shutdown=Shutdown("w", registry),
            controller=ControllerConnection(
                address, None, partial(connect, credentials=Credentials.fixed(token(), "the test"), tls=ClientTls())
            ),
            reaper=Reaper(os.getpid(), -1),  # it is told nothing, since nothing starts
            launcher=Launcher(os.getpid(), socket.socket()),
            enforcement=Enforcement("none", "token"),
        )

    async def sweep(self, later_s: float, keep_s: float = KEEP_S, keep_log_s: float | None = KEEP_LOG_S) -> None:
        """Sweep as if it were `later_s` seconds later."""
        cleanup = Cleanup(self.worker.registry, self.directory, keep_s, keep_log_s, lambda: time.time() + later_s)
        await cleanup.sweep()

    def begin(
        self,
        task_id: str = "job/task-0",
        attempt_id: int = 0,
        bundle_hash: str = "ab" * 32,
        submitted_at_ms: int = 1000,
    ) -> Attempt:
        """Begin an attempt that does not end."""
        job_id, _, index = task_id.rpartition("/task-")
        request = cluster_pb2.Worker.RunTaskRequest(
            job_id=job_id,
            task_id=task_id,
            task_index=int(index),
            attempt_id=attempt_id,
            command=["true"],
            bundle_hash=bundle_hash,
            job_submitted_at_ms=submitted_at_ms,
        )
        return self.worker.run_task(request, b"")

    async def end(
        self,
        task_id: str = "job/task-0",
        attempt_id: int = 0,
        *,
        reported: bool = True,
        submitted_at_ms: int = 1000,
    ) -> Attempt:
        """Begin an attempt, end it, and mark its log as uploaded."""
        attempt = self.begin(task_id, attempt_id, bundle_hash="", submitted_at_ms=submitted_at_ms)
        self.worker.kill_task(task_id, attempt_id, 0)
        await asyncio.to_thread(wait_until, lambda: attempt.is_final, "the end of the attempt")
        attempt.reported = reported
        attempt.directory.uploaded.touch()
        return attempt

    def leave(self, task_id: str = "job/task-0", attempt_id: int = 0) -> AttemptDir:
        """Create an attempt directory as an earlier worker process leaves it, with an uploaded log."""
        directory = self.directory.attempt(task_id, attempt_id)
        directory.create()
        directory.work.mkdir()
        LogWriter(directory.log).close()
        directory.uploaded.touch()
        return directory


@pytest.fixture
def controller() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def disk(tmp_path: Path, controller: socket.socket) -> Disk:
    return Disk(tmp_path / "worker", controller)


async def test_an_uploaded_log_is_removed_before_its_attempt_directory(disk: Disk, tmp_path: Path) -> None:
    directory = (await disk.end()).directory
    (directory.work / "checkpoint").touch()
    await disk.sweep(KEEP_LOG_S - 10)
    assert directory.log.exists()
    assert disk.worker.registry.log_of("job/task-0", 0)[1] == directory
    await disk.sweep(KEEP_LOG_S + 10)
    assert not directory.log.exists()
    assert (directory.work / "checkpoint").exists()
    with pytest.raises(NotFoundError):
        disk.worker.registry.log_of("job/task-0", 0)
    await disk.sweep(KEEP_S - 10)
    assert (directory.work / "checkpoint").exists()
    await disk.sweep(KEEP_S + 10)
    assert list((tmp_path / "worker" / "attempts").iterdir()) == []
    await disk.sweep(KEEP_S + 20)


async def test_a_removed_attempt_is_forgotten_before_its_directory_is_removed(disk: Disk) -> None:
    await disk.end()
    await disk.end("other/task-0")
    os.utime(disk.directory.attempt("other/task-0", 0).path, (0, time.time() + KEEP_S))
    await disk.sweep(KEEP_S + 10)
    assert [status.task_id for status in disk.worker.registry.list_statuses(0, "").items] == ["other/task-0"]
    with pytest.raises(NotFoundError):
        disk.worker.registry.log_of("job/task-0", None)


async def test_attempt_directories_of_an_earlier_worker_process_are_removed(disk: Disk) -> None:
    directory = disk.leave()
    await disk.sweep(KEEP_LOG_S + 10)
    assert (directory.log.exists(), directory.work.exists()) == (False, True)
    await disk.sweep(KEEP_S + 10)
    assert not directory.path.parent.exists()


async def test_the_directory_of_a_running_attempt_is_kept(disk: Disk) -> None:
    attempt = disk.begin()
    await disk.sweep(100 * KEEP_S)
    assert attempt.directory.log.exists()
    assert disk.worker.registry.log_of("job/task-0", 0)[2] is attempt


async def test_the_directory_of_an_unreported_attempt_is_kept(disk: Disk) -> None:
    attempt = await disk.end(reported=False)
    await disk.sweep(100 * KEEP_S)
    assert attempt.directory.log.exists()
    assert disk.worker.registry.log_of("job/task-0", 0)[2] is attempt
    attempt.reported = True
    await disk.sweep(100 * KEEP_S)
    assert not attempt.directory.path.exists()


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_log_that_is_not_uploaded_is_kept(disk: Disk, is_ours: bool) -> None:
    directory = (await disk.end()).directory if is_ours else disk.leave()
    directory.upload_pending.write_text('["job/task-0", 0, "a process"]')
    await disk.sweep(100 * KEEP_S)
    assert directory.log.exists()
    assert disk.worker.registry.log_of("job/task-0", 0)[1] == directory
    directory.upload_pending.unlink()
    await disk.sweep(100 * KEEP_S)
    assert not directory.path.exists()


async def test_a_log_that_the_controller_does_not_want_is_kept_as_long_as_its_attempt_directory(disk: Disk) -> None:
    directory = (await disk.end()).directory
    directory.uploaded.unlink()
    await disk.sweep(KEEP_S - 10)
    assert directory.log.exists()
    await disk.sweep(KEEP_S + 10)
    assert not directory.path.exists()


async def test_an_attempt_directory_is_kept_while_its_log_is_read(disk: Disk) -> None:
    directory = (await disk.end()).directory
    with disk.worker.registry.reading(directory), disk.worker.registry.reading(directory):
        await disk.sweep(100 * KEEP_S)
        assert directory.log.exists()
    await disk.sweep(100 * KEEP_S)
    assert not directory.path.exists()


async def test_each_attempt_of_a_task_is_removed_by_its_own_age(disk: Disk) -> None:
    ended = (await disk.end()).directory
    running = disk.begin(attempt_id=1).directory
    await disk.sweep(100 * KEEP_S)
    assert not ended.path.exists()
    assert running.log.exists()
    assert disk.worker.registry.log_of("job/task-0", None)[0] == 1


async def test_age_of_an_attempt_directory_counts_from_its_last_change(disk: Disk) -> None:
    directory = disk.leave()
    old_s = time.time() - 10 * KEEP_S
    paths = [directory.path, *directory.path.iterdir(), *directory.log.iterdir()]
    for newest in (directory.path, directory.work, directory.log, directory.log / "end"):
        for path in paths:
            os.utime(path, (old_s, old_s))
        os.utime(newest, None)
        await disk.sweep(0)
        assert directory.log.exists(), newest
    os.utime(directory.log / "end", (old_s, old_s))
    await disk.sweep(0)
    assert not directory.path.exists()


async def test_cleanup_with_an_infinite_keep_time_removes_no_attempt(disk: Disk) -> None:
    directory = (await disk.end()).directory
    await disk.sweep(1e12, keep_s=math.inf, keep_log_s=None)
    assert directory.log.exists()
    await disk.sweep(1e12, keep_s=math.inf)
    assert (directory.log.exists(), directory.path.exists()) == (False, True)


async def test_a_log_is_not_kept_longer_than_its_attempt_directory(disk: Disk) -> None:
    directory = (await disk.end()).directory
    await disk.sweep(KEEP_S - 10, keep_log_s=math.inf)
    assert directory.log.exists()
    await disk.sweep(KEEP_S + 10, keep_log_s=math.inf)
    assert not directory.path.exists()


async def test_worker_does_not_remove_logs_in_a_directory_of_the_controller(
    tmp_path: Path, controller: socket.socket
) -> None:
    disk = Disk(tmp_path / "worker", controller, LogDirectories(tmp_path / "logs"))
    directory = (await disk.end()).directory
    (directory.work / "checkpoint").touch()
    assert directory.log.parent.parent == tmp_path / "logs"
    await disk.sweep(KEEP_LOG_S + 10)
    assert disk.worker.registry.log_of("job/task-0", 0)[1] == directory
    await disk.sweep(KEEP_S + 10)
    assert not directory.path.exists()
    assert directory.log.exists()
    assert disk.worker.registry.list_statuses(0, "").items == []


async def test_an_ended_attempt_without_files_of_its_task_leaves_no_files_after_a_minute(
    tmp_path: Path, controller: socket.socket
) -> None:
    disk = Disk(tmp_path / "worker", controller, LogDirectories(tmp_path / "logs"))
    directory = (await disk.end()).directory
    directory.entrypoint.touch()
    running = disk.begin("other/task-0").directory
    running.entrypoint.touch()
    await disk.sweep(50)
    assert directory.path.exists()
    await disk.sweep(70)
    assert [path.name for path in (tmp_path / "worker" / "attempts").iterdir()] == [running.path.parent.name]
    assert running.entrypoint.exists()
    with pytest.raises(NotFoundError):
        disk.worker.registry.log_of("job/task-0", 0)


async def test_a_worker_removes_its_own_files_and_keeps_the_files_of_the_task(disk: Disk) -> None:
    directory = (await disk.end()).directory
    own = [directory.entrypoint, directory.hosts, directory.result, directory.exception, directory.traceback]
    for file in (*own, directory.work / "checkpoint"):
        file.touch()
    await disk.sweep(50)
    assert all(file.exists() for file in own)
    await disk.sweep(70)
    assert not any(file.exists() for file in own)
    assert (directory.work / "checkpoint").exists()
    assert directory.log.exists()


# Removed jobs


def forget_request(num_tasks: int = 1) -> cluster_pb2.Worker.ForgetJobRequest:
    return cluster_pb2.Worker.ForgetJobRequest(job_id="job", num_tasks=num_tasks, job_submitted_at_ms=1000)


async def test_a_removed_job_leaves_nothing_on_its_worker(disk: Disk, tmp_path: Path) -> None:
    directories = [
        (await disk.end(f"job/task-{index}", attempt_id)).directory for index, attempt_id in ((0, 0), (1, 1))
    ]
    (directories[0].work / "checkpoint").touch()
    other = (await disk.end("other/task-0")).directory
    running = disk.begin("running/task-0", bundle_hash="b" * 64)
    await asyncio.to_thread(wait_until, lambda: running.log.position, "the attempt to fetch its workspace")
    workspaces = [disk.directory.bundle(letter * 64) for letter in "abc"]
    for workspace in workspaces:
        workspace.mkdir(parents=True)
    for bundle_hash in ("", "a" * 64, "b" * 64, "../attempts"):
        request = forget_request(num_tasks=2)
        request.bundle_hash = bundle_hash
        await disk.worker.forget_job(request)
    assert [workspace.exists() for workspace in workspaces] == [False, True, True]
    left = {path.name.partition("_")[0] for path in (tmp_path / "worker" / "attempts").iterdir()}
    assert left == {"other", "running"}
    assert other.path.exists()
    assert list((tmp_path / "worker" / "discarded").iterdir()) == []
    tasks = [status.task_id for status in disk.worker.registry.list_statuses(0, "").items]
    assert tasks == ["other/task-0", "running/task-0"]


async def test_a_running_attempt_of_a_later_job_with_the_name_of_a_removed_job_stays(disk: Disk) -> None:
    running = disk.begin(submitted_at_ms=2000)
    await disk.worker.forget_job(forget_request())
    assert disk.worker.registry.log_of("job/task-0", 0)[2] is running
    assert running.directory.log.exists()


async def test_an_ended_attempt_of_a_later_job_with_the_name_of_a_removed_job_stays(disk: Disk) -> None:
    later = await disk.end(submitted_at_ms=2000)
    await disk.worker.forget_job(forget_request())
    assert disk.worker.registry.log_of("job/task-0", 0)[2] is later
    assert later.directory.log.exists()


async def test_an_attempt_that_begins_while_a_job_with_its_name_is_removed_keeps_its_directory(disk: Disk) -> None:
    await disk.end("job/task-60")
    removing = asyncio.create_task(disk.worker.forget_job(forget_request(num_tasks=61)))
    await asyncio.sleep(0)  # The removal has begun, and the event loop does other work between two of its steps.
    assert not removing.done()
    path = disk.begin("job/task-60", submitted_at_ms=2000).directory.path
    created = path.stat().st_ino
    await removing
    assert path.stat().st_ino == created


async def test_an_attempt_of_a_new_job_replaces_an_attempt_of_a_removed_job_with_the_same_name(disk: Disk) -> None:
    old = await disk.end()
    (old.directory.work / "checkpoint").touch()
    assert disk.begin(submitted_at_ms=1000) is old
    new = disk.begin(submitted_at_ms=2000)
    assert not new.is_final
    assert not (new.directory.work / "checkpoint").exists()
    assert disk.worker.registry.log_of("job/task-0", 0)[2] is new
    assert disk.worker.registry.is_running("job", 0, 0, 1000) is None
    assert disk.worker.registry.is_running("job", 0, 0, 2000)
    with pytest.raises(UnavailableError, match="still runs attempt 0 of a removed job named 'job'"):
        disk.begin(submitted_at_ms=3000)


async def test_the_target_of_a_link_in_an_attempt_directory_is_kept(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").touch()
    directory = (await disk.end()).directory
    (directory.work / "link").symlink_to(tmp_path / "data")
    await disk.sweep(KEEP_S + 10)
    assert not directory.path.exists()
    assert (tmp_path / "data" / "precious").exists()


async def test_cleanup_without_any_attempt_does_nothing(disk: Disk) -> None:
    await disk.sweep(KEEP_S)


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_log_that_the_controller_has_moved_is_not_found(
    tmp_path: Path, controller: socket.socket, is_ours: bool
) -> None:
    disk = Disk(tmp_path / "worker", controller, LogDirectories(tmp_path / "logs"))
    directory = (await disk.end()).directory if is_ours else disk.leave()
    assert disk.worker.registry.log_of("job/task-0", None)[1] == directory
    (directory.log / AWAY).touch()
    with pytest.raises(NotFoundError, match="no longer has the log of attempt 0 of 'job/task-0'"):
        disk.worker.registry.log_of("job/task-0", None)
    (directory.log / AWAY).unlink()
    assert disk.worker.registry.log_of("job/task-0", 0)[1] == directory
