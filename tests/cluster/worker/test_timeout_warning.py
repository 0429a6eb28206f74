"""Which time limit ends an attempt first, and which processes expect the warning."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits.process_table import read_process
from iris.cluster.worker.limits.timeout_warning import TimeLimit, nearest_limit, processes_expecting_signal
from iris.cluster.worker.paths import AttemptDir
from iris.rpc import cluster_pb2


@pytest.mark.parametrize(
    ("timeout_s", "job_end_s", "allocation_end_s", "expected"),
    [
        (0, math.inf, math.inf, None),
        (60, math.inf, math.inf, TimeLimit("the attempt's timeout", 1060.0)),
        (60, 1030.0, 1040.0, TimeLimit("the job's timeout", 1030.0)),
        (60, math.inf, 1050.0, TimeLimit("the time limit of the allocation", 1050.0)),
    ],
)
def test_nearest_time_limit_is_the_limit_that_ends_the_attempt_first(
    tmp_path: Path, timeout_s: int, job_end_s: float, allocation_end_s: float, expected: TimeLimit | None
) -> None:
    request = cluster_pb2.Worker.RunTaskRequest(task_id="job/task-0", timeout_seconds=timeout_s)
    directory = AttemptDir(tmp_path)
    attempt = Attempt(request, 1, directory, LogWriter(tmp_path / "log"), started_s=1000.0, job_end_s=job_end_s)
    assert nearest_limit(attempt, allocation_end_s) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("pass", False),
        ("signal.signal(signal.SIGUSR1, lambda *_: None)", True),
        ("signal.signal(signal.SIGUSR1, signal.SIG_IGN)", False),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])", True),
    ],
)
def test_process_expects_the_timeout_warning_if_it_handles_or_blocks_the_signal(statement: str, expected: bool) -> None:
    program = f"import signal; {statement}; print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = read_process(process.pid)
        assert found is not None
        assert processes_expecting_signal([found]) == [found] * expected
        process.send_signal(signal.SIGKILL)
