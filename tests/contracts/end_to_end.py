"""The contract of whole jobs, which holds for every engine. Each engine runs these tests.

A test module imports these functions and brings a fixture `client`, of a cluster that has room for some tasks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cluster import is_alive, shell, unique
from support.waiting import wait_until

from iris.client import IrisClient
from iris.errors import JobFailedError
from iris.rpc import cluster_pb2 as pb


def wait_for_file(path: Path) -> str:
    """Wait until a task has written a file, and return the content. Tasks write another file and rename it, so that the
    content is complete."""
    return wait_until(lambda: path.exists() and path.read_text(), f"{path.name} to be written")


def put(path: Path | str, what: str) -> str:
    """Return shell commands that write a file in one step, by renaming another file."""
    return f"echo {what} > {path}.new && mv {path}.new {path}"


def test_each_task_of_a_job_gets_its_own_environment_variables(client: IrisClient) -> None:
    job = client.run(shell("env"), replicas=4, env={"MINE": "yes", "IRIS_TASK_INDEX": "77"})
    status = job.wait(timeout=60)
    assert status.state == pb.JOB_STATE_SUCCEEDED
    assert (status.num_tasks, status.tasks_succeeded, status.exit_code) == (4, 4, 0)
    for index, task in enumerate(job.tasks()):
        env = dict(entry.message.partition("=")[::2] for entry in task.logs())
        assert env["IRIS_JOB_ID"] == job.job_id
        assert env["IRIS_TASK_ID"] == f"{job.job_id}/task-{index}"
        assert env["IRIS_TASK_INDEX"] == str(index), "Iris's own values win over the user's"
        assert env["IRIS_NUM_TASKS"] == "4"
        assert env["IRIS_ATTEMPT_ID"] == "0"
        assert env["IRIS_WORKER_ID"] == task.status().worker_id
        assert env["IRIS_CONTROLLER_ADDRESS"] == client.cluster.controller_address
        assert env["IRIS_BIND_HOST"] == env["IRIS_ADVERTISE_HOST"] == "127.0.0.1"
        assert env["MINE"] == "yes"


def test_lines_of_a_task_are_streamed_while_the_task_runs(
    client: IrisClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    script = f"echo before; echo oops >&2; while [ ! -e {gate} ]; do sleep 0.05; done; echo after $IRIS_TASK_INDEX"
    job = client.run(shell(script), replicas=3)
    seen = []
    for entry in client.stream_task_logs(job.job_id, 2):
        seen.append((entry.source, entry.message))
        if len(seen) == 2:  # both were seen while the task was still running
            assert client.task_status(job.job_id, 2).state == pb.TASK_STATE_RUNNING
            gate.touch()
    assert sorted(seen[:2]) == [("stderr", "oops"), ("stdout", "before")]
    assert seen[2:] == [("stdout", "after 2")]
    client.wait(job.job_id, stream_logs=True, stream_task_index=2)
    assert "[task-2:stdout] after 2\n" in capsys.readouterr().out


def test_failure_domain_kills_remaining_tasks(client: IrisClient) -> None:
    job = client.run(shell("[ $IRIS_TASK_INDEX = 1 ] && exit 7; exec sleep 300"), replicas=3)
    with pytest.raises(JobFailedError) as caught:
        job.wait(timeout=60)
    assert (caught.value.task_index, caught.value.exit_code) == (1, 7)
    status = client.status(job.job_id)
    assert status.state == pb.JOB_STATE_FAILED
    assert status.exit_code == 7
    assert [task.state for task in status.tasks] == [
        pb.TASK_STATE_KILLED,
        pb.TASK_STATE_FAILED,
        pb.TASK_STATE_KILLED,
    ]
    assert [task.error for task in status.tasks] == [
        "Job exceeded max_task_failures",
        "exit code 7",
        "Job exceeded max_task_failures",
    ]


def test_job_succeeds_if_at_most_max_task_failures_tasks_fail(client: IrisClient) -> None:
    job = client.run(shell("[ $IRIS_TASK_INDEX != 1 ]"), replicas=3, max_task_failures=1)
    status = job.wait(timeout=60)
    assert (status.state, status.exit_code, status.tasks_failed) == (pb.JOB_STATE_SUCCEEDED, 0, 1)


def test_a_gang_restarts_as_a_whole(client: IrisClient, tmp_path: Path) -> None:
    script = f"""
        {put(f"{tmp_path}/$IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID", "$$")}
        if [ $IRIS_ATTEMPT_ID = 0 ]; then
            while [ ! -e {tmp_path}/0.0 -o ! -e {tmp_path}/1.0 ]; do sleep 0.05; done
            [ $IRIS_TASK_INDEX = 1 ] && exit 5
            exec sleep 300
        fi
        echo second"""
    job = client.run(shell(script), replicas=2, max_retries_failure=1)
    notices: list[str] = []
    lines = [entry.message for entry in client.stream_task_logs(job.job_id, 1, on_notice=notices.append)]
    status = job.wait(timeout=60)
    assert status.state == pb.JOB_STATE_SUCCEEDED
    first, second = status.tasks
    assert [attempt.state for attempt in first.attempts] == [pb.TASK_STATE_KILLED, pb.TASK_STATE_SUCCEEDED]
    assert [attempt.state for attempt in second.attempts] == [pb.TASK_STATE_FAILED, pb.TASK_STATE_SUCCEEDED]
    assert (first.failure_count, second.failure_count) == (0, 1)
    assert lines == ["second"]
    assert "attempt 0 of task 1 ended: exit code 5; attempt 1 follows" in notices
    assert not is_alive(int((tmp_path / "0.0").read_text()))


def test_independent_tasks_are_retried_alone(client: IrisClient) -> None:
    script = "[ $IRIS_TASK_INDEX = 0 -o $IRIS_ATTEMPT_ID = 2 ]"
    job = client.run(shell(script), replicas=2, coscheduled=False, max_retries_failure=2)
    status = job.wait(timeout=60)
    assert [len(task.attempts) for task in status.tasks] == [1, 3]


def test_five_jobs_that_run_at_once_keep_separate_logs(client: IrisClient) -> None:
    jobs = [client.run(shell(f"echo {n}.$IRIS_TASK_INDEX"), replicas=3) for n in range(5)]
    for n, job in enumerate(jobs):
        job.wait(timeout=60)
        assert [[entry.message for entry in task.logs()] for task in job.tasks()] == [[f"{n}.{i}"] for i in range(3)]


def test_job_that_is_terminated_while_it_is_prepared_ends_killed(client: IrisClient, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for n in range(300):
        (workspace / f"{n}.bin").write_bytes(os.urandom(20_000))
    job = client.run(["sleep", "300"], workspace=workspace, replicas=4)
    job.terminate()  # at once: it waits, is being built or has just begun to run, and ends in any case
    status = client.wait(job.job_id, timeout=60)
    assert status.state == pb.JOB_STATE_KILLED
    assert {task.state for task in status.tasks} == {pb.TASK_STATE_KILLED}


def test_terminate_ends_the_process_group_and_processes_that_left_it(client: IrisClient, tmp_path: Path) -> None:
    script = f"""
        setsid sh -c '{put(f"{tmp_path}/left", "$$")}; exec sleep 300' &
        sh -c 'trap "" TERM; {put(f"{tmp_path}/stubborn", "$$")}; while :; do sleep 1; done' &
        {put(f"{tmp_path}/leader", "$$")}
        wait"""
    job = client.run(shell(script), kill_grace_period=0.2)
    pids = [int(wait_for_file(tmp_path / name)) for name in ("left", "stubborn", "leader")]
    assert all(is_alive(pid) for pid in pids)
    job.terminate()
    status = client.wait(job.job_id, timeout=60)
    assert status.state == pb.JOB_STATE_KILLED
    assert [pid for pid in pids if is_alive(pid)] == []


def test_output_written_on_sigterm_is_kept(client: IrisClient, tmp_path: Path) -> None:
    script = f"trap 'echo saving; exit 0' TERM; {put(tmp_path / 'up', 'x')}; while :; do sleep 0.05; done"
    job = client.run(shell(script))
    wait_for_file(tmp_path / "up")
    job.terminate()
    assert client.wait(job.job_id, timeout=60).state == pb.JOB_STATE_KILLED
    logs = client.fetch_task_logs(job.job_id, 0)
    assert [entry.message for entry in logs if entry.source == "stdout"] == ["saving"]


def test_task_ends_with_its_first_process_and_ends_its_children(client: IrisClient, tmp_path: Path) -> None:
    child = f"{put(f'{tmp_path}/child', '$$')}; exec sleep 300"
    script = f"sh -c '{child}' & while [ ! -e {tmp_path}/child ]; do :; done; exit 4"
    job = client.run(shell(script))
    status = job.wait(timeout=60, raise_on_failure=False)
    assert status.exit_code == 4
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_task_that_closes_its_stdout_continues(client: IrisClient) -> None:
    job = client.run(shell("echo first; exec >&-; echo second >&2; exit 3"))
    assert job.wait(timeout=60, raise_on_failure=False).exit_code == 3
    assert {(e.source, e.message) for e in job.tasks()[0].logs()} == {("stdout", "first"), ("stderr", "second")}


def test_task_that_exceeds_its_timeout_fails(client: IrisClient) -> None:
    job = client.run(["sleep", "300"], timeout=1)
    status = job.wait(timeout=60, raise_on_failure=False)
    assert status.state == pb.JOB_STATE_FAILED
    assert "timeout of 1 s" in status.error


@pytest.mark.parametrize(
    ("command", "essential", "exit_code"),
    [
        (["no-such-program", "x"], "command not found: 'no-such-program'", 127),
        (["./missing.sh"], "command not found: './missing.sh'", 127),
        (["/etc/passwd"], "not executable: '/etc/passwd' (chmod +x", 126),
        (["/etc"], "not executable: '/etc' is a folder", 126),
    ],
)
def test_command_that_cannot_be_started_has_the_exit_code_of_a_shell(
    client: IrisClient, command: list[str], essential: str, exit_code: int
) -> None:
    job = client.run(command, env={"PATH": "/usr/bin:/bin:/some/folder"})
    status = job.wait(timeout=60, raise_on_failure=False)
    assert status.state == pb.JOB_STATE_FAILED
    assert essential in status.error
    assert "/some/folder" not in status.error
    assert len(status.error.splitlines()) == 1
    assert (status.exit_code, status.tasks[0].exit_code, status.term_signal) == (exit_code, exit_code, 0)
    said = [line.message for line in job.logs() if line.source == "build"]
    assert said == ["PATH=/usr/bin:/bin:/some/folder"] * (command[0] == "no-such-program")


def test_script_without_its_interpreter_fails_with_the_reason(client: IrisClient, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/no/such/interpreter -x\n")
    (tmp_path / "script").chmod(0o755)
    for command in (["./script"], ["script"]):
        job = client.run(command, working_directory=tmp_path, env={"PATH": str(tmp_path)})
        status = job.wait(timeout=60, raise_on_failure=False)
        assert "'/no/such/interpreter -x', which does not exist" in status.error
        assert status.exit_code == 127


def test_status_of_a_task_that_a_signal_ended_names_the_signal(client: IrisClient) -> None:
    status = client.run(shell("kill -SEGV $$")).wait(timeout=60, raise_on_failure=False)
    assert (status.exit_code, status.term_signal) == (128 + signal.SIGSEGV, signal.SIGSEGV)
    assert "SIGSEGV" in status.error


def test_two_ports_per_task_are_free_distinct_and_known(client: IrisClient) -> None:
    program = (
        "import os, socket\n"
        "ports = [int(os.environ['IRIS_PORT_HTTP']), int(os.environ['IRIS_PORT_PEER'])]\n"
        "sockets = [socket.create_server((os.environ['IRIS_BIND_HOST'], port)) for port in ports]\n"
        "print(*ports)\n"
    )
    job = client.run([sys.executable, "-c", program], replicas=3, ports=["http", "Peer"])
    status = job.wait(timeout=60)
    ports = [(task.ports["http"], task.ports["peer"]) for task in status.tasks]
    assert len({port for pair in ports for port in pair}) == 6
    for task, pair in zip(job.tasks(), ports, strict=True):
        assert [entry.message for entry in task.logs()] == [f"{pair[0]} {pair[1]}"]


def test_requested_and_other_ports_are_reached_through_the_controller(client: IrisClient) -> None:
    program = Path(__file__).parents[1] / "support" / "port_server.py"
    job = client.run([sys.executable, str(program), "echo", "other"], ports=["echo"])
    lines = job.logs(follow=True)
    assert next(lines).message == "listening"
    other = int(next(lines).message)
    for port in ("echo", other):
        with (
            client.forward(job.job_id, port) as forward,
            socket.create_connection(("127.0.0.1", forward.local_port)) as connection,
        ):
            connection.settimeout(60)
            connection.sendall(b"hello")
            assert connection.recv(5) == b"hello"
    job.terminate()


def test_task_registers_an_endpoint_that_others_look_up(client: IrisClient, tmp_path: Path) -> None:
    name = unique("service")

    def serve() -> None:
        from iris.client import IrisClient
        from iris.cluster.types import get_job_info

        info = get_job_info()
        assert info is not None
        with IrisClient.remote() as inside:
            inside.register_endpoint(name, f"127.0.0.1:{info.ports['http']}", {"rank": str(info.task_index)})
            (tmp_path / "registered").touch()
            while not (tmp_path / "gate").exists():
                pass

    job = client.run(serve, ports=["http"])
    wait_until((tmp_path / "registered").exists, "the endpoint")
    endpoint = client.lookup_endpoint(name)
    assert endpoint.job_id == job.job_id
    assert endpoint.address == f"127.0.0.1:{client.task_status(job.job_id, 0).ports['http']}"
    assert dict(endpoint.metadata) == {"rank": "0"}
    assert [found.name for found in client.list_endpoints(name[:-2])] == [name]
    (tmp_path / "gate").touch()
    job.wait(timeout=60)
    assert client.list_endpoints(name) == [], "an endpoint goes with its job"


def test_child_jobs_end_with_their_parent_job(client: IrisClient, tmp_path: Path) -> None:
    def parent() -> str:
        from iris.client import IrisClient

        with IrisClient.remote() as inside:
            quick = inside.run(["true"], name="quick")
            quick.wait()
            slow = inside.run(["sleep", "300"], name="slow")
            while slow.status().state != 3:
                pass
            return str(quick.job_id)

    job = client.run(parent)
    assert job.results(timeout=60) == [f"{job.job_id}/quick"]
    status = client.wait(f"{job.job_id}/slow", timeout=60)
    assert status.state == pb.JOB_STATE_KILLED
    assert status.parent_job_id == job.job_id
    assert "parent job" in status.error
    assert client.status(f"{job.job_id}/quick").state == pb.JOB_STATE_SUCCEEDED


def test_status_of_a_running_task_contains_its_measured_usage(client: IrisClient, tmp_path: Path) -> None:
    program = (
        "import pathlib\n"
        "block = b'x' * 64 * 2**20\n"
        f"gate = pathlib.Path({str(tmp_path / 'gate')!r})\n"
        "while not gate.exists(): pass\n"
    )
    job = client.run([sys.executable, "-c", program])

    def usage() -> Any:
        seen = client.task_status(job.job_id, 0).resource_usage
        return seen if seen.memory_mb >= 64 and seen.cpu_millicores > 0 else None

    seen = wait_until(usage, "the usage of a task that runs")
    assert seen.process_count == 1
    (tmp_path / "gate").touch()
    status = job.wait(timeout=60)
    assert status.tasks[0].resource_usage.memory_peak_mb >= 64


def test_each_attempt_has_a_separate_working_directory_unless_the_job_sets_one(
    client: IrisClient, tmp_path: Path
) -> None:
    job = client.run(shell("pwd; ls -A; touch mine"), replicas=2)
    job.wait(timeout=60)
    directories = [[entry.message for entry in task.logs()] for task in job.tasks()]
    assert all(len(lines) == 1 for lines in directories), "each starts empty"
    assert directories[0] != directories[1]
    there = client.run(["pwd"], working_directory=tmp_path)
    there.wait(timeout=60)
    assert [entry.message for entry in there.logs()] == [str(tmp_path)]
    nowhere = client.run(["pwd"], working_directory=tmp_path / "missing")
    assert "does not exist on the worker" in nowhere.wait(timeout=60, raise_on_failure=False).error


def test_tasks_run_in_separate_copies_of_the_workspace(client: IrisClient, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "helpers").mkdir(parents=True)
    (folder / "helpers" / "words.py").write_text("def greet():\n    return 'hello from the workspace'\n")
    (folder / "main.py").write_text("from helpers.words import greet\nprint(greet())\n")
    (folder / "secret.key").write_text("do not send")
    (folder / ".gitignore").write_text("*.key\n")
    job = client.run([sys.executable, "main.py"], workspace=folder, replicas=2)
    job.wait(timeout=60)
    listing = client.run(shell("ls -A && echo changed > main.py"), workspace=folder)
    listing.wait(timeout=60)
    for task in job.tasks():
        assert [e.message for e in task.logs() if e.source == "stdout"] == ["hello from the workspace"]
    names = {entry.message for entry in listing.logs() if entry.source == "stdout"}
    assert names == {".gitignore", "helpers", "main.py"}
    again = client.run([sys.executable, "main.py"], workspace=folder)
    assert again.wait(timeout=60).build_metrics.from_cache or client.status(again.job_id).tasks[0].worker_id != ""
    assert [e.message for e in again.logs() if e.source == "stdout"] == ["hello from the workspace"]


def test_job_can_be_submitted_with_json_over_plain_http(client: IrisClient) -> None:
    import httpx

    headers = {"authorization": f"Bearer {client.cluster.token()}"}
    base = client.cluster.controller_address
    url = f"{base}/iris.cluster.ControllerService"
    name = unique("curl")
    answer = httpx.post(f"{url}/LaunchJob", json={"name": name, "command": ["sh", "-c", "exit 0"]}, headers=headers)
    assert answer.json() == {"jobId": name}
    client.wait(name, timeout=60)
    job = httpx.post(f"{url}/GetJobStatus", json={"jobId": name}, headers=headers).json()["job"]
    assert (job["state"], job["exitCode"]) == ("JOB_STATE_SUCCEEDED", 0), "a zero exit code is a value, not an absence"
    missing = httpx.post(f"{url}/GetJobStatus", json={"jobId": "nope"}, headers=headers)
    assert missing.status_code == 404
    assert json.loads(missing.text)["code"] == "not_found"


def test_command_runs_in_the_directory_of_a_running_task(client: IrisClient) -> None:
    job = client.run(shell("echo mine > file; exec sleep 600"), replicas=2)
    for task in job.tasks():
        script = "until cat file; do sleep 0.1; done 2> errors; cat; echo $IRIS_TASK_INDEX; exit 5"
        result = task.exec(shell(script), stdin=b"sent ")
        assert (result.exit_code, result.stdout) == (5, f"mine\nsent {task.task_index}\n".encode())
    job.terminate()


def test_outputs_are_stored_when_the_job_has_ended(client: IrisClient, tmp_path: Path) -> None:
    job = client.run(shell("echo $IRIS_TASK_INDEX > $IRIS_OUTPUT_DIR/index"), replicas=2, outputs=["out"])
    job.wait(timeout=60)
    outputs = job.outputs()
    assert [(file.task_index, file.path, file.size) for file in outputs] == [(0, "out/index", 2), (1, "out/index", 2)]
    outputs.download(tmp_path)
    assert [(tmp_path / f"task-{index}/out/index").read_text() for index in range(2)] == ["0\n", "1\n"]
