"""Following logs from workers and through the controller, also when servers die, readers stop, and sizes grow.

IRIS_CHAOS_SEEDS=50 pytest tests/client/test_following.py -k chaos      more seeds
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from contracts.log_following import *  # noqa: F403 - the contract's tests run here
from contracts.log_following import Reach, Reading, check_end, check_same, check_whole, content, python
from support.chaos_proxy import ChaosProxy
from support.cluster import is_alive, running_cluster
from support.log_writer import SOURCES, Writing
from support.ports import free_port
from support.waiting import wait_until

from iris.client import IrisClient, Job, LogEntry
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import ResourceSpec
from iris.errors import InvalidArgumentError, UnavailableError
from iris.rpc import cluster_pb2 as pb

ROUTES = pytest.mark.parametrize("route", ["worker", "controller"])
MEBIBYTE = 2**20


def quiet(text: str) -> None:
    """For `on_notice`."""


# --- the ways to a log


def port_of(address: str) -> int:
    port = urlsplit(address).port
    assert port is not None
    return port


# Each through proxies, which forward everything unchanged unless a test asks for faults.
WAYS = {
    "worker": "straight from workers, over HTTP/1.1",
    "controller": "through the controller, over HTTP/1.1",
}


@pytest.fixture(scope="module", params=WAYS)
def reach(request: pytest.FixtureRequest) -> Iterator[Reach]:
    if request.param == "worker":
        cluster: Any = request.getfixturevalue("http2_cluster")  # tests/client/conftest.py
        with IrisClient.remote(cluster.address) as beside:
            yield Reach(
                "worker",
                lambda: IrisClient.remote(cluster.address),
                beside,
                cluster.worker_proxies,
                cluster.workers,
            )
        return
    server: LocalServer = request.getfixturevalue("shared_cluster")
    with IrisClient.remote(server.address) as beside, ChaosProxy(("127.0.0.1", port_of(server.address))) as proxy:
        wait_until(lambda: len(beside.cluster.list_workers()) == 2, "two workers")
        workers = [worker.address for worker in beside.cluster.list_workers()]
        yield Reach("controller", lambda: IrisClient.remote(proxy.address), beside, [proxy], [server.address, *workers])


# --- clusters that die


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalServer]:
    """A cluster that the test may break."""
    with running_cluster(tmp_path / "cluster") as server:
        yield server


def listener(address: str) -> int:
    """The process that listens at an address of this machine."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port_of(address) and connection.pid:
            return connection.pid
    raise AssertionError(f"nobody listens at {address}")


def see_all_before_the_gate(reading: Reading, writing: Writing) -> None:
    for source in SOURCES:
        length = len(writing.before_gate(0, source))
        wait_until(lambda source=source, length=length: reading.is_over or len(reading.text(source)) >= length, source)
        check_same(reading.text(source), writing.before_gate(0, source), source)


def check_after_death(entries: list[LogEntry], writing: Writing) -> None:
    """That the attempt that was killed is there as it was seen, and the one after it is whole."""
    for source in SOURCES:
        check_same(content(entries, source, 0), writing.before_gate(0, source), f"{source} of the one that was killed")
    check_whole([entry for entry in entries if entry.attempt_id != 0], writing, attempts=2, first=1)


@ROUTES
def test_following_a_log_continues_after_the_controller_is_killed_and_restarted(tmp_path: Path, route: str) -> None:
    writing = Writing(seed=21, size=20_000, long_lines=0, gate=str(tmp_path / "gate"))
    port = free_port()
    directory = tmp_path / "cluster"
    with ExitStack() as opened:
        with running_cluster(directory, port=port) as server:
            client = opened.enter_context(IrisClient.remote(server.address))
            job = client.run(writing.command())
            reading = Reading(client.stream_task_logs(job.job_id, 0, route=route, partial=True, on_notice=quiet))
            see_all_before_the_gate(reading, writing)
            worker = listener(client.cluster.list_workers()[0].address)
            server.process.kill()
            server.process.wait()
            wait_until(lambda: not is_alive(worker), "the end of the worker, which nobody controls any more")
        Path(writing.gate).touch()
        with running_cluster(directory, port=port):
            entries = reading.rest()
            check_after_death(entries, writing)
            check_end(reading.stream.ends, writing, attempts=2)
            again = list(client.stream_task_logs(job.job_id, 0, route=route, on_notice=quiet))
            check_after_death(again, writing)


