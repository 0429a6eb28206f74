"""Commands that clients run in tasks: streams, exit codes, terminals, and what breaks meanwhile."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psutil
import pytest
from support.chaos_proxy import ChaosProxy, Faults, always, gentle
from support.cluster import unique
from support.standing_cluster import StandingCluster, standing_cluster
from support.tokens import token
from support.tunnel_events import assert_one_use_is_recorded
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.client.aio import AsyncIrisClient
from iris.client.exec.arguments import ExecResult
from iris.client.exec.process import ExecProcess
from iris.client.tunnels.tunnel_calls import ThreadTunnelCalls
from iris.cluster.client.server_process import LocalServer
from iris.cluster.worker.exec.descriptors import DescriptorReader
from iris.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2 as pb

NUMBERS = ["seq", "2000000"]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.cache
def digest_of_numbers() -> str:
    """Return the digest of the output of `NUMBERS`."""
    return digest(b"".join(b"%d\n" % number for number in range(1, 2_000_001)))


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def read_line(process: ExecProcess) -> str:
    """Read the standard output of a command up to the end of a line."""
    line = b""
    while not line.endswith(b"\n"):
        data = process.stdout.read(1)
        assert data, f"the output ended after {line!r}"
        line += data
    return line.decode().strip()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer) -> Iterator[Job]:
    """A job of two tasks that run until the end of the module."""
    with IrisClient.remote(shared_cluster.address) as client:
        started = client.run(["sleep", "600"], name=unique("exec"), replicas=2, env={"COLOUR": "blue"})
        yield started
        started.terminate()


# What a command gets, and what comes back.


def test_command_in_a_task_has_the_directory_and_the_environment_of_the_task(client: IrisClient, job: Job) -> None:
    script = "pwd; echo $COLOUR $EXTRA $IRIS_TASK_ID; echo $IRIS_JOB_ID; cat /proc/self/cgroup"
    result = client.exec(job, shell(script), task_index=1, env={"EXTRA": "more", "IRIS_JOB_ID": "other"})
    assert (result.exit_code, result.stderr, result.error) == (0, b"", "")
    directory, variables, job_id, *cgroup = result.stdout.decode().splitlines()
    assert directory.endswith("/work")
    assert variables == f"blue more {job.job_id}/task-1"
    assert job_id == job.job_id, "the values of Iris win"
    main = client.exec(job, shell("cat /proc/$(pgrep -s 0 -o sh)/cgroup"), task_index=1)
    assert main.stdout.decode().splitlines() == cgroup


def test_command_in_a_task_is_counted_as_a_process_of_the_task(client: IrisClient, job: Job) -> None:
    with client.open_exec(job, ["sleep", "600"]) as process:
        wait_until(lambda: job.tasks()[0].status().resource_usage.process_count == 2, "the two processes of the task")
        process.send_signal(signal.SIGKILL)
        assert process.wait() == 137


@pytest.mark.parametrize(
    ("command", "exit_code", "error"),
    [
        (shell("exit 0"), 0, ""),
        (shell("exit 7"), 7, ""),
        (shell("kill -9 $$"), 137, ""),
        (["no-such-command"], 127, "command not found"),
        (["/etc/passwd"], 126, "not executable"),
    ],
)
def test_exit_code_of_a_command_in_a_task_is_the_code_that_a_shell_would_return(
    client: IrisClient, job: Job, command: list[str], exit_code: int, error: str
) -> None:
    result = client.exec(job, command)
    assert result.exit_code == exit_code
    assert error in result.error
    assert bool(error) == bool(result.error)


def test_stdout_and_stderr_of_a_command_in_a_task_arrive_separately(client: IrisClient, job: Job) -> None:
    assert client.exec(job, shell("echo out; echo err >&2")) == ExecResult(0, b"out\n", b"err\n")


def test_input_of_a_command_in_a_task_arrives_complete_and_ends(client: IrisClient, job: Job) -> None:
    data = random.Random(1).randbytes(3_000_000)
    result = job.tasks()[0].exec(["cat"], stdin=data)
    assert (result.exit_code, digest(result.stdout)) == (0, digest(data))


def test_command_in_a_task_without_input_reads_nothing(client: IrisClient, job: Job) -> None:
    assert client.exec(job, ["cat"]) == ExecResult(0, b"", b"")


def test_command_in_a_task_that_does_not_read_its_input_can_end(client: IrisClient, job: Job) -> None:
    assert client.exec(job, shell("exec 0<&-; echo done"), stdin=b"x" * 10_000_000).stdout == b"done\n"


def test_command_in_a_task_waits_for_a_slow_reader_who_gets_the_whole_output(client: IrisClient, job: Job) -> None:
    with client.open_exec(job, shell("head -c 20000000 /dev/zero; touch written; cat written")) as process:
        first = process.stdout.read(1)
        assert client.exec(job, ["ls"]).stdout == b""
        assert len(first + process.stdout.read()) == 20_000_000
        assert process.wait() == 0
    assert client.exec(job, ["rm", "written"]).exit_code == 0


def test_process_left_behind_by_a_command_in_a_task_does_not_delay_the_exit_code(client: IrisClient, job: Job) -> None:
    result = client.exec(job, shell("sleep 600 & echo $!"))
    pid = int(result.stdout)
    assert result.exit_code == 0
    assert not is_gone(pid), "the process belongs to the attempt, and ends with the attempt"
    os.kill(pid, signal.SIGKILL)


def test_bytes_written_after_the_end_of_a_command_are_not_part_of_its_output() -> None:
    async def run() -> bytes:
        reading, writing = os.pipe()
        os.write(writing, b"before")

        def write_later() -> None:
            os.write(writing, b"later")

        reader = DescriptorReader(reading, write_later)
        reader.end_when_empty()
        data = b""
        while len(data) < 100 and (more := await reader.read(4)):
            data += more
        reader.close()
        os.close(writing)
        return data

    assert asyncio.run(run()) == b"before"


def test_signal_to_a_command_in_a_task_reaches_its_process_group(client: IrisClient, job: Job) -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with client.open_exec(job, shell(script)) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
        assert process.wait() == 5


def test_command_in_a_task_is_ended_at_its_timeout(client: IrisClient, job: Job) -> None:
    with client.open_exec(job, shell("echo $$; exec sleep 600")) as process:
        pid = int(read_line(process))
        with pytest.raises(DeadlineExceededError, match="has not ended within 0"):
            process.communicate(timeout=0.1)
    wait_until(lambda: is_gone(pid), "the end of the command")


def test_input_for_a_command_in_a_task_without_open_stdin_is_refused(client: IrisClient, job: Job) -> None:
    with client.open_exec(job, ["cat"]) as process:
        with pytest.raises(FailedPreconditionError, match="start it with stdin=True"):
            process.communicate(b"x")
        assert process.communicate() == ExecResult(0, b"", b"")
    with client.open_exec(job, ["cat"], stdin=True) as process:
        process.close_input()
        with pytest.raises(FailedPreconditionError, match="write before close_input"):
            process.communicate(b"x")
    with pytest.raises(FailedPreconditionError, match="the 'with' block of the command has ended"):
        process.wait()


def test_command_in_a_task_that_ignores_sighup_is_killed(client: IrisClient, job: Job) -> None:
    with client.open_exec(job, shell("trap '' HUP; echo $$; sleep 600")) as process:
        pid = int(read_line(process))
    wait_until(lambda: is_gone(pid), "the end of the command")


def test_async_client_runs_several_commands_in_tasks_concurrently(shared_cluster: LocalServer, job: Job) -> None:
    async def run() -> list[bytes]:
        async with AsyncIrisClient.remote(shared_cluster.address) as client:
            results = await asyncio.gather(
                *(client.exec(job.job_id, ["echo", str(number)], task_index=number % 2) for number in range(6))
            )
            async with client.open_exec(job.job_id, ["cat"], stdin=True) as process:
                await process.write(b"hello")
                assert await process.stdout.read(5) == b"hello"
                await process.close_input()
                assert [data async for data in process.stdout] == []
                assert await process.wait() == 0
            async with client.open_exec(job.job_id, ["sleep", "600"]) as process:
                pass
            with pytest.raises(UnavailableError, match="its block was left before"):
                await process.wait()
            return [result.stdout for result in results]

    assert asyncio.run(run()) == [b"%d\n" % number for number in range(6)]


# Terminals.

_SIZE_PROGRAM = """
import os, signal, sys
def report(*_): print("size", *os.get_terminal_size(), flush=True)
signal.signal(signal.SIGWINCH, report)
report()
while True: signal.pause()
"""


def test_program_in_a_terminal_sees_its_size_and_each_resize(client: IrisClient, job: Job) -> None:
    with client.open_exec(job, [sys.executable, "-c", _SIZE_PROGRAM], tty=True, size=(10, 70)) as process:
        assert read_line(process) == "size 70 10"
        process.resize(33, 99)
        assert read_line(process) == "size 99 33"


def test_terminal_of_a_command_echoes_keys_and_interrupts_on_ctrl_c(client: IrisClient, job: Job) -> None:
    script = "trap 'echo int; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with client.open_exec(job, shell(script), stdin=True, tty=True) as process:
        assert read_line(process) == "ready"
        process.write(b"\x03")
        assert process.stdout.read() == b"^Cint\r\n"
        assert process.wait() == 3


def test_end_of_input_ends_a_program_in_a_terminal(client: IrisClient, job: Job) -> None:
    result = client.exec(job, ["cat"], stdin=b"half a line", tty=True)
    assert (result.exit_code, result.stdout) == (0, b"half a linehalf a line")


# Who may run a command, and where.


@pytest.mark.parametrize(("role", "name"), [("user", "somebody"), ("reader", "tests")])
def test_another_user_or_a_reader_may_not_run_commands_in_a_task(
    shared_cluster: LocalServer, job: Job, role: str, name: str
) -> None:
    with (
        IrisClient.remote(shared_cluster.address, token=token(role, name=name)) as other,
        pytest.raises(PermissionDeniedError, match="OpenExec"),
    ):
        other.exec(job.job_id, ["true"])


def test_owner_of_a_job_may_run_commands_in_its_tasks(shared_cluster: LocalServer, job: Job) -> None:
    with IrisClient.remote(shared_cluster.address, token=token("user", name="tests")) as owner:
        assert owner.exec(job.job_id, ["true"]).exit_code == 0


def test_command_in_an_unknown_job_or_task_is_a_not_found_error(client: IrisClient, job: Job) -> None:
    with pytest.raises(NotFoundError, match="nope"):
        client.exec("nope", ["true"])
    with pytest.raises(NotFoundError, match="7"):
        client.exec(job, ["true"], task_index=7)


def test_ended_task_runs_no_commands(client: IrisClient) -> None:
    ended = client.run(["true"], name=unique("ended"))
    ended.wait()
    with pytest.raises(FailedPreconditionError, match="SUCCEEDED: commands run only in running tasks"):
        client.exec(ended, ["true"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "ls -l"},
        {"command": []},
        {"command": ["ls", 1]},
        {"command": ["ls"], "stdin": "text"},
        {"command": ["ls"], "env": {"A": 1}},
        {"command": ["ls"], "timeout": -1},
        {"command": ["ls"], "task_index": -1},
        {"command": ["ls"], "tty": "yes"},
    ],
)
def test_invalid_argument_of_a_command_in_a_task_is_refused(client: IrisClient, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        client.exec("job", **arguments)  # type: ignore[arg-type]


def test_command_waits_for_a_task_that_does_not_run_yet(client: IrisClient) -> None:
    first = client.run(["sleep", "600"], name=unique("first"))
    later = client.run(["sleep", "600"], name=unique("later"), after={first: "any"})
    notes: list[str] = []
    with pytest.raises(DeadlineExceededError, match="has not started within 0"):
        client.exec(later, ["true"], timeout=0.1)
    with ThreadPoolExecutor(1) as threads:

        def on_notice(text: str) -> None:
            notes.append(text)
            threads.submit(first.terminate)

        with client.open_exec(later, ["echo", "hello"], on_notice=on_notice) as process:
            assert process.stdout.read() == b"hello\n"
    assert "is PENDING; the command starts when it runs" in notes[0]
    later.terminate()


def test_too_many_commands_in_a_task_are_refused(client: IrisClient) -> None:
    async def run(address: str) -> None:
        async with AsyncIrisClient.remote(address) as many:
            processes = [many.open_exec(crowded.job_id, ["sleep", "600"]) for _ in range(32)]
            await asyncio.gather(*(process.__aenter__() for process in processes))
            with pytest.raises(ResourceExhaustedError, match="32 commands in this task, which is the limit"):
                await many.exec(crowded.job_id, ["true"])
            await asyncio.gather(*(process.__aexit__(None, None, None) for process in processes))

    crowded = client.run(["sleep", "600"], name=unique("crowded"))
    asyncio.run(run(client.cluster.controller_address))
    crowded.terminate()


def test_event_log_names_the_user_the_task_and_the_command_of_an_exec(client: IrisClient, job: Job) -> None:
    client.exec(job, ["echo", "two words"], task_index=1)
    event = list(client.events(job, kinds=["exec.used"]))[-1]
    assert (event.task_index, event.owner, event.fields["command"]) == (1, "tests", "echo 'two words'")
    assert (event.fields["role"], event.attempt_id) == ("admin", 0)


def test_command_that_is_not_found_becomes_an_event_and_a_command_through_an_unknown_tunnel_does_not(
    client: IrisClient, job: Job
) -> None:
    control = pb.ExecTarget(stream=pb.EXEC_STREAM_CONTROL, command=pb.ExecCommand(command=["invented"]))
    part = pb.ChannelPart(channel=1, target=pb.ChannelTarget(exec=control))
    request = pb.Controller.WriteTunnelRequest(job_id=job.job_id, tunnel_id="invented", parts=[part])
    calls = ThreadTunnelCalls(client.cluster.connection, "exec")
    with pytest.raises(NotFoundError, match="no tunnel 'invented'"):
        asyncio.run(calls.write(request, 60.0))
    request.close = True
    asyncio.run(calls.write(request, 60.0))
    assert client.exec(job, ["missing"]).exit_code == 127
    commands = [event.fields["command"] for event in client.events(job, kinds=["exec.used"])]
    assert (commands[-1], "invented" in commands) == ("missing", False)


# The end of the attempt.


def test_commands_end_with_their_attempt_and_leave_no_process(client: IrisClient) -> None:
    ending = client.run(["sleep", "600"], name=unique("ending"))
    with client.open_exec(ending, shell("setsid sleep 600 & echo $!; exec sleep 600")) as process:
        stray = int(read_line(process))
        ending.terminate()
        result = process.communicate()
        assert result.exit_code == 137
        assert "has ended" in result.error
    ending.wait(raise_on_failure=False)
    assert is_gone(stray)


# Broken connections.


def _breaks_soon(chance: random.Random) -> Faults:
    return Faults(chance.choice(("cut", "reset", "half-close")), after_bytes=chance.randint(100_000, 3_000_000))


def _run_through_broken_connections(server: LocalServer, job: Job, seed: int) -> int:
    """Run a command with much output through a proxy that breaks connections. Return how often it has broken some."""
    target = "127.0.0.1", urlsplit(server.address).port or 0
    with ChaosProxy(target, _breaks_soon, seed=seed) as proxy, IrisClient.remote(proxy.address) as client:
        result = client.exec(job.job_id, NUMBERS)
        assert (result.exit_code, digest(result.stdout)) == (0, digest_of_numbers())
        return proxy.faults.total()


def test_output_of_a_command_through_broken_connections_is_complete(shared_cluster: LocalServer, job: Job) -> None:
    assert sum(_run_through_broken_connections(shared_cluster, job, seed) for seed in range(2)) > 4


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_output_of_a_hundred_commands_through_broken_connections_is_complete(
    shared_cluster: LocalServer, job: Job
) -> None:
    assert sum(_run_through_broken_connections(shared_cluster, job, seed) for seed in range(100)) > 200


# A proxy that cuts connections after 20 s of silence could cut at most 90 times in half an hour, and would cut none,
# because a beat arrives every 10 s. This test cuts after 50 ms, before each beat. Only the number of cuts matters,
# because the client, the controller and the worker work only at each new stream. An injected clock would have to be the
# clock of three processes and of the connections between them.
@pytest.mark.parametrize("cuts", [5, pytest.param(90, marks=pytest.mark.long)])
def test_silent_command_in_a_task_survives_a_proxy_that_cuts_idle_connections(
    shared_cluster: LocalServer, job: Job, cuts: int
) -> None:
    target = "127.0.0.1", urlsplit(shared_cluster.address).port or 0
    with (
        ChaosProxy(target, gentle) as proxy,
        IrisClient.remote(proxy.address) as client,
        client.open_exec(job.job_id, shell("read line; echo got $line"), stdin=True) as process,
    ):
        proxy.plan = always(Faults(idle_s=0.05))
        proxy.strike()
        wait_until(lambda: proxy.faults["idle"] >= cuts, f"{cuts} cut connections", timeout_s=100)
        proxy.plan = gentle  # On a busy machine, each answer may take longer than the cuts allow.
        process.write(b"it\n")
        assert process.stdout.read() == b"got it\n"
        assert process.wait() == 0
    with IrisClient.remote(shared_cluster.address) as client:
        assert_one_use_is_recorded(client, job.job_id, "exec")


# What is killed meanwhile.


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A cluster whose controller and workers are killed."""
    with standing_cluster(tmp_path_factory.mktemp("mortal") / "state", workers=2) as started:
        yield started


