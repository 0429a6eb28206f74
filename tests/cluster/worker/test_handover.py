"""Uploads of logs to a controller whose answers the test chooses."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import has_end
from iris.cluster.logs.upload_answers import RETRY_LATER, UNWANTED
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.controller_link.log_upload import LogUpload
from iris.cluster.worker.paths import WorkerDir
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2

MEBIBYTE = 1 << 20
Piece = cluster_pb2.Controller.StoreLogsRequest.Piece


class Controller:
    """A controller that accepts all parts of logs."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[Piece]] = {}
        self.before: Callable[[], None] = lambda: None
        self.answers: dict[str, int] = {}
        self.timeouts_ms: list[int | None] = []
        self._came = asyncio.Event()

    async def store_logs(
        self, request: cluster_pb2.Controller.StoreLogsRequest, timeout_ms: int | None = None
    ) -> cluster_pb2.Controller.StoreLogsResponse:
        self.timeouts_ms.append(timeout_ms)
        await asyncio.sleep(0)
        self.before()
        positions = []
        for piece in request.pieces:
            self.pieces.setdefault(piece.task_id, []).append(piece)
            positions.append(self.answers.get(piece.task_id, piece.position + len(piece.records)))
        self._came.set()
        return cluster_pb2.Controller.StoreLogsResponse(positions=positions)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds that a call makes true."""
        async with asyncio.timeout(60):
            while not condition():
                await self._came.wait()
                self._came.clear()

    def has(self, task_id: str, *, whole: bool = False) -> bool:
        """Return whether records of a task, or the end of its log, have arrived."""
        return any(piece.end if whole else piece.records for piece in self.pieces.get(task_id, ()))


class Place:
    """A worker's directory, and the upload of its logs."""

    def __init__(self, root: Path) -> None:
        self.controller = Controller()
        self._directory = WorkerDir(root)
        stub: Any = self.controller
        self.upload = LogUpload(
            ControllerConnection("http://nowhere", None, lambda _: stub), "w", "incarnation", self._directory
        )

    def attempt(self, task_id: str) -> Attempt:
        """Begin an attempt."""
        directory = self._directory.attempt(task_id, 0)
        directory.create()
        request = cluster_pb2.Worker.RunTaskRequest(task_id=task_id)
        attempt = Attempt(request, 1, directory, LogWriter(directory.log, max_bytes=32 * MEBIBYTE), build_started_ms=0)
        self.upload.add(attempt)
        return attempt


