"""A follower gets whole lines, however their bytes were written, and the rest of a line when it asks or none comes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts.log_following import Reading, python
from support.waiting import wait_until

from iris.client import IrisClient, Job, LogEntry

Program = Callable[..., Job]
ROUTES = pytest.mark.parametrize("route", ["worker", "controller"])
# What was written so far is seen by a reader that asks for pieces before the next piece is written.
STEPS = """
def write(*pieces, to=1):
    for number, piece in enumerate(pieces):
        os.write(to, piece)
        if number < len(pieces) - 1: step()
def step():
    global steps
    wait_for(f'{gates}/{steps}')
    steps += 1
steps, gates = 0, %r
"""


@pytest.fixture
def begin(client: IrisClient, tmp_path: Path) -> Iterator[Program]:
    """Runs a program that has `write(*pieces)`, which waits between two pieces until `go_on` allows it."""
    jobs = []

    def start(program: str, **more: Any) -> Job:
        jobs.append(client.run(python(STEPS % str(tmp_path) + program), **more))
        return jobs[-1]

    yield start
    for job in jobs:
        job.terminate()
        job.wait(raise_on_failure=False)


def go_on(tmp_path: Path, step: int) -> None:
    (tmp_path / str(step)).touch()


def live(job: Job, text: bytes, source: str = "stdout") -> None:
    """Waits until a reader of pieces has seen exactly this of a task that goes on."""
    reading = Reading(job.logs(follow=True, partial=True, on_notice=lambda _: None))
    reading.see(text, source)
    reading.stream.close()


@ROUTES
def test_line_written_in_pieces_is_one_entry(begin: Program, tmp_path: Path, route: str) -> None:
    euro = '{"unit": "€"}\n'.encode()
    job = begin(f"write({euro[:11]!r}, {euro[11:12]!r}, {euro[12:]!r}); write(b'next\\n')")
    reading = Reading(job.logs(follow=True, route=route))
    for step, seen in enumerate((euro[:11], euro[:12])):
        live(job, seen)
        assert reading.entries == []
        go_on(tmp_path, step)
    assert [entry.message for entry in reading.rest()] == ['{"unit": "€"}', "next"]
    assert not any(entry.partial for entry in reading.entries)
    assert json.loads(reading.entries[0].message) == {"unit": "€"}


def test_lines_of_tasks_and_sources_that_write_in_turn_are_whole(begin: Program, tmp_path: Path) -> None:
    job = begin(
        "n = os.environ['IRIS_TASK_INDEX'].encode()\n"
        "os.write(1, b'out ' + n); os.write(2, b'err ' + n); step()\n"
        "os.write(1, b' of'); os.write(2, b' of'); step()\n"
        "os.write(1, b' it\\n'); os.write(2, b' it\\n')",
        replicas=3,
    )
    reading = Reading(job.logs(follow=True))
    seen = Reading(job.logs(follow=True, partial=True))
    for step, pieces in enumerate((6, 12)):
        wait_until(lambda pieces=pieces: len(seen.entries) >= pieces, "the pieces of three tasks")
        go_on(tmp_path, step)
    expected = sorted((task, f"{source} {task} of it") for task in range(3) for source in ("out", "err"))
    assert sorted((entry.task_index, entry.message) for entry in reading.rest()) == expected
    seen.rest()


def test_progress_bar_is_one_line(begin: Program, tmp_path: Path) -> None:
    job = begin("for n in range(200): os.write(1, b'\\r%3d ' % n + b'=' * 50)\nstep(); print(' done')")
    reading = Reading(job.logs(follow=True))
    live(job, b"".join(b"\r%3d " % n + b"=" * 50 for n in range(200)))
    assert reading.entries == []
    go_on(tmp_path, 0)
    (bar,) = reading.rest()
    assert (bar.message.count("\r"), bar.message[-5:], bar.partial) == (200, " done", False)


@ROUTES
@pytest.mark.parametrize("attempts", [1, 2])
def test_line_without_a_newline_is_returned_when_the_attempt_ends(begin: Program, route: str, attempts: int) -> None:
    job = begin(
        "os.write(1, b'line\\nend of %d' % int(os.environ['IRIS_ATTEMPT_ID'])); os.write(2, b'err')\n"
        f"sys.exit(int(os.environ['IRIS_ATTEMPT_ID']) < {attempts - 1})",
        max_retries_failure=1,
    )
    expected = [
        (attempt, source, message, partial)
        for attempt in range(attempts)
        for source, message, partial in (
            ("stderr", "err", True),
            ("stdout", "line", False),
            ("stdout", f"end of {attempt}", True),
        )
    ]
    for follow in (True, False):
        entries = list(job.logs(follow=follow, route=route, on_notice=lambda _: None))
        found = [(entry.attempt_id, entry.source, entry.message, entry.partial) for entry in entries]
        assert sorted(found) == sorted(expected)


def test_line_that_ends_with_its_attempt_counts_for_max_lines(begin: Program) -> None:
    job = begin(
        "os.write(1, b'no newline' if os.environ['IRIS_ATTEMPT_ID'] == '0' else b'one\\ntwo\\n')\n"
        "sys.exit(os.environ['IRIS_ATTEMPT_ID'] == '0')",
        max_retries_failure=1,
    )
    lines = list(job.logs(follow=True, max_lines=2, on_notice=lambda _: None))
    assert [line.message for line in lines] == ["no newline", "one"]


def test_max_lines_of_a_log_counts_only_whole_lines(begin: Program, tmp_path: Path) -> None:
    job = begin("write(b'one ', b'of ', b'two\\ntwo\\nthree')\nstep()")
    reading = Reading(job.logs(follow=True, max_lines=2))
    for step, seen in enumerate((b"one ", b"one of ")):
        live(job, seen)
        go_on(tmp_path, step)
    assert [entry.message for entry in reading.rest()] == ["one of two", "two"]


@ROUTES
def test_tail_returns_only_whole_lines(begin: Program, tmp_path: Path, route: str) -> None:
    job = begin("write(b'one\\ntwo\\nthree\\nhalf', b' a line\\n')")
    live(job, b"one\ntwo\nthree\nhalf")
    for tail, expected in ((0, []), (1, ["three"]), (9, ["one", "two", "three"]), (2, ["two", "three"])):
        assert [entry.message for entry in job.logs(tail=tail, route=route)] == expected
        following = Reading(job.logs(tail=tail, follow=True, route=route))
        wait_until(lambda read=following.entries, all_=expected: len(read) == len(all_), "the last lines")
        if tail == 2:
            go_on(tmp_path, 0)
            assert [entry.message for entry in following.rest()] == ["two", "three", "half a line"]
        else:
            following.stream.close()


@ROUTES
def test_partial_line_is_not_returned_without_follow_until_its_attempt_has_ended(
    begin: Program, client: IrisClient, tmp_path: Path, route: str
) -> None:
    job = begin("write(b'one\\nhalf', b' a line\\n')")
    live(job, b"one\nhalf")
    assert [entry.message for entry in job.logs(route=route)] == ["one"]
    assert [entry.message for entry in client.fetch_task_logs(job.job_id, 0)] == ["one"]
    assert [entry.message for entry in job.logs(route=route, partial=True)] == ["one", "half"]
    assert b"".join(job.logs(route=route).raw()) == b"one\nhalf"
    assert b"".join(job.logs(route=route, max_lines=9).raw()) == b"one\nhalf"
    go_on(tmp_path, 0)
    job.wait()
    assert [entry.message for entry in job.logs(route=route)] == ["one", "half a line"]


@ROUTES
def test_flush_returns_the_unfinished_line_with_an_exact_cursor(begin: Program, tmp_path: Path, route: str) -> None:
    job = begin("write(b'name? ', b'me\\n'); write(b'end\\n')")
    reading = Reading(job.logs(follow=True, route=route))
    live(job, b"name? ")
    assert reading.entries == []

    def flushed() -> list[LogEntry]:
        reading.stream.flush()
        return reading.entries

    wait_until(flushed, "the unfinished line")
    (piece,) = reading.entries
    assert (piece.message, piece.partial) == ("name? ", True)
    again = Reading(job.logs(follow=True, cursor=piece.cursor, route=route))
    go_on(tmp_path, 0)
    assert [(entry.message, entry.partial) for entry in again.rest()] == [("me", False), ("end", False)]
    assert [entry.message for entry in reading.rest()] == ["name? ", "me", "end"]
    whole = list(job.logs(route=route))
    assert [entry.message for entry in whole] == ["name? me", "end"]
    assert [entry.cursor for entry in whole] == [entry.cursor for entry in reading.entries[1:]]


def test_cursor_before_a_partial_line_returns_the_whole_line_later(begin: Program, tmp_path: Path) -> None:
    job = begin("write(b'one\\nhalf', b' of', b' it\\n')")
    first = next(iter(job.logs(follow=True, sources=["stdout"])))
    live(job, b"one\nhalf")
    go_on(tmp_path, 0)
    live(job, b"one\nhalf of")
    reading = Reading(job.logs(follow=True, cursor=first.cursor))
    go_on(tmp_path, 1)
    assert [entry.message for entry in reading.rest()] == ["half of it"]


def test_flush_of_several_tasks_keeps_cursors_exact(begin: Program, tmp_path: Path) -> None:
    job = begin("write(b'half %s' % os.environ['IRIS_TASK_INDEX'].encode(), b' of it\\n')", replicas=2)
    seen = Reading(job.logs(follow=True, partial=True))
    wait_until(lambda: len(seen.entries) == 2, "both halves")
    reading = Reading(job.logs(follow=True))

    def flushed() -> bool:
        reading.stream.flush()
        return len(reading.entries) == 2

    wait_until(flushed, "both halves")
    cursors = [entry.cursor for entry in reading.entries]
    go_on(tmp_path, 0)
    reading.rest()
    seen.rest()
    one, other = (entry.task_index for entry in reading.entries[:2])
    halves = {(entry.task_index, entry.message) for entry in job.logs(cursor=cursors[0])}
    assert halves == {(one, " of it"), (other, f"half {other} of it")}
    assert {entry.message for entry in job.logs(cursor=cursors[1])} == {" of it"}


def test_flush_of_a_log_stream_without_an_unfinished_line_returns_no_entry(begin: Program, tmp_path: Path) -> None:
    job = begin("write(b'one\\n', b'two\\n')")
    stream = job.logs(follow=True)
    stream.flush()
    reading = Reading(stream)
    wait_until(lambda: reading.entries, "the first line")
    threads = [threading.Thread(target=stream.flush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    go_on(tmp_path, 0)
    assert [entry.message for entry in reading.rest()] == ["one", "two"]
    stream.flush()


def test_line_that_exceeds_the_limit_comes_in_partial_entries(client: IrisClient) -> None:
    size = (64 << 20) + 1000
    job = client.run(python(f"data = b'x' * {size} + b'\\n'\nwhile data: data = data[os.write(1, data):]"))
    entries = list(job.logs(follow=True))
    assert [entry.partial for entry in entries] == [True, False]
    assert sum(len(entry.data) for entry in entries) == size
    assert [len(entry.data) for entry in client.fetch_task_logs(job.job_id, 0)] == [size]


def test_wait_with_stream_logs_prints_whole_lines(
    begin: Program, client: IrisClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    euro = "€ 1\n".encode()
    job = begin(f"write({euro[:1]!r}, {euro[1:]!r}); os.write(1, b'no newline')")
    waiting = threading.Thread(target=client.wait, args=[job.job_id], kwargs={"stream_logs": True})
    waiting.start()
    live(job, euro[:1])
    go_on(tmp_path, 0)
    waiting.join(60)
    assert capsys.readouterr().out == "[task-0:stdout] € 1\n[task-0:stdout] no newline\n"