def test_command_in_a_task_continues_after_a_kill_of_the_controller(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = client.run(["sleep", "600"], name=unique("job"))
        with client.open_exec(job, NUMBERS) as process:
            begin = process.stdout.read(100)
            opened = wait_until(lambda: list(client.events(job, kinds=["exec.opened"])), "the stored event")
            assert len(opened) == 1
            mortal.kill()
            mortal.start()
            assert digest(begin + process.stdout.read()) == digest_of_numbers()
            assert process.wait() == 0
        log = (mortal.directory / "server.log").read_text()
        assert f'exec.used user=tests role=admin task_id={job.job_id}/task-0 attempt_id=0 command="seq 2000000"' in log
        assert_one_use_is_recorded(client, job.job_id, "exec")
        job.terminate()


def test_end_of_a_command_is_unknown_after_a_kill_of_its_worker(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = client.run(["sleep", "600"], name=unique("job"))
        with client.open_exec(job, shell("echo begin; sleep 600")) as process:
            assert read_line(process) == "begin"
            mortal.kill_worker(client.task_status(job.job_id, 0).worker_id)
            with pytest.raises(UnavailableError, match="it is unknown how the command ended") as caught:
                process.wait()
            assert caught.value.reason == ErrorReason.EXEC_LOST
            with pytest.raises(UnavailableError, match="it is unknown how the command ended"):
                process.stdout.read()
        job.terminate()


def test_command_in_a_task_is_ended_at_the_limits_of_the_cluster(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = client.run(["sleep", "600"], name=unique("job"))
        mortal.kill()
        mortal.start(exec_idle=1.0, exec_limit=3.0)
        silent = client.exec(job, ["sleep", "600"])
        assert (silent.exit_code, silent.stdout) == (129, b"")
        assert "has neither read nor written for 1 s" in silent.error

        def is_ended_at_the_limit() -> bool:
            # On a busy machine, the command may be silent for a second, too.
            busy = client.exec(job, shell("while :; do echo x; sleep 0.2; done"))
            return busy.exit_code == 129 and "the time limit of the cluster, 3 s, has passed" in busy.error

        wait_until(is_ended_at_the_limit, "an end at the time limit")
        job.terminate()


def test_cluster_with_option_no_exec_runs_no_commands_in_tasks(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = client.run(["sleep", "600"], name=unique("job"))
        mortal.kill()
        mortal.start(no_exec=True)
        with pytest.raises(FailedPreconditionError, match="--no-exec") as caught:
            client.exec(job, ["true"])
        assert caught.value.reason == ErrorReason.EXEC_OFF
        job.terminate()
