"""`iris exec` and `iris shell`, as processes and in terminals."""

from __future__ import annotations

import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.chaos_proxy import ChaosProxy, gentle
from support.cluster import unique
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.client.server_process import LocalServer

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer) -> Iterator[Job]:
    """A job of two tasks that run until the end of the module."""
    with IrisClient.remote(shared_cluster.address) as client:
        started = client.run(["sleep", "600"], name=unique("exec"), replicas=2, env={"SHELL": "/bin/sh"})
        yield started
        started.terminate()


@pytest.mark.parametrize("dashes", [["--"], []])
def test_exec_prints_stdout_and_stderr_separately_and_exits_with_the_code_of_the_command(
    remote_iris: Iris, job: Job, dashes: list[str]
) -> None:
    script = "echo out $IRIS_TASK_INDEX $A; echo err >&2; exit 7"
    done = remote_iris("exec", "-e", "A=b", f"{job.job_id}/task-1", *dashes, "sh", "-c", script, code=7)
    assert (done.stdout, done.stderr) == ("out 1 b\n", "err\n")


def test_options_after_the_first_word_of_the_command_belong_to_the_command(remote_iris: Iris, job: Job) -> None:
    done = remote_iris("exec", job.job_id, "-e", "A=b", "--", "sh", "-c", "echo $A $0 $1", "-e", "--")
    assert done.stdout == "b -e --\n"
    assert remote_iris("exec", f"{job.job_id}/task-0", "grep", "--", "x", "/dev/null", code=1).stderr == ""


def test_exec_without_a_task_says_which_of_several_tasks_it_uses(remote_iris: Iris, job: Job) -> None:
    done = remote_iris("exec", job.job_id, "--", "sh", "-c", "echo $IRIS_TASK_INDEX")
    assert (done.stdout, done.stderr) == ("0\n", f"iris: runs in {job.job_id}/task-0, the first of 2 tasks\n")


def test_exec_sends_standard_input_only_with_the_option_i(remote_iris: Iris, job: Job) -> None:
    def run(*options: str) -> tuple[bytes, bytes]:
        command = remote_iris.command("exec", *options, f"{job.job_id}/task-0", "--", "cat")
        done = subprocess.run(command, env=remote_iris.env, input=b"x" * 200_000, capture_output=True, check=True)
        return done.stdout, done.stderr

    assert run("-i") == (b"x" * 200_000, b"")
    assert run() == (b"", b"iris: the command does not get standard input, which is a pipe: add -i to send it\n")


def test_exec_with_option_t_and_a_pipe_as_standard_input_runs_without_a_terminal(remote_iris: Iris, job: Job) -> None:
    script = "import sys; print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stdin.read())"
    done = remote_iris.feed(b"a line", "exec", "-it", f"{job.job_id}/task-0", "--", sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (0, b"False False a line\n")
    assert (
        done.stderr
        == b"iris: standard input is not a terminal, therefore the command runs without one, as if -t were missing\n"
    )


@pytest.mark.parametrize(("word", "code"), [("no-such-command", 127), ("/etc/passwd", 126)])
def test_exec_of_a_command_that_cannot_start_names_the_reason(
    remote_iris: Iris, job: Job, word: str, code: int
) -> None:
    assert f"{word!r}" in remote_iris("exec", job.job_id, "--", word, code=code).stderr


@pytest.mark.parametrize(("word", "is_task"), [("1", True), ("2", False)])
def test_exec_with_a_task_number_as_the_command_suggests_the_id_of_the_task(
    remote_iris: Iris, job: Job, word: str, is_task: bool
) -> None:
    error = remote_iris("exec", job.job_id, word, "--", "sort", code=127).stderr
    assert f"command not found: {word!r} " in error
    assert (f" (did you mean {job.job_id}/task-1?)\n" in error) == is_task


def test_exec_that_cannot_run_its_command_exits_with_125(remote_iris: Iris, client: IrisClient, job: Job) -> None:
    ended = client.run(["true"], name=unique("ended"))
    ended.wait()
    assert "has ended (SUCCEEDED)" in remote_iris("exec", ended.job_id, "true", code=125).stderr
    assert "no job named 'nope'" in remote_iris("exec", "nope", "true", code=125).stderr
    other = token("user", name="somebody")
    assert "only the owner" in remote_iris("exec", job.job_id, "true", code=125, IRIS_TOKEN=other).stderr


def test_sigint_and_sigquit_of_exec_reach_the_command_without_a_terminal(remote_iris: Iris, job: Job) -> None:
    script = "trap 'echo int' INT; trap 'echo quit; exit 9' QUIT; echo ready; while :; do sleep 0.05; done"
    running = remote_iris.start("exec", job.job_id, "--", "sh", "-c", script)
    for number, line in ((signal.SIGINT, "ready"), (signal.SIGQUIT, "int")):
        assert running.line() == line
        running.process.send_signal(number)
    assert running.line() == "quit"
    assert running.exit_code() == 9


def test_third_sigint_ends_exec_of_a_command_that_ignores_sigint(remote_iris: Iris, job: Job) -> None:
    script = "trap 'echo int' INT; echo ready; while :; do sleep 0.05; done"
    running = remote_iris.start("exec", job.job_id, "--", "sh", "-c", script)
    for line in ("ready", "int", "int"):
        assert running.line() == line
        running.process.send_signal(signal.SIGINT)
    assert running.exit_code() == 130


def test_shell_reads_commands_from_standard_input_without_a_terminal(remote_iris: Iris, job: Job) -> None:
    done = subprocess.run(
        remote_iris.command("shell", job.job_id),
        env=remote_iris.env,
        input=b"echo $0 $IRIS_TASK_INDEX\nexit 4\n",
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, b"/bin/sh 0\n")


def test_exec_whose_output_cannot_be_written_reports_an_error_of_iris(remote_iris: Iris, job: Job) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            remote_iris.command("exec", job.job_id, "echo", "x"),
            env=remote_iris.env,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 125
    assert b"cannot write the output: No space left on device" in done.stderr


def test_exec_under_nohup_ignores_sighup(remote_iris: Iris, job: Job) -> None:
    command = remote_iris.command("exec", "-i", job.job_id, "--", "sh", "-c", "echo ready; exec cat")
    with subprocess.Popen(
        ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *command],
        env=remote_iris.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGHUP)
        assert running.communicate(b"x")[0] == b"x"
    assert running.returncode == 0


