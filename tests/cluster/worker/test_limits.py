"""The limits of attempts are enforced by cgroups and by watching, and an exceeded limit is explained."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import is_alive, parent_of, running_cluster, shell, wait_for_end, wait_for_state
from support.tokens import keep_key
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.job import Job
from iris.cluster.types import ResourceSpec
from iris.cluster.worker.limits import cgroup
from iris.cluster.worker.limits.enforcement import default_max_processes
from iris.config import ClusterConfig
from iris.errors import JobFailedError
from iris.rpc import cluster_pb2 as pb

MIB = 2**20
MAX_PROCESSES = 100
HOLD = "import sys, time; block = b'x' * (int(sys.argv[1]) << 20); print('holds it', flush=True); time.sleep(600)"


def place() -> cgroup.CgroupParent:
    """Return the cgroup below which this machine allows cgroups."""
    found = cgroup.find_parent()
    probe = None if found is None else found.make(f"probe.{os.getpid()}")
    if found is None or probe is None:
        pytest.skip("this machine lets us make no cgroups of version 2 that limit memory and pids")
    assert probe.remove()
    return found


@pytest.fixture(scope="module", params=["watch", "cgroup"])
def enforcing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IrisClient]:
    """A client of a cluster that enforces limits in one of the two ways."""
    if request.param == "cgroup":
        place()
    options = {"enforce": "watch" if request.param == "watch" else "auto", "max_processes": MAX_PROCESSES}
    directory = tmp_path_factory.mktemp(request.param)
    with running_cluster(directory, **options) as server, IrisClient.remote(server.address) as client:
        if request.param == "cgroup":
            client.run(shell("until grep -q iris- /proc/self/cgroup; do :; done"), timeout=60).wait()
        yield client


def python(program: str, *words: object) -> list[str]:
    """Return a command that runs a program in Python."""
    return [sys.executable, "-c", program, *map(str, words)]


def memory(size: int) -> ResourceSpec:
    """Return resources with this many MiB of memory."""
    return ResourceSpec(memory=size * MIB)


def out_of_memory(job: Job, limit: int) -> pb.TaskStatus:
    """Wait for the end of a job, and check that it failed as out of memory."""
    with pytest.raises(JobFailedError, match="out of memory: the task") as caught:
        job.wait(timeout=100)
    assert (caught.value.exit_code, caught.value.signal) == (137, signal.SIGKILL)
    task = job.tasks()[0].status()
    assert task.state == pb.TASK_STATE_FAILED
    assert task.error.startswith("out of memory: the task ")
    assert f"{limit} MiB" in task.error
    assert all(attempt.out_of_memory and attempt.exit_code == 137 for attempt in task.attempts)
    return task


def test_a_task_over_its_memory_limit_fails(enforcing: IrisClient) -> None:
    job = enforcing.run(python(HOLD, 150), resources=memory(100), max_retries_failure=1)
    task = out_of_memory(job, 100)
    assert (task.failure_count, len(task.attempts)) == (2, 2), "it is a failure of its own, and is tried again"
    assert (task.exit_code, task.term_signal) == (137, signal.SIGKILL), "the words are in the error, the code is kept"


@pytest.mark.parametrize(
    "start",
    [
        '"$@"; echo goes on; exit 3',
        '"$@" & wait; echo goes on; exit 3',
        'setsid "$@" & wait; echo goes on; exit 3',
        '(setsid "$@" &); sleep 600; echo goes on; exit 3',
        '(setsid env -i "$@" & wait) & wait; echo goes on; exit 3',
    ],
    ids=["child", "background process", "own session", "orphan", "empty environment"],
)
def test_all_processes_of_a_task_over_its_memory_limit_are_killed(enforcing: IrisClient, start: str) -> None:
    job = enforcing.run(["sh", "-c", start, "sh", *python(HOLD, 150)], resources=memory(100))
    out_of_memory(job, 100)
    assert "goes on" not in [line.message for line in job.logs()]


def test_memory_limit_applies_to_the_sum_over_all_processes_of_a_task(enforcing: IrisClient) -> None:
    each = shlex.join(python(HOLD, 40))
    job = enforcing.run(shell(f"for i in 1 2 3 4; do {each} & done; wait"), resources=memory(120))
    out_of_memory(job, 120)


# A parent and four children, all of which have touched the same 100 MiB.
SHARE = """
import mmap, os, pathlib, sys, time
shared = mmap.mmap(-1, 100 << 20)
gate = pathlib.Path(sys.argv[1])
for i in range(5):
    if i == 4 or os.fork() == 0:
        for page in range(0, len(shared), 4096):
            shared[page] = 1
        while not gate.exists():
            time.sleep(0.02)
        break
