"""Logs at a URL: what is stored is what is fetched, nothing is copied twice, and every failure is one of ours."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.log_model import Captured, lay_out, offsets_of
from support.odd_files import OddFileSystem, odd_files

from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.logs.segments import END, has_end, list_segments, write_written
from iris.errors import InvalidArgumentError, UnavailableError

CAPTURED: list[Captured] = [
    ("stdout", b"one\n", 1),
    ("stderr", b"two\n" * 100, 2),
    ("build", b"three\n", 3),
    ("stdout", b"\x00\xff no newline", 4),
]


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[LogLocation]:
    """A place on a file system with knobs."""
    with odd_files():
        yield LogLocation(f"odd://{tmp_path}/there")


@pytest.fixture(params=["file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> LogLocation:
    """A place, not made yet."""
    return LogLocation(
        f"file://{tmp_path}/there/logs" if request.param == "file" else f"memory://{secrets.token_hex(8)}"
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of four segments, with its end."""
    lay_out(tmp_path / "log", CAPTURED, 1)
    return tmp_path / "log"


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def interrupted(copy: Callable[[], None], by: Callable[[], None]) -> UnavailableError | None:
    """What a copy on a file system with knobs ended with; something happens while it is at its first file."""
    OddFileSystem.entered.clear()
    OddFileSystem.go_on.clear()
    errors = []

    def run() -> None:
        try:
            copy()
        except UnavailableError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert OddFileSystem.entered.wait(30)
    by()
    OddFileSystem.go_on.set()
    thread.join(30)
    return errors[0] if errors else None


def test_stored_log_is_fetched_unchanged(location: LogLocation, log: Path, tmp_path: Path) -> None:
    location.store(log, "task-1/0")
    location.store(log, "task-1/0")
    location.fetch("task-1/0", empty(tmp_path / "back"))
    assert files(tmp_path / "back") == files(log)
    end = location.end("task-1/0")
    assert end is not None
    assert end.bytes_written == offsets_of(CAPTURED)


def test_logs_with_similar_names_do_not_mix(location: LogLocation, log: Path, tmp_path: Path) -> None:
    location.store(log, "task-1/0")
    for other in ("task-1/1", "task-10/0", "task/0"):
        assert location.end(other) is None
        location.remove(other)
    location.store(log, "task-1/1")
    location.remove("task-1/1")
    location.fetch("task-1/1", empty(tmp_path / "nothing"))
    assert files(tmp_path / "nothing") == {}
    location.fetch("task-1/0", empty(tmp_path / "back"))
    assert files(tmp_path / "back") == files(log)


def test_only_files_of_a_log_are_copied(location: LogLocation, log: Path, tmp_path: Path) -> None:
    kept = files(log)
    for other in ("stored", "away", "end.new", "notes.txt"):
        (log / other).write_text("not of the log")
    location.store(log, "task-1/0")
    location.fetch("task-1/0", empty(tmp_path / "back"))
    assert files(tmp_path / "back") == kept


def test_only_files_of_a_log_are_fetched_and_removed(log: Path, tmp_path: Path) -> None:
    location = LogLocation(f"file://{tmp_path}/there")
    location.store(log, "task-1/0")
    notes = tmp_path / "there" / "task-1" / "0" / "notes.txt"
    notes.write_text("somebody else's")
    location.fetch("task-1/0", empty(tmp_path / "back"))
    assert files(tmp_path / "back") == files(log)
    location.remove("task-1/0")
    assert list(notes.parent.iterdir()) == [notes]


def test_log_copied_without_an_end_file_has_no_end_file_at_the_log_location(
    location: LogLocation, log: Path, tmp_path: Path
) -> None:
    """Its worker was lost; how much it had written is noted."""
    (log / END).unlink()
    write_written(log, (10, 20, 30))
    location.store(log, "task-1/0")
    assert location.end("task-1/0") is None
    location.fetch("task-1/0", empty(tmp_path / "back"))
    assert files(tmp_path / "back") == files(log)


def test_log_removed_from_the_log_location_has_no_end_file_there(location: LogLocation, log: Path) -> None:
    location.store(log, "task-1/0")
    removed: list[None] = []
    location.remove("task-1/0", lambda: removed.append(None))
    assert len(removed) == len(files(log))
    assert location.end("task-1/0") is None
    location.remove("task-1/0")


def test_check_of_a_writable_log_location_leaves_no_file(tmp_path: Path) -> None:
    location = LogLocation(f"file://{tmp_path}/there/logs/")
    assert location.url == f"file://{tmp_path}/there/logs"
    location.check()
    assert list((tmp_path / "there" / "logs").iterdir()) == []


def test_files_of_a_stored_log_are_below_the_url_of_the_log_location(log: Path, tmp_path: Path) -> None:
    LogLocation(f"file://{tmp_path}/there").store(log, "task-1/0")
    assert files(tmp_path / "there" / "task-1" / "0") == files(log)


# What is copied


def test_end_file_of_a_log_is_copied_last_in_both_directions(odd: LogLocation, log: Path, tmp_path: Path) -> None:
    segments = [place.segment_name for place in list_segments(log)]
    odd.store(log, "task-1/0")
    assert OddFileSystem.copied == [*segments, END]
    OddFileSystem.copied.clear()
    odd.fetch("task-1/0", empty(tmp_path / "back"))
    assert OddFileSystem.copied == [*segments, END]