# Terminals.


def is_raw(terminal: Any) -> bool:
    return not termios.tcgetattr(terminal.descriptor)[3] & termios.ICANON


def test_iris_shell_passes_on_keys_and_terminal_sizes_and_exits_with_the_code_of_the_shell(
    remote_iris: Iris, job: Job
) -> None:
    terminal = remote_iris.terminal("shell", "-e", "PS1=> ", job.job_id)
    terminal.shows(">")
    wait_until(lambda: is_raw(terminal), "raw mode")
    terminal.type("stty size; tty > /dev/null && echo terminal $TERM\n")
    terminal.shows("24 60", "terminal xterm", ">")
    terminal.resize(50)
    terminal.type("until stty size | grep 50; do sleep 0.1; done\n")
    terminal.shows("24 50", ">")
    terminal.type("sleep 600\n")
    wait_until(lambda: terminal.screen[-2:] == ["> sleep 600", ""], "the command runs")
    terminal.type("\x03")
    terminal.shows("> sleep 600", "^C", ">")
    terminal.type("exit 3\n")
    assert terminal.exit_code() == 3
    assert not is_raw(terminal)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_exec_restores_the_terminal_after_a_signal(remote_iris: Iris, job: Job, number: int, code: int) -> None:
    terminal = remote_iris.terminal("shell", "-e", "PS1=> ", job.job_id)
    terminal.shows(">")
    wait_until(lambda: is_raw(terminal), "raw mode")
    terminal.process.send_signal(number)
    assert terminal.exit_code() == code
    assert not is_raw(terminal)


def test_ctrl_c_ends_iris_shell_if_the_cluster_does_not_answer(
    remote_iris: Iris, shared_cluster: LocalServer, job: Job
) -> None:
    target = "127.0.0.1", urlsplit(shared_cluster.address).port or 0
    with ChaosProxy(target, gentle) as proxy:
        terminal = remote_iris.terminal("shell", "-e", "PS1=> ", "--address", proxy.address, job.job_id)
        terminal.shows(">")
        with proxy.refusing():
            proxy.strike()
            wait_until(lambda: terminal.screen and b"Ctrl-C ends the command here" in terminal.written, "the notice")
            terminal.type("\x03")
            assert terminal.exit_code() == 130
        assert not is_raw(terminal)


def test_ctrl_c_ends_iris_shell_while_it_waits_for_the_task(remote_iris: Iris, client: IrisClient) -> None:
    first = client.run(["sleep", "600"], name=unique("first"))
    later = client.run(["sleep", "600"], name=unique("later"), after={first: "any"})
    terminal = remote_iris.terminal("shell", later.job_id)
    wait_until(lambda: terminal.screen and b"(Ctrl-C ends the command here)\r\n" in terminal.written, "the notice")
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    first.terminate()
    later.terminate()


def test_iris_shell_ends_when_its_task_ends(remote_iris: Iris, client: IrisClient) -> None:
    ending = client.run(["sleep", "600"], name=unique("ending"), env={"SHELL": "/bin/sh"})
    terminal = remote_iris.terminal("shell", "-e", "PS1=> ", ending.job_id)
    terminal.shows(">")
    ending.terminate()
    assert terminal.exit_code() == 137
    assert b"attempt 0 of task" in terminal.written
    assert not is_raw(terminal)
