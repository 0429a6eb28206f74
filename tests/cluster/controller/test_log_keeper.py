"""The keeper of logs: what it takes from workers, what it fetches for readers, and whose logs are whose."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.log_keeping import WORKER, KeptLogs, Read, files, read
from support.odd_files import OddFileSystem, odd_files
from support.waiting import wait_until

from iris.cluster.controller.logs.receive import Piece
from iris.cluster.controller.logs.removal.removed_logs import remove_log
from iris.cluster.controller.logs.removal.retention import Retention
from iris.cluster.logs.folded.reading import find_folded
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import END, list_segments
from iris.cluster.logs.upload_answers import RETRY_LATER, UNWANTED
from iris.errors import UnavailableError
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


async def test_log_of_a_cluster_without_a_log_location_is_read_from_the_local_disk(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.add_ended("job", b"here\n")
    assert await logs.keeper.provide("job/task-0", 0) == logs.path("job")
    assert await logs.read("job") == Read(b"here\n")


async def test_log_on_the_local_disk_is_read_without_the_log_location(odd: None, tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="odd://")
    logs.add_ended("job", b"here\n")
    await logs.keeper.sweep()
    shutil.rmtree(logs.there)
    OddFileSystem.error = OSError("not asked")
    assert await logs.read("job") == Read(b"here\n")


async def test_log_is_fetched_once_for_several_readers(odd: None, tmp_path: Path) -> None:
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


async def test_fetched_log_does_not_replace_a_log_that_was_written_on_this_machine_meanwhile(
    odd: None, tmp_path: Path
) -> None:
    logs = await only_there(tmp_path, "odd://")
    shutil.rmtree(logs.path("job"))
    OddFileSystem.go_on.clear()
    OddFileSystem.entered.clear()
    reader = asyncio.create_task(logs.read("job"))
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    logs.write("job", b"all of it, and more\n")
    OddFileSystem.go_on.set()
    assert await reader == Read(b"all of it, and more\n")
    assert [path.name for path in logs.directories.root.iterdir()] == [logs.path("job").parent.name]


async def test_interrupted_fetch_of_a_log_is_repeated(odd: None, tmp_path: Path) -> None:
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


async def test_log_part_that_cannot_be_written_is_requested_again_and_other_parts_are_stored(
    logs: KeptLogs, tmp_path: Path
) -> None:
    logs.add_job("job", 2)
    source = tmp_path / "source"
    writer = write(source, b"one\n")
    pieces, others = cut(source, writer, "job/task-0"), cut(source, writer, "job/task-1")
    in_the_way = logs.path("job").parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the directory should be")
    assert await store(logs, pieces[0], others[0]) == [RETRY_LATER, len(others[0].records)]
    in_the_way.unlink()
    await store(logs, *pieces, *others[1:])
    assert files(logs.path("job")) == files(logs.path("job", index=1)) == files(source)


async def test_log_removed_during_its_upload_stays_removed(logs: KeptLogs, tmp_path: Path) -> None:
    logs.add_job("job")
    source = tmp_path / "source"
    writer = write(source, *[random.Random(number).randbytes(10_000) for number in range(45)])
    pieces = cut(source, writer, "job/task-0")
    half = len(pieces) // 2
    await store(logs, *pieces[:half])
    remove_log(logs.path("job"), "removed: a test")
    assert await store(logs, *pieces[half:]) == [UNWANTED] * (len(pieces) - half)
    got = read(logs.path("job"))
    assert (got.data, got.reasons) == (b"", {"removed: a test"})


async def test_log_with_a_reader_is_not_removed(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="")
    logs.add_ended("old", b"of long ago\n")
    logs.now_ms += 2 * DAY_MS
    with logs.keeper.reading("old/task-0", 0):
        await logs.keeper.sweep()
        assert read(logs.path("old")).data == b"of long ago\n"
    await logs.keeper.sweep()
    assert read(logs.path("old")).data == b""


async def test_log_limit_of_the_job_replaces_the_limit_of_the_cluster(logs: KeptLogs, tmp_path: Path) -> None:
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


async def test_new_job_does_not_show_local_logs_of_an_earlier_job_with_the_same_name(tmp_path: Path) -> None:
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


async def test_logs_written_by_the_running_controller_do_not_count_as_logs_of_an_earlier_cluster(
    tmp_path: Path,
) -> None:
    logs = KeptLogs(tmp_path, location="")
    before = logs.write("before", b"of another life\n", close=False)
    logs.keeper.start()
    logs.write("same", b"of this life\n")
    logs.keeper.job_launched("same", 1)
    assert read(logs.path("same")) == Read(b"of this life\n")
    before.close()
    await logs.keeper.close()


async def test_log_removal_interrupted_by_the_end_of_a_controller_is_completed(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    old = logs.directories.root / ".old-0123456789abcdef"
    shutil.copytree(write_in(tmp_path / "log"), old / "0")
    logs.keeper.start()
    await asyncio.to_thread(wait_until, lambda: not old.exists(), "what is left of it to go")
    await logs.keeper.close()


async def kill_before_log_removal(logs: KeptLogs, *names: str) -> None:
    """Leave the files of a controller that was killed after these jobs had left its database."""
    records = [logs.jobs[name] for name in names]
    async with logs.keeper.job_log_removal.copies_removed(records):
        pass


async def test_logs_of_jobs_whose_removal_a_kill_has_interrupted_are_removed_at_the_next_start(tmp_path: Path) -> None:
    before = KeptLogs(tmp_path, location="")
    for name in ("removed", "another", "kept", "of-another-cluster"):
        before.add_ended(name, b"text\n")
    await kill_before_log_removal(before, "removed", "another")
    logs = KeptLogs(tmp_path, location="")
    logs.add_job("kept")
    logs.keeper.start()
    await asyncio.to_thread(wait_until, lambda: len(os.listdir(logs.directories.root)) == 2, "the removal to end")
    assert not logs.path("removed").exists()
    assert not logs.path("another").exists()
    assert read(logs.path("kept")) == read(logs.path("of-another-cluster")) == Read(b"text\n")
    await logs.keeper.close()


async def test_folded_log_of_a_job_whose_removal_a_kill_has_interrupted_is_removed_at_the_next_start(
    tmp_path: Path,
) -> None:
    before = KeptLogs(tmp_path, location="")
    before.add_ended("removed", b"text\n")
    before.now_ms += DAY_MS
    await before.keeper.sweep()
    assert find_folded(before.path("removed")) is not None
    await kill_before_log_removal(before, "removed")
    await before.keeper.close()
    logs = KeptLogs(tmp_path, location="")
    logs.keeper.start()
    await asyncio.to_thread(wait_until, lambda: find_folded(logs.path("removed")) is None, "the removal to end")
    await logs.keeper.close()


async def test_logs_of_a_job_whose_removal_has_failed_stay_after_the_next_start(tmp_path: Path) -> None:
    before = KeptLogs(tmp_path, location="")
    before.add_ended("job", b"text\n")
    with pytest.raises(UnavailableError):
        async with before.keeper.job_log_removal.copies_removed([before.jobs["job"]]):
            raise UnavailableError("the database cannot be written")
    logs = KeptLogs(tmp_path, location="")
    logs.add_job("job")
    logs.keeper.start()
    await asyncio.to_thread(wait_until, lambda: len(os.listdir(logs.directories.root)) == 1, "the note to go")
    assert read(logs.path("job")) == Read(b"text\n")
    await logs.keeper.close()


async def test_complete_removal_of_the_logs_of_a_job_leaves_no_files(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.add_ended("job", b"text\n")
    records = [logs.jobs["job"]]
    async with logs.keeper.job_log_removal.copies_removed(records):
        pass
    await logs.keeper.job_log_removal.remove(records)
    assert os.listdir(logs.directories.root) == []


async def test_damaged_note_about_a_removal_removes_no_logs(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.write("job", b"text\n")
    note = logs.directories.root / ".removing-0123456789abcdef"
    note.write_bytes(b"[1")
    logs.keeper.start()
    await asyncio.to_thread(wait_until, lambda: not note.exists(), "the note to go")
    assert read(logs.path("job")) == Read(b"text\n")
    await logs.keeper.close()


async def test_new_job_whose_earlier_logs_were_swept_is_accepted(tmp_path: Path) -> None:
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


async def test_new_job_does_not_show_remote_logs_of_an_earlier_job_with_the_same_name(tmp_path: Path) -> None:
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


async def test_log_keeper_sweeps_at_its_start_and_close_interrupts_a_copy(odd: None, tmp_path: Path) -> None:
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
