"""The contract of log readers. Each route to a log runs these tests.

A test module imports these functions and brings a fixture `reach`, which says how logs are reached: straight from the
worker or through the controller, over HTTP/1.1 or HTTP/2, directly or through a proxy that cuts connections.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.chaos_proxy import ChaosProxy, Faults, Plan, always, gentle, rude
from support.cluster import shell
from support.log_writer import SOURCES, Writing
from support.sockets import count_connections
from support.waiting import wait_until

from iris.client import IrisClient, Job, LogEntry
from iris.client.logs.read_options import LATE_LINES_S
from iris.cluster.engine.machine import this_machine
from iris.cluster.types import ResourceSpec
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2 as pb

RUDE = rude(up_to_bytes=300_000, spared=0.3)
CUTS = 30  # at least, in each run of the chaos
CHAOS_SEEDS = range(int(os.environ.get("IRIS_CHAOS_SEEDS", "2")))


@dataclass
class Reach:
    """One route from a reader to the logs.

    Attributes:
        route: What `stream_task_logs` is told.
        open_client: A function that returns a new client, which reads logs by this route.
        beside: A client that takes no proxy, to run jobs and to look at them.
        proxies: What lies in between.
        servers: The addresses of the servers that serve the streams, as they are behind the proxies.
        rudeness: What the proxies do to connections, in tests that do not say so themselves.
    """

    route: str
    open_client: Callable[[], IrisClient]
    beside: IrisClient
    proxies: list[ChaosProxy] = field(default_factory=list)
    servers: list[str] = field(default_factory=list)
    rudeness: Plan = RUDE

    @contextmanager
    def between(self, plan: Plan, seed: object) -> Iterator[None]:
        """Let the proxies apply a plan of faults to new connections inside the `with` block. Existing connections are
        cut."""
        for number, proxy in enumerate(self.proxies):
            proxy.plan, proxy.seed = plan, f"{seed} {number}"
            proxy.faults.clear()
            proxy.strike("cut")
        try:
            yield
        finally:
            for proxy in self.proxies:
                proxy.plan = gentle
                proxy.strike("cut")

    def struck(self) -> int:
        """Return the number of connections that the proxies have broken."""
        return sum(proxy.faults.total() for proxy in self.proxies)

    def connections(self) -> int:
        """Return the number of open connections of the servers, including connections that only the clients have
        closed."""
        return count_connections({urlsplit(address).port for address in self.servers})


@contextmanager
def through_the_controller(address: str) -> Iterator[Reach]:
    """Return the route through the controller at an address, with a proxy before the controller."""
    port = urlsplit(address).port
    assert port is not None
    with IrisClient.remote(address) as beside, ChaosProxy(("127.0.0.1", port)) as proxy:
        yield Reach("controller", lambda: IrisClient.remote(proxy.address), beside, [proxy], [address])


class Reading:
    """Reads a stream in a separate thread. A test can see the entries while the stream is being read.

    Attributes:
        entries: Read until now.
        stream: What is read.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.entries: list[LogEntry] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="reading")
        self._thread.start()

    def _read(self) -> None:
        try:
            for entry in self.stream:
                self.entries.append(entry)
        except BaseException as error:  # noqa: BLE001 - it is raised where the test looks
            self._error = error

    def text(self, source: str = "stdout") -> bytes:
        """Return the text of a source that has arrived so far."""
        return content(self.entries, source)

    def see(self, data: bytes, source: str = "stdout") -> None:
        """Wait until the text that has arrived from a source equals the given text."""
        try:
            wait_until(lambda: self.is_over or self.text(source) == data, f"{data!r}")
        finally:
            assert self.text(source) == data

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended."""
        return not self._thread.is_alive()

    def rest(self, timeout_s: float = 60.0) -> list[LogEntry]:
        """Wait for the end of the stream, and return all entries. Raise the error of the stream, if it has raised
        one."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the stream has not ended; last seen: {self.entries[-3:]}"
        if self._error is not None:
            raise self._error
        return self.entries


def content(entries: Iterable[LogEntry], source: str, attempt_id: int = 0, task_index: int = 0) -> bytes:
    """The exact bytes of a source."""
    return b"".join(
        entry.data + (b"" if entry.partial else b"\n")
        for entry in list(entries)
        if (entry.source, entry.attempt_id, entry.task_index) == (source, attempt_id, task_index)
    )


