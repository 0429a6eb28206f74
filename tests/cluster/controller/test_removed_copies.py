"""The removal of jobs whose logs are at the log location: after failures, with a slow location, and beside a sweep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.log_keeping import KeptLogs, Read, files, read
from support.odd_files import OddFileSystem, odd_files

from iris.cluster.controller.logs.removal.removed_copies import REMOVED_WITH_JOB
from iris.cluster.controller.logs.removal.retention import Retention
from iris.cluster.logs.segments import list_segments
from iris.errors import NotFoundError, UnavailableError

pytestmark = pytest.mark.anyio
DAY_MS = 86_400_000
# This time is long enough for the start of a thread on a busy machine.
PATIENCE_S = 0.5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    with odd_files():
        yield


def kept_logs(directory: Path, retention: Retention | None = None, patience_s: float = 20.0) -> KeptLogs:
    return KeptLogs(directory, retention, location="odd://", patience_s=patience_s)


def stored(logs: KeptLogs, name: str) -> dict[str, bytes]:
    """Return the files of a log at the log location."""
    return files(logs.stored(name)) if logs.stored(name).exists() else {}


async def remove(logs: KeptLogs, *names: str) -> None:
    """Remove the logs of jobs in the same way as the removal of the jobs."""
    records = [logs.jobs[name] for name in names]
    async with logs.keeper.job_log_removal.without_sweeps(records):
        async with logs.keeper.job_log_removal.copies_removed(records):
            pass
        await logs.keeper.job_log_removal.remove(records)


async def hang_while_fetching(logs: KeptLogs, name: str) -> asyncio.Task[Read]:
    """Add an ended job whose log is only at the log location. Return a reader of the log, for which the log location
    does not answer.
    """
    logs.add_ended(name, b"all of it\n")
    await logs.keeper.sweep()
    assert not list_segments(logs.path(name))
    OddFileSystem.entered.clear()
    OddFileSystem.go_on.clear()
    reader = asyncio.create_task(logs.read(name))
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    return reader


async def remove_from_table(logs: KeptLogs, name: str) -> None:
    """Remove an ended job and its logs."""
    record = logs.jobs[name]
    logs.table.conclude(record)
    logs.table.forget(record)
    await remove(logs, name)


async def remove_in_several_tries(logs: KeptLogs, *names: str) -> None:
    """Remove the logs of jobs. The removal is repeated until it succeeds, because a busy machine may need more than
    `PATIENCE_S`.
    """
    is_removed = False
    while not is_removed:
        with contextlib.suppress(UnavailableError):
            await remove(logs, *names)
            is_removed = True
        await asyncio.sleep(0)


async def remove_copies_and_fail(logs: KeptLogs, name: str) -> None:
    """Remove the copies of the logs of a job. The job itself cannot be removed afterwards."""
    records = [logs.jobs[name]]
    async with logs.keeper.job_log_removal.without_sweeps(records), logs.keeper.job_log_removal.copies_removed(records):
        assert not stored(logs, name)
        raise OSError("the disk is full")


async def test_log_is_copied_again_after_the_removal_of_its_job_has_failed(tmp_path: Path) -> None:
    logs = kept_logs(tmp_path)
    for name in ("one", "two"):
        logs.add_ended(name, b"all of it\n")
    await logs.keeper.sweep()
    OddFileSystem.broken = "two"
    with pytest.raises(UnavailableError):
        await remove(logs, "one", "two")
    assert not stored(logs, "one")
    OddFileSystem.broken = ""
    await logs.keeper.sweep()
    for name in ("one", "two"):
        assert files(logs.stored(name)) == files(logs.path(name))
        assert await logs.read(name) == Read(b"all of it\n")


async def test_folded_log_is_copied_again_after_the_removal_of_its_job_has_failed(tmp_path: Path) -> None:
    logs = kept_logs(tmp_path)
    for name in ("one", "two"):
        logs.add_ended(name, b"all of it\n")
    logs.now_ms += 60_000
    await logs.keeper.sweep()
    assert not any(logs.path(name).exists() for name in ("one", "two")), "the logs are not folded"
    OddFileSystem.broken = "two"
    with pytest.raises(UnavailableError):
        await remove(logs, "one", "two")
    OddFileSystem.broken = ""
    for _ in range(2):
        await logs.keeper.sweep()
        for name in ("one", "two"):
            assert files(logs.stored(name)) == files(logs.path(name))
            assert await logs.read(name) == Read(b"all of it\n")
    await remove(logs, "one", "two")
    assert not any(stored(logs, name) for name in ("one", "two"))


@pytest.mark.parametrize("is_folded", [False, True])
async def test_reader_gets_the_reason_if_the_only_copy_was_lost_in_a_failed_removal(
    tmp_path: Path, is_folded: bool
) -> None:
    logs = kept_logs(tmp_path, Retention(keep_bytes=0))
    logs.add_ended("away", b"x" * 1000)
    logs.now_ms += 60_000 if is_folded else 0
    for _ in range(2):  # The first sweep folds the log, and the second sweep removes its segments from this machine.
        await logs.keeper.sweep()
    assert not list_segments(logs.path("away"))
    with pytest.raises(OSError, match="the disk is full"):
        await remove_copies_and_fail(logs, "away")
    assert await logs.read("away") == Read(b"", 1000, frozenset({REMOVED_WITH_JOB}))
    await remove(logs, "away")
    assert not logs.path("away").exists()


async def test_log_fetched_during_a_failed_removal_is_copied_again(tmp_path: Path) -> None:
    logs = kept_logs(tmp_path, Retention(keep_bytes=0))
    logs.add_ended("away", b"all of it\n")
    await logs.keeper.sweep()
    assert not list_segments(logs.path("away"))
    OddFileSystem.may_remove.clear()
    removal = asyncio.create_task(remove_copies_and_fail(logs, "away"))
    await asyncio.to_thread(OddFileSystem.removing.wait, 30)
    assert await logs.read("away") == Read(b"all of it\n")
    OddFileSystem.may_remove.set()
    with pytest.raises(OSError, match="the disk is full"):
        await removal
    await logs.keeper.sweep()
    assert files(logs.stored("away")) == files(logs.path("away"))


async def test_fetch_that_hangs_during_the_removal_of_its_job_changes_no_log_of_a_new_job_with_the_same_name(
    tmp_path: Path,
) -> None:
    logs = kept_logs(tmp_path, Retention(keep_bytes=0))
    reader = await hang_while_fetching(logs, "same")
    await remove_from_table(logs, "same")
    logs.now_ms += 1
    logs.add_ended("same", b"of the new job\n")
    OddFileSystem.go_on.set()
    with pytest.raises(NotFoundError, match="job 'same' was removed while its logs were being read"):
        await reader
    assert read(logs.path("same")) == Read(b"of the new job\n")
    assert await logs.read("same") == Read(b"of the new job\n")
    assert [path.name for path in logs.directories.root.iterdir()] == [logs.path("same").parent.name]


async def test_reader_of_a_new_job_does_not_wait_for_a_fetch_of_a_removed_job_with_the_same_name(
    tmp_path: Path,
) -> None:
    logs = kept_logs(tmp_path, Retention(keep_bytes=0))
    reader = await hang_while_fetching(logs, "same")
    await remove_from_table(logs, "same")
    logs.now_ms += 1
    logs.add_ended("same", b"of the new job\n")
    assert await logs.read("same") == Read(b"of the new job\n")
    assert not reader.done()
    OddFileSystem.go_on.set()
    with pytest.raises(NotFoundError):
        await reader


async def test_copy_that_hangs_blocks_only_the_removal_of_its_own_job(tmp_path: Path) -> None:
    logs = kept_logs(tmp_path, patience_s=PATIENCE_S)
    for name in ("hangs", "other"):
        logs.add_ended(name, b"all of it\n")
    OddFileSystem.go_on.clear()
    sweep = asyncio.create_task(logs.keeper.sweep())
    await asyncio.to_thread(OddFileSystem.entered.wait, 30)
    copied = "hangs" if logs.stored("hangs").exists() else "other"
    with pytest.raises(UnavailableError, match="is being copied to the log location or removed there"):
        await remove(logs, copied)
    await remove_in_several_tries(logs, "other" if copied == "hangs" else "hangs")
    OddFileSystem.go_on.set()
    await sweep
    await remove_in_several_tries(logs, copied)
    assert not any(stored(logs, name) for name in ("hangs", "other"))


async def test_removal_fails_if_the_log_location_does_not_answer_and_later_removals_fail_at_once(
    tmp_path: Path,
) -> None:
    logs = kept_logs(tmp_path, patience_s=PATIENCE_S)
    for name in ("hangs", "other"):
        logs.add_ended(name, b"all of it\n")
    await logs.keeper.sweep()
    OddFileSystem.may_remove.clear()
    with pytest.raises(UnavailableError, match=rf"the log location odd://\S+ has not answered for {PATIENCE_S} s"):
        await remove(logs, "hangs")
    with pytest.raises(UnavailableError, match="has not answered an earlier removal yet"):
        await remove(logs, "other")
    with pytest.raises(UnavailableError, match="is being copied to the log location or removed there"):
        await remove(logs, "hangs")
    await logs.keeper.sweep()  # This sweep must not copy the log, because the removal of its copy may still continue.
    OddFileSystem.may_remove.set()
    await remove_in_several_tries(logs, "other")  # The earlier removal continues in a thread.
    await logs.keeper.sweep()
    assert files(logs.stored("hangs")) == files(logs.path("hangs"))
    await remove_in_several_tries(logs, "hangs")
    assert not any(stored(logs, name) for name in ("hangs", "other"))


async def test_job_is_not_removed_while_a_sweep_removes_one_of_its_logs(tmp_path: Path) -> None:
    logs = kept_logs(tmp_path, Retention(keep_ms=DAY_MS), patience_s=PATIENCE_S)
    logs.add_ended("old", b"all of it\n")
    await logs.keeper.sweep()
    logs.now_ms += DAY_MS + 1
    OddFileSystem.may_remove.clear()
    sweep = asyncio.create_task(logs.keeper.sweep())
    await asyncio.to_thread(OddFileSystem.removing.wait, 30)
    with pytest.raises(UnavailableError, match="is being copied to the log location or removed there"):
        await remove(logs, "old")
    OddFileSystem.may_remove.set()
    await sweep
    await remove_in_several_tries(logs, "old")
    assert not logs.path("old").parent.exists()