def test_following_a_log_reports_that_the_controller_does_not_answer(tmp_path: Path) -> None:
    """There is no log to be read yet, so nothing else says so."""
    notices: list[str] = []
    all_cores = ResourceSpec(cpu=len(os.sched_getaffinity(0)))
    with ExitStack() as opened, running_cluster(tmp_path / "cluster") as server:
        client = opened.enter_context(IrisClient.remote(server.address))
        client.run(["sleep", "1000"], resources=all_cores)
        job = client.run(["true"], resources=all_cores)
        wait_until(lambda: job.status().status_message, "the reason why it waits")
        reading = Reading(client.stream_task_logs(job.job_id, 0, on_notice=notices.append))
        server.process.kill()
        wait_until(lambda: notices, "a notice")
        assert re.fullmatch(r"the controller at .* does not answer .*; trying again", notices[0])
        reading.stream.close()
        reading.rest()


@ROUTES
def test_following_a_log_continues_after_the_worker_is_killed(own: LocalServer, tmp_path: Path, route: str) -> None:
    writing = Writing(seed=22, size=20_000, long_lines=0, gate=str(tmp_path / "gate"))
    notices: list[str] = []
    with IrisClient.remote(own.address) as client:
        job = client.run(writing.command())
        reading = Reading(client.stream_task_logs(job.job_id, 0, route=route, partial=True, on_notice=notices.append))
        see_all_before_the_gate(reading, writing)
        os.kill(listener(client.cluster.list_workers()[0].address), signal.SIGKILL)
        Path(writing.gate).touch()
        check_after_death(reading.rest(), writing)
        check_end(reading.stream.ends, writing, attempts=2)
        assert any("attempt 1 follows" in text for text in notices)
        check_after_death(list(client.stream_task_logs(job.job_id, 0, route=route, on_notice=quiet)), writing)


@pytest.mark.parametrize(("route", "silence_s"), [("worker", 20), ("controller", 0)])  # longer than two beats, once
def test_following_a_log_continues_after_its_worker_was_silent(
    own: LocalServer, tmp_path: Path, route: Any, silence_s: float
) -> None:
    gate, done = tmp_path / "gate", tmp_path / "done"
    lines = b"".join(b"line %d\n" % n for n in range(20_000))  # fits into a pipe
    job_program = (
        f"print('up'); wait_for({str(gate)!r})\n"
        "for n in range(20_000): os.write(1, b'line %d\\n' % n)\n"
        f"open({str(done)!r}, 'x'); print('end')"
    )
    with IrisClient.remote(own.address) as client:
        job = client.run(python(job_program))
        reading = Reading(client.stream_task_logs(job.job_id, 0, route=route, on_notice=quiet))
        reading.see(b"up\n")
        worker = listener(client.cluster.list_workers()[0].address)
        os.kill(worker, signal.SIGSTOP)
        try:
            gate.touch()
            wait_until(done.exists, "the task, which goes on")
            until = time.monotonic() + silence_s
            wait_until(lambda: time.monotonic() >= until, "the silence to be long enough")
            assert reading.text() == b"up\n"
        finally:
            os.kill(worker, signal.SIGCONT)
        reading.rest()
        check_same(reading.text(), b"up\n" + lines + b"end\n", "stdout")
        assert reading.stream.ends[0].complete
        assert job.wait(timeout=60).preemption_count == 0


