"""The keeper of logs: what it takes from workers, what it fetches for readers, and whose logs are whose."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.log_keeping import WORKER, KeptLogs, Read, files, read
from support.odd_files import OddFileSystem, odd_files
from support.waiting import wait_until

from iris.cluster.controller.log_pieces import NOTHING, Piece
from iris.cluster.controller.log_retention import Retention
from iris.cluster.worker.log_segments import END, list_segments
from iris.cluster.worker.log_store import LogWriter
from iris.errors import ResourceExhaustedError, UnavailableError
from iris.rpc import cluster_pb2

pytestmark = pytest.mark.anyio
DAY_MS = 86_400_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def odd() -> Iterator[None]:
    with odd_files():
        yield


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[KeptLogs]:
    kept = KeptLogs(tmp_path, max_log_bytes=300_000)
    yield kept
    await kept.keeper.close()


# For readers


async def test_without_a_location_a_log_is_where_it_is(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.add_ended("job", b"here\n")
    assert await logs.keeper.provide("job/task-0", 0) == logs.path("job")
    assert await logs.read("job") == Read(b"here\n")


async def test_what_is_here_is_not_fetched(odd: None, tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="odd://")
    logs.add_ended("job", b"here\n")
    await logs.keeper.sweep()
    shutil.rmtree(logs.there)
    OddFileSystem.error = OSError("not asked")
    assert await logs.read("job") == Read(b"here\n")


async def test_a_log_is_fetched_once_for_all_who_want_it(odd: None, tmp_path: Path) -> None:
    """Also when the first of them goes away meanwhile."""
    logs = await only_there(tmp_path, "odd://")
    OddFileSystem.copied.clear()
    OddFileSystem.go_on.clear()
    OddFileSystem.entered.clear()
    first, second, third = (asyncio.create_task(logs.read("job")) for _ in range(3))
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    first.cancel()
    await asyncio.wait([first])
    OddFileSystem.go_on.set()
    assert [await second, await third] == [Read(b"all of it\n")] * 2
    assert await logs.read("job") == Read(b"all of it\n")
    assert sorted(OddFileSystem.copied) == sorted(files(logs.path("job")))


async def test_a_fetch_that_broke_off_is_made_again(odd: None, tmp_path: Path) -> None:
    logs = await only_there(tmp_path, "odd://")
    whole = files(logs.stored("job"))
    OddFileSystem.error = OSError("gone for a while")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="gone for a while"):
            await logs.keeper.provide("job/task-0", 0)
    OddFileSystem.error = None
    # As a fetch leaves it that was killed in the middle.
    (segment,) = list_segments(logs.stored("job"))
    (logs.path("job") / segment.segment_name).write_bytes(whole[segment.segment_name][:10])
    assert await logs.read("job") == Read(b"all of it\n")
    assert files(logs.path("job")) == whole


async def test_a_disk_that_takes_nothing_is_said(tmp_path: Path) -> None:
    logs = await only_there(tmp_path, "file://")
    shutil.rmtree(logs.directories.root)
    logs.directories.root.write_text("a file where the directory should be")
    with pytest.raises(UnavailableError, match=r"the log of 'job/task-0' cannot be fetched: .*Not a directory"):
        await logs.keeper.provide("job/task-0", 0)


@pytest.mark.parametrize("location", ["file://", ""])
async def test_what_is_nowhere_leaves_nothing_here(tmp_path: Path, location: str) -> None:
    """So that a reader is told that it is gone, or that it never was; and what comes late has its place."""
    logs = KeptLogs(tmp_path, location=location)
    logs.add_job("job")
    logs.end_attempt("job")
    path = await logs.keeper.provide("job/task-0", 0)
    assert path == logs.path("job")
    assert not path.exists()
    piece = Piece(task_id="job/task-0", incarnation=WORKER.incarnation, position=0, end=end_of(tmp_path / "late"))
    assert await store(logs, piece) == [0]
    assert await logs.read("job") == Read(b"")


async def test_what_is_complete(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_bytes=0))
    logs.add_job("job", 2)
    logs.write("job", b"all of it\n")
    writer = logs.write("job", b"some of it\n", index=1, close=False)
    complete = [logs.keeper.is_complete(f"job/task-{index}", 0) for index in (0, 1)]
    assert complete == [True, False]
    writer.close()
    logs.end_attempt("job")
    await logs.keeper.sweep()
    assert not list_segments(logs.path("job"))
    assert logs.keeper.is_complete("job/task-0", 0), "also when it is only elsewhere"


# For workers


async def test_pieces_make_up_a_log(logs: KeptLogs, tmp_path: Path) -> None:
    logs.add_job("job", 2)
    source = tmp_path / "source"
    pieces = cut(source, write(source, b"one\n", b"two\n"), "job/task-1")
    assert await store(logs, *pieces[:1]) == [pieces[1].position]
    assert await store(logs, *pieces) == [piece.position for piece in (*pieces[1:], pieces[-1])]
    assert files(logs.path("job", index=1)) == files(source)


@pytest.mark.parametrize(
    "changes",
    [
        {"task_id": "nobody/task-0"},
        {"task_id": "job/task-1"},
        {"task_id": "job/task-"},
        {"task_id": ""},
        {"attempt_id": 1},
        {"attempt_id": -1},
        {"incarnation": "another process"},
        {"incarnation": ""},
    ],
    ids=str,
)
async def test_nothing_is_wanted_of_what_is_not_this_workers(
    logs: KeptLogs, tmp_path: Path, changes: dict[str, str | int]
) -> None:
    logs.add_job("job")
    source = tmp_path / "source"
    first, *_ = cut(source, write(source, b"one\n"), "job/task-0")
    other = Piece()
    other.CopyFrom(first)
    for name, value in changes.items():
        setattr(other, name, value)
    assert await store(logs, other) == [NOTHING]
    assert not logs.directories.root.exists()
    assert await store(logs, other, first, other) == [NOTHING, len(first.records), NOTHING]
    assert await store(logs, first, worker_id="another") == [NOTHING]
    assert len(list(logs.directories.root.glob("*/*"))) == 1


async def test_each_attempt_is_its_own_workers(logs: KeptLogs, tmp_path: Path) -> None:
    """An earlier attempt may still be handed over when the next one runs."""
    logs.add_job("job")
    logs.end_attempt("job", goes_on=True)
    logs.start_attempt("job")
    for attempt_id in (1, 0):
        source = tmp_path / f"source {attempt_id}"
        pieces = cut(source, write(source, b"of attempt %d\n" % attempt_id), "job/task-0", attempt_id)
        await store(logs, *pieces)
        assert read(logs.path("job", attempt_id)) == Read(b"of attempt %d\n" % attempt_id)


async def test_a_piece_that_cannot_be_meant_does_not_stand_in_the_way(
    logs: KeptLogs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs.add_job("job", 2)
    source = tmp_path / "source"
    good = cut(source, write(source, b"one\n"), "job/task-1")[0]
    bad = Piece(task_id="job/task-0", incarnation=WORKER.incarnation, offsets=(1, 2))
    assert await store(logs, bad, good) == [NOTHING, len(good.records)]
    assert "refused a piece of a log of job/task-0" in caplog.text


async def test_a_disk_that_takes_nothing_is_said_to_the_worker(logs: KeptLogs, tmp_path: Path) -> None:
    logs.add_job("job")
    source = tmp_path / "source"
    pieces = cut(source, write(source, b"one\n"), "job/task-0")
    logs.directories.root.write_text("a file where the directory should be")
    with pytest.raises(ResourceExhaustedError, match=f"cannot keep logs in {logs.directories.root}: Not a directory"):
        await store(logs, pieces[0])
    logs.directories.root.unlink()
    await store(logs, *pieces)
    assert files(logs.path("job")) == files(source)


async def test_a_jobs_own_limit_goes_before_that_of_all(logs: KeptLogs, tmp_path: Path) -> None:
    logs.add_job("limited", max_log_bytes=150_000)
    logs.add_job("other")
    source = tmp_path / "source"
    writer = write(source, *[random.Random(number).randbytes(10_000) for number in range(45)])
    for name, limit in (("limited", 150_000), ("other", 300_000)):
        await store(logs, *cut(source, writer, f"{name}/task-0"))
        kept = sum(file.stat().st_size for file in logs.path(name).iterdir())
        assert limit - 70_000 < kept < limit + 70_000
        assert read(logs.path(name)).missing > 0


# Of other lives


async def test_a_job_does_not_see_what_another_of_its_name_left_here(tmp_path: Path) -> None:
    before = KeptLogs(tmp_path, location="")
    before.add_ended("same", b"of another life\n")
    before.add_ended("other", b"of another life too\n")
    logs = KeptLogs(tmp_path, location="")
    logs.keeper.start()
    logs.keeper.job_launched("same", 3)
    assert not logs.path("same").exists()
    assert not logs.keeper.is_complete("same/task-0", 0)
    logs.add_job("same", 3)
    logs.write("same", b"of this life\n")
    logs.keeper.job_launched("same", 3)
    assert await logs.read("same") == Read(b"of this life\n")
    assert read(logs.path("other")) == Read(b"of another life too\n")
    await asyncio.to_thread(wait_until, lambda: len(list(logs.directories.root.iterdir())) == 2, "the old one to go")
    await logs.keeper.close()


async def test_what_is_written_in_this_life_is_no_earlier_ones(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    before = logs.write("before", b"of another life\n", close=False)
    logs.keeper.start()
    logs.write("same", b"of this life\n")
    logs.keeper.job_launched("same", 1)
    assert read(logs.path("same")) == Read(b"of this life\n")
    before.close()
    await logs.keeper.close()


async def test_an_earlier_life_that_ended_while_it_removed(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    old = logs.directories.root / ".old-0123456789abcdef"
    shutil.copytree(write_in(tmp_path / "log"), old / "0")
    logs.keeper.start()
    await asyncio.to_thread(wait_until, lambda: not old.exists(), "what is left of it to go")
    await logs.keeper.close()


async def test_a_job_whose_name_was_anothers_that_was_removed_since(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="")
    logs.write("same", b"of another life\n")
    logs.now_ms += 2 * DAY_MS
    logs.keeper.start()
    await logs.keeper.sweep()
    assert not logs.path("same").exists()
    logs.keeper.job_launched("same", 1)
    logs.add_job("same")
    logs.write("same", b"of this life\n")
    assert await logs.read("same") == Read(b"of this life\n")
    await logs.keeper.close()


async def test_a_job_does_not_see_what_another_of_its_name_left_there(tmp_path: Path) -> None:
    before = KeptLogs(tmp_path)
    before.now_ms -= DAY_MS
    before.add_ended("same", b"of another life\n")
    await before.keeper.sweep()
    shutil.rmtree(before.directories.root)
    logs = KeptLogs(tmp_path)
    logs.add_job("same")
    logs.end_attempt("same")
    assert await logs.read("same") == Read(b"", truncated=True)
    logs.write("same", b"of this life\n")
    await logs.keeper.sweep()
    assert logs.stored("same") != before.stored("same")
    assert files(logs.stored("same")) != files(before.stored("same"))
    assert files(before.stored("same")).keys() == files(logs.stored("same")).keys()


# From its start to its end


async def test_it_sweeps_at_its_start_and_a_close_ends_a_copy(odd: None, tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="odd://")
    for name in ("one", "two"):
        logs.add_ended(name, b"all of it\n")
    OddFileSystem.go_on.clear()
    logs.keeper.start()
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    await logs.keeper.close()
    OddFileSystem.go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert len(OddFileSystem.copied) == 1


async def only_there(directory: Path, location: str) -> KeptLogs:
    """A job whose log is at the location, and not here."""
    logs = KeptLogs(directory, Retention(keep_bytes=0), location=location)
    logs.add_ended("job", b"all of it\n")
    await logs.keeper.sweep()
    assert not list_segments(logs.path("job"))
    return logs


async def store(logs: KeptLogs, *pieces: Piece, worker_id: str = WORKER.worker_id) -> list[int]:
    """Hands over pieces, and answers with what is wanted next of their logs."""
    request = cluster_pb2.Controller.StoreLogsRequest(worker_id=worker_id, pieces=pieces)
    return list((await logs.keeper.store_logs(request)).positions)


def write(directory: Path, *data: bytes) -> LogWriter:
    """A log of its worker's, one record each."""
    writer = LogWriter(directory, max_bytes=500_000)
    for number, one in enumerate(data):
        writer.append("stdout", one, number)
    writer.close()
    return writer


def write_in(directory: Path) -> Path:
    write(directory, b"one\n")
    return directory


def end_of(directory: Path) -> bytes:
    """The end of a log in which nothing was written."""
    write(directory)
    return (directory / END).read_bytes()


def cut(directory: Path, writer: LogWriter, task_id: str, attempt_id: int = 0) -> list[Piece]:
    """A log in pieces, a segment each, and its end."""
    pieces = []
    for place in writer.segments:
        records = (directory / place.segment_name).read_bytes()
        pieces.append(Piece(position=place.position, line=place.line, offsets=place.offsets, records=records))
    pieces.append(Piece(position=writer.position, end=(directory / END).read_bytes()))
    for piece in pieces:
        piece.task_id, piece.attempt_id, piece.incarnation = task_id, attempt_id, WORKER.incarnation
    return pieces
