"""`iris logs`: which lines it shows, in which format, how it follows, and which messages it prints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.waiting import wait_until

from iris.client import IrisClient

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def wait_for_file(path: Path) -> str:
    """Shell words that go on when there is a file."""
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


# Which lines.


def test_logs_shows_all_tasks_or_the_chosen_ones(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo out $IRIS_TASK_INDEX; echo err >&2", "--replicas", "3")
    remote_iris.wait_for(name, "SUCCEEDED")
    done = remote_iris("logs", name)
    assert sorted(done.stdout.splitlines()) == sorted(
        f"task-{i} | {line}" for i in range(3) for line in (f"out {i}", "err")
    )
    assert sorted(remote_iris("logs", "-f", name).stdout) == sorted(done.stdout)
    assert set(remote_iris("logs", name, "--task", "1").stdout.splitlines()) == {"out 1", "err"}
    some = remote_iris.lines(name, "--task", "2", "--task", "0")
    assert {line["task"] for line in some} == {0, 2}
    assert "its tasks are 0 to 2" in remote_iris("logs", name, "--task", "3", code=1).stderr


def test_logs_shows_all_attempts_or_one_attempt(remote_iris: Iris) -> None:
    count = 30_000
    name = remote_iris.detach(f"seq {count}; exit $((1 - IRIS_ATTEMPT_ID))", "--retries", "1")
    remote_iris.wait_for(name, "SUCCEEDED")
    once = "".join(f"{n}\n" for n in range(1, count + 1))
    for words in ([], ["-f"], ["--route", "controller"], ["--route", "worker"]):
        done = remote_iris("logs", name, *words)
        assert done.stdout == once * 2
        assert "attempt 0 of task 0 ended: exit code 1" in done.stderr
    assert remote_iris("logs", name, "--attempt", "1").stdout == once
    assert {line["attempt"] for line in remote_iris.lines(name, "--attempt", "0")} == {0}
    assert "has an attempt 2: no task has had more than 2" in remote_iris("logs", name, "--attempt", "2", code=1).stderr


def test_logs_with_option_attempt_shows_only_tasks_that_had_this_attempt(remote_iris: Iris) -> None:
    script = 'echo $IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID; [ "$IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID" != 1.0 ]'
    name = remote_iris.detach(script, "--replicas", "3", "--independent", "--retries", "1")
    remote_iris.wait_for(name, "SUCCEEDED")
    assert remote_iris("logs", name, "--attempt", "1").stdout == "1.1\n"
    assert "iris logs" not in remote_iris("logs", name, "--task", "0", "--attempt", "1", code=1).stdout


def test_filters_of_iris_logs_select_lines_by_source_pattern_time_and_tail(remote_iris: Iris) -> None:
    name = remote_iris.detach("for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; sleep 0.02; done")
    remote_iris.wait_for(name, "SUCCEEDED")
    lines = remote_iris.lines(name)
    messages = [line["message"] for line in lines]
    assert sorted(messages) == sorted(f"{source} {n}" for source in ("out", "err") for n in range(1, 6))

    def shown(*words: str) -> list[str]:
        return remote_iris("logs", name, *words).stdout.splitlines()

    assert shown("--grep", "[24]$", "--source", "stderr") == ["err 2", "err 4"]
    assert shown("--tail", "3") == messages[-3:]
    assert shown("--tail", "2", "--source", "stdout") == ["out 4", "out 5"]
    assert shown("--tail", "0") == shown("--source", "build") == shown("--until", "1h") == []
    assert shown("--since", "1h") == shown("--since", "2020-01-01") == messages
    # The first moment is exclusive, the last one inclusive.
    third = next(line for line in lines if line["message"] == "out 3")["timestamp_ms"]
    at = f"@{third / 1000:.3f}"
    assert shown("--until", at) == [line["message"] for line in lines if line["timestamp_ms"] <= third]
    assert shown("--since", at) == [line["message"] for line in lines if line["timestamp_ms"] > third]
    assert "the pattern '(' is invalid" in remote_iris("logs", "-f", name, "--grep", "(", code=2).stderr
    assert "the pattern '(' is invalid" in remote_iris("logs", name, "--grep", "(", code=2).stderr


def test_logs_with_a_cursor_continues_after_the_line_of_the_cursor(remote_iris: Iris) -> None:
    name = remote_iris.detach("for i in 1 2 3; do echo $i; sleep 0.01; done", "--replicas", "2")
    remote_iris.wait_for(name, "SUCCEEDED")
    lines = remote_iris.lines(name)
    for words in ((), ("-f",)):
        rest = remote_iris.lines(name, "--cursor", lines[3]["cursor"], *words)
        # The cursors of two readings may differ in form, although they mean the same place.
        assert [line | {"cursor": ""} for line in rest] == [line | {"cursor": ""} for line in lines[4:]]
    assert "nonsense" in remote_iris("logs", "-f", name, "--cursor", "nonsense", code=2).stderr
    assert "nonsense" in remote_iris("logs", name, "--cursor", "nonsense", code=2).stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--raw", "--json"], "--raw and --json exclude each other"),
        (["--raw", "--timestamps"], "--raw and --timestamps exclude each other"),
        (["--json", "--timestamps"], "--json and --timestamps exclude each other"),
        (["--tail", "1", "--cursor", "x"], "--tail and --cursor exclude each other"),
        (["--since", "1m", "--until", "2m"], "--since must be earlier than --until"),
        (["-f", "--until", "2099-01-01"], "--follow and --until exclude each other"),
        (["--since", "soon"], "not a time: 'soon'"),
        (["--tail", "-1"], "--tail"),
        (["--source", "nowhere"], "--source"),
        (["--route", "scenic"], "--route"),
    ],
)
def test_invalid_option_of_iris_logs_is_refused_with_its_reason(remote_iris: Iris, words: list[str], text: str) -> None:
    assert text in remote_iris("logs", "job", *words, code=2).stderr


# In which form.


def test_logs_with_json_prints_an_object_for_each_line(remote_iris: Iris) -> None:
    name = remote_iris.detach(r"printf 'a\377\n'; echo plain; printf 'no end'")
    remote_iris.wait_for(name, "SUCCEEDED")
    odd, plain, open_end = remote_iris.lines(name)
    assert list(plain) == ["task", "attempt", "source", "timestamp_ms", "message", "cursor"]
    assert (plain["task"], plain["attempt"], plain["source"], plain["message"]) == (0, 0, "stdout", "plain")
    assert (odd["message"], odd["data_base64"]) == ("a\ufffd", "Yf8=")
    assert (open_end["message"], open_end["partial"]) == ("no end", True)


def test_logs_with_raw_prints_the_exact_bytes(remote_iris: Iris) -> None:
    program = "import os, random; os.write(2, b'err'); os.write(1, random.Random(1).randbytes(3_000_000))"
    name = unique("raw")
    remote_iris("run", "--detach", "--name", name, "--", "python3", "-c", program)
    remote_iris.wait_for(name, "SUCCEEDED")
    (source,) = (
        subprocess.run(
            ["python3", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout,
    )
    for words in (["--raw"], ["--raw", "-f"], []):
        logs = remote_iris.start("logs", name, "--source", "stdout", *words)
        assert logs.process.stdout.read() == source, words
        assert logs.exit_code() == 0
        assert logs.stderr == ""
    both = remote_iris.start("logs", name, "--raw").process.stdout.read()
    assert len(both) == len(source) + 3


def test_logs_with_timestamps_begins_each_line_with_a_utc_time(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo here", "--replicas", "2")
    remote_iris.wait_for(name, "SUCCEEDED")
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    shown = remote_iris("logs", name, "--timestamps").stdout.splitlines()
    assert all(re.fullmatch(rf"{moment} task-[01] \| here", line) for line in shown)
    assert len(shown) == 2
    (one,) = remote_iris("logs", name, "--timestamps", "--task", "1").stdout.splitlines()
    assert re.fullmatch(rf"{moment} here", one)
    # What is shown can be given.
    assert remote_iris("logs", name, "--until", one.split()[0], "--task", "1").stdout == "here\n"


def test_logs_with_a_gap_names_the_gap_and_exits_with_1(remote_iris: Iris, client: IrisClient) -> None:
    job = client.run(["sh", "-c", "seq 10000000"], max_log_bytes=1)
    job.wait()
    done = remote_iris("logs", job.job_id, code=1)
    assert re.search(r"iris: task 0: [\d,]+ bytes of stdout are missing here: ", done.stderr)
    assert "missing" not in done.stdout
    assert done.stdout.endswith("\n10000000\n")
    missing, *_, last = remote_iris.lines(job.job_id, code=1)
    assert missing["missing_bytes"] > 0
    assert "partial" not in missing
    assert last["message"] == "10000000"
    raw = remote_iris("logs", job.job_id, "--raw", code=1)
    assert "bytes of stdout are missing" in raw.stderr
    assert missing["missing_bytes"] + len(raw.stdout) == sum(len(f"{n}\n") for n in range(1, 10_000_001))
    assert remote_iris("logs", job.job_id, "--tail", "1").stdout == "10000000\n"


# Live.


def test_unfinished_line_of_one_task_is_shown_at_once(remote_iris: Iris, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    name = remote_iris.detach(f"printf 'name? '; {wait_for_file(gate)}; echo me; printf bye")
    follows = [remote_iris.start("logs", "-f", name), remote_iris.start("run", "--", "sh", "-c", "printf 'name? '")]
    for follow in follows:
        assert follow.read(6) == b"name? "
    documents = remote_iris.start("logs", "-f", "--json", "--source", "stdout", name)
    gate.touch()
    assert [follow.process.stdout.read() for follow in follows] == [b"me\nbye", b""]
    assert [(line["message"], "partial" in line) for line in map(json.loads, documents.rest())] == [
        ("name? me", False),
        ("bye", True),
    ]


def test_lines_of_several_tasks_are_whole_in_a_pipe(remote_iris: Iris, tmp_path: Path) -> None:
    gates = [tmp_path / str(n) for n in range(2)]
    script = (
        f"[ $IRIS_TASK_INDEX = 1 ] || {{ printf half; touch {gates[0]}\n"
        f"{wait_for_file(gates[1])}; echo ' a line'; exit; }}\n"
        f"{wait_for_file(gates[0])}; echo between; printf '\\r 1%%'; sleep 0.3; printf '\\r 2%%\\n'"
    )
    name = remote_iris.detach(script, "--replicas", "2")
    follow = remote_iris.start("logs", "-f", name)
    assert follow.line() == "task-1 | between"
    assert follow.read(len(b"task-1 | \r 1%\r 2%\n")) == b"task-1 | \r 1%\r 2%\n"
    unfinished = ("logs", name, "--task", "0", "--source", "stdout")
    wait_until(lambda: remote_iris(*unfinished).stdout == "half", "the unfinished line", pause_s=0.2)
    gates[1].touch()
    assert follow.rest() == ["task-0 | half a line"]
    assert sorted(remote_iris.start("logs", name).process.stdout.read().split(b"\n")) == sorted(
        [b"task-0 | half a line", b"task-1 | between", b"task-1 | \r 1%\r 2%", b""]
    )


def test_unfinished_lines_of_several_tasks_have_rows_on_a_terminal(remote_iris: Iris, tmp_path: Path) -> None:
    gates = [tmp_path / str(n) for n in range(4)]
    script = (
        'say() { printf "$@"; }\n'
        f"if [ $IRIS_TASK_INDEX = 0 ]; then say 'name? '; {wait_for_file(gates[1])}; say 'me\\n'\n"
        f"else {wait_for_file(gates[0])}; say 'line\\n'; say '\\r 1%%'; say '\\r 2%%' >&2\n"
        f"{wait_for_file(gates[2])}; say '\\r 3%%'; say '\\n' >&2; {wait_for_file(gates[3])}; fi"
    )
    name = remote_iris.detach(script, "--replicas", "2")
    terminal = remote_iris.terminal("logs", "-f", name, NO_COLOR="1")
    terminal.shows("task-0 | name?")
    gates[0].touch()
    terminal.shows("task-1 | line", "task-0 | name?", "task-1 |  2%", "task-1 |  1%")
    gates[1].touch()
    terminal.shows("task-1 | line", "task-0 | name? me", "task-1 |  2%", "task-1 |  1%")
    gates[2].touch()
    terminal.shows("task-1 | line", "task-0 | name? me", "task-1 |  2%", "task-1 |  3%")
    assert b"\x1b[3" not in terminal.written, "colours"
    gates[3].touch()
    assert terminal.exit_code() == 0
    terminal.shows("task-1 | line", "task-0 | name? me", "task-1 |  2%", "task-1 |  3%", "")


def test_labels_of_log_lines_have_colours_on_a_terminal(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo here", "--replicas", "2")
    remote_iris.wait_for(name, "SUCCEEDED")
    terminal = remote_iris.terminal("logs", name, "--source", "stdout")
    assert terminal.exit_code() == 0
    assert set(terminal.screen) == {"task-0 | here", "task-1 | here", ""}
    assert terminal.written.count(b"\x1b[36mtask-0 |\x1b[0m here") == 1


def test_message_of_iris_leaves_a_prompt_on_a_terminal_intact(remote_iris: Iris) -> None:
    name = remote_iris.detach("printf 'name? '; exec sleep 600")
    terminal = remote_iris.terminal("logs", "-f", name, "--source", "stdout")
    terminal.shows("name?")
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    assert terminal.screen[0].startswith("name?")
    assert terminal.screen[1].startswith("iris: to continue from here: iris logs -f ")
    remote_iris("kill", "--wait", name)


def test_ctrl_c_in_iris_logs_f_prints_the_command_that_continues(remote_iris: Iris, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    name = remote_iris.detach(f"echo one; echo two; {wait_for_file(gate)}; echo three; echo err >&2")
    logs = remote_iris.start("logs", "-f", name, "--source", "stdout", "--since", "1h", "--no-exit-code")
    assert [logs.line(), logs.line()] == ["one", "two"]
    logs.interrupt()
    assert logs.exit_code() == 130
    (told,) = re.findall(r"^iris: to continue from here: iris (logs -f .*)$", logs.stderr, re.MULTILINE)
    assert "--since" not in told
    assert "--no-exit-code" in told
    gate.touch()
    assert remote_iris(*shlex.split(told)).stdout == "three\n"


def test_ctrl_c_in_iris_logs_f_with_json_prints_no_hint(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo once; exec sleep 600")
    logs = remote_iris.start("logs", "-f", name, "--json", "--source", "stdout")
    assert json.loads(logs.line())["message"] == "once"
    logs.interrupt()
    assert logs.exit_code() == 130
    assert logs.stderr == ""
    assert remote_iris.json("kill", "--wait", name)["jobs"][0]["state"] == "KILLED"


def test_closed_pipe_ends_iris_logs_f_quietly_with_exit_code_141(remote_iris: Iris) -> None:
    name = remote_iris.detach("while :; do echo more; done")
    remote_iris.wait_for(name, "RUNNING")
    for words in (["logs", name], ["logs", "-f", name], ["logs", "-f", "--raw", name]):
        logs = remote_iris.start(*words)
        assert logs.line() == "more"
        logs.process.stdout.close()
        assert logs.exit_code() == 141
        assert "iris:" not in logs.stderr
    remote_iris("kill", "--wait", name)


def test_closed_pipe_ends_iris_logs_f_of_a_silent_task(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo once; exec sleep 600")
    for words in ([], ["--raw"], ["--json"]):
        logs = remote_iris.start("logs", "-f", name, "--source", "stdout", *words)
        assert "once" in logs.line()
        logs.process.stdout.close()
        assert logs.exit_code() == 141
        assert "iris:" not in logs.stderr
    remote_iris("kill", "--wait", name)


def test_iris_logs_f_with_tail_shows_the_last_lines_and_then_new_ones(remote_iris: Iris, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    name = remote_iris.detach(f"seq 100; {wait_for_file(gate)}; echo end")
    wait_until(lambda: len(remote_iris.lines(name)) == 100, "the first lines")
    logs = remote_iris.start("logs", "-f", "--tail", "2", name)
    assert [logs.line(), logs.line()] == ["99", "100"]
    gate.touch()
    assert logs.rest() == ["end"]
    assert logs.exit_code() == 0
    assert logs.stderr == ""


def test_full_disk_is_reported_when_lines_are_written(remote_iris: Iris) -> None:
    name = remote_iris.detach("seq 100000")
    remote_iris.wait_for(name, "SUCCEEDED")
    with open("/dev/full", "wb") as full:
        logs = subprocess.run(
            [*remote_iris.command("logs", "-f", name)], stdout=full, stderr=subprocess.PIPE, env=remote_iris.env
        )
    assert logs.returncode == 125
    assert b"cannot write the output: No space left on device" in logs.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["ps"], ["ps", "--json"], ["machines"]])
def test_full_disk_is_reported_when_answers_and_help_are_written(
    remote_iris: Iris, words: list[str], buffered: bool
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*remote_iris.command(*words)],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**remote_iris.env, "PYTHONUNBUFFERED": "" if buffered else "1"},
        )
    assert (done.returncode, done.stderr) == (1, b"iris: cannot write the output: No space left on device\n")


# How it ends.


def test_iris_logs_f_of_a_job_exits_with_the_code_of_the_job(remote_iris: Iris) -> None:
    fails = remote_iris.detach("echo line; exit 3")
    for words in (["-f"], ["-f", "--json"], ["-f", "--raw"], ["-f", "--exit-code"]):
        done = remote_iris("logs", *words, fails, code=3)
        assert done.stderr.endswith(f"iris: job {fails} ended as FAILED: exit code 3\n")
        assert "line" in done.stdout
    assert remote_iris("logs", "-f", "--no-exit-code", fails).stdout == "line\n"
    assert remote_iris("logs", fails).stdout == "line\n", "what there is says nothing of the end"
    assert "need -f" in remote_iris("logs", "--exit-code", fails, code=2).stderr
    tolerated = remote_iris.detach("exit $IRIS_TASK_INDEX", "--replicas", "2", "--max-task-failures", "1")
    remote_iris("logs", "-f", tolerated)
    remote_iris("logs", "-f", "--task", "0", tolerated)
    assert "task 1 ended as FAILED: exit code 1" in remote_iris("logs", "-f", "--task", "1", tolerated, code=1).stderr


def test_iris_logs_f_of_a_killed_job_exits_with_the_same_code_as_iris_run(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo up; exec sleep 600")
    follow = remote_iris.start("logs", "-f", name)
    assert follow.line() == "up"
    remote_iris("kill", "--wait", name)
    assert follow.exit_code() == 143
    assert f"job {name} ended as KILLED" in follow.stderr


def test_iris_logs_f_of_one_attempt_exits_with_the_code_of_the_attempt(remote_iris: Iris) -> None:
    name = remote_iris.detach("exit $((4 - 4 * IRIS_ATTEMPT_ID))", "--retries", "1")
    remote_iris("logs", "-f", name)
    remote_iris("logs", "-f", "--attempt", "1", name)
    assert "exit code 4" in remote_iris("logs", "-f", "--attempt", "0", name, code=4).stderr


def test_logs_of_a_job_that_has_not_started_say_why_there_are_no_lines(remote_iris: Iris) -> None:
    first = remote_iris.detach("exec sleep 600")
    remote_iris.wait_for(first, "RUNNING")
    job = remote_iris.detach("true", "--after", first, "-n", "2")
    shown = remote_iris("logs", job)
    assert (shown.stdout, shown.stderr) == (
        "",
        f"iris: job {job} has not started: waiting for job '{first}' to succeed\n",
    )
    assert f"task {job}/task-1 has not started: waiting for job" in remote_iris("logs", job, "--task", "1").stderr
    assert f"job {job} has not started" in remote_iris("logs", job, "--tree").stderr
    remote_iris("kill", "--wait", job)
    assert f"job {job} ended as KILLED before it started: " in remote_iris("logs", job, first).stderr
    assert f"job {first}" not in remote_iris("logs", job, first).stderr
    remote_iris("kill", first)
