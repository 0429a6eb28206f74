"""What a program is started with by its caller (signals, descriptors) never reaches clusters and tasks."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.cluster import shell

from iris.client import IrisClient
from iris.rpc import cluster_pb2 as pb

_LOCAL = """
import os, signal, sys
from iris.client import IrisClient
{before}
with IrisClient.local() as client:
    failed = client.wait(client.run(["sh", "-c", "exit 7"]).job_id)
    told = client.run(["grep", "^Sig[BI]", "/proc/self/status"])
    client.wait(told.job_id)
    masks = [line.message for line in client.fetch_task_logs(told.job_id, 0)]
    sleeper = client.run(["sh", "-c", "echo up; exec sleep 600"])
    next(iter(client.stream_task_logs(sleeper.job_id, 0)))
    client.terminate(sleeper.job_id)
    ended = client.wait(sleeper.job_id).state
with open(sys.argv[1], "w") as file:
    print(failed.exit_code, ended, *masks, file=file)
"""
_RIGHT = f"7 {pb.JOB_STATE_KILLED} SigBlk:\t0000000000000000 SigIgn:\t0000000000000000\n"


@pytest.mark.parametrize(
    "before",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "[signal.signal(n, signal.SIG_IGN) for n in signal.valid_signals() - {9, 19, 32, 33}]",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "os.closerange(0, 3)",
        "os.close(1)",
    ],
)
def test_local_cluster_works_with_any_inherited_signals_and_file_descriptors(before: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    program = textwrap.dedent(_LOCAL).format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", program, str(answer)], stdin=subprocess.DEVNULL, capture_output=True, timeout=100
    )
    assert done.returncode == 0, done
    assert answer.read_text() == _RIGHT


def test_resource_limit_set_by_a_task_stays_in_effect(client: IrisClient) -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    script = "ulimit -Sn 333; ulimit -Hn 444; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.02; ulimit -Sn; ulimit -Hn; done"
    job = client.run(shell(script), replicas=10)
    assert client.wait(job.job_id).state == pb.JOB_STATE_SUCCEEDED
    for index in range(10):
        assert {line.message for line in client.fetch_task_logs(job.job_id, index)} == {"333", "444"}
    told = client.run(shell("ulimit -Sn"))
    client.wait(told.job_id)
    assert [line.message for line in client.fetch_task_logs(told.job_id, 0)] == [str(soft)]
