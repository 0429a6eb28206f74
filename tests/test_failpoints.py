"""Failpoints: that they can be asked for, do what they say, where they say it, and are all in the list."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cluster import launch, wait_for_end
from support.tokens import keep_key
from support.waiting import wait_until

import iris
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig
from iris.errors import InvalidArgumentError, UnavailableError
from iris.failpoints import NAMES, VARIABLE, MessageDropped, failpoint, is_active, parse
from iris.rpc import cluster_pb2 as pb

SOURCE = Path(iris.__file__).parent


def run(failpoints: str, program: str) -> subprocess.CompletedProcess[str]:
    """A program in which failpoints are active."""
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, VARIABLE: failpoints}, capture_output=True, text=True
    )


@contextmanager
def failing_cluster(directory: Path, failpoints: str) -> Iterator[LocalServer]:
    """A cluster of one worker, in which failpoints are active."""
    os.environ[VARIABLE] = failpoints
    try:
        keep_key(directory)
        server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
    finally:
        del os.environ[VARIABLE]
    try:
        yield server
    finally:
        server.stop()


def test_list_of_failpoints_equals_the_failpoints_in_the_code() -> None:
    used: Counter[str] = Counter()
    for path in SOURCE.rglob("*.py"):
        if path.name != "failpoints.py":
            text = path.read_text()
            used.update(re.findall(r"failpoint\(\"([a-z.]+)\"\)", text))
            if path.name == "failing_calls.py":
                used.update(re.findall(r"\"([a-z.]+\.(?:request|reply\.before|reply\.after))\"", text))
    assert set(used) == NAMES
    assert {name: times for name, times in used.items() if times != 1} == {}, "a name is one place"


def test_failpoint_has_no_effect_if_the_environment_variable_is_not_set() -> None:
    assert not is_active
    for name in NAMES:
        failpoint(name)


def test_failpoint_with_a_condition_takes_effect_only_when_the_condition_is_met() -> None:
    def strikes(text: str, times: int) -> list[int]:
        (one,) = parse(text)["spawn.before"]
        return [time for time in range(1, times + 1) if one.strikes()]

    assert strikes("spawn.before=kill", 3) == [1, 2, 3]
    assert strikes("spawn.before=kill@2", 5) == [2]
    drawn = strikes("spawn.before=delay:5:0.1/7", 1000)
    assert 50 < len(drawn) < 200
    assert drawn == strikes(" spawn.before = delay:5:.1/7 ; ", 1000), "the seed repeats it"
    assert drawn != strikes("spawn.before=delay:5:0.1/8", 1000)


def test_each_action_of_a_failpoint_has_its_effect() -> None:
    begun = time.monotonic()
    parse("report.before=delay:30")["report.before"][0].strike()
    assert time.monotonic() - begun >= 0.03
    with pytest.raises(UnavailableError, match=r"report\.before"):
        parse("report.before=error")["report.before"][0].strike()
    with pytest.raises(MessageDropped):
        parse("worker.request=drop")["worker.request"][0].strike()
    assert [one.action for one in parse("reap.after=delay:1;reap.after=kill@2")["reap.after"]] == ["delay", "kill"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("store.comit.before=kill", "there is no failpoint 'store.comit.before'; expected one of attempt.after, "),
        ("spawn.before", "'spawn.before' is not NAME=ACTION"),
        ("spawn.before=kill;spawn.after=explode", "'spawn.after=explode' is not NAME=ACTION"),
        ("spawn.before=kill@0", "is not NAME=ACTION"),
        ("spawn.before=kill:2/7", "is not NAME=ACTION"),
        ("spawn.before=delay", "is not NAME=ACTION"),
        ("spawn.before=drop", "no message is sent at the failpoint spawn.before"),
        ("store.commit.after=error", "its action cannot be error"),
        ("controller.reply.before=error", "its action cannot be error"),
    ],
)
def test_invalid_failpoint_is_refused(text: str, error: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(error)):
        parse(text)


def test_process_writes_its_active_failpoints_and_each_effect_to_stderr() -> None:
    program = (
        "from iris.failpoints import failpoint\nfor _ in range(9): failpoint('reap.after'); print('on', flush=True)"
    )
    ended = run("reap.after=kill@3", program)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "on\non\n"
    assert ended.stderr == "iris failpoint active: reap.after=kill@3\niris failpoint reap.after: kill\n"


def test_failpoint_takes_effect_even_if_stderr_is_on_a_full_disk() -> None:
    program = (
        "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"
        "from iris.failpoints import failpoint\nfailpoint('reap.after'); print('on', flush=True)"
    )
    ended = run("reap.after=kill@1", program)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")


def test_process_with_an_unknown_failpoint_does_not_start() -> None:
    ended = run("reap=kill", "import iris.failpoints; print('on')")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "there is no failpoint 'reap'" in ended.stderr


def test_worker_dies_at_its_failpoint_and_tasks_have_no_failpoint_variable(tmp_path: Path) -> None:
    with failing_cluster(tmp_path, "spawn.before=kill@2") as server, RemoteClusterClient(server.address) as client:
        script = f'test -z "${VARIABLE}"'
        jobs = [wait_for_end(client, launch(client, ["sh", "-c", script])) for _ in range(3)]
    assert [job.state for job in jobs] == [pb.JOB_STATE_SUCCEEDED] * 3
    # The second process of the first worker was never started, nor the second one of its successor.
    assert [job.preemption_count for job in jobs] == [0, 1, 1]
    assert (tmp_path / "workers" / "local-0.log").read_text().count("iris failpoint spawn.before: kill") == 2


@pytest.mark.parametrize("lost", ["controller.request=drop@{}", "controller.reply.before=drop@{}"])
def test_dropped_message_closes_its_connection(lost: str, tmp_path: Path) -> None:
    failpoints = ";".join(lost.format(n) for n in range(1, 5))
    with failing_cluster(tmp_path, failpoints) as server, RemoteClusterClient(server.address) as client:
        states = [job.state for job in client.watch_job(launch(client, ["true"], name="a"), longest_pause_s=0.1)]
        assert states[-1] == pb.JOB_STATE_SUCCEEDED
        assert [one.job_id for one in client.list_jobs()] == ["a"]
        wait_until(client.list_workers, "the worker, whose calls were lost as well")
    assert "without completing response" in (tmp_path / "server.log").read_text()


def test_process_stopped_by_a_failpoint_can_be_continued() -> None:
    program = "from iris.failpoints import failpoint\nfailpoint('report.after'); print('on')"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, VARIABLE: "report.after=stop"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == "on\n"