"""
# 100 MiB before the children, who only read it.
INHERIT = SHARE.replace("mmap.mmap(-1, 100 << 20)", "b'x' * (100 << 20)").replace("shared[page] = 1", "shared[page]")
# A child between vfork and exec, in the memory of its parent, which holds 100 MiB.
SPAWN = """
import os, sys
block = b'x' * (100 << 20)
gate = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)
os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', ''], os.environ, file_actions=[gate]), 0)
"""


@pytest.mark.parametrize(
    ("program", "limit", "shown"),
    [(SHARE, 180, 400), (INHERIT, 180, 400), (SPAWN, 180, 200)],
    ids=["shared mapping", "inherited memory", "child before exec"],
)
def test_memory_shared_by_processes_of_an_attempt_counts_once(
    enforcing: IrisClient, tmp_path: Path, program: str, limit: int, shown: int
) -> None:
    gate = tmp_path / "gate"
    if program is SPAWN:
        os.mkfifo(gate)
    job = enforcing.run(python(program, gate), resources=memory(limit))

    def looked_at() -> bool:
        status = enforcing.task_status(job.job_id, 0)
        assert status.state in (pb.TASK_STATE_PENDING, pb.TASK_STATE_BUILDING, pb.TASK_STATE_RUNNING), status.error
        return status.resource_usage.memory_mb >= shown  # what each of them holds, added up

    wait_until(looked_at, f"a look at {shown} MiB")
    gate.write_text("") if program is SPAWN else gate.touch()
    assert job.wait(timeout=100).state == pb.JOB_STATE_SUCCEEDED


def test_a_task_within_its_limits_succeeds(enforcing: IrisClient, tmp_path: Path) -> None:
    program = HOLD.replace("time.sleep(600)", "gate = sys.argv[2]\nimport os\nwhile not os.path.exists(gate): pass")
    job = enforcing.run(python(program, 100, tmp_path / "gate"), resources=memory(150))
    wait_until(lambda: enforcing.task_status(job.job_id, 0).resource_usage.memory_mb >= 100, "a look at it")
    (tmp_path / "gate").touch()
    status = job.wait(timeout=100)
    assert (status.exit_code, status.tasks[0].attempts[0].out_of_memory) == (0, False)


FORK = """
import os, sys, time
for i in range(300):
    if os.fork() == 0:
        if sys.argv[1] == "apart":
            os.setsid()
        time.sleep(600)
print("has 300 children")
time.sleep(600)
"""
THREADS = """
import threading, time
for i in range(300):
    threading.Thread(target=time.sleep, args=[600], daemon=True).start()
