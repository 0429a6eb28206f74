"""What a user holds: IrisClient and its handles, on a real cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.cluster import is_alive, running_cluster, shell, unique
from support.ports import free_port
from support.waiting import wait_until

from iris.client import IrisClient, Job, LogEntry, Task
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import ResourceSpec
from iris.errors import (
    AlreadyExistsError,
    EntrypointError,
    InvalidAddressError,
    InvalidArgumentError,
    JobFailedError,
    NotFoundError,
    ResultError,
)
from iris.rpc import cluster_pb2 as pb


def test_task_status_returns_the_attempts_of_a_task(client: IrisClient) -> None:
    job = client.run(shell("exit $IRIS_TASK_INDEX"), replicas=3, max_task_failures=2)
    job.wait(timeout=60)
    task = client.task_status(job.job_id, task_index=2)
    assert isinstance(task, pb.TaskStatus)
    assert (task.task_id, task.exit_code) == (f"{job.job_id}/task-2", 2)
    with pytest.raises(NotFoundError, match="no task 3"):
        client.task_status(job.job_id, task_index=3)
    with pytest.raises(ValueError, match="task_index must be a whole number from 0 to 2147483647, got -1"):
        client.task_status(job.job_id, task_index=-1)
    with pytest.raises(ValueError, match=r"task_index must be .* got '2'"):
        client.task_status(job.job_id, task_index="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"task_index must be .* got 2147483648"):
        client.task_status(job.job_id, task_index=2**31)


def test_list_tasks_returns_all_tasks_of_a_job(client: IrisClient) -> None:
    job = client.run(["true"], replicas=12)
    job.wait(timeout=60)
    tasks = client.list_tasks(job.job_id)
    assert [task.task_index for task in tasks] == list(range(12))
    assert [task.task_id for task in job.tasks()] == [task.task_id for task in tasks]
    assert isinstance(job.tasks()[0], Task)


def test_fetch_task_logs_returns_the_lines_of_a_task(client: IrisClient) -> None:
    job = client.run(shell("echo one; echo two; echo three"), replicas=2)
    job.wait(timeout=60)
    logs = client.fetch_task_logs(job.job_id, task_index=1, start_ms=0, max_lines=0)
    assert all(isinstance(entry, LogEntry) for entry in logs)
    assert [(entry.source, entry.message, entry.task_index, entry.attempt_id) for entry in logs] == [
        ("stdout", "one", 1, 0),
        ("stdout", "two", 1, 0),
        ("stdout", "three", 1, 0),
    ]
    assert client.fetch_task_logs(job.job_id, 1, max_lines=2) == logs[:2]
    assert client.fetch_task_logs(job.job_id, 1, start_ms=logs[-1].timestamp_ms) == []
    merged = list(job.logs())
    assert len(merged) == 6
    assert [entry for entry in merged if entry.task_index == 1] == logs
    for bad in ({"max_lines": -1}, {"start_ms": -1}, {"start_ms": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            client.fetch_task_logs(job.job_id, 1, **bad)  # type: ignore[arg-type]


def test_wait_with_stream_logs_prints_the_lines_of_the_task(
    client: IrisClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = client.run(shell("echo out $IRIS_TASK_INDEX; echo err >&2"), replicas=3)
    status = client.wait(job.job_id, timeout=60, poll_interval=0.1, stream_logs=True, stream_task_index=2)
    assert status.state == pb.JOB_STATE_SUCCEEDED
    assert sorted(capsys.readouterr().out.splitlines()) == ["[task-2:stderr] err", "[task-2:stdout] out 2"]
    client.wait(job.job_id, stream_logs=True)
    assert "[task-0:stdout] out 0\n" in capsys.readouterr().out, "task 0 is streamed when none is named"


def test_wait_gives_up_after_its_timeout(client: IrisClient) -> None:
    job = client.run(["sleep", "300"])
    try:
        for stream_logs in (False, True):
            with pytest.raises(TimeoutError, match=job.job_id):
                client.wait(job.job_id, timeout=0.3, stream_logs=stream_logs)
    finally:
        job.terminate()
    assert client.wait(job.job_id, timeout=60).state == pb.JOB_STATE_KILLED


def test_client_wait_returns_a_failed_status_and_job_wait_raises(client: IrisClient) -> None:
    job = client.run(shell("for i in 1 2 3; do echo line $i; done; exit 3"))
    assert client.wait(job.job_id, timeout=60).state == pb.JOB_STATE_FAILED
    assert job.wait(raise_on_failure=False).exit_code == 3
    with pytest.raises(JobFailedError) as caught:
        job.wait()
    error = caught.value
    assert (error.job_id, error.task_index, error.exit_code, error.signal) == (job.job_id, 0, 3, None)
    assert error.last_lines == ("line 1", "line 2", "line 3")
    assert isinstance(error.status, pb.JobStatus)
    assert f"iris logs {job.job_id} --task 0" in str(error)
    spaced = client.run(shell("exit 3"), name=unique("two words"))
    with pytest.raises(JobFailedError, match=f"iris logs '{spaced.job_id}' --task 0"):
        spaced.wait(timeout=60)
    killed = client.run(shell("kill -9 $$"))
    with pytest.raises(JobFailedError, match="SIGKILL") as caught:
        killed.wait(timeout=60)
    assert caught.value.signal == signal.SIGKILL


def test_wait_for_an_unknown_job_is_a_not_found_error(client: IrisClient) -> None:
    for stream_logs in (False, True):
        with pytest.raises(NotFoundError, match="no-such-job"):
            client.wait("no-such-job", stream_logs=stream_logs)
    with pytest.raises(InvalidArgumentError, match="stream_logs=True"):
        client.wait("no-such-job", stream_task_index=1)
    with pytest.raises(InvalidArgumentError, match="poll_interval"):
        client.wait("no-such-job", poll_interval=0)


def test_results_are_returned_in_the_order_of_the_tasks(client: IrisClient) -> None:
    def square(base: int, *, add: int = 0) -> int:
        return (base + int(os.environ["IRIS_TASK_INDEX"])) ** 2 + add

    job = client.run(square, args=(10,), kwargs={"add": 1}, replicas=3)
    assert isinstance(job, Job)
    assert job.job_id.startswith("square-")
    assert job.results(timeout=60) == [101, 122, 145]
    assert job.tasks()[2].result() == 145
    assert client.run(lambda: None).results(timeout=60) == [None], "None is a value too"


def test_result_error_names_the_task_and_the_cause(client: IrisClient) -> None:
    def too_large() -> bytes:
        return b"x" * (9 * 2**20)

    def unpicklable() -> object:
        return (number for number in range(3))

    def without_room() -> int:
        import resource

        # The process can create files, but cannot write a byte into them, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return 1

    def without_return() -> None:
        os._exit(0)

    for function, essential in (
        (too_large, "MiB"),
        (unpicklable, "pickle"),
        (without_room, "could not be stored on the worker: the worker's disk was full"),
        (without_return, "exited with 0 before the callable had returned"),
    ):
        job = client.run(function)
        with pytest.raises(ResultError, match=essential) as caught:
            job.results(timeout=60)
        assert caught.value.task_id == f"{job.job_id}/task-0"
        assert caught.value.task_id in str(caught.value)

    def fails_in_one() -> int:
        index = int(os.environ["IRIS_TASK_INDEX"])
        if index == 1:
            raise ValueError("bad shard 1")
        return index

    tolerant = client.run(fails_in_one, replicas=3, max_task_failures=1)
    with pytest.raises(ResultError, match=r"task-1' has no result: .*ValueError: bad shard 1"):
        tolerant.results(timeout=60)
    assert tolerant.tasks()[2].result() == 2
    with pytest.raises(JobFailedError, match="ValueError: bad shard 1"):
        client.run(fails_in_one, replicas=3).results(timeout=60)
    with pytest.raises(ResultError, match="a command has no return value"):
        client.run(["true"]).results(timeout=60)


def test_error_for_a_callable_pickled_by_another_python_version_names_both_versions(client: IrisClient) -> None:
    request = pb.Controller.LaunchJobRequest(
        name=unique("old"), serialized_entrypoint=b"whatever", pickled_by="3.4", submission_id="x"
    )
    job_id = client.cluster.launch_job(request)
    status = client.wait(job_id, timeout=60)
    assert status.state == pb.JOB_STATE_FAILED
    assert "3.4" in status.error
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in status.error


def test_module_that_the_worker_lacks_is_named_in_the_error(client: IrisClient, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "only_here.py").write_text("def function():\n    return 1\n")
    program.write_text(
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import only_here\n"
        "from iris.client import IrisClient\n"
        "client = IrisClient.remote(sys.argv[1])\n"
        "print(client.wait(client.run(only_here.function).job_id, timeout=60).error)\n"
    )
    ran = subprocess.run(
        [sys.executable, str(program), client.cluster.controller_address], capture_output=True, text=True, check=False
    )
    assert "only_here" in ran.stdout, ran.stderr
    assert "install it on the worker" in ran.stdout


def test_functions_of_main_and_of_the_callers_modules_run_in_tasks(shared_cluster: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("FACTOR = 3\n\ndef triple(n):\n    return FACTOR * n\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "import mine\n"
        "from iris.client import IrisClient\n"
        "OFFSET = 4\n"
        "def work(n):\n"
        "    return mine.triple(n) + OFFSET\n"
        "if __name__ == '__main__':\n"
        "    client = IrisClient.remote(sys.argv[1])\n"
        "    print(client.run(work, args=(2,)).results(timeout=60), client.run(mine.triple, args=(5,)).results())\n"
    )
    ran = subprocess.run(
        [sys.executable, str(program), shared_cluster.address], capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "[10] [15]", ran.stderr


def test_client_without_address_uses_the_environment_variable(
    shared_cluster: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # no context
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # no cluster of 'iris up'
    monkeypatch.delenv("IRIS_CONTEXT", raising=False)
    monkeypatch.delenv("IRIS_CONTROLLER_ADDRESS", raising=False)
    with pytest.raises(InvalidAddressError, match="IRIS_CONTROLLER_ADDRESS is not set"):
        IrisClient.remote()
    monkeypatch.setenv("IRIS_CONTROLLER_ADDRESS", shared_cluster.address)
    with IrisClient.remote() as client:
        assert isinstance(client.list_jobs(), list)


@pytest.mark.parametrize(
    ("arguments", "essential"),
    [
        ({"name": ""}, "must not be empty"),
        ({"name": "a/b"}, "'a/b'"),
        ({"name": 5}, "a job's name must be text, got 5"),
        ({"name": "caf\udce9"}, "can be encoded in UTF-8"),
        ({"env": {"A": "caf\udce9"}}, "can be encoded in UTF-8"),
        ({"working_directory": "/caf\udce9"}, "can be encoded in UTF-8"),
        ({"replicas": 3_000_000_000}, "replicas must be a whole number from 1 to 2147483647, got 3000000000"),
        ({"replicas": 0}, "replicas must be a whole number from 1 to 2147483647, got 0"),
        ({"replicas": "2"}, "got '2'"),
        ({"replicas": 20_000}, "10000"),
        ({"env": {"A": 1}}, "env['A'] must be text, got 1"),
        ({"env": {"A=B": "1"}}, "A=B"),
        ({"ports": "http"}, "ports must be a list of names, such as ['http'], got 'http'"),
        ({"ports": ["a b"]}, "a b"),
        ({"ports": ["a", "A"]}, "twice"),
        (
            {"timeout": -1},
            "timeout must be a number of seconds from 0 to 2147483647, or None or math.inf for no limit, got -1",
        ),
        ({"max_retries_failure": -1}, "max_retries_failure must be a whole number from 0 to 2147483647, got -1"),
        ({"workspace": "/no/such/folder"}, "/no/such/folder"),
        ({"working_directory": "relative"}, "relative"),
        ({"args": (1,)}, "args and kwargs need a callable"),
    ],
)
def test_run_with_invalid_arguments_is_refused(
    client: IrisClient, arguments: dict[str, object], essential: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.run(["true"], **arguments)  # type: ignore[arg-type]
    assert essential in str(caught.value)


@pytest.mark.parametrize("entrypoint", [[], "python train.py", 7, [""], ["a", 1], ["cat", "caf\udce9"]])
def test_run_with_invalid_entrypoints_is_refused(client: IrisClient, entrypoint: object) -> None:
    with pytest.raises(InvalidArgumentError):
        client.run(entrypoint)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [{"cpu": -1}, {"cpu": 0.0005}, {"memory": "lots"}, {"gpu": True}])
def test_run_with_invalid_resources_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        ResourceSpec(**spec)  # type: ignore[arg-type]


def test_callable_that_cannot_be_pickled_is_refused(client: IrisClient) -> None:
    lock = threading.Lock()

    def holds_a_lock() -> None:
        with lock:
            pass

    with pytest.raises(EntrypointError, match="holds_a_lock"):
        client.run(holds_a_lock)


def test_run_with_a_used_name_is_refused(client: IrisClient) -> None:
    name = unique("mine")
    client.run(["true"], name=name)
    with pytest.raises(AlreadyExistsError, match=name):
        client.run(["true"], name=name)


def test_long_line_is_returned_as_one_entry(client: IrisClient) -> None:
    size = 10 * 2**20
    job = client.run([sys.executable, "-c", f"print('y' * {size}); print('end', end='')"])
    job.wait(timeout=60)
    assert [len(entry.message) for entry in job.logs()] == [size, 3]


def test_many_lines_are_read_in_pages_without_repetition(client: IrisClient) -> None:
    job = client.run(["seq", "200000"])
    followed = [entry.message for entry in job.logs(follow=True)]
    assert followed == [str(n) for n in range(1, 200_001)]
    assert [entry.message for entry in job.logs()] == followed


def test_several_threads_share_a_client(client: IrisClient) -> None:
    outcomes: list[list[object]] = []

    def work(n: int) -> None:
        outcomes.append([n, client.run(lambda: n * 2).results(timeout=60)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [[n, [n * 2]] for n in range(4)]


@pytest.mark.parametrize("stream_logs", [False, True])
def test_ctrl_c_ends_a_wait_at_once(shared_cluster: LocalServer, stream_logs: bool) -> None:
    program = (
        "import sys\n"
        "from iris.client import IrisClient\n"
        "client = IrisClient.remote(sys.argv[1])\n"
        "job = client.run(['sh', '-c', 'echo up; exec sleep 300'])\n"
        "try:\n"  # The signal may come before the call of `wait` has begun.
        "    print(job.job_id, flush=True)\n"
        f"    client.wait(job.job_id, stream_logs={stream_logs})\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "    job.terminate()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, shared_cluster.address], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    job_id = running.stdout.readline().strip()
    with IrisClient.remote(shared_cluster.address) as client:
        wait_until(lambda: client.status(job_id).state == pb.JOB_STATE_RUNNING, "the job to run")
        if stream_logs:
            assert running.stdout.readline() == "[task-0:stdout] up\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "interrupted\n"
        assert running.wait() == 0
        running.stdout.close()
        assert client.wait(job_id, timeout=60).state == pb.JOB_STATE_KILLED


def test_wait_continues_after_a_restart_of_the_controller(tmp_path: Path) -> None:
    directory, port = tmp_path / "cluster", free_port()
    with running_cluster(directory, port=port) as server:
        client = IrisClient.remote(server.address)
        gate = tmp_path / "gate"
        job = client.run(shell(f"while [ ! -e {gate} ]; do sleep 0.05; done"), name="patient")
        wait_until(lambda: job.status().state == pb.JOB_STATE_RUNNING, "the job to run")
        states: list[int] = []
        waiting = threading.Thread(target=lambda: states.append(client.wait("patient", timeout=100).state))
        waiting.start()
        pid = server.process.pid
        server.process.kill()
        server.process.wait()
        assert not is_alive(pid)
        assert waiting.is_alive()
    with running_cluster(directory, port=port):
        gate.touch()
        waiting.join()
        client.close()
    assert states == [pb.JOB_STATE_SUCCEEDED]


def test_importing_the_client_imports_no_server() -> None:
    program = (
        "import sys\n"
        "import iris.client\n"
        "heavy = {'httpx', 'uvicorn', 'psutil', 'sqlite3', 'rich', 'click', 're2', 'hypercorn', 'grpc'}\n"
        "own = {name for name in sys.modules if name.startswith(('iris.server', 'iris.cluster.controller',"
        " 'iris.cluster.worker', 'iris.cluster.engine'))}\n"
        "print(sorted((heavy & set(sys.modules)) | own))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_client_can_be_imported_without_unix_modules() -> None:
    program = (
        "import os, sys, time\n"
        "flags = ('O_CLOEXEC', 'O_DIRECTORY', 'O_NOFOLLOW', 'O_NONBLOCK')\n"
        "for module in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):\n"
        "    sys.modules[module] = None\n"
        "for name in [name for name in vars(time) if name.startswith(('clock_', 'CLOCK_'))]:\n"
        "    delattr(time, name)\n"
        "for name in ('fork', 'geteuid', 'getuid', 'killpg', 'pidfd_open', 'register_at_fork', 'setsid', *flags):\n"
        "    if hasattr(os, name):\n"
        "        delattr(os, name)\n"
        "import iris.client\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
