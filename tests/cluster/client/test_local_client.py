"""The local client, by the contract of all cluster clients, and by what is its own: it brings its cluster along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts.cluster_client import *  # noqa: F403 - the contract's tests run here
from support.cluster import iris_processes, is_alive, launch, shell, wait_for_end
from support.waiting import wait_until

from iris.cluster.client.local_client import LocalClusterClient
from iris.cluster.client.server_process import wait_until_ready
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2


@pytest.fixture(scope="module")
def cluster_client() -> Iterator[LocalClusterClient]:
    with LocalClusterClient() as client:
        yield client


def test_low_level_task_methods_return_the_documented_values(cluster_client: LocalClusterClient) -> None:
    job_id = launch(cluster_client, shell("echo task $IRIS_TASK_INDEX of $IRIS_NUM_TASKS"), replicas=4)
    assert wait_for_end(cluster_client, job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED
    assert [task.task_index for task in cluster_client.list_tasks(job_id)] == [0, 1, 2, 3]
    for index in range(4):
        assert cluster_client.get_task_status(job_id, index).state == cluster_pb2.TASK_STATE_SUCCEEDED
        (entry,) = cluster_client.fetch_task_logs(f"{job_id}/task-{index}")
        assert (entry.source, entry.data) == ("stdout", f"task {index} of 4")


def test_close_of_a_local_cluster_ends_all_processes_and_tasks(tmp_path: Path) -> None:
    before = iris_processes()
    client = LocalClusterClient(workers=2)
    marker = tmp_path / "pid"
    launch(client, shell(f"echo $$ > {marker}.new; mv {marker}.new {marker}; trap '' TERM; sleep 300 & wait; wait"))
    pid = int(wait_until(lambda: marker.exists() and marker.read_text(), "the task's process"))
    assert is_alive(pid)
    client.close()
    wait_until(lambda: not [p for p in iris_processes() if p not in before and is_alive(p)], "the end of all of it")
    assert not is_alive(pid)


@pytest.mark.parametrize("end", ["exit", "kill -9"])
def test_local_cluster_ends_when_the_process_of_its_client_ends(tmp_path: Path, end: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\n"
        "from iris.client import IrisClient\n"
        "client = IrisClient.local()\n"
        "job = client.run(['sleep', '300'], replicas=2)\n"
        "while not all(task.state == 3 for task in client.list_tasks(job.job_id)): pass\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    before = iris_processes()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    assert len([p for p in iris_processes() if p not in before]) >= 4  # server, worker, two tasks
    if end == "exit":
        program.stdin.write("go\n")
        program.stdin.close()
    else:
        program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()
    wait_until(lambda: not [p for p in iris_processes() if p not in before and is_alive(p)], "the end of the cluster")
    wait_until(lambda: not list(temporary.glob("iris-*[!0-9]*/server.log")), "the end of its directory")


def test_close_in_a_forked_child_does_not_end_the_local_cluster(cluster_client: LocalClusterClient) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cluster_client.list_jobs()
            cluster_client.close()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it was, the parent has to know
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as trouble:
        assert trouble.read() == ""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    # Not a look at the list of workers: a cluster that has just started answers before its worker has registered.
    job_id = launch(cluster_client, ["true"])
    assert wait_for_end(cluster_client, job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("workers", [0, -1, 1000])
def test_invalid_number_of_workers_is_refused(workers: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"workers must be a whole number from 1 to 64, got {workers}"):
        LocalClusterClient(workers=workers)


JOB = (
    "from iris.client import IrisClient\nwith IrisClient.local() as c: print(c.run(['true']).wait(timeout=60).state)\n"
)


def test_local_cluster_does_not_use_the_proxies_of_the_environment(tmp_path: Path) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")  # no server listens there
    seen = " -a ".join(f"${name} = http://127.0.0.1:9" for name in proxies)
    program = JOB.replace("['true']", f"['sh', '-c', '[ {seen} -a $NO_PROXY = mine ]']")
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **proxies, "NO_PROXY": "mine"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "4\n", f"the cluster works, and tasks see the variables unchanged: {ran.stderr}"


@pytest.mark.parametrize("iris", ["iris.py", "iris/__init__.py"])
def test_files_in_the_current_folder_do_not_replace_modules_of_a_local_cluster(tmp_path: Path, iris: str) -> None:
    folder = tmp_path / "folder"
    for name in (iris, "pickle.py", "queue.py", "random.py", "logging.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('the wrong module')\n")
    program = tmp_path / "program.py"  # in another folder, because Python does import modules from a program's folder
    program.write_text(JOB)
    ran = subprocess.run([sys.executable, str(program)], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.stdout == "4\n", ran.stderr


def test_error_of_a_server_that_does_not_start_says_whether_it_ended_or_was_silent() -> None:
    ready, server_end = os.pipe()
    with subprocess.Popen(["sleep", "60"]) as process:
        silent = wait_until_ready(process, ready, None, silent_s=0.05)
        process.kill()
    os.close(server_end)
    ready, server_end = os.pipe()
    os.close(server_end)
    ended = wait_until_ready(process, ready, None)
    assert silent == {"failure": "it sent no message for 0.05 s"}
    assert ended == {"failure": "it ended before it was ready"}