print("has 300 threads")
time.sleep(600)
"""


@pytest.mark.parametrize(
    "command",
    [python(FORK, "together"), python(FORK, "apart"), python(THREADS)],
    ids=["processes of one session", "processes of many sessions", "threads"],
)
def test_a_task_with_too_many_processes_and_threads_fails(enforcing: IrisClient, command: list[str]) -> None:
    bystander = enforcing.run(["sleep", "600"])
    wait_for_state(enforcing.cluster, bystander.job_id, pb.JOB_STATE_RUNNING)
    job = enforcing.run(command)
    status = job.wait(timeout=100, raise_on_failure=False)
    assert status.state == pb.JOB_STATE_FAILED
    assert status.error.startswith("too many processes: ")
    assert f"its limit is {MAX_PROCESSES}" in status.error
    assert not status.tasks[0].attempts[0].out_of_memory
    wait_until(lambda: not processes_of(job.job_id), "the end of all of them")
    status = enforcing.run(["true"]).wait(timeout=100)
    (attempt,) = bystander.tasks()[0].status().attempts
    assert (status.exit_code, attempt.state) == (0, pb.TASK_STATE_RUNNING), "the worker has not even noticed"
    bystander.terminate()


def processes_of(job_id: str) -> list[int]:
    """Return the processes that a job has left."""
    mine = f"IRIS_JOB_ID={job_id}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mine in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return [pid for pid in found if is_alive(pid)]


def allocate_too_much() -> None:
    bytearray(1 << 55)


def test_a_memory_error_is_reported_as_out_of_memory(enforcing: IrisClient) -> None:
    task = enforcing.wait(enforcing.run(allocate_too_much).job_id).tasks[0]
    assert task.error.startswith("out of memory: MemoryError")
    assert (task.exit_code, task.attempts[0].out_of_memory) == (1, True)


def test_tasks_have_a_higher_oom_score_than_workers(enforcing: IrisClient) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    script = f"until [ $(cat /proc/self/oom_score_adj) = {min(own + 500, 1000)} ]; do :; done"
    assert enforcing.run(shell(script)).wait(timeout=100).exit_code == 0


def test_cluster_with_option_enforce_none_enforces_no_resource_limits(tmp_path: Path) -> None:
    options = {"enforce": "none", "max_processes": 10}
    with running_cluster(tmp_path / "c", **options) as server, IrisClient.remote(server.address) as client:
        script = f"for i in $(seq 20); do sleep 600 & done; exec {shlex.join(python(HOLD, 100))}"
        job = client.run(shell(script), resources=memory(10))
        wait_until(lambda: client.task_status(job.job_id, 0).resource_usage.memory_mb >= 100, "a look at it")
        usage = client.task_status(job.job_id, 0).resource_usage
        assert usage.process_count == 21
        job.terminate()
        assert client.wait(job.job_id).state == pb.JOB_STATE_KILLED


def test_the_default_process_limit_is_half_of_the_workers_limit() -> None:
    assert 0 < default_max_processes() <= int(Path("/proc/sys/kernel/pid_max").read_text()) // 2


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", ["/"]),
        ("/iris-server", ["/iris-server", "/"]),  # where a server is that has made room in a container
        ("/a/b/c", ["/a/b/c", "/a/b", "/a", "/"]),
    ],
)
def test_the_default_process_limit_respects_the_limit_of_the_container(path: str, found: list[str]) -> None:
    assert cgroup.with_those_above(path) == found


# Cgroups alone.


@pytest.fixture
def cgroups(tmp_path: Path) -> Iterator[tuple[IrisClient, cgroup.CgroupParent]]:
    """A cluster that creates cgroups, and the parent of these cgroups."""
    where = place()
    with running_cluster(tmp_path / "cluster") as server, IrisClient.remote(server.address) as client:
        yield client, where


def cgroups_of_attempts(where: cgroup.CgroupParent, worker: str = "iris-") -> set[str]:
    """Return the present cgroups of one worker, or of all workers."""
    return {name for name in os.listdir(where.path) if name.startswith(worker) and "." in name}


def start_in_cgroup(client: IrisClient, where: cgroup.CgroupParent, script: str) -> tuple[Job, str]:
    """Run a script once it is in its cgroup. Return the job, and the prefix of the names of its worker's cgroups."""
    inside = "until grep -q iris- /proc/self/cgroup; do :; done; grep -o 'iris-[^/]*$' /proc/self/cgroup"
    job = client.run(shell(f"{inside}; {script}"), max_retries_preemption=0)
    name = next(iter(job.logs(follow=True))).message
    assert name in cgroups_of_attempts(where)
    return job, name.partition(".")[0] + "."


def test_the_cgroup_of_an_ended_attempt_is_removed(cgroups: tuple[IrisClient, cgroup.CgroupParent]) -> None:
    client, where = cgroups
    held, worker = start_in_cgroup(client, where, "sleep 600")
    client.run(shell("setsid sleep 600 & exit 0"), replicas=5).wait(timeout=100)
    client.run(["no-such-program"]).wait(timeout=100, raise_on_failure=False)
    held.terminate()
    client.wait(held.job_id)
    wait_until(lambda: not cgroups_of_attempts(where, worker), f"their removal from {where.path}")


def test_with_cgroups_no_process_outlives_a_killed_worker(
    cgroups: tuple[IrisClient, cgroup.CgroupParent], tmp_path: Path
) -> None:
    client, where = cgroups
    pids = tmp_path / "pids"
    script = f"""
        env -i setsid sleep 600 & echo $! > {pids}.new
        echo $$ >> {pids}.new; mv {pids}.new {pids}; wait"""
    job, worker_name = start_in_cgroup(client, where, script)
    escaped, main = map(int, wait_until(lambda: pids.exists() and pids.read_text(), "its processes").split())
    worker = parent_of(main)
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not is_alive(escaped) and not is_alive(main), "the end of both")
    assert client.wait(job.job_id).state == pb.JOB_STATE_WORKER_FAILED
    wait_until(lambda: not cgroups_of_attempts(where, worker_name), f"its removal from {where.path}")


