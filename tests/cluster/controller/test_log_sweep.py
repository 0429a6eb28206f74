"""Sweeps: complete logs go to the location, what is too much or too old goes, and readers are told what is gone."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.log_keeping import KeptLogs, Read, files
from support.odd_files import OddFileSystem, odd_files

from iris.cluster.controller.logs.removal.retention import Retention
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import list_segments, read_end, write_written

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TOO_OLD = "removed: logs are kept for 1 day"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def odd() -> Iterator[None]:
    with odd_files():
        yield


# To the location


async def test_complete_logs_of_ended_attempts_are_copied(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path)
    logs.add_ended("ended", b"all of it\n")
    logs.add_job("runs")
    logs.write("runs", b"some of it\n", close=False)
    logs.write("unknown-job", b"left by somebody\n")
    await logs.keeper.sweep()
    assert files(logs.stored("ended")) == files(logs.path("ended"))
    assert len(list(logs.there.iterdir())) == 1
    logs.end_attempt("runs")
    await logs.keeper.sweep()
    assert not logs.stored("runs").exists(), "its end is still to come"
    assert await logs.read("ended") == Read(b"all of it\n")


async def test_log_without_an_end_is_copied_after_ten_quiet_minutes(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path)
    logs.add_job("lost")
    logs.write("lost", b"its worker was killed\n", close=False)
    logs.end_attempt("lost")
    logs.add_job("runs")
    logs.write("runs", b"silent for long\n", close=False)
    logs.now_ms += 590_000
    await logs.keeper.sweep()
    assert not logs.there.exists()
    logs.now_ms += 20_000
    await logs.keeper.sweep()
    assert files(logs.stored("lost")) == files(logs.path("lost"))
    assert not logs.stored("runs").exists()


async def test_stored_log_is_copied_again_only_after_a_new_part(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path)
    logs.add_job("lost")
    writer = logs.write("lost", b"first\n", close=False)
    logs.end_attempt("lost")
    logs.now_ms += 601_000
    await logs.keeper.sweep()
    shutil.rmtree(logs.there)
    await logs.keeper.sweep()
    assert not logs.there.exists()
    writer.append("stdout", b"late\n", logs.now_ms)
    writer.close()
    await logs.keeper.sweep()
    assert files(logs.stored("lost")) == files(logs.path("lost"))
    assert await logs.read("lost") == Read(b"first\nlate\n")


async def test_copy_of_a_log_is_repeated_after_the_log_location_could_not_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_bytes=0))
    logs.add_ended("one", b"one\n")
    logs.there.write_text("a file where the directory should be")
    await logs.keeper.sweep()
    assert "cannot write to the log location" in caplog.text
    assert await logs.read("one") == Read(b"one\n"), "what is not stored stays"
    logs.there.unlink()
    logs.now_ms += 2 * HOUR_MS
    await logs.keeper.sweep()
    assert list_segments(logs.stored("one"))
    assert not list_segments(logs.path("one"))


# Too much


async def test_offloaded_log_is_fetched_again_for_a_reader(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path)
    for name in ("a", "b", "c"):
        logs.add_ended(name, name.encode() * 1000)
        logs.now_ms += 1000
    size = sum(len(data) for name, data in files(logs.path("a")).items() if name != "end")
    logs = again(logs, tmp_path, Retention(keep_bytes=2 * size))
    await logs.keeper.sweep()
    assert [bool(list_segments(logs.path(name))) for name in "abc"] == [False, True, True]
    assert await logs.read("a") == Read(b"a" * 1000)
    assert files(logs.path("a")) == files(logs.stored("a"))


async def test_log_read_within_the_last_hour_is_not_removed(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS, keep_bytes=0))
    logs.add_ended("read", b"read\n")
    logs.add_ended("not read", b"not read\n")
    await logs.keeper.sweep()
    for _ in range(3):
        assert await logs.read("read") == Read(b"read\n")
        logs.now_ms += HOUR_MS - 1
        await logs.keeper.sweep()
        assert list_segments(logs.path("read"))
        assert not list_segments(logs.path("not read"))
    logs.now_ms += 1
    await logs.keeper.sweep()
    assert not list_segments(logs.path("read"))
    await logs.keeper.provide("read/task-0", 0)
    logs.now_ms += DAY_MS - HOUR_MS
    assert await logs.read("read") == Read(b"read\n")
    logs.now_ms += HOUR_MS - 1
    await logs.keeper.sweep()
    assert await logs.read("read") == Read(b"read\n"), "too old, but somebody reads it"
    logs.now_ms += HOUR_MS
    await logs.keeper.sweep()
    assert (await logs.read("read")).reasons == {TOO_OLD}


async def test_oldest_log_is_removed_for_good_if_there_is_no_log_location(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_bytes=1500), location="")
    logs.add_ended("old", b"x" * 1000)
    logs.now_ms += 1
    logs.add_ended("new", b"y" * 1000)
    await logs.keeper.sweep()
    reason = "removed: only the newest 1500 bytes of all logs are kept"
    assert await logs.read("old") == Read(b"", 1000, frozenset({reason}))
    assert await logs.read("new") == Read(b"y" * 1000)


async def test_live_log_stays_when_an_earlier_attempt_is_removed(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS, keep_bytes=0), location="")
    logs.add_job("job")
    logs.write("job", b"first\n")
    logs.end_attempt("job", goes_on=True)
    logs.start_attempt("job")
    writer = logs.write("job", b"second\n", 1, close=False)
    logs.now_ms += 2 * DAY_MS
    await logs.keeper.sweep()
    assert await logs.read("job") == Read(b"", 6, frozenset({TOO_OLD}))
    writer.append("stdout", b"goes on\n", logs.now_ms)
    writer.close()
    assert await logs.read("job", 1) == Read(b"second\ngoes on\n")


# Too old


@pytest.mark.parametrize("location", ["file://", ""])
async def test_too_old_log_is_removed_everywhere_and_its_reader_gets_the_reason(tmp_path: Path, location: str) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location=location)
    logs.add_ended("old", b"x" * 1000)
    logs.now_ms += 1000
    logs.add_ended("new", b"y" * 1000)
    logs.now_ms += DAY_MS - 1000
    await logs.keeper.sweep()
    for name in ("old", "new"):
        assert list_segments(logs.path(name))
        assert bool(location) == logs.stored(name).exists()
    logs.now_ms += 1
    await logs.keeper.sweep()
    for _ in range(2):
        assert await logs.read("old") == Read(b"", 1000, frozenset({TOO_OLD}))
        assert await logs.read("new") == Read(b"y" * 1000)
        await logs.keeper.sweep()
    assert logs.keeper.is_complete("old/task-0", 0)
    if location:
        assert files(logs.stored("old")) == {}
        assert files(logs.stored("new")) == files(logs.path("new"))


async def test_offloaded_log_is_deleted_remotely_after_max_age(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS, keep_bytes=0))
    logs.add_ended("old", b"x" * 1000)
    await logs.keeper.sweep()
    assert not list_segments(logs.path("old"))
    logs.now_ms += DAY_MS + 1
    await logs.keeper.sweep()
    assert files(logs.stored("old")) == {}
    assert await logs.read("old") == Read(b"", 1000, frozenset({TOO_OLD}))


async def test_log_that_is_only_at_the_log_location_is_deleted_after_max_age(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS))
    logs.add_ended("old", b"x" * 1000)
    await logs.keeper.sweep()
    shutil.rmtree(logs.directories.root)
    logs.now_ms += DAY_MS
    await logs.keeper.sweep()
    assert list_segments(logs.stored("old"))
    logs.now_ms += 1
    await logs.keeper.sweep()
    assert files(logs.stored("old")) == {}
    assert await logs.read("old") == Read(b"", 1000, frozenset({TOO_OLD}))


async def test_removal_reason_of_a_log_includes_earlier_gaps_in_the_log(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="")
    logs.add_job("old")
    logs.path("old").parent.mkdir(parents=True)
    writer = LogWriter(logs.path("old"), max_bytes=1)
    for _ in range(3):
        writer.append("stdout", b"x" * 70_000, logs.now_ms)
        writer.append("stderr", b"y" * 70_000, logs.now_ms)
    writer.close()
    logs.end_attempt("old")
    logs.now_ms += 2 * DAY_MS
    await logs.keeper.sweep()
    assert await logs.read("old") == Read(b"", 420_000, frozenset({TOO_OLD}))
    end = read_end(logs.path("old"))
    assert end is not None
    assert (end.bytes_written, end.bytes_missing) == ((210_000, 210_000, 0), 420_000)


async def test_size_of_a_removed_log_without_an_end_is_counted(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="")
    for name in ("lost", "handed over"):
        logs.add_job(name)
        logs.write(name, b"x" * 1000, close=False)
        logs.end_attempt(name)
    write_written(logs.path("handed over"), (1234, 0, 0))
    logs.now_ms += 2 * DAY_MS
    await logs.keeper.sweep()
    assert await logs.read("lost") == Read(b"", 1000, frozenset({TOO_OLD}), truncated=True)
    assert await logs.read("handed over") == Read(b"", 1234, frozenset({TOO_OLD}), truncated=True)
    assert list(files(logs.path("handed over"))) == ["end"]


async def test_too_old_log_stays_while_the_log_location_is_unreachable(
    odd: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="odd://")
    logs.add_ended("old", b"x" * 1000)
    await logs.keeper.sweep()
    logs.now_ms += 2 * DAY_MS
    OddFileSystem.error = OSError("gone for a while")
    await logs.keeper.sweep()
    assert "cannot remove the log" in caplog.text
    assert list_segments(logs.path("old"))
    OddFileSystem.error = None
    await logs.keeper.sweep()
    assert files(logs.stored("old")) == {}
    assert await logs.read("old") == Read(b"", 1000, frozenset({TOO_OLD}))


# Logs of jobs that are being removed.


async def test_log_copied_during_the_removal_of_its_job_does_not_stay_at_the_log_location(
    odd: None, tmp_path: Path
) -> None:
    logs = KeptLogs(tmp_path, location="odd://")
    logs.add_ended("gone", b"all of it\n")
    record = logs.jobs["gone"]

    async def remove() -> None:
        async with logs.keeper.job_log_removal.without_sweeps([record]):
            async with logs.keeper.job_log_removal.copies_removed([record]):
                pass
            await logs.keeper.job_log_removal.remove([record])

    OddFileSystem.go_on.clear()
    sweep = asyncio.create_task(logs.keeper.sweep())
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    removal = asyncio.create_task(remove())
    await asyncio.wait([removal], timeout=0.1)  # A removal that did not wait for the copy would have ended by now.
    OddFileSystem.go_on.set()
    await asyncio.gather(sweep, removal)
    assert not logs.stored("gone").exists() or not files(logs.stored("gone"))
    assert not logs.path("gone").exists()


async def test_log_sweep_does_not_copy_the_log_of_a_job_that_is_being_removed(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path)
    logs.add_ended("refused", b"all of it\n")
    async with (
        logs.keeper.job_log_removal.without_sweeps([logs.jobs["refused"]]),
        logs.keeper.job_log_removal.copies_removed([logs.jobs["refused"]]),
    ):
        await logs.keeper.sweep()
        assert not logs.there.exists()
    await logs.keeper.sweep()  # For example, another log of the job could not be removed.
    assert files(logs.stored("refused")) == files(logs.path("refused"))


# Logs of unknown jobs.


async def test_old_log_of_an_unknown_job_is_removed_completely(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS))
    logs.write("unknown-job", b"one\n")
    logs.write("unknown-job", b"two\n", 1)
    logs.now_ms += DAY_MS - HOUR_MS
    await logs.keeper.sweep()
    assert len(list(logs.path("unknown-job").parent.iterdir())) == 2
    logs.now_ms = time.time_ns() // 1_000_000 + DAY_MS + 1
    await logs.keeper.sweep()
    assert list(logs.directories.root.iterdir()) == []


async def test_log_of_a_job_that_starts_during_a_sweep_is_not_removed(odd: None, tmp_path: Path) -> None:
    """What lies at its place then is its own."""
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="odd://")
    logs.write("same", b"of another life\n")
    logs.now_ms += 2 * DAY_MS
    logs.add_ended("other", b"to be copied\n")
    OddFileSystem.go_on.clear()
    sweep = asyncio.create_task(logs.keeper.sweep())
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    shutil.rmtree(logs.path("same").parent)  # as job_launched does
    logs.add_job("same")
    writer = logs.write("same", b"of this life\n", close=False)
    OddFileSystem.go_on.set()
    await sweep
    writer.close()
    assert await logs.read("same") == Read(b"of this life\n")


def again(logs: KeptLogs, directory: Path, retention: Retention) -> KeptLogs:
    """The same logs and jobs, kept by another controller."""
    after = KeptLogs(directory, retention)
    after.now_ms = logs.now_ms
    after.jobs.update(logs.jobs)
    for record in logs.jobs.values():
        after.table.add(record)
    return after
