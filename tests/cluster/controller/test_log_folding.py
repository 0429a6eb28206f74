"""Folded logs: small logs of ended attempts leave no files, and readers get the same bytes as before."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.log_keeping import WORKER, KeptLogs, Read, files, read

from iris.cluster.controller.logs.folding import MAX_FOLDED_BYTES
from iris.cluster.controller.logs.receive import Piece
from iris.cluster.controller.logs.removal.retention import Retention
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_pages import fetch_page_steps
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.segments import END, has_end, is_away, list_segments, read_end
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import finish

pytestmark = pytest.mark.anyio
MINUTE_MS = 60_000
DAY_MS = 86_400_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def remaining(logs: KeptLogs) -> list[str]:
    """Return the paths of all files and directories of logs. The database of folded logs is left out."""
    root = logs.directories.root
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.name.startswith("folded.db"))


def database_bytes(logs: KeptLogs) -> int:
    """Return the size of the database of folded logs."""
    return sum(path.stat().st_size for path in logs.directories.root.glob("folded.db*") if path.suffix != ".db-shm")


async def folded(tmp_path: Path, *contents: bytes, retention: Retention | None = None, location: str = "") -> KeptLogs:
    """Return kept logs with one folded log for each of the contents, of the jobs job0, job1 and so on."""
    logs = KeptLogs(tmp_path, retention, location=location)
    for number, content in enumerate(contents):
        logs.add_ended(f"job{number}", content)
        logs.now_ms += 1
    logs.now_ms += MINUTE_MS
    await logs.keeper.sweep()
    return logs


def write_segments(logs: KeptLogs, name: str) -> LogWriter:
    """Write a log of several segments and sources, and end its attempt."""
    logs.add_job(name)
    path = logs.path(name)
    path.parent.mkdir(parents=True)
    writer = LogWriter(path, max_bytes=8 * 65536)
    chance = random.Random(name)
    for number in range(30):
        source = ("stdout", "stderr", "build")[number % 3]
        writer.append(source, chance.randbytes(chance.randrange(1, 20_000)) + b"\n", number)  # type: ignore[arg-type]
    writer.close()
    logs.end_attempt(name)
    return writer


async def test_log_of_an_attempt_that_ended_a_minute_ago_is_folded_and_leaves_no_files(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.add_ended("ended", b"all of it\n")
    logs.add_job("runs")
    logs.write("runs", b"some of it\n", close=False)
    before = files(logs.path("ended"))
    logs.now_ms += MINUTE_MS - 1
    await logs.keeper.sweep()
    assert logs.path("ended").exists()
    logs.now_ms += 1
    await logs.keeper.sweep()
    assert not logs.path("ended").parent.exists()
    assert logs.path("runs").exists()
    assert files(logs.path("ended")) == before
    assert await logs.read("ended") == Read(b"all of it\n")
    assert logs.keeper.is_complete("ended/task-0", 0)


async def test_folded_log_has_the_same_records_and_pages_as_its_files(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    write_segments(logs, "job")
    path, places = logs.path("job"), list_segments(logs.path("job"))
    copy = tmp_path / "copy" / "log"
    shutil.copytree(path, copy)
    logs.now_ms += MINUTE_MS
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert list_segments(path) == places == list_segments(copy)
    assert len(places) > 2
    assert read_end(path) == read_end(copy)
    middle = places[len(places) // 2].offsets
    for offsets in ((0, 0, 0), middle, (middle[0] + 1, middle[1] + 7, 0)):
        assert records_from(path, offsets) == records_from(copy, offsets)
    for start_line in (0, 5, -4):
        wanted = cluster_pb2.Worker.FetchLogsFilter(start_line=start_line, max_lines=7)
        assert finish(fetch_page_steps(path, None, wanted, 0, True)) == finish(
            fetch_page_steps(copy, None, wanted, 0, True)
        )


def records_from(path: Path, offsets: tuple[int, int, int]) -> bytes:
    """Return all records of a final log from the given offsets on, read in small steps."""
    with LogReader(path, offsets) as reader:
        assert reader.bytes_left() > 0
        records = b""
        while data := reader.read(5_000, final=True):
            records += data
        assert reader.missing == 0
        return records


@pytest.mark.parametrize("knows_writer", [False, True])
async def test_reader_that_has_a_log_open_while_the_log_is_folded_gets_the_whole_log(
    tmp_path: Path, knows_writer: bool
) -> None:
    logs = KeptLogs(tmp_path, location="")
    writer = write_segments(logs, "job")
    expected = records_from(logs.path("job"), (0, 0, 0))
    with LogReader(logs.path("job"), writer=writer if knows_writer else None) as reader:
        got = reader.read(5_000, final=True)
        logs.now_ms += MINUTE_MS
        await logs.keeper.sweep()
        assert remaining(logs) == []
        while data := reader.read(5_000, final=True):
            got += data
    assert got == expected


async def test_large_log_stays_in_files_until_retention_removes_it(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="")
    logs.add_ended("large", b"x" * (MAX_FOLDED_BYTES + 1))
    logs.now_ms += MINUTE_MS
    await logs.keeper.sweep()
    assert list_segments(logs.path("large"))
    assert logs.path("large").exists()
    logs.now_ms += DAY_MS
    await logs.keeper.sweep()
    assert remaining(logs) == []
    got = await logs.read("large")
    assert (got.missing, got.reasons) == (MAX_FOLDED_BYTES + 1, {"removed: logs are kept for 1 day"})


# Retention


async def test_folded_log_is_removed_by_age_and_its_space_is_given_back(tmp_path: Path) -> None:
    contents = [random.Random(number).randbytes(200_000) for number in range(10)]
    logs = await folded(tmp_path, *contents, retention=Retention(keep_ms=DAY_MS))
    logs.add_ended("new", b"y")
    assert database_bytes(logs) > 1_800_000
    logs.now_ms += DAY_MS - 1000
    await logs.keeper.sweep()
    assert database_bytes(logs) < 100_000
    assert await logs.read("job3") == Read(b"", 200_000, frozenset({"removed: logs are kept for 1 day"}))
    assert await logs.read("new") == Read(b"y")


async def test_oldest_folded_logs_are_removed_when_all_logs_take_too_much_space(tmp_path: Path) -> None:
    logs = await folded(tmp_path, b"a" * 1000, b"b" * 1000, b"c" * 1000, retention=Retention(keep_bytes=3500))
    assert [len((await logs.read(f"job{number}")).data) for number in range(3)] == [1000, 1000, 1000]
    logs.add_ended("new", b"d" * 1000)
    await logs.keeper.sweep()
    reason = "removed: only the newest 3500 bytes of all logs are kept"
    assert await logs.read("job0") == Read(b"", 1000, frozenset({reason}))
    assert [len((await logs.read(name)).data) for name in ("job1", "job2", "new")] == [1000, 1000, 1000]


async def test_folded_log_with_a_reader_is_not_removed(tmp_path: Path) -> None:
    logs = await folded(tmp_path, b"read\n", retention=Retention(keep_ms=DAY_MS))
    logs.now_ms += DAY_MS
    with logs.keeper.reading("job0/task-0", 0):
        await logs.keeper.sweep()
        assert await logs.read("job0") == Read(b"read\n")
    await logs.keeper.sweep()
    assert (await logs.read("job0")).missing == 5


async def test_folded_log_is_offloaded_to_the_log_location_and_fetched_again(tmp_path: Path) -> None:
    logs = await folded(
        tmp_path, b"a" * 1000, b"b" * 1000, retention=Retention(keep_ms=DAY_MS, keep_bytes=1500), location="file://"
    )
    await logs.keeper.sweep()
    assert is_away(logs.path("job0"))
    assert not list_segments(logs.path("job0"))
    assert not is_away(logs.path("job1"))
    assert await logs.read("job0") == Read(b"a" * 1000)
    assert not is_away(logs.path("job0"))
    logs.now_ms += DAY_MS
    await logs.keeper.sweep()
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert not list(logs.there.rglob("end"))
    assert (await logs.read("job0")).reasons == {"removed: logs are kept for 1 day"}


# Late parts, and earlier jobs with the same name.


async def test_late_part_of_a_log_in_the_database_extends_the_log_if_its_end_is_missing(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.add_job("lost")
    source = tmp_path / "source"
    writer = LogWriter(source)
    writer.append("stdout", b"first\n", 1)
    half = writer.position
    writer.append("stdout", b"late\n", 2)
    writer.close()
    (place,) = writer.segments
    records = (source / place.segment_name).read_bytes()
    first = Piece(position=0, offsets=(0, 0, 0), records=records[:half], bytes_written=(6, 0, 0))
    last = Piece(position=half, records=records[half:], end=(source / END).read_bytes())
    assert await store(logs, first) == half
    logs.end_attempt("lost")
    logs.now_ms += DAY_MS + MINUTE_MS
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert await logs.read("lost") == Read(b"first\n", truncated=True)
    assert await store(logs, Piece()) == half
    assert await store(logs, last) == len(records)
    assert await logs.read("lost") == Read(b"first\nlate\n")
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert await logs.read("lost") == Read(b"first\nlate\n")
    assert await store(logs, last) == len(records), "a complete log does not change"


async def store(logs: KeptLogs, piece: Piece) -> int:
    piece.task_id, piece.incarnation = "lost/task-0", WORKER.incarnation
    request = cluster_pb2.Controller.StoreLogsRequest(worker_id=WORKER.worker_id, pieces=[piece])
    (position,) = (await logs.keeper.store_logs(request)).positions
    return position


async def test_end_that_a_worker_writes_late_completes_a_folded_log(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.add_job("late")
    writer = logs.write("late", b"all of it\n", close=False)
    logs.end_attempt("late")
    logs.now_ms += DAY_MS + MINUTE_MS
    await logs.keeper.sweep()
    assert not has_end(logs.path("late"))
    end = LogWriter(tmp_path / "other")
    end.append("stdout", b"all of it\n", 1)
    end.close()
    logs.path("late").mkdir(parents=True)
    shutil.copy(tmp_path / "other" / END, logs.path("late"))
    assert await logs.read("late") == Read(b"all of it\n")
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert await logs.read("late") == Read(b"all of it\n")
    writer.close()


async def test_new_job_does_not_show_folded_logs_of_an_earlier_job_with_the_same_name(tmp_path: Path) -> None:
    before = await folded(tmp_path, b"of another life\n", b"of another life too\n")
    await before.keeper.close()
    logs = KeptLogs(tmp_path, location="")
    logs.keeper.start()
    logs.keeper.job_launched("job0", 3)
    assert not logs.keeper.is_complete("job0/task-0", 0)
    assert logs.keeper.is_complete("job1/task-0", 0)
    logs.add_job("job0", 3)
    logs.write("job0", b"of this life\n")
    assert await logs.read("job0") == Read(b"of this life\n")
    await logs.keeper.close()


async def test_new_job_is_accepted_while_another_thread_writes_folded_logs(tmp_path: Path) -> None:
    before = await folded(tmp_path, b"all of it\n")
    await before.keeper.close()
    logs = KeptLogs(tmp_path, location="")
    logs.keeper.start()
    with contextlib.closing(sqlite3.connect(logs.directories.root / "folded.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")  # A batch of logs is being folded.
        logs.keeper.job_launched("new", 3)  # A write would wait for the lock, and fail.
        assert writer.in_transaction
    await logs.keeper.close()


# Crashes, state of earlier releases, and damage.

FOLD = """
import sys
from pathlib import Path
from iris.cluster.controller.logs.folding import Foldable, FoldedLogs
from iris.cluster.logs.directories import LogDirectories
directories = LogDirectories(Path(sys.argv[1]))
FoldedLogs(directories).fold(Foldable(name, 100_000, 1, "") for name in sorted(directories.names()))
"""


def fold_in_process(logs: KeptLogs, failpoint: str) -> int:
    """Fold all logs in another process with a failpoint, and return the exit code of the process."""
    environment = os.environ | {"IRIS_FAILPOINTS": failpoint}
    return subprocess.run([sys.executable, "-c", FOLD, logs.directories.root], env=environment, check=False).returncode


async def test_new_job_is_accepted_although_the_database_of_folded_logs_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = await folded(tmp_path, b"all of it\n")
    await before.keeper.close()
    logs = KeptLogs(tmp_path, location="")
    logs.keeper.start()
    (logs.directories.root / "folded.db").write_bytes(b"damaged" * 1000)
    logs.keeper.job_launched("new", 3)
    assert "the folded logs of an earlier job with the same name cannot be removed" in caplog.text
    await logs.keeper.close()


@pytest.mark.parametrize("failpoint", ["fold.before=kill@1", "fold.after=kill@1", "fold.after=kill@2"])
async def test_kill_during_folding_loses_no_log(tmp_path: Path, failpoint: str) -> None:
    logs = KeptLogs(tmp_path, location="")
    names = [f"job{number}" for number in range(250)]
    for name in names:
        logs.add_ended(name, name.encode())
    assert fold_in_process(logs, failpoint) == -signal.SIGKILL
    assert [(await logs.read(name)).data.decode() for name in names] == names
    logs.now_ms += MINUTE_MS
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert [(await logs.read(name)).data.decode() for name in names] == names


async def test_removed_log_does_not_reappear_from_a_folded_copy_of_a_killed_controller(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, Retention(keep_ms=DAY_MS), location="")
    logs.add_ended("twice", b"twice\n")
    assert fold_in_process(logs, "fold.after=kill") == -signal.SIGKILL
    assert logs.path("twice").exists()
    logs.now_ms += 2 * DAY_MS
    await logs.keeper.sweep()
    assert (await logs.read("twice")).missing == 6
    await logs.keeper.sweep()
    assert remaining(logs) == []
    assert (await logs.read("twice")).missing == 6


async def test_damaged_database_stops_folding_and_keeps_the_remaining_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = KeptLogs(tmp_path, location="")
    logs.directories.root.mkdir()
    (logs.directories.root / "folded.db").write_bytes(b"this is no database" * 1000)
    logs.add_ended("job", b"all of it\n")
    logs.now_ms += MINUTE_MS
    await logs.keeper.sweep()
    assert "logs cannot be folded" in caplog.text
    assert logs.path("job").exists()
    assert await logs.read("job") == Read(b"all of it\n")


async def test_folded_log_takes_less_than_400_bytes_after_its_removal(tmp_path: Path) -> None:
    contents = [b"one line\n"] * 500
    logs = await folded(tmp_path, *contents, retention=Retention(keep_ms=DAY_MS))
    logs.now_ms += 2 * DAY_MS
    await logs.keeper.sweep()
    await logs.keeper.close()
    assert read(logs.path("job499")).missing == 9
    assert (logs.directories.root / "folded.db").stat().st_size < 500 * 400
    with sqlite3.connect(logs.directories.root / "folded.db") as database:
        assert database.execute("SELECT count(*) FROM segments").fetchone() == (0,)