@pytest.mark.parametrize("with_a_stranger", [False, True])
def test_cgroups_are_used_in_a_delegated_systemd_unit(tmp_path: Path, with_a_stranger: bool) -> None:
    """The server moves into a child cgroup. A foreign process in the unit prevents that, and workers watch."""
    unit = Path(place().path) / f"unit-{os.getpid()}.scope"
    unit.mkdir()
    os.setxattr(unit, "user.delegate", b"1")
    keep_key(tmp_path)
    config = ClusterConfig(state_dir=tmp_path, port=0).to_json()
    words = ["-m", "iris.server", "--config", config, "--parent-pid", str(os.getpid()), "--ready-fd", "1"]
    with subprocess.Popen(["sleep", "600"]) as stranger:
        if with_a_stranger:
            (unit / "cgroup.procs").write_text(str(stranger.pid))
        script = f"echo $$ > {unit}/cgroup.procs && exec {shlex.join([sys.executable, *words])}"
        with subprocess.Popen(shell(script), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            ready = next(line for line in server.stdout if "address" in json.loads(line))
            with IrisClient.remote(json.loads(ready)["address"]) as client:
                assert str(server.pid) in (unit / "iris-server" / "cgroup.procs").read_text().split()
                job = client.run(python(HOLD, 150), resources=memory(100))
                task = out_of_memory(job, 100)
                assert ("needed more than" in task.error) is not with_a_stranger
                assert ("it used" in task.error) is with_a_stranger
            server.terminate()
        stranger.kill()
    assert not cgroups_of_attempts(cgroup.CgroupParent(str(unit)))
    for left in (unit / "iris-server", unit):
        wait_until(lambda left=left: "populated 0" in (left / "cgroup.events").read_text(), "its last process")
        left.rmdir()


@pytest.mark.parametrize("delegate", [b"0", b""], ids=["marked as not delegated", "without a mark"])
def test_a_cgroup_that_is_not_delegated_is_left_alone(delegate: bytes) -> None:
    unit = Path(place().path) / f"unit-{os.getpid()}.scope"
    unit.mkdir()
    if delegate:
        os.setxattr(unit, "user.delegate", delegate)
    program = "from iris.cluster.worker.limits import cgroup as c; c.move_into_child_cgroup(); print(c.find_parent())"
    script = f"echo $$ > {unit}/cgroup.procs && exec {shlex.join([sys.executable, '-c', program])}"
    try:
        assert subprocess.run(shell(script), capture_output=True, text=True, check=True).stdout == "None\n"
        assert not [path for path in unit.iterdir() if path.is_dir()]
    finally:
        unit.rmdir()


@pytest.fixture
def small_machine(tmp_path: Path) -> Iterator[IrisClient]:
    """A cluster whose worker and tasks have 300 MiB together, as in a container without cgroups."""
    container = Path(place().path) / f"container.{os.getpid()}"
    container.mkdir()
    (container / "memory.max").write_text(str(300 * MIB))
    (container / "memory.swap.max").write_text("0")
    options = {"enforce": "watch"}
    with running_cluster(tmp_path / "c", **options) as server, IrisClient.remote(server.address) as client:
        pid = tmp_path / "pid"
        client.run(shell(f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"), name="first")
        main = int(wait_until(lambda: pid.exists() and pid.read_text(), "a task"))
        worker = parent_of(main)
        assert worker is not None
        (container / "cgroup.procs").write_text(str(worker))
        client.terminate("first")
        wait_for_end(client.cluster, "first")
        yield client
    wait_until(lambda: "populated 0" in (container / "cgroup.events").read_text(), "the end of all that was in it")
    container.rmdir()


def test_a_task_that_the_system_kills_for_memory_fails_as_out_of_memory(small_machine: IrisClient) -> None:
    task = small_machine.wait(small_machine.run(python(HOLD, 400)).job_id).tasks[0]
    assert task.error.startswith("out of memory: this machine, or the container")
    assert (task.state, task.exit_code) == (pb.TASK_STATE_FAILED, 137)
    assert task.attempts[0].out_of_memory


def test_error_of_a_failed_task_mentions_that_one_of_its_processes_was_killed_for_memory(
    small_machine: IrisClient,
) -> None:
    command = ["sh", "-c", '"$@"; exit 3', "sh", *python(HOLD, 400)]
    task = small_machine.wait(small_machine.run(command).job_id).tasks[0]
    assert task.error.startswith("just before it ended memory ran out")
    assert task.error.endswith("; exit code 3")