@ROUTES
def test_following_a_log_gives_up_after_patience_s(tmp_path: Path, route: str) -> None:
    with ExitStack() as opened:
        with running_cluster(tmp_path / "cluster") as server:
            client = opened.enter_context(IrisClient.remote(server.address))
            job = client.run(python("print('up'); wait_for('/nowhere')"))
            stream = client.stream_task_logs(job.job_id, 0, route=route, patience_s=1, on_notice=quiet)
            reading = Reading(stream)
            reading.see(b"up\n")
            server.process.kill()
            server.process.wait()
        with pytest.raises(UnavailableError):
            reading.rest()
        assert stream.ends == {}, "a connection that merely drops is not an end"


# --- readers that stop, and many of them


@contextmanager
def memory_bounded(**processes: int) -> Iterator[Callable[[], bool]]:
    """Fails when one of the processes grows by more than 64 MiB; gives a condition that looks, and is never true."""
    known = {name: psutil.Process(pid) for name, pid in processes.items()}
    start = {name: process.memory_info().rss for name, process in known.items()}
    most = dict.fromkeys(known, 0)

    def look() -> bool:
        for name, process in known.items():
            most[name] = max(most[name], process.memory_info().rss - start[name])
        return False

    yield look
    look()
    assert {name: size // MEBIBYTE for name, size in most.items() if size > 64 * MEBIBYTE} == {}, "MiB more than before"


FLOOD = """
import hashlib
digest = hashlib.sha256()
print('first')
wait_for(%(gate)r)
block = b''.join(b'%%0*d\\n' %% (999, n) for n in range(1000))  # long lines: a million of them are looked at one by one
for n in range(%(megabytes)d):
    data = b'block %%d\\n' %% n + block
    digest.update(data)
    while data:
        data = data[os.write(1, data):]
open(%(gate)r, 'w').write(digest.hexdigest())
"""


@ROUTES
def test_reader_that_pauses_does_not_slow_down_the_task(
    shared_cluster: LocalServer, tmp_path: Path, route: str
) -> None:
    megabytes = 150  # more than twice what a process may keep
    gate = tmp_path / "gate"
    with IrisClient.remote(shared_cluster.address) as client:
        job = client.run(python(FLOOD % {"gate": str(gate), "megabytes": megabytes}))
        with client.stream_task_logs(job.job_id, 0, route=route, on_notice=quiet) as stream:
            entries = iter(stream)
            assert next(entries).message == "first"
            task = client.task_status(job.job_id, 0)
            with memory_bounded(
                reader=os.getpid(),
                worker=listener(task.worker_address),
                controller=shared_cluster.process.pid,
            ) as look:
                gate.touch()
                wait_until(lambda: look() or job.status().state == pb.JOB_STATE_SUCCEEDED, "the end", timeout_s=100)
                digest = hashlib.sha256()
                for count, entry in enumerate(entries):
                    digest.update(entry.data + b"\n")
                    assert not entry.partial
                    assert not entry.missing_bytes, entry.message
                    if count % 1000 == 0:
                        look()
            assert digest.hexdigest() == gate.read_text()
            assert stream.ends[0].complete


@ROUTES
def test_each_of_many_followers_of_one_task_gets_every_line(client: IrisClient, tmp_path: Path, route: str) -> None:
    followers = 40
    gate = tmp_path / "gate"
    writing = Writing(seed=23, size=20_000, long_lines=0, gate=str(gate))
    job = client.run(writing.command())
    readings = [Reading(client.stream_task_logs(job.job_id, 0, route=route, on_notice=quiet)) for _ in range(followers)]
    wait_until(lambda: all(reading.entries or reading.is_over for reading in readings), "all to read")
    gate.touch()
    for reading in readings:
        check_whole(reading.rest(), writing)
        check_end(reading.stream.ends, writing)


@ROUTES
def test_following_the_logs_of_many_tasks_gets_every_line(client: IrisClient, route: str) -> None:
    tasks = 24
    writing = Writing(seed=24, size=10_000, long_lines=0)
    job = client.run(writing.command(), replicas=tasks, coscheduled=False, resources={"cpu": 0})
    stream = client.stream_job_logs(job.job_id, route=route, on_notice=quiet)
    entries = Reading(stream).rest(100)
    by_task: dict[int, list[LogEntry]] = {index: [] for index in range(tasks)}
    for entry in entries:
        by_task[entry.task_index].append(entry)
    for index in range(tasks):
        check_whole(by_task[index], writing, task_index=index)
        check_end(stream.ends, writing, task_index=index)


def test_cursor_of_one_attempt_with_the_id_of_another_attempt_is_refused(client: IrisClient) -> None:
    job = client.run(["sh", "-c", "echo $IRIS_ATTEMPT_ID; exit $((1 - IRIS_ATTEMPT_ID))"], max_retries_failure=1)
    job.wait(timeout=60)
    first, second = job.logs()
    assert [line.message for line in job.logs(cursor=first.cursor)] == ["1"]
    for line, other in ((first, 1), (second, 0)):
        with pytest.raises(InvalidArgumentError, match=f"not in attempt {other}"):
            list(job.logs(cursor=line.cursor, attempt_id=other))


def test_following_the_log_of_a_retried_task_does_not_end(client: IrisClient) -> None:
    job = client.run(
        python("n = int(os.environ['IRIS_ATTEMPT_ID']); print(n)\nif n == 0: sys.exit(3)\nwait_for('/nowhere')"),
        max_retries_failure=1,
    )
    wait_until(lambda: [line.message for line in job.logs()] == ["0", "1"], "the second attempt")
    for stream in (job.logs(), job.logs(tail=5)):
        assert [line.message for line in stream] == ["0", "1"]
        assert 0 not in stream.ends or not stream.ends[0].complete
    job.terminate()
    job.wait(raise_on_failure=False)


def test_switching_a_log_stream_to_raw_bytes_after_its_first_line_is_refused(client: IrisClient) -> None:
    job = client.run(["echo", "hello"])
    job.wait()
    stream = job.logs()
    next(stream)
    with pytest.raises(InvalidArgumentError, match="before the first line"):
        stream.raw()
    stream.close()


FORKS = """
import os, sys
from iris.client import IrisClient
client = IrisClient.remote(sys.argv[1])
job = client.run(["sh", "-c", "echo up; while [ ! -e %s ]; do sleep 0.05; done; echo end" % sys.argv[2]])
notices = []
lines = job.logs(follow=True, on_notice=notices.append)
print(next(lines).message)
child = os.fork()
if child == 0:
    if sys.argv[3] == "closes":
        lines.close()
    sys.exit(0)
os.waitpid(child, 0)
open(sys.argv[2], "x").close()
print([line.message for line in lines], notices)
"""


@pytest.mark.parametrize("child", ["ends", "closes"])
def test_forked_child_does_not_end_streams_of_its_parent(
    shared_cluster: LocalServer, tmp_path: Path, child: str
) -> None:
    words = [sys.executable, "-c", FORKS, shared_cluster.address, str(tmp_path / "gate"), child]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "up\n['end'] []\n"


def test_wait_that_prints_logs_keeps_its_timeout_when_the_worker_is_silent(own: LocalServer) -> None:
    with IrisClient.remote(own.address) as client:
        job = client.run(python("print('up'); wait_for('/nowhere')"))
        wait_until(lambda: [line.message for line in job.logs()] == ["up"], "the first line")
        worker = listener(client.cluster.list_workers()[0].address)
        os.kill(worker, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError, match="has not ended within"):
                client.wait(job.job_id, timeout=0.5, stream_logs=True)
        finally:
            os.kill(worker, signal.SIGCONT)


@ROUTES
def test_log_streams_that_are_open_at_the_same_time_do_not_end_each_other(client: IrisClient, route: str) -> None:
    # Several are, where tasks are merged by time; those of long logs are read page by page.
    job = client.run(python("os.write(1, b'x' * 99 + b'\\n')\nfor _ in range(60_000): print('y' * 99)"), replicas=3)
    job.wait(timeout=60)
    notices: list[str] = []
    lines = list(job.logs(route=route, on_notice=notices.append))
    assert notices == []
    assert [sum(line.task_index == index for line in lines) for index in range(3)] == [60_001] * 3


@ROUTES
def test_line_of_a_hundred_megabytes_arrives(client: IrisClient, route: str) -> None:
    program = (
        "block = bytes(range(11, 256)) * 4096\n"
        "print('before')\n"
        "for _ in range(100):\n"
        "    data = block\n"
        "    while data: data = data[os.write(1, data):]\n"
        "print('after'); print('last')"
    )
    job = client.run(python(program))
    digest, size, lines = hashlib.sha256(), 0, 0
    stream = client.stream_task_logs(job.job_id, 0, route=route, partial=True)
    with memory_bounded(reader=os.getpid()) as look, stream:
        for entry in stream:
            digest.update(entry.data + (b"" if entry.partial else b"\n"))
            size += len(entry.data)
            lines += not entry.partial
            look()
    line = bytes(range(11, 256)) * 4096
    expected = hashlib.sha256(b"before\n")
    for _ in range(100):
        expected.update(line)
    expected.update(b"after\nlast\n")
    assert (size, lines) == (100 * len(line) + len("beforeafterlast"), 3)
    assert digest.digest() == expected.digest()
    assert stream.ends[0].complete


# --- filters

TALK = """
for n in range(30):
    print('line', n)
    if n %% 3 == 0: print('error', n, file=sys.stderr)
    if n == 15: wait_for(%(gate)r)
    time.sleep(0.003)
print('Gr\\u00fc\\u00dfe \\u4e16'.encode().decode('utf-8'))
"""


@pytest.fixture(scope="module")
def talk(reach: Reach, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that has written lines to both sources, at different times."""
    gate = tmp_path_factory.mktemp("talk") / "gate"
    job = reach.beside.run(python(TALK % {"gate": str(gate)}), env={"PYTHONIOENCODING": "utf-8"})
    # A busy worker could read all lines at once. Therefore the second half is written after the first half was read.
    wait_until(lambda: len(list(job.logs())) == 22, "the first half")
    gate.touch()
    job.wait(timeout=60)
    return job


def keys(entries: Any) -> list[tuple[str, bytes, int]]:
    return [(entry.source, entry.data, entry.timestamp_ms) for entry in entries]


def test_filters_of_a_log_stream_select_the_documented_lines(
    reach: Reach, talk: Job, follow: Callable[..., Reading]
) -> None:
    whole = follow(talk).rest()
    assert len(whole) == 41
    since, until = whole[7].timestamp_ms, whole[30].timestamp_ms
    assert since < until
    by_hand: list[tuple[dict[str, Any], list[LogEntry]]] = [
        ({"start_ms": since}, [e for e in whole if e.timestamp_ms > since]),
        ({"end_ms": until}, [e for e in whole if e.timestamp_ms <= until]),
        ({"start_ms": since, "end_ms": until}, [e for e in whole if since < e.timestamp_ms <= until]),
        ({"max_lines": 7}, whole[:7]),
        ({"max_lines": 1000}, whole),
        ({"tail": 7}, whole[-7:]),
        ({"tail": 0}, []),
        ({"tail": 1000}, whole),
        ({"sources": ("stderr",)}, [e for e in whole if e.source == "stderr"]),
        ({"sources": ("stdout", "stderr")}, whole),
        ({"sources": ("build",)}, []),
        ({"regex": "[13579]$"}, [e for e in whole if re.search("[13579]$", e.message)]),
        ({"regex": "(?i)GRÜSSE|grü.e 世"}, whole[-1:]),
        ({"regex": "1", "sources": ("stderr",)}, [e for e in whole if e.source == "stderr" and "1" in e.message]),
        ({"regex": "1", "tail": 3}, [e for e in whole if "1" in e.message][-3:]),
        ({"regex": "1", "max_lines": 3}, [e for e in whole if "1" in e.message][:3]),
        ({"start_ms": since, "max_lines": 3}, [e for e in whole if e.timestamp_ms > since][:3]),
        ({"end_ms": until, "tail": 3}, [e for e in whole if e.timestamp_ms <= until][-3:]),
        ({"sources": ("stderr",), "tail": 2}, [e for e in whole if e.source == "stderr"][-2:]),
        ({"regex": "no such line"}, []),
    ]
    for number, (filters, expected) in enumerate(by_hand):
        follows = number % 2 == 0  # both give the same of a task that has ended
        assert keys(follow(talk, follow=follows, **filters).rest()) == keys(expected), (filters, follows)
    for filters, expected in by_hand:
        if set(filters) <= {"start_ms", "max_lines"}:
            assert keys(reach.beside.fetch_task_logs(talk.job_id, 0, **filters)) == keys(expected), filters
            assert keys(reach.beside.job(talk.job_id).tasks()[0].logs(**filters)) == keys(expected), filters


def test_filters_of_a_log_stream_select_the_documented_lines_while_the_task_writes(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = run(python(TALK % {"gate": str(gate)}), env={"PYTHONIOENCODING": "utf-8"})
    plain = follow(job)
    wait_until(lambda: plain.text().endswith(b"line 15\n") and plain.text("stderr").endswith(b"error 15\n"), "the half")
    half = list(plain.entries)
    limited = follow(job, max_lines=3)
    assert keys(limited.rest()) == keys(half[:3]), "it ends with its last line, while the task goes on"
    errors, tail = follow(job, sources=("stderr",), regex="error .[0-9]"), follow(job, tail=2)
    wait_until(lambda: keys(tail.entries) == keys(half[-2:]), "the last lines")
    errors.see(b"error 12\nerror 15\n", "stderr")
    gate.touch()
    whole = plain.rest()
    assert keys(errors.rest()) == [key for key in keys(whole) if re.match(b"error .[0-9]", key[1])]
    assert keys(tail.rest()) == keys(whole[len(half) - 2 :])


@pytest.mark.parametrize(
    "filters", [{"tail": 7}, {"since": 7}, {"regex": "1"}, {"regex": "error"}, {"regex": "line", "tail": 3}], ids=str
)
def test_reader_with_the_cursor_of_a_filtered_line_continues_after_the_line(
    talk: Job, follow: Callable[..., Reading], filters: dict[str, Any]
) -> None:
    """Whatever was filtered out before it was before it."""
    whole = follow(talk).rest()
    if "since" in filters:
        filters = {"start_ms": whole[filters["since"]].timestamp_ms}
    some = follow(talk, **filters).rest()
    for entry in (some[0], some[len(some) // 2], some[-1]):
        after = whole[keys(whole).index(keys([entry])[0]) + 1 :]
        assert keys(follow(talk, cursor=entry.cursor).rest()) == keys(after), entry


@pytest.mark.parametrize(
    "wrong",
    [
        {"regex": "(unclosed"},
        {"regex": "\udcff"},
        {"regex": 5},
        {"sources": None},
        {"sources": [["stdout"]]},
        {"max_lines": -1},
        {"tail": -1},
        {"tail": 1, "max_lines": 1},
        {"start_ms": -1},
        {"sources": ("stdin",)},
        {"route": "pigeon"},
        {"attempt_id": -1},
    ],
    ids=str,
)
def test_invalid_log_filters_are_refused(follow: Callable[..., Reading], talk: Job, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        follow(talk, **wrong).rest()