@pytest.fixture
def during(tmp_path: Path) -> Callable[[Callable[[Place], Coroutine[Any, Any, None]]], None]:
    """Return a function that runs a test on an event loop while logs are uploaded."""

    def run(test: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            place = Place(tmp_path / "worker")
            running = asyncio.create_task(place.upload.run())
            try:
                await test(place)
                assert not running.done()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(main())

    return run


During = Callable[[Callable[[Place], Coroutine[Any, Any, None]]], None]


def test_log_upload_includes_the_file_that_describes_the_end_of_the_log(during: During) -> None:
    async def test(place: Place) -> None:
        attempt = place.attempt("job/task-0")
        assert attempt.directory.upload_pending.exists()
        attempt.log.append("stdout", b"hello\n", 1)
        attempt.log.close()
        await place.controller.until(lambda: place.controller.has("job/task-0", whole=True))
        await place.upload.flush(10)
        assert attempt.directory.uploaded.exists()
        assert not attempt.directory.upload_pending.exists()

    during(test)


def test_a_log_that_grows_as_fast_as_it_is_uploaded_does_not_delay_other_logs(during: During) -> None:
    async def test(place: Place) -> None:
        fast, slow = place.attempt("fast/task-0"), place.attempt("slow/task-0")
        calls = 0

        def before() -> None:
            nonlocal calls
            calls += 1
            for _ in range(5):
                fast.log.append("stdout", b"x" * MEBIBYTE, calls)
            if calls == 3:
                slow.log.append("stdout", b"I matter\n", calls)
            if place.controller.has("slow/task-0"):
                place.controller.before = lambda: None
            assert calls < 20, "calls without the other log"

        place.controller.before = before
        fast.log.append("stdout", b"begin\n", 0)
        await place.controller.until(lambda: place.controller.has("slow/task-0"))

    during(test)


@pytest.mark.parametrize("error", [UnavailableError("gone"), RuntimeError("a bug"), OSError("too many open files")])
def test_log_upload_continues_after_an_error(during: During, error: Exception) -> None:
    async def test(place: Place) -> None:
        def fail_once() -> None:
            place.controller.before = lambda: None
            raise error

        place.controller.before = fail_once
        attempt = place.attempt("job/task-0")
        attempt.log.append("stdout", b"hello\n", 1)
        await place.controller.until(lambda: place.controller.has("job/task-0"))

    during(test)


def test_timeout_of_a_log_upload_call_grows_with_its_size(during: During) -> None:
    async def test(place: Place) -> None:
        attempt = place.attempt("job/task-0")
        attempt.log.append("stdout", b"a line\n", 1)
        await place.controller.until(lambda: place.controller.has("job/task-0"))
        (small,) = place.controller.timeouts_ms
        assert small is not None
        assert small <= 6000
        attempt.log.append("stdout", bytes(4 * MEBIBYTE), 1)
        attempt.log.close()
        await place.controller.until(lambda: place.controller.has("job/task-0", whole=True))
        assert max(filter(None, place.controller.timeouts_ms)) > 2 * small

    during(test)


def test_a_log_that_cannot_be_read_does_not_delay_other_logs(tmp_path: Path, during: During) -> None:
    left = WorkerDir(tmp_path / "worker").attempt("left/task-0", 0)
    left.path.mkdir(parents=True)
    left.upload_pending.write_text('["left/task-0", 0, "of an earlier process"]')
    left.log.symlink_to(left.log)  # so that reading it is an error, also for root

    async def test(place: Place) -> None:
        await place.controller.until(lambda: "left/task-0" in place.controller.pieces)
        attempt = place.attempt("other/task-0")
        attempt.log.append("stdout", b"other\n", 1)
        await place.controller.until(lambda: place.controller.has("other/task-0"))
        assert left.upload_pending.exists()

    during(test)


def test_log_upload_that_the_controller_cannot_store_now_is_retried(during: During) -> None:
    async def test(place: Place) -> None:
        place.controller.answers["one/task-0"] = RETRY_LATER
        one, other = place.attempt("one/task-0"), place.attempt("other/task-0")
        for attempt in (one, other):
            attempt.log.append("stdout", b"hello\n", 1)
            attempt.log.close()
        await place.controller.until(lambda: place.controller.has("other/task-0", whole=True))
        await place.controller.until(lambda: len(place.controller.pieces["one/task-0"]) > 2)
        assert one.directory.upload_pending.exists()
        assert not one.directory.uploaded.exists()
        del place.controller.answers["one/task-0"]
        tried = len(place.controller.pieces["one/task-0"])
        await place.controller.until(lambda: len(place.controller.pieces["one/task-0"]) > tried)
        await place.upload.flush(10)
        assert one.directory.uploaded.exists()

    during(test)


def test_an_ending_worker_retries_uploads_that_the_controller_could_not_store(tmp_path: Path) -> None:
    async def test() -> None:
        place = Place(tmp_path / "worker")
        place.controller.answers["job/task-0"] = RETRY_LATER
        attempt = place.attempt("job/task-0")
        attempt.log.append("stdout", b"hello\n", 1)
        attempt.log.close()
        await place.upload.flush(10)
        assert not attempt.directory.uploaded.exists()
        del place.controller.answers["job/task-0"]
        await place.upload.flush(10)
        assert attempt.directory.uploaded.exists()

    asyncio.run(test())


@contextmanager
def _no_free_descriptors() -> Iterator[None]:
    """Make each attempt of this process to open a file fail with EMFILE."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_log_that_cannot_be_opened_for_lack_of_descriptors_is_uploaded_completely_later(tmp_path: Path) -> None:
    async def test() -> None:
        place = Place(tmp_path / "worker")
        first, attempt = place.attempt("first/task-0"), place.attempt("job/task-0")
        first.log.append("stdout", b"hello\n", 1)
        await place.upload.flush(10)  # loads all modules that an upload needs
        attempt.log.append("stdout", b"hello\n", 1)
        attempt.log.close()
        with _no_free_descriptors():
            await place.upload.flush(10)
        assert not place.controller.has("job/task-0", whole=True)
        await place.upload.flush(10)
        assert attempt.directory.uploaded.exists()
        pieces = place.controller.pieces["job/task-0"]
        assert sum(len(piece.records) for piece in pieces) == attempt.log.tip.position

    asyncio.run(test())


def test_log_that_the_controller_refuses_does_not_count_as_uploaded(during: During) -> None:
    async def test(place: Place) -> None:
        place.controller.answers["job/task-0"] = UNWANTED
        attempt = place.attempt("job/task-0")
        attempt.log.append("stdout", b"hello\n", 1)
        await place.controller.until(lambda: place.controller.has("job/task-0"))
        await place.upload.flush(10)
        assert not attempt.directory.upload_pending.exists()
        assert not attempt.directory.uploaded.exists()

    during(test)


def test_a_log_end_that_a_full_disk_refused_is_uploaded_and_written_later(during: During) -> None:
    async def test(place: Place) -> None:
        attempt = place.attempt("job/task-0")
        attempt.log.append("stdout", b"hello\n", 1)
        in_the_way = attempt.directory.log / "end.new"  # as a disk that is full at that moment
        in_the_way.mkdir()
        attempt.log.close()
        assert not has_end(attempt.directory.log)
        await place.controller.until(lambda: place.controller.has("job/task-0", whole=True))
        await place.upload.flush(10)
        assert attempt.directory.uploaded.exists()
        in_the_way.rmdir()
        attempt.log.close()
        assert has_end(attempt.directory.log)

    during(test)
