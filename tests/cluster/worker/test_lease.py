"""The clocks of a lease expire in an order that lets no attempt run twice, and the reaper enforces the lease."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cluster import is_alive
from support.waiting import wait_until

from iris.cluster.lease_terms import format_span, heartbeat_s, kill_after_s, lost_after_s
from iris.cluster.worker.supervision.lease import Lease
from iris.cluster.worker.supervision.reaper import clock_s


@pytest.mark.parametrize("lease_s", [1.0, 1.5, 2.0, 10.0, 60.0, 300.0, 86400.0])
def test_lease_expires_at_the_worker_before_the_reaper_and_at_the_controller_last(lease_s: float) -> None:
    assert lease_s + 0.2 < kill_after_s(lease_s) <= lease_s + 2.0
    assert lost_after_s(lease_s) >= kill_after_s(lease_s) + 0.5
    assert heartbeat_s(lease_s) <= min(5.0, lease_s / 4)


def test_a_lease_is_renewed_from_the_time_when_the_report_was_sent() -> None:
    deadlines: list[float] = []
    lease = Lease(0.0, deadlines.append)
    assert (deadlines, lease.heartbeat_s, lease.call_timeout_s) == ([], 5.0, 30.0)
    now_s = clock_s()
    lease.grant(8.0, now_s)
    assert deadlines == [now_s + 9.0]
    lease.renew(now_s + 3.0)
    lease.renew(now_s + 1.0)  # an answer that comes late
    assert deadlines == [now_s + 9.0, now_s + 12.0, now_s + 12.0]
    assert (lease.heartbeat_s, lease.call_timeout_s) == (2.0, 4.0)


def test_lease_without_limit_removes_the_deadline_of_an_earlier_lease() -> None:
    deadlines: list[float] = []
    lease = Lease(8.0, deadlines.append)
    lease.grant(0.0, clock_s())
    assert deadlines[1:] == [math.inf]
    assert lease.left_s == math.inf


@pytest.mark.parametrize(("seconds", "text"), [(300.0, "5 min"), (2.0, "2 s"), (90.0, "90 s"), (1.5, "1.5 s")])
def test_duration_is_written_in_minutes_if_it_has_whole_minutes_and_otherwise_in_seconds(
    seconds: float, text: str
) -> None:
    assert format_span(seconds) == text


# A reaper with a worker that does what the test says: one command a line on stdin.
WORKER = """
import os, subprocess, sys
from iris.cluster.worker.supervision.reaper import MARK_VARIABLE, clock_s, make_mark, start_reaper
reaper = start_reaper("the-token")
print(reaper.pid, flush=True)
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "deadline":
        reaper.set_deadline(clock_s() + float(number))
        print("set", flush=True)
    else:
        env = os.environ | {MARK_VARIABLE: make_mark("the-token", 1, "")}
        task = subprocess.Popen(["sleep", "600"], env=env, start_new_session=True, stdout=subprocess.DEVNULL)
        if word == "group":
            reaper.group_started(task.pid)
        print(task.pid, flush=True)
"""


class ReapedWorker:
    """A process with a reaper."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.reaper = int(self._line())

    def say(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def _reaped() -> Iterator[ReapedWorker]:
    worker = ReapedWorker()
    try:
        yield worker
    finally:
        worker.process.kill()
        with worker.process:
            pass
        wait_until(lambda: not is_alive(worker.reaper), "the end of the reaper")


@pytest.fixture
def worker() -> Iterator[ReapedWorker]:
    with _reaped() as reaped:
        yield reaped


def test_a_stopped_worker_and_its_attempts_are_killed_at_the_deadline(worker: ReapedWorker) -> None:
    group, stray = int(worker.say("group")), int(worker.say("stray"))
    worker.say("deadline 0.3")
    os.kill(worker.process.pid, signal.SIGSTOP)
    assert worker.process.wait(30) == -signal.SIGKILL
    wait_until(lambda: not is_alive(group) and not is_alive(stray), "the end of what it ran")


def test_renewed_deadline_of_a_worker_replaces_the_old_deadline(worker: ReapedWorker) -> None:
    group = int(worker.say("group"))
    # On a busy machine, the worker may get no CPU time for a second. The first deadlines are therefore further away.
    worker.say("deadline 4")
    worker.say("deadline 4.5")
    worker.say("deadline 600")
    passed_s = clock_s() + 5
    wait_until(lambda: clock_s() > passed_s, "a time when the first two deadlines have passed")
    assert worker.process.poll() is None
    assert is_alive(group)
    assert is_alive(worker.reaper)


def test_a_worker_without_a_deadline_is_not_killed(worker: ReapedWorker) -> None:
    group = int(worker.say("group"))
    assert worker.process.poll() is None
    worker.process.kill()
    wait_until(lambda: not is_alive(group), "the end of its task, by its reaper")


def test_a_worker_that_never_reaches_its_controller_ends_with_its_lease(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", "w", "--lease", "1"),
            *("--controller", "127.0.0.1:9", "--directory", str(tmp_path / "w")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "longer than its lease of 1 s" in done.stderr
