"""The standard input of `iris run` goes to the task of a job with one task."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from typing import IO, Any

import pytest

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def feed(
    iris: Iris, data: bytes | None, *words: str, stdin: IO[bytes] | int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs `iris run` with data in a pipe, or with another standard input."""
    if data is not None:
        return iris.feed(data, "run", *words)
    return iris.start("run", *words, stdin=stdin if stdin is None or isinstance(stdin, int) else stdin.fileno()).done()


@pytest.fixture(params=["temporary", "up", "remote"])
def any_iris(request: pytest.FixtureRequest) -> Iris:
    """`iris` with a cluster of each kind."""
    program = request.getfixturevalue("remote_iris" if request.param == "remote" else "iris")
    if request.param == "up":
        program("up", "--port", "0")
    return program


def test_task_reads_a_pipe_to_its_end(any_iris: Iris) -> None:
    done = feed(any_iris, b"abc\n", "--", "cat")
    assert (done.returncode, done.stdout) == (0, b"abc\n"), done
    data = random.Random(1).randbytes(3_000_000)
    done = feed(any_iris, data, "--", "sha256sum")
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    done = feed(any_iris, b"", "--", "wc", "-c")
    assert done.stdout.split() == [b"0"]


def test_slow_task_reads_a_file_from_stdin_completely(iris: Iris) -> None:
    data = random.Random(2).randbytes(2_000_000)
    (iris.folder / "data").write_bytes(data)
    with (iris.folder / "data").open("rb") as file:
        file.seek(1000)
        slow = "import sys, time, hashlib; h = hashlib.sha256()\n"
        slow += "while data := sys.stdin.buffer.read(50_000): h.update(data); time.sleep(0.005)\nprint(h.hexdigest())"
        done = feed(iris, None, "--", "python3", "-c", slow, stdin=file)
    assert done.stdout.decode().strip() == hashlib.sha256(data[1000:]).hexdigest(), done


def test_run_with_endless_input_ends_when_its_task_ends(iris: Iris) -> None:
    yes = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    try:
        assert feed(iris, None, "--", "sh", "-c", "exit 3", stdin=yes.stdout).returncode == 3
        assert feed(iris, None, "--", "head", "-n", "2", stdin=yes.stdout).stdout.split() == [b"y", b"y"]
    finally:
        yes.kill()
        yes.communicate()


def test_silent_pipe_does_not_delay_the_end_of_the_job(iris: Iris) -> None:
    reading, writing = os.pipe()
    try:
        assert feed(iris, None, "--", "sh", "-c", "exit 4", stdin=reading).returncode == 4
    finally:
        os.close(reading)
        os.close(writing)


def test_input_that_no_task_reads_is_reported(iris: Iris) -> None:
    iris("up", "--port", "0")
    done = feed(iris, b"abc\n", "--replicas", "2", "--", "cat")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.count(b"standard input is not read") == 1
    for data in (b"", None):
        assert b"standard input" not in feed(iris, data, "--replicas", "2", "--", "true").stderr
    assert b"standard input is not read" in feed(iris, b"abc\n", "--detach", "--", "cat").stderr


def test_retry_of_an_attempt_that_has_read_stdin_gets_no_input_and_logs_this(iris: Iris) -> None:
    iris("up", "--port", "0")
    script = "read line; echo $IRIS_ATTEMPT_ID:$line; exit $((1 - IRIS_ATTEMPT_ID))"
    done = feed(iris, b"abc\n", "--name", "again", "--retries", "1", "--", "sh", "-c", script)
    assert done.stdout.split() == [b"0:abc", b"1:"], done
    assert "standard input is empty, because an earlier attempt has read from it" in iris("logs", "again").stderr


def test_typed_lines_reach_the_task_until_ctrl_d(iris: Iris) -> None:
    terminal = iris.terminal("run", "--", "sh", "-c", "while read line; do echo got $line; done; echo end")
    terminal.type("one\n")
    terminal.shows("one", "got one", "")
    terminal.type("two\n")
    terminal.shows("two", "got two", "")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert terminal.screen[-2:] == ["end", ""]
