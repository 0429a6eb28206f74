"""`iris run`: lines, labels, exit codes, the folder and environment of the command, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.cluster import is_alive, unique
from support.forked_servers import REAL_START
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def sh(script: str) -> list[str]:
    return ["--", "sh", "-c", script]


def worker_of(pid: int) -> int:
    """The worker of the cluster that a process has started."""
    (server,) = psutil.Process(pid).children()
    (worker,) = server.children()
    return worker.pid


# A cluster for the command's own duration.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--timeout", "10", "--timeout-warning", "20s"], "--timeout-warning must be less than --timeout, which is 10"),
        (["--job-timeout", "10", "--timeout-warning", "20s"], "--timeout-warning must be less than --job-timeout"),
        (["--retries", "1", "--retry-on", "3", "--fail-on", "3"], "--retry-on and --fail-on must have no exit code in"),
        (["--hang-action", "end"], "--hang-action 'end' needs --watch-hang"),
        (["--profile-memory", "--output", "memory-profile"], "--profile-memory stores the profile in the output"),
        (["--each", "/dev/null"], "--each /dev/null must have at least one line"),
    ],
)
def test_run_with_options_that_are_refused_together_exits_with_2(
    remote_iris: Iris, words: list[str], message: str
) -> None:
    refused = remote_iris("run", *words, "--", "python", "-c", "", code=2)
    assert message in refused.stderr, refused.stderr
    assert refused.stdout == ""


def test_run_of_one_task_shows_its_lines_without_labels(iris: Iris) -> None:
    done = iris("run", *sh("echo out; echo err >&2"))
    assert done.stdout == "out\n"
    assert done.stderr == "err\n"


def test_run_of_several_tasks_labels_lines_and_exits_with_the_code_of_the_first_failed_task(iris: Iris) -> None:
    done = iris(
        "run",
        "--replicas",
        "3",
        *sh("echo out $IRIS_TASK_INDEX/$IRIS_NUM_TASKS; exit $((IRIS_TASK_INDEX*3/2))"),
        code=None,
    )
    assert sorted(done.stdout.splitlines())[0] == "task-0 | out 0/3"
    assert set(done.stdout.splitlines()) <= {f"task-{i} | out {i}/3" for i in range(3)}
    assert done.returncode in (1, 3), done
    assert f"exit code {done.returncode}" in done.stderr
    assert "iris logs" not in done.stderr  # its logs are gone with the cluster
    assert "\x1b" not in done.stdout + done.stderr


def test_rendezvous_sets_the_variables_of_the_framework(iris: Iris) -> None:
    done = iris("run", "--replicas", "2", "--rendezvous", "torch", *sh("echo $RANK of $WORLD_SIZE at $MASTER_ADDR"))
    assert sorted(done.stdout.splitlines()) == ["task-0 | 0 of 2 at 127.0.0.1", "task-1 | 1 of 2 at 127.0.0.1"]
    for options, words in (
        (["--rendezvous", "mpi"], "torch"),
        (["--rendezvous", "torch", "--independent"], "needs a gang"),
        (["--rendezvous", "jax", "--max-task-failures", "1"], "needs all tasks of the job"),
    ):
        assert words in iris("run", *options, *sh("true"), code=2).stderr


def test_command_runs_in_the_current_folder_and_leaves_its_files_there(iris: Iris) -> None:
    (iris.folder / "input").write_text("given\n")
    iris("run", *sh("cat input > output; echo $MINE >> output"), MINE="from the shell")
    assert (iris.folder / "output").read_text() == "given\nfrom the shell\n"


def test_run_with_a_workspace_runs_in_a_copy_of_the_folder(iris: Iris) -> None:
    (iris.folder / "code").mkdir()
    (iris.folder / "code" / "name").write_text("code\n")
    done = iris("run", "--workspace", "code", *sh("cat name; touch made"))
    assert done.stdout == "code\n"
    assert not list(iris.folder.rglob("made"))


def test_ctrl_c_stops_the_job_and_shows_its_lines_until_it_ends(iris: Iris) -> None:
    run = iris.start(
        "run", "--replicas", "2", *sh("trap 'echo last words; exit 0' TERM; echo $$; while :; do sleep 0.05; done")
    )
    pids = [int(run.line().split("| ")[1]) for _ in range(2)]
    run.interrupt()
    assert sorted(run.rest()) == ["task-0 | last words", "task-1 | last words"]
    assert run.exit_code() == 130
    assert run.stderr.count("stopping…") == 1
    assert not [pid for pid in pids if is_alive(pid)]


def test_second_ctrl_c_kills_the_job_at_once(iris: Iris, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = iris.start("run", *sh("trap '' TERM; echo $$; while :; do sleep 0.05; done"), TMPDIR=str(temporary))
    pid = int(run.line())
    run.interrupt()
    run.says("stopping…")
    run.interrupt()
    assert run.exit_code() == 130
    assert run.stderr == "iris: stopping… (Ctrl-C again stops at once)\n", "nothing of what broke by that"
    wait_until(lambda: not is_alive(pid), f"the end of {pid}")
    assert list(temporary.iterdir()) == []


def test_worker_killed_during_a_run_is_reported_in_sentences(iris: Iris) -> None:
    # The test finds the server among the children of `iris`. A forked server is a child of another process.
    command = sh("echo up; [ $IRIS_ATTEMPT_ID = 1 ] || exec sleep 600")
    run = iris.start("run", *command, **{REAL_START: "1"})
    first = run.line()
    worker = worker_of(run.process.pid)
    os.kill(worker, signal.SIGKILL)
    assert run.rest(), f"the second attempt, after {first}"
    assert run.exit_code() == 0
    assert "attempt 1 follows" in run.stderr
    for internal in ("peer closed", "incomplete", "Errno", "os error", "error sending", "without sending"):
        assert internal not in run.stderr, run.stderr


def test_sigterm_to_iris_run_stops_the_job(iris: Iris) -> None:
    run = iris.start("run", *sh("echo $$; exec sleep 600"))
    pid = int(run.line())
    run.process.send_signal(signal.SIGTERM)
    assert run.exit_code() == 143
    assert not is_alive(pid)


def test_closed_pipe_ends_the_job_of_an_embedded_cluster(iris: Iris) -> None:
    run = iris.start("run", *sh("echo $$; while :; do echo more; done"))
    pid = int(run.line())
    run.process.stdout.close()
    assert run.exit_code() == 141
    assert run.stderr == ""
    assert not is_alive(pid)


def test_closed_pipe_ends_a_silent_job_of_an_embedded_cluster(iris: Iris) -> None:
    run = iris.start("run", *sh("echo $$; exec sleep 600"))
    pid = int(run.line())
    run.process.stdout.close()
    assert run.exit_code() == 141
    assert not is_alive(pid)


def test_run_with_detach_and_without_a_cluster_is_refused(iris: Iris) -> None:
    assert "iris up" in iris("run", "--detach", "true", code=125).stderr


# A cluster that was there before.


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [("exit 3", 3, "exit code 3"), ("kill -9 $$", 137, "SIGKILL"), ("kill -15 $$", 143, "SIGTERM")],
)
def test_run_exits_with_the_code_of_the_failed_task(remote_iris: Iris, script: str, code: int, text: str) -> None:
    name = unique("codes")
    done = remote_iris("run", "--name", name, *sh(script), code=code)
    assert text in done.stderr
    assert f"iris logs {name} --task 0" in done.stderr


def test_job_names_in_suggested_commands_are_quoted_for_a_shell(remote_iris: Iris) -> None:
    name = unique("it's two words")
    detached = remote_iris("run", "--detach", "--name", name, *sh("exit 3")).stderr
    command = detached.partition("its lines: ")[2]
    assert shlex.split(command)[-1] == name
    followed = remote_iris(*shlex.split(command)[1:], code=3)
    assert "exit code 3" in followed.stderr
    name = unique("two words")
    failed = remote_iris("run", "--name", name, *sh("exit 3"), code=3).stderr
    assert shlex.split(failed.partition("all that it wrote: ")[2])[-3:] == [name, "--task", "0"]


def test_last_lines_of_the_failed_task_are_repeated_after_lines_of_other_tasks(
    remote_iris: Iris, tmp_path: Path
) -> None:
    name = unique("last")
    (tmp_path / "wait").write_text("until [ -e $1 ]; do sleep 0.01; done")
    writes_since = "trap 'sh wait shown; seq 100 130; exit' TERM; touch ready; while :; do sleep 0.05; done"
    fails = "sh wait ready; seq 20; exit 3"
    script = f"cd {shlex.quote(str(tmp_path))}; if [ $IRIS_TASK_INDEX = 1 ]; then {fails}; fi; {writes_since}"
    run = remote_iris.start("run", "--name", name, "--replicas", "2", *sh(script))
    wait_until(lambda: run.line() == "task-1 | 20", "the last line of the task that fails")
    (tmp_path / "shown").touch()
    assert run.exit_code() == 3
    told = run.stderr.splitlines()
    end = told[next(n for n, line in enumerate(told) if "ended as FAILED" in line) :]
    assert end == [
        f"iris: job {name} ended as FAILED: task 1: exit code 3",
        "iris: what task 1 wrote last:",
        *(f"task-1 | {n}" for n in range(11, 21)),
        f"iris: all that it wrote: iris logs {name} --task 1",
    ]


def test_last_lines_that_were_just_shown_are_not_repeated(remote_iris: Iris) -> None:
    script = "[ $IRIS_TASK_INDEX = 0 ] || { seq 20; exit 3; }; exec sleep 600"
    assert "wrote last" not in remote_iris("run", "--replicas", "2", *sh(script), code=3).stderr
    assert "wrote last" not in remote_iris("run", *sh("seq 20; exit 3"), code=3).stderr


def test_run_of_an_unknown_command_shows_the_path_that_was_searched(remote_iris: Iris) -> None:
    told = remote_iris("run", "--no-workspace", "--", "no-such-command", code=127).stderr.splitlines()
    at = told.index("iris: how task 0 was prepared:")
    assert "command not found: 'no-such-command'" in told[at - 1]
    assert told[at + 1].startswith("task-0 | PATH=")
    assert "PATH" not in remote_iris("run", "--no-workspace", *sh("exit 127"), code=127).stderr


def test_job_that_can_never_run_is_reported_with_its_reason(remote_iris: Iris) -> None:
    assert "needs 100000 cpu" in remote_iris("run", "--cpu", "100000", "true", code=125).stderr


def test_run_of_a_job_that_somebody_else_kills_exits_with_143(remote_iris: Iris) -> None:
    name = unique("killed")
    run = remote_iris.start("run", "--name", name, *sh("echo here; exec sleep 600"))
    assert run.line() == "here"
    remote_iris("kill", name)
    assert run.exit_code() == 143
    assert "KILLED" in run.stderr


def test_run_with_tolerated_failures_and_retries_exits_with_0(remote_iris: Iris) -> None:
    remote_iris("run", "--replicas", "2", "--max-task-failures", "1", *sh("exit $IRIS_TASK_INDEX"))
    done = remote_iris("run", "--retries", "1", *sh("echo try $IRIS_ATTEMPT_ID; [ $IRIS_ATTEMPT_ID = 1 ]"))
    assert done.stdout == "try 0\ntry 1\n"
    assert "attempt 1 follows" in done.stderr


def test_task_of_iris_run_gets_its_variables_and_ports(remote_iris: Iris) -> None:
    script = "echo $A,$B,$IRIS_PORT_HTTP,$IRIS_PORT_RPC"
    done = remote_iris("run", "--env", "A=1", "--env", "B=x=y", "--port", "http", "--port", "rpc", *sh(script))
    assert re.fullmatch(r"1,x=y,\d+,\d+\n", done.stdout)


def test_job_on_another_cluster_runs_in_a_copy_of_the_folder(remote_iris: Iris) -> None:
    (remote_iris.folder / "input").write_text("given\n")
    done = remote_iris("run", *sh("cat input; touch made"))
    assert done.stdout == "given\n"
    assert not (remote_iris.folder / "made").exists()


@pytest.mark.parametrize("how", ["found", "address"])
def test_job_on_ray_runs_in_a_copy_of_the_folder(iris: Iris, how: str) -> None:
    up = iris.json("up", "--port", "0")
    (record,) = (iris.home / "state" / "iris").glob("up-*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"engine": "ray", "workers": None}))
    (iris.folder / "input").write_text("given\n")
    words = ["--address", up["address"]] if how == "address" else []
    done = iris(*words, "run", *sh("cat input; echo ${MINE-not mine}; touch made"), MINE="mine")
    assert done.stdout == "given\nnot mine\n", "nor does it have this shell's variables"
    assert not (iris.folder / "made").exists()


def test_run_with_json_prints_an_object_for_each_line_and_event(remote_iris: Iris) -> None:
    done = remote_iris("run", "--json", "--replicas", "2", *sh("printf 'a\\377\\n'; echo e >&2"))
    first, *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["event"], last["event"]) == ("submitted", "ended")
    assert (last["job"]["state"], len(last["job"]["tasks"])) == ("SUCCEEDED", 2)
    lines = [line for line in lines if line["source"] != "build"]
    assert sorted((line["task"], line["source"], line["message"]) for line in lines) == [
        (task, *line) for task in (0, 1) for line in (("stderr", "e"), ("stdout", "a\ufffd"))
    ]
    assert {line.get("data_base64") for line in lines} == {"Yf8=", None}


def test_run_prints_the_bytes_of_a_task_unchanged(remote_iris: Iris) -> None:
    run = remote_iris.start("run", *sh(r"printf '\377\000\r\n'; printf end"))
    assert run.process.stdout.read() == b"\xff\x00\r\nend"  # no newline is added in a pipe or a file
    assert run.exit_code() == 0


def test_run_prints_lines_while_the_task_runs(remote_iris: Iris) -> None:
    fifo = remote_iris.folder.parent / "go-on"
    run = remote_iris.start("run", *sh(f"mkfifo {fifo}; echo first; cat {fifo}"))
    assert run.line() == "first"
    fifo.write_text("second\n")
    assert run.line() == "second"
    assert run.exit_code() == 0


def test_run_of_a_waiting_job_shows_the_reason_to_wait(remote_iris: Iris) -> None:
    name = unique("large")
    cores = len(os.sched_getaffinity(0))
    filling = ["--name", name, "--replicas", str(cores), "--cpu", "1"]
    holder = remote_iris.start("run", *filling, *sh("echo on; exec sleep 600"))
    assert [holder.line()[-2:] for _ in range(cores)] == ["on"] * cores
    waiter = remote_iris.start("run", "--cpu", "1", *sh("echo done"))
    waiter.says("waiting: ")
    remote_iris("kill", name)
    assert waiter.line() == "done"
    assert waiter.exit_code() == 0
    assert "\x1b" not in waiter.stderr


def test_ctrl_c_only_detaches_from_a_job_on_a_running_cluster(remote_iris: Iris) -> None:
    name = unique("long")
    run = remote_iris.start("run", "--name", name, *sh("echo $$; exec sleep 600"))
    pid = int(run.line())
    run.interrupt()
    assert run.exit_code() == 130
    (back,) = re.findall(rf"iris (logs -f {name} --cursor \S+);", run.stderr)
    assert f"iris kill {name}" in run.stderr
    assert remote_iris.json("status", name)["state"] == "RUNNING"
    assert is_alive(pid)
    assert remote_iris.json("kill", "--wait", name)["jobs"][0]["state"] == "KILLED"
    assert not is_alive(pid)
    assert remote_iris(*back.split(), code=143).stdout == "", "what was shown is not shown again"


# What cannot be meant.


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run"], "Missing argument 'COMMAND...'"),
        (["run", "--replicas", "0", "true"], "--replicas"),
        (["run", "--memory", "much", "true"], "a size must be a number of bytes"),
        (["run", "--timeout", "soon", "true"], "not a duration: 'soon'"),
        (["run", "--env", "novalue", "true"], "'novalue' is not set in this shell"),
        (["run", "--port", "a-b", "true"], "not a port name: 'a-b'"),
        (["run", "--name", "a/b", "true"], "not a job name: 'a/b'"),
        (["run", "--workspace", "nowhere", "true"], "nowhere"),
        (["run", "--nonsense", "true"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["kill"], "give the JOBs to terminate; '@' stands for your latest job"),
        (["kill", "a", "b", "--task", "0"], "--task needs exactly one JOB"),
        (["up", "--workers", "0"], "--workers"),
    ],
)
def test_error_for_an_invalid_option_of_iris_run_names_the_option(iris: Iris, words: list[str], text: str) -> None:
    assert text in iris(*words, code=2).stderr


def test_address_option_is_accepted_before_and_after_the_command(iris: Iris) -> None:
    assert "the port is missing" in iris("--address", "somewhere", "ps", code=2).stderr
    assert "Invalid value for '--address'" in iris("run", "--address", "somewhere", "--", "true", code=2).stderr
    assert "does not answer" in iris("ps", "--address", "127.0.0.1:1", code=1).stderr
    assert "iris up" in iris("ps", code=1).stderr


def test_run_wait_attach_and_logs_exit_with_124_if_a_timeout_has_ended_the_job(remote_iris: Iris) -> None:
    name = unique("late")
    assert "timeout" in remote_iris("run", "--name", name, "--timeout", "1s", "--", "sleep", "1000", code=124).stderr
    remote_iris("wait", name, code=124)
    remote_iris("attach", name, code=124)
    remote_iris("logs", "-f", name, code=124)