def check_whole(
    entries: list[LogEntry], writing: Writing, *, attempts: int = 1, first: int = 0, task_index: int = 0
) -> None:
    """Check that the entries contain all bytes that a task has written, in order and once, from attempt `first` on."""
    mine = [entry for entry in entries if entry.task_index == task_index]
    assert [entry.message for entry in mine if entry.missing_bytes] == []
    ids = [entry.attempt_id for entry in mine]
    assert ids == sorted(ids), "one attempt after the other"
    assert set(ids) == set(range(first, attempts))
    assert {entry.source for entry in mine} <= set(SOURCES)
    for attempt_id in range(first, attempts):
        for source in SOURCES:
            found = content(mine, source, attempt_id, task_index)
            check_same(found, writing.expected(attempt_id, source), f"{source} of attempt {attempt_id}")


def check_same(found: bytes, expected: bytes, what: str) -> None:
    """Check that two values are equal. The text of a failure stays short for long bytes."""
    if found == expected:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    pytest.fail(
        f"{what}: {len(found)} bytes instead of {len(expected)}; the first difference is at {at}:"
        f" {found[max(0, at - 40) : at + 40]!r} instead of {expected[max(0, at - 40) : at + 40]!r}"
    )


def check_end(ends: Mapping[int, Any], writing: Writing, *, attempts: int = 1, task_index: int = 0) -> None:
    """Check that the stream has reported the end of a task, with the right state and exit code."""
    end = ends[task_index]
    last = attempts - 1
    code = writing.exit_code(last)
    assert end.complete
    assert end.state == (pb.TASK_STATE_FAILED if code else pb.TASK_STATE_SUCCEEDED)
    assert end.exit_code == code
    assert list(end.bytes_written) == [*(len(writing.expected(last, source)) for source in SOURCES), 0]
    assert end.bytes_missing == 0


@pytest.fixture
def follow(reach: Reach, request: pytest.FixtureRequest) -> Iterator[Callable[..., Reading]]:
    """A function that begins to read a task: `follow(job)`. Jobs that are still being read at the end of the test are
    terminated."""
    readings: dict[Reading, Job] = {}
    with reach.between(reach.rudeness, request.node.name), reach.open_client() as client:

        def begin(job: Job, task_index: int = 0, **more: Any) -> Reading:
            more = {"route": reach.route, "on_notice": lambda text: None, "partial": True, **more}
            reading = Reading(client.stream_task_logs(job.job_id, task_index, **more))
            readings[reading] = job
            return reading

        yield begin
        left = {reading: job for reading, job in readings.items() if not reading.is_over}
        for job in left.values():
            reach.beside.terminate(job.job_id)
        for reading in left:
            reading.rest()


@pytest.fixture
def run(reach: Reach) -> Iterator[Callable[..., Job]]:
    """A function that submits a job without the proxies: `run(command, …)`. Jobs that still run at the end of the test
    are terminated."""
    jobs: list[Job] = []

    def begin(command: list[str], **more: Any) -> Job:
        jobs.append(reach.beside.run(command, **more))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.terminate()
    for job in jobs:
        job.wait(timeout=60, raise_on_failure=False)


def python(program: str) -> list[str]:
    """Return a command that runs a Python program. The program can call `wait_for(path)`."""
    waiting = "import os, sys, time\ndef wait_for(path):\n    while not os.path.exists(path): time.sleep(0.005)\n"
    return [sys.executable, "-S", "-u", "-c", waiting + program]


@contextmanager
def full_cluster(client: IrisClient) -> Iterator[None]:
    """Occupy more than half of the memory of each worker while the fixture is active."""
    workers = len(client.cluster.list_workers())
    share = ResourceSpec(memory=int(this_machine().memory_bytes / workers * 0.9))
    holders = [client.run(["sleep", "300"], resources=share) for _ in range(workers)]
    try:
        wait_until(lambda: all(job.status().state == pb.JOB_STATE_RUNNING for job in holders), "all workers to be full")
        yield
    finally:
        for job in holders:
            job.terminate()
        for job in holders:
            job.wait(timeout=60, raise_on_failure=False)