def test_log_file_that_is_stored_in_full_size_is_not_copied_again(odd: LogLocation, log: Path, tmp_path: Path) -> None:
    first, second, *_ = list_segments(log)
    odd.store(log, "task-1/0")
    OddFileSystem.copied.clear()
    odd.store(log, "task-1/0")
    assert OddFileSystem.copied == []
    there = tmp_path / "there" / "task-1" / "0"
    (there / second.segment_name).write_bytes(b"half")  # as a copy leaves it that was cut off
    (there / first.segment_name).unlink()
    odd.store(log, "task-1/0")
    assert OddFileSystem.copied == [first.segment_name, second.segment_name]
    assert files(there) == files(log)


def test_copy_of_a_log_that_has_grown_is_completed(odd: LogLocation, tmp_path: Path) -> None:
    *earlier, last = lay_out(tmp_path / "log", CAPTURED, 1, ended=False)
    whole = last.read_bytes()
    last.write_bytes(whole[:20])
    odd.store(tmp_path / "log", "task-1/0")
    assert OddFileSystem.copied == [path.name for path in (*earlier, last)]
    OddFileSystem.copied.clear()
    last.write_bytes(whole)
    lay_out(tmp_path / "ended", CAPTURED, 1)
    (tmp_path / "ended" / END).rename(tmp_path / "log" / END)
    odd.store(tmp_path / "log", "task-1/0")
    assert OddFileSystem.copied == [last.name, END]
    assert files(tmp_path / "there" / "task-1" / "0") == files(tmp_path / "log")


def test_copy_of_a_log_stops_before_its_next_file_when_the_log_location_is_closed(odd: LogLocation, log: Path) -> None:
    first = list_segments(log)[0].segment_name
    error = interrupted(lambda: odd.store(log, "task-1/0"), odd.close)
    assert "shutting down" in str(error)
    with pytest.raises(UnavailableError, match="shutting down"):
        odd.store(log, "task-1/0")
    assert OddFileSystem.copied == [first]
    assert odd.end("task-1/0") is None


def test_fetch_of_a_log_stops_before_its_end_file_when_the_log_location_is_closed(
    odd: LogLocation, log: Path, tmp_path: Path
) -> None:
    odd.store(log, "task-1/0")
    back = empty(tmp_path / "back")
    error = interrupted(lambda: odd.fetch("task-1/0", back), odd.close)
    assert "shutting down" in str(error)
    assert len(files(back)) == 1
    assert not has_end(back)


def test_log_that_vanishes_during_its_copy_is_an_error(odd: LogLocation, log: Path) -> None:
    second = list_segments(log)[1].segment_name
    error = interrupted(lambda: odd.store(log, "task-1/0"), (log / second).unlink)
    assert second in str(error)


# What goes wrong


@pytest.mark.parametrize(
    "error", [OSError(5, "odd"), ValueError("odd"), RuntimeError("odd"), KeyError("odd"), PermissionError(13, "odd")]
)
def test_any_exception_of_a_file_system_becomes_an_unavailable_error(
    odd: LogLocation, log: Path, tmp_path: Path, error: Exception
) -> None:
    odd.store(log, "task-1/0")
    back = empty(tmp_path / "back")
    OddFileSystem.error = error
    for verb, call in {
        "write to": lambda: odd.store(log, "task-1/1"),
        "read from": lambda: odd.fetch("task-1/0", back),
        "remove from": lambda: odd.remove("task-1/0"),
    }.items():
        with pytest.raises(UnavailableError, match=f"cannot {verb} the log location odd:.*odd") as raised:
            call()
        assert raised.value.__cause__ is error
    with pytest.raises(UnavailableError, match="cannot write to"):
        odd.check()
    with pytest.raises(UnavailableError, match="cannot read from"):
        odd.end("task-1/0")
    assert files(back) == {}
    OddFileSystem.error = None
    odd.fetch("task-1/0", back)
    assert files(back) == files(log)


def test_file_system_exception_without_a_message_is_named_by_its_type(odd: LogLocation) -> None:
    OddFileSystem.error = TimeoutError()
    with pytest.raises(UnavailableError, match=r"there: TimeoutError$"):
        odd.check()


def test_unreadable_end_file_of_a_log_counts_as_missing(odd: LogLocation, log: Path, tmp_path: Path) -> None:
    odd.store(log, "task-1/0")
    for text in ("", "{", "[]", "{}"):
        (tmp_path / "there" / "task-1" / "0" / END).write_text(text)
        assert odd.end("task-1/0") is None


def test_log_location_below_a_regular_file_is_an_error(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    location = LogLocation(f"file://{tmp_path}/file/logs")
    with pytest.raises(UnavailableError, match=r"cannot write to the log location file://.*Not a directory"):
        location.check()
    with pytest.raises(UnavailableError, match="cannot write to"):
        location.store(log, "task-1/0")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nosuch://bucket/logs", "nosuch"),
        ("s3://bucket/logs", "s3fs"),
        ("gs://bucket/logs", "gcsfs"),
    ],
)
def test_log_location_with_an_unknown_protocol_is_refused(url: str, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"logs cannot be kept at '{url}': .*{text}"):
        LogLocation(url)


def test_log_location_with_an_incomplete_url_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"logs cannot be kept at 'reference://x': .*fo"):
        LogLocation("reference://x")


def test_file_system_that_cannot_connect_is_an_unavailable_error() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"ftp://127.0.0.1:{nobody.getsockname()[1]}/logs"
        with pytest.raises(UnavailableError, match=f"the log location {url}: .*refused"):
            LogLocation(url)