def half_a_worker(client: IrisClient) -> ResourceSpec:
    """Return the resources of a task that does not fit while `full_cluster` is active."""
    return ResourceSpec(memory=this_machine().memory_bytes // len(client.cluster.list_workers()) // 2)


# --- bytes


def test_follow_of_a_retried_task_returns_every_byte_once_and_the_end_of_each_attempt(
    run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    writing = Writing(seed=11, exits=(3, 1, 0), size=50_000)
    job = run(writing.command(), max_retries_failure=2)
    notices: list[str] = []
    reading = follow(job, on_notice=notices.append)
    check_whole(reading.rest(), writing, attempts=3)
    check_end(reading.stream.ends, writing, attempts=3)
    assert sum("attempt 1 follows" in text for text in notices) == 1
    assert sum("attempt 2 follows" in text for text in notices) == 1


def test_follow_of_a_finished_task_returns_its_whole_log(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    writing = Writing(seed=12, exits=(5,))
    job = run(writing.command())
    job.wait(timeout=60, raise_on_failure=False)
    for follows in (True, False):
        reading = follow(job, follow=follows)
        check_whole(reading.rest(), writing)
        check_end(reading.stream.ends, writing)


def test_stream_without_follow_ends_after_the_lines_that_exist(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path
) -> None:
    job = run(python(f"print('now'); sys.stdout.write('tail'); wait_for({str(tmp_path / 'gate')!r}); print('later')"))
    follow(job).see(b"now\ntail")
    reading = follow(job, follow=False)
    reading.rest()
    reading.see(b"now\ntail")
    assert 0 not in reading.stream.ends or not reading.stream.ends[0].complete


def test_log_of_each_attempt_can_be_read(run: Callable[..., Job], follow: Callable[..., Reading]) -> None:
    job = run(shell("echo attempt $IRIS_ATTEMPT_ID; exit $((2 - IRIS_ATTEMPT_ID))"), max_retries_failure=2)
    job.wait(timeout=60)
    for attempt_id in range(3):
        reading = follow(job, attempt_id=attempt_id)
        assert [(e.attempt_id, e.message) for e in reading.rest()] == [(attempt_id, f"attempt {attempt_id}")]
        end = reading.stream.ends[0]
        assert (end.complete, end.exit_code) == (True, 2 - attempt_id)


def test_empty_log_ends_without_lines(run: Callable[..., Job], follow: Callable[..., Reading]) -> None:
    reading = follow(run(shell("exit 9")))
    assert reading.rest() == []
    end = reading.stream.ends[0]
    assert (end.complete, end.state, end.exit_code) == (True, pb.TASK_STATE_FAILED, 9)
    assert list(end.bytes_written) == [0, 0, 0]


@pytest.mark.parametrize("source", SOURCES)
def test_raw_stream_returns_the_exact_bytes_of_a_source(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading], source: str
) -> None:
    writing = Writing(seed=13)
    job = run(writing.command())
    with reach.open_client() as client:
        stream = client.stream_task_logs(job.job_id, 0, route=reach.route, sources=(source,))
        check_same(b"".join(stream.raw()), writing.expected(0, source), source)
        assert stream.ends[0].complete


# --- cursors


def test_reader_continues_from_any_cursor(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    writing = Writing(seed=14, exits=(1, 0), size=20_000, pauses=100)
    job = run(writing.command(), max_retries_failure=1)
    chance = random.Random(14)
    entries: list[LogEntry] = []
    ends: Mapping[int, Any] = {}
    while not ends:
        cursor = entries[-1].cursor if entries else None
        with (
            reach.open_client() as client,
            client.stream_task_logs(
                job.job_id, 0, route=reach.route, cursor=cursor, on_notice=lambda text: None
            ) as stream,
        ):
            wanted = chance.choice((1, 2, 10, 50, 200))
            for count, entry in enumerate(stream, 1):
                assert len(entry.cursor) < 100
                entries.append(entry)
                if count == wanted:
                    break
            else:
                ends = stream.ends
    check_whole(entries, writing, attempts=2)
    check_end(ends, writing, attempts=2)


def test_cursor_can_be_used_twice_and_after_the_job_has_ended(
    run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    job = run(shell("for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; done"))
    entries = follow(job).rest()
    for at in (0, 4, 9, 4):
        again = follow(job, cursor=entries[at].cursor)
        assert [entry.message for entry in again.rest()] == [str(i) for i in range(at + 1, 10)]
        assert again.stream.ends[0].complete
        assert [entry.cursor for entry in again.entries] == [entry.cursor for entry in entries[at + 1 :]]


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "\u00e9", "e30", "0" * 1000])
def test_invalid_cursor_is_refused(run: Callable[..., Job], follow: Callable[..., Reading], cursor: str) -> None:
    job = run(["true"])
    with pytest.raises(InvalidArgumentError, match="cursor"):
        follow(job, cursor=cursor).rest()


def test_cursor_of_another_job_is_refused(run: Callable[..., Job], follow: Callable[..., Reading]) -> None:
    one, other = run(["echo", "one"]), run(["echo", "other"])
    (entry,) = follow(one).rest()
    with pytest.raises(InvalidArgumentError, match="cursor"):
        follow(other, cursor=entry.cursor).rest()


# --- as it is written


def test_prompt_is_returned_once_while_the_task_waits(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path
) -> None:
    gates = [str(tmp_path / name) for name in ("first", "second", "third")]
    job = run(
        python(
            f"sys.stdout.write('password? '); wait_for({gates[0]!r})\n"
            f"sys.stdout.write('really? '); wait_for({gates[1]!r})\n"
            f"sys.stdout.write('good.\\n'); sys.stderr.write('no newline'); wait_for({gates[2]!r})\n"
            "print('end')"
        )
    )
    reading = follow(job)
    reading.see(b"password? ")
    assert reading.entries[-1].partial
    late = follow(job)
    late.see(b"password? ")
    Path(gates[0]).touch()
    reading.see(b"password? really? ")
    Path(gates[1]).touch()
    for each in (reading, late):
        each.see(b"password? really? good.\n")
        each.see(b"no newline", "stderr")
    Path(gates[2]).touch()
    for each in (reading, late, follow(job)):
        each.rest()
        assert each.text() == b"password? really? good.\nend\n"
        assert each.text("stderr") == b"no newline"
        assert each.stream.ends[0].complete
    assert b"".join(entry.data for entry in reading.entries if entry.source == "stderr") == b"no newline"


def test_a_partial_line_is_continued_from_its_cursor(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = run(python(f"sys.stdout.write('half of '); wait_for({str(gate)!r}); print('a line'); print('next')"))
    first = follow(job)
    first.see(b"half of ")
    cursor = first.entries[-1].cursor
    second = follow(job, cursor=cursor)
    gate.touch()
    assert [(entry.data, entry.partial) for entry in second.rest()] == [(b"a line", False), (b"next", False)]


@pytest.mark.parametrize("wanted", [{"start_ms": 1}, {"sources": ("stdout",)}, {"tail": 1}], ids=str)
def test_prompt_is_returned_although_a_filter_excluded_earlier_lines(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path, wanted: dict[str, Any]
) -> None:
    job = run(python(f"print('line'); sys.stdout.write('name? '); wait_for({str(tmp_path / 'gate')!r}); print('me')"))
    follow(job).see(b"line\nname? ")
    reading = follow(job, **wanted)
    shown = b"name? " if "tail" in wanted else b"line\nname? "
    wait_until(lambda: reading.is_over or reading.text().endswith(shown), "the prompt")
    (tmp_path / "gate").touch()
    reading.rest()
    reading.see((b"line\n" if reading.text().startswith(b"line") else b"") + b"name? me\n")


def test_progress_bar_is_visible_at_each_step(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path
) -> None:
    job = run(
        python(
            "for percent in range(0, 101, 20):\n"
            "    sys.stdout.write('\\r%3d%%' % percent)\n"
            f"    wait_for({str(tmp_path)!r} + '/%d' % percent)\n"
            "print()"
        )
    )
    reading = follow(job)
    shown = b""
    for percent in range(0, 101, 20):
        shown += b"\r%3d%%" % percent
        reading.see(shown)
        (tmp_path / str(percent)).touch()
    reading.rest()
    assert reading.text() == shown + b"\n"


def test_prompt_of_one_source_does_not_delay_the_other_source(
    run: Callable[..., Job], follow: Callable[..., Reading], tmp_path: Path
) -> None:
    job = run(
        python(
            "sys.stdout.write('working')\n"
            "for n in range(5):\n"
            "    print(n, file=sys.stderr)\n"
            f"    wait_for({str(tmp_path)!r} + '/%d' % n)\n"
            "    sys.stdout.write('.')\n"
            "print(' done')"
        )
    )
    reading = follow(job)
    for n in range(5):
        reading.see(b"".join(b"%d\n" % i for i in range(n + 1)), "stderr")
        reading.see(b"working" + b"." * n)
        (tmp_path / str(n)).touch()
    reading.rest()
    assert reading.text() == b"working..... done\n"


# --- beginnings and ends


def test_follow_of_a_task_that_never_started_ends(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    with full_cluster(reach.beside):
        job = run(["true"], resources=half_a_worker(reach.beside))
        wait_until(lambda: job.status().status_message, "the job to wait")
        before = follow(job)
        assert not before.is_over
        job.terminate()
        for reading in (before, follow(job)):
            assert reading.rest() == []
            end = reading.stream.ends[0]
            assert (end.complete, end.state) == (True, pb.TASK_STATE_KILLED), end
            assert list(end.bytes_written) in ([], [0, 0, 0])


def test_follow_that_begins_before_the_placement_returns_all_lines(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    writing = Writing(seed=15, size=5_000, long_lines=0)
    with full_cluster(reach.beside):
        job = run(writing.command(), resources=half_a_worker(reach.beside))
        wait_until(lambda: job.status().status_message, "the job to wait")
        reading = follow(job)
    check_whole(reading.rest(), writing)
    check_end(reading.stream.ends, writing)


def test_follow_that_begins_with_the_job_returns_all_lines(
    run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    for seed in range(5):
        writing = Writing(seed=seed, size=2_000, long_lines=0, pauses=0)
        reading = follow(run(writing.command()))
        check_whole(reading.rest(), writing)
        check_end(reading.stream.ends, writing)


def test_follow_of_a_killed_task_has_its_last_lines(run: Callable[..., Job], follow: Callable[..., Reading]) -> None:
    job = run(shell("trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.02; done"))
    reading = follow(job)
    reading.see(b"up\n")
    job.terminate()
    reading.rest()
    reading.see(b"up\nsaved\n")
    end = reading.stream.ends[0]
    assert (end.complete, end.state) == (True, pb.TASK_STATE_KILLED), end


def test_follow_of_an_unknown_job_or_task_is_not_found(reach: Reach, run: Callable[..., Job]) -> None:
    job = run(["true"])
    with reach.open_client() as client:
        for job_id, task_index in (("no-such-job", 0), (job.job_id, 1)):
            with pytest.raises(NotFoundError):
                list(client.stream_task_logs(job_id, task_index, route=reach.route))
        with pytest.raises(NotFoundError):
            list(client.stream_job_logs("no-such-job", route=reach.route))


# --- several tasks


def test_stream_of_several_tasks_keeps_the_order_of_each_task(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    writing = Writing(seed=16, exits=(2, 0), size=20_000)
    job = run(writing.command(), replicas=4, max_retries_failure=1, coscheduled=False, resources={"cpu": 0})
    with reach.open_client() as client:
        notices: list[str] = []
        stream = client.stream_job_logs(job.job_id, route=reach.route, on_notice=notices.append)
        entries = Reading(stream).rest()
    for index in range(4):
        check_whole(entries, writing, attempts=2, task_index=index)
        check_end(stream.ends, writing, attempts=2, task_index=index)
    assert sorted(stream.ends) == [0, 1, 2, 3]


def test_stream_of_some_tasks_continues_from_a_cursor(
    reach: Reach, run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    writing = Writing(seed=17, exits=(2, 0), size=5_000, long_lines=0, pauses=50)
    job = run(writing.command(), replicas=3, max_retries_failure=1, coscheduled=False, resources={"cpu": 0})
    chance = random.Random(17)
    entries: list[LogEntry] = []
    ends: Mapping[int, Any] = {}
    while not ends:
        cursor = entries[-1].cursor if entries else None
        with (
            reach.open_client() as client,
            client.stream_job_logs(
                job.job_id, [0, 2], route=reach.route, cursor=cursor, on_notice=lambda text: None
            ) as stream,
        ):
            wanted = chance.choice((1, 10, 50, 200))
            for count, entry in enumerate(stream, 1):
                entries.append(entry)
                if count == wanted:
                    break
            else:
                ends = stream.ends
    for index in (0, 2):
        check_whole(entries, writing, attempts=2, task_index=index)
    assert {entry.task_index for entry in entries} == {0, 2}


def test_job_and_task_handles_read_logs(reach: Reach, run: Callable[..., Job], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = run(
        python(f"print('now', os.environ['IRIS_TASK_INDEX']); wait_for({str(gate)!r}); print('later')"), replicas=2
    )
    with reach.open_client() as client:
        handle = client.job(job.job_id)
        readings = [Reading(task.logs(follow=True, route=reach.route)) for task in handle.tasks()]
        readings.append(Reading(handle.logs(follow=True, route=reach.route)))
        for reading, seen in zip(readings, [{"now 0"}, {"now 1"}, {"now 0", "now 1"}], strict=True):
            wait_until(lambda reading=reading, seen=seen: {e.message for e in reading.entries} == seen, f"{seen}")
        assert {entry.message for entry in handle.logs(route=reach.route)} == {"now 0", "now 1"}
        gate.touch()
        assert [sum(e.message == "later" for e in reading.rest()) for reading in readings] == [1, 1, 2]


# --- what a reader leaves behind


STREAMS = 8


@pytest.mark.parametrize("how", ["close", "with", "drop", "client"])
def test_server_closes_the_stream_of_a_reader_that_leaves(
    reach: Reach, run: Callable[..., Job], how: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with reach.between(gentle, how):
        job = run(python(f"print('hello'); wait_for({str(gate)!r}); print('again'); wait_for('/nowhere')"))
        wait_until(lambda: job.tasks()[0].status().state == pb.TASK_STATE_RUNNING, "the task to run")
        before = reach.connections()
        client = reach.open_client()
        read_and_leave(reach, client, job, how, gate)
        gc.collect()
        # Connections for other calls may be kept: by the client, and by the controller to the workers.
        kept = len(reach.servers)
        wait_until(lambda: reach.connections() <= before + kept, "the servers to forget the streams")
        client.close()
        wait_until(lambda: reach.connections() <= before + kept - 1, "the controller to forget the client")


def read_and_leave(reach: Reach, client: IrisClient, job: Job, how: str, gate: Path) -> None:
    streams = [client.stream_task_logs(job.job_id, 0, route=reach.route) for _ in range(STREAMS)]
    for stream in streams:
        assert next(stream).message == "hello"
    gate.touch()
    for stream in streams:
        assert next(stream).message == "again", "what comes, not what was there"
    assert reach.connections() >= STREAMS
    if how == "close":
        for stream in streams:
            stream.close()
            stream.close()
            assert list(stream) == []
    elif how == "with":
        for stream in streams:
            with stream:
                pass
    elif how == "client":
        client.close()


def test_blocked_reader_can_be_closed_from_another_thread(
    run: Callable[..., Job], follow: Callable[..., Reading]
) -> None:
    job = run(python("print('hello'); wait_for('/nowhere')"))
    reading = follow(job)
    reading.see(b"hello\n")
    reading.stream.close()
    reading.rest()
    reading.see(b"hello\n")


# --- chaos


@pytest.mark.parametrize("chaos_seed", CHAOS_SEEDS)
def test_follow_through_chaos_returns_every_byte_once(reach: Reach, run: Callable[..., Job], chaos_seed: int) -> None:
    # Many small pieces while it is written, and a few large ones for who comes later.
    writing = Writing(seed=chaos_seed, exits=(1, 0), size=30_000, long_lines=chaos_seed % 2, pauses=100)
    plan = rude(up_to_bytes=30_000 if chaos_seed % 2 == 0 else 1_000_000, spared=0.1, stall_s=0.02)
    job = run(writing.command(), max_retries_failure=1)
    with reach.between(plan, chaos_seed), reach.open_client() as client:
        # While it is written, and then again, until the connections were broken often enough.
        while reach.struck() < CUTS:
            stream = client.stream_task_logs(job.job_id, 0, route=reach.route, on_notice=lambda text: None)
            check_whole(Reading(stream).rest(), writing, attempts=2)
            check_end(stream.ends, writing, attempts=2)
    job.wait(timeout=60)


def test_finished_log_is_complete_however_often_connections_break(reach: Reach, run: Callable[..., Job]) -> None:
    writing = Writing(seed=13, exits=(0,), size=30_000, long_lines=0)
    job = run(writing.command())
    job.wait(timeout=60)
    with reach.between(rude(up_to_bytes=30_000, spared=0.1, stall_s=0.02), 13), reach.open_client() as client:
        while reach.struck() < 6:
            stream = client.stream_task_logs(
                job.job_id, 0, follow=False, route=reach.route, on_notice=lambda text: None
            )
            check_whole(Reading(stream).rest(), writing)
            check_end(stream.ends, writing)


def test_follow_survives_proxies_that_cut_idle_connections(
    reach: Reach, run: Callable[..., Job], tmp_path: Path
) -> None:
    job = run(python(f"print('hello'); wait_for({str(tmp_path / 'gate')!r}); print('bye')"))
    patience_s, idle_s = 6.0, 0.3
    with reach.between(always(Faults(idle_s=idle_s)), 0), reach.open_client() as client:
        # The follow goes on for longer than the patience, because the server answers on each new connection. On a busy
        # machine some connections are cut before the answer. Therefore the patience covers many connections.
        stream = client.stream_task_logs(
            job.job_id, 0, route=reach.route, on_notice=lambda text: None, patience_s=patience_s
        )
        reading = Reading(stream)
        reading.see(b"hello\n")
        cuts = patience_s / idle_s + 1
        wait_until(lambda: reading.is_over or reach.struck() > cuts, "idle connections to be cut")
        (tmp_path / "gate").touch()
        reading.rest()
        reading.see(b"hello\nbye\n")
        assert stream.ends[0].complete


def test_follow_continues_after_connections_were_refused(reach: Reach, run: Callable[..., Job], tmp_path: Path) -> None:
    job = run(python(f"print('hello'); wait_for({str(tmp_path / 'gate')!r}); print('bye')"))
    with reach.between(gentle, 0), reach.open_client() as client, ExitStack() as refusing:
        stream = client.stream_task_logs(job.job_id, 0, route=reach.route, on_notice=lambda text: None)
        reading = Reading(stream)
        reading.see(b"hello\n")
        for proxy in reach.proxies:
            refusing.enter_context(proxy.refusing())
            proxy.strike("reset")
        (tmp_path / "gate").touch()
        job.wait(timeout=60)
        refusing.close()
        reading.rest()
        reading.see(b"hello\nbye\n")
        assert stream.ends[0].complete


def test_follow_with_an_end_time_waits_for_a_server_that_refuses_connections_for_a_while(
    reach: Reach, run: Callable[..., Job]
) -> None:
    """The end time of the filter passes while all connections are refused. The existing lines must arrive later."""
    job = run(python("print('hello')"))
    job.wait(timeout=60)
    with reach.between(gentle, 0), reach.open_client() as client, ExitStack() as refusing:
        wait_until(lambda: time.time() * 1000 > job.tasks()[0].status().finished_at_ms, "the end to be in the past")
        for proxy in reach.proxies:
            refusing.enter_context(proxy.refusing())
        end_ms = int(time.time() * 1000)

        def lines() -> Iterator[LogEntry]:
            # The first call may go to a server that refuses connections, so it is made in the thread of the reading.
            yield from client.stream_task_logs(
                job.job_id, 0, end_ms=end_ms, route=reach.route, on_notice=lambda text: None
            )

        reading = Reading(lines())
        end_s = time.monotonic() + LATE_LINES_S
        wait_until(lambda: time.monotonic() > end_s, "the end of following")
        refusing.close()
        reading.rest()
        reading.see(b"hello\n")
