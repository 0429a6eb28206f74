"""Runs attempts: prepares, starts, watches, ends, and keeps what is to be told of them.

One asyncio loop owns all of it, capture included. What may take long goes to threads: unpacking a workspace, copying
it, looking at the process table, reading logs. Starting a process blocks the loop for well under a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from iris.cluster.logs.segments import AWAY
from iris.cluster.logs.writer import DEFAULT_MAX_LOG_BYTES, LogWriter
from iris.cluster.names import check_port_name
from iris.cluster.pickles.transfer_limits import MAX_EXCEPTION_BYTES, MAX_RESULT_BYTES, MAX_TRACEBACK_BYTES
from iris.cluster.types import HOSTS_VARIABLE, TOKEN_VARIABLE, make_task_id, parse_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.framework_variables import rendezvous_variables
from iris.cluster.worker.attempt.ports import PortReservations
from iris.cluster.worker.attempt.unpack_workspace import copy_workspace, unpack_workspace
from iris.cluster.worker.controller_link.connection import ControllerLine
from iris.cluster.worker.controller_link.log_upload import Handover
from iris.cluster.worker.controller_link.reporter import AttemptKey, Reporter
from iris.cluster.worker.limits import usage
from iris.cluster.worker.limits.enforcement import Enforcement, Exceeded
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.limits.sampler import Watch, pause_s
from iris.cluster.worker.paths import AttemptDir, WorkerDir, read_left
from iris.cluster.worker.process import run_callable
from iris.cluster.worker.process.attempt_process import AttemptProcess, Exit
from iris.cluster.worker.process.launcher import Launcher, Program
from iris.cluster.worker.process.shortage import Headroom, WorkerShortError, shortage_of
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.cluster.worker.process.task_input import SENDER_GONE_S, TaskInput
from iris.cluster.worker.supervision.reaper import MARK_VARIABLE, Reaper, is_marked, make_mark, orphans
from iris.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    NotFoundError,
    UnavailableError,
    quoted,
    shown,
)
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import finish
from iris.system.clock import now_ms

DEFAULT_GRACE_S = 10.0
_SAMPLE_EVERY = 4  # looks: what is measured is told so often
_ROOM_S = 1.0  # between two looks whether there is room for another attempt
_DISK_S = 30.0  # walking through directories costs more than looking at processes
_STRAY_PASSES = 200
_STRAY_PAUSE_S = 0.005
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_SENTENCE_BYTES = 16_000
_REMEMBERED = 10_000  # records of attempts, also of ended ones
_SHUTDOWN_GRACE_S = 5.0
_FETCH_S = 300.0  # for one try to get a workspace
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between tries
_STDIN_S = 8.0  # how long a sender of standard input waits for room, before it is told how much was taken
_SENDER_GONE = f"standard input ends here: its sender has been silent for {SENDER_GONE_S:g} s"
_log = logging.getLogger(__name__)


class Worker:
    """The attempts of this process.

    Args:
        worker_id: What the controller calls it.
        token: New for each process; part of the marks that its attempts' processes carry.
        incarnation: New for each process; what it registers with.
        directory: Where everything of it lies.
        bind_host: What tasks are told to bind to, in `IRIS_BIND_HOST`.
        advertise_host: Where others reach them, in `IRIS_ADVERTISE_HOST`.
        controller: For fetching workspaces, and for `IRIS_CONTROLLER_ADDRESS`.
        base_env: What the environment of a task starts from, unless its job brings all of it.
        own_env: What Iris sets for each task of this worker: how the controller is known and reached by TLS.
        file_limit: How many files a task may open (the soft limit).
        reaper: What ends the attempts' processes when this one is killed.
        launcher: What starts them.
        enforcement: What keeps attempts to their limits.
        max_log_bytes: What is kept of the log of an attempt whose job does not say it.
        on_ended: Called with job, task and attempt when an attempt has ended.
        headroom: Whether there is room for another attempt; default: on the disks of `directory`.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        token: str,
        incarnation: str,
        directory: WorkerDir,
        bind_host: str,
        advertise_host: str,
        controller: ControllerLine,
        base_env: Mapping[str, str],
        own_env: Mapping[str, str] | None = None,
        file_limit: int,
        reaper: Reaper,
        launcher: Launcher,
        enforcement: Enforcement,
        max_log_bytes: int = DEFAULT_MAX_LOG_BYTES,
        on_ended: Callable[[str, int, int], None] = lambda job_id, task_index, attempt_id: None,
        headroom: Headroom | None = None,
    ) -> None:
        self.worker_id = worker_id
        self._token = token
        self._incarnation = incarnation
        self._directory = directory
        self._bind_host = bind_host
        self._advertise_host = advertise_host
        self._controller = controller
        # A name that is empty, which a program may have passed on, cannot be passed on here.
        self._base_env = {name: value for name, value in base_env.items() if name and "=" not in name}
        self._own_env = own_env or {}
        self._file_limit = file_limit
        self._headroom = headroom or Headroom(directory.disks)
        self._reaper = reaper
        self._launcher = launcher
        self._enforcement = enforcement
        self._watch = Watch(enforcement)
        self._max_log_bytes = max_log_bytes
        self._on_ended = on_ended
        self._ports = PortReservations(bind_host)
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._runs: dict[AttemptKey, asyncio.Task[None]] = {}
        self._without_end: dict[AttemptKey, LogWriter] = {}
        self._readers: Counter[Path] = Counter()  # of the logs of attempts, by their directories
        self._unpacking: dict[str, asyncio.Lock] = {}
        self._started_at_s = time.monotonic()
        self._count = 0
        self._closing = ""  # why, once it ends
        self._is_draining = False
        self.reporter: Reporter | None = None  # set by the program, which connects the two
        self.handover: Handover | None = None  # also; None where logs are kept without us

    # The verbs of the wire.

    def run_task(self, request: cluster_pb2.Worker.RunTaskRequest, entrypoint: bytes, hosts: str = "") -> Attempt:
        """Begins an attempt; one that is known already is answered as it is.

        `entrypoint` is the pickled callable, and `hosts` where the tasks of its gang are, apart from the request: the
        attempts of a job share them, and the record of an attempt lives longer than they have to.
        """
        job_id, task_index = parse_task_id(request.task_id)
        if (job_id, task_index) != (request.job_id, request.task_index):
            raise InvalidArgumentError(
                f"task_id {quoted(request.task_id)} does not belong to job {quoted(request.job_id)}, index"
                f" {request.task_index}"
            )
        _check_request(request)
        key = (request.task_id, request.attempt_id)
        known = self._attempts.get(key)
        if known is not None:
            return known
        if self._closing or self._is_draining:
            raise UnavailableError(f"worker {self.worker_id} is ending")
        if request.incarnation not in ("", self._incarnation):
            # It may have run what is asked of it here, and its end is not known yet.
            raise UnavailableError(f"worker {self.worker_id} is another process than the one that is meant")
        if request.rendezvous and request.task_index and not request.master_port:
            raise FailedPreconditionError(
                f"task {request.task_index} does not know where its gang meets: task 0 has ended already, or its"
                " worker is of a version without rendezvous"
            )
        directory = self._directory.attempt(*key)
        failpoint("attempt.before")
        why_not = self._make_room(request, directory)
        failpoint("attempt.after")
        self._count += 1
        log = LogWriter(directory.log, max_bytes=request.max_log_bytes or self._max_log_bytes)
        attempt = Attempt(request, self._count, directory, log, build_started_ms=now_ms())
        self._attempts[key] = attempt
        if why_not is not None:
            self._could_not_start(attempt, why_not)
            return attempt
        if request.stdin:
            attempt.stdin = TaskInput(partial(self._build_line, attempt, _SENDER_GONE))
        elif request.stdin_spent:
            self._build_line(attempt, "standard input is empty: an attempt before this one has read from it")
        if self.handover is not None:
            self.handover.add(attempt)
        run = asyncio.create_task(self._run(attempt, entrypoint, hosts))
        self._runs[key] = run
        run.add_done_callback(lambda _: self._runs.pop(key, None))
        return attempt

    def _make_room(self, request: cluster_pb2.Worker.RunTaskRequest, directory: AttemptDir) -> WorkerShortError | None:
        """Makes what an attempt needs before anything of it can run; answers with what this machine lacks for it."""
        why_none = self._headroom.why_none()
        if why_none:
            return WorkerShortError(why_none)
        try:
            directory.create()
            if request.rendezvous and not request.task_index:
                request.master_port = self._ports.reserve(everywhere=True)  # frameworks listen at all addresses
        except OSError as error:  # whatever it was: nothing of the job has been looked at yet
            why_not = shortage_of(error) or WorkerShortError(f"the worker cannot prepare an attempt: {error}")
            self._headroom.start_failed(why_not)
            return why_not
        return None

    def _could_not_start(self, attempt: Attempt, why: WorkerShortError) -> None:
        """Ends an attempt for which this machine lacks something. That is charged to the worker, not to the job."""
        self.look_for_room()
        error = f"worker {self.worker_id} could not start it: {why}"
        _log.warning("attempt %s: %s", attempt.key, error)
        self._finish(attempt, cluster_pb2.TASK_STATE_WORKER_FAILED, error=error)

    def look_for_room(self) -> None:
        """Tells the controller when this worker has no room for another attempt, or has room again."""
        if self.reporter is not None:
            self.reporter.say_short_of(self._headroom.why_none())

    async def watch_room(self) -> None:
        """Looks for room again and again, for as long as the worker lives."""
        while True:
            self.look_for_room()
            await asyncio.sleep(_ROOM_S)

    def run_tasks(self, request: cluster_pb2.Worker.RunTasksRequest) -> int:
        """Begins attempts of one job; answers with the port that is reserved for task 0 of a rendezvous, if it is one
        of them; else 0."""
        entrypoint = request.shared.serialized_entrypoint
        request.shared.ClearField("serialized_entrypoint")
        hosts = take_hosts(request.shared)
        reserved = 0
        for place in sorted(request.places, key=lambda place: place.task_index):
            one = cluster_pb2.Worker.RunTaskRequest()
            one.CopyFrom(request.shared)
            one.task_id = make_task_id(request.shared.job_id, place.task_index)
            one.task_index = place.task_index
            one.attempt_id = place.attempt_id
            one.gpu_ids.extend(place.gpu_ids)
            one.visible_devices.extend(place.visible_devices)
            one.token = place.token
            one.local_rank, one.local_world_size = place.local_rank, place.local_world_size
            attempt = self.run_task(one, entrypoint, hosts)
            if request.shared.rendezvous and not place.task_index:
                request.shared.master_port = reserved = attempt.request.master_port
        return reserved

    def get_task_status(self, task_id: str, *, include_result: bool) -> cluster_pb2.TaskStatus:
        """The newest attempt of a task."""
        return self._newest(task_id).status(self.worker_id, include_result=include_result)

    def list_tasks(self, page_size: int = 0, page_token: str = "") -> Page[cluster_pb2.TaskStatus]:
        """Return a page of the newest attempts of the tasks, by job and index."""
        newest = {_sort_key(task_id): attempt for (task_id, _), attempt in self._attempts.items()}

        def message(key: str) -> cluster_pb2.TaskStatus:
            return newest[key].status(self.worker_id)

        return finish(cut_named_page("tasks", sorted(newest), message, page_size=page_size, page_token=page_token))

    def kill_task(self, task_id: str, attempt_id: int | None, grace_s: float | None) -> None:
        """Ends an attempt, the newest by default; one that has ended stays as it is."""
        attempt = self._newest(task_id) if attempt_id is None else self._attempts.get((task_id, attempt_id))
        if attempt is None:
            raise NotFoundError(f"worker {self.worker_id} has no attempt {attempt_id} of task {task_id!r}")
        self._stop(attempt, _grace_s(attempt) if grace_s is None else grace_s)

    def goes_on(self, job_id: str, task_index: int, attempt_id: int) -> bool | None:
        """Whether an attempt has not ended on this worker; None where it is not known here."""
        attempt = self._attempts.get((make_task_id(job_id, task_index), attempt_id))
        return None if attempt is None else not attempt.is_final

    async def write_stdin(self, request: cluster_pb2.Worker.WriteStdinRequest) -> cluster_pb2.Worker.WriteStdinResponse:
        """Writes what comes for the standard input of an attempt, as far as that takes it."""
        attempt = self._attempts.get((request.task_id, request.attempt_id))
        if attempt is None:
            raise NotFoundError(f"worker {self.worker_id} has no attempt {request.attempt_id} of {request.task_id!r}")
        if attempt.stdin is None:
            return cluster_pb2.Worker.WriteStdinResponse(position=request.position, closed=True)
        is_open = await attempt.stdin.write(request.position, request.data, end=request.end, within_s=_STDIN_S)
        return cluster_pb2.Worker.WriteStdinResponse(position=attempt.stdin.position, closed=not is_open)

    def log_of(self, task_id: str, attempt_id: int | None) -> tuple[int, AttemptDir, Attempt | None]:
        """Where the log of an attempt lies: its id, its directory, and its record.

        The record is None for what an earlier process of this worker ran: that is on disk only, and over. What the
        controller has put elsewhere is no longer ours to give.
        """
        if attempt_id is None:
            known = [attempt for task, attempt in self._attempts if task == task_id]
            on_disk = known or self._directory.attempt_ids(task_id)
            if not on_disk:
                raise NotFoundError(f"worker {self.worker_id} has no log of task {task_id!r}")
            attempt_id = max(on_disk)
        attempt = self._attempts.get((task_id, attempt_id))
        directory = self._directory.attempt(task_id, attempt_id)
        if attempt is None and not (directory.path.exists() and directory.log.exists()):
            raise NotFoundError(f"worker {self.worker_id} has no log of attempt {attempt_id} of task {task_id!r}")
        if (attempt is None or attempt.is_final) and (directory.log / AWAY).exists():
            raise NotFoundError(f"worker {self.worker_id} no longer has the log of attempt {attempt_id} of {task_id!r}")
        return attempt_id, directory, attempt

    def health_check(self) -> cluster_pb2.HealthResponse:
        """That it is alive, for how long, and how many attempts it runs."""
        return cluster_pb2.HealthResponse(
            healthy=not self._closing,
            uptime_ms=int((time.monotonic() - self._started_at_s) * 1000),
            running_tasks=len(self._runs),
            worker_id=self.worker_id,
        )

    async def drain(self) -> None:
        """Takes no new attempts any more; returns when those that it has have ended, and the controller has all of
        them: their ends and their logs. For how long that may take is for who asks to say."""
        self._is_draining = True
        while self._runs:
            await asyncio.wait(self._runs.values())  # not `gather`: with who asks it would cancel the attempts
        if self.reporter is not None:
            await self.reporter.until_told()
        if self.handover is not None:
            await self.handover.until_taken()

    def discard(self, key: AttemptKey) -> None:
        """The controller does not want this attempt to run here."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            self._stop(attempt, _grace_s(attempt))

    @contextlib.contextmanager
    def reading(self, directory: AttemptDir) -> Iterator[None]:
        """For as long as somebody reads the log of an attempt, it stays."""
        self._readers[directory.path] += 1
        try:
            yield
        finally:
            self._readers[directory.path] -= 1
            if not self._readers[directory.path]:
                del self._readers[directory.path]

    def busy_directories(self) -> set[Path]:
        """The directories of attempts that have not ended, whose end the controller does not know yet, or whose logs
        somebody reads."""
        return {
            attempt.directory.path for attempt in self._attempts.values() if not (attempt.is_final and attempt.reported)
        } | self._readers.keys()

    def forget(self, directories: Collection[Path]) -> None:
        """Drops the records of attempts that are over and whose directories, or logs, are about to be removed."""
        for key, attempt in list(self._attempts.items()):
            if attempt.directory.path in directories:
                del self._attempts[key]

    async def close(self) -> None:
        """Ends all attempts and waits until nothing of them is left."""
        self._closing = f"worker {self.worker_id} was shut down"
        for attempt in self._attempts.values():
            if not attempt.is_final:
                self._stop(attempt, min(_grace_s(attempt), _SHUTDOWN_GRACE_S))
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        await asyncio.to_thread(self._enforcement.close)

    def kill_all(self, why: str) -> None:
        """Ends all attempts at once, without a grace period: they may be running elsewhere soon, or already."""
        self._closing = why
        for attempt in self._attempts.values():
            if not attempt.is_final:
                attempt.stop_grace_s = 0.0
                if attempt.process is not None:
                    attempt.process.signal_group(signal.SIGKILL)

    async def until_ended(self, timeout_s: float) -> bool:
        """Returns when nothing of attempts is left, and their logs have ends; False: after the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*self._runs.values(), return_exceptions=True)
        return not self._runs

    def close_logs(self) -> None:
        """Writes the ends of logs for which the disk was too full when their attempts ended."""
        for key, log in list(self._without_end.items()):
            if key in self._attempts:
                log.close()
            if log.is_ended or key not in self._attempts:
                del self._without_end[key]

    async def watch_attempts(self) -> None:
        """Looks at what runs, for as long as the worker lives: measures it, and ends what exceeds its limits."""
        for count in itertools.count():
            began_s = time.monotonic()
            try:
                await self._look(is_sample=count % _SAMPLE_EVERY == 0)
            except Exception:  # noqa: BLE001 - whatever it was, limits are to be kept
                _log.exception("looking at attempts")
            await asyncio.sleep(pause_s(time.monotonic() - began_s))

    async def measure_disks(self) -> None:
        """Measures what attempts have written into their directories, for as long as the worker lives."""
        while True:
            await asyncio.sleep(_DISK_S)
            for attempt in [attempt for attempt in self._attempts.values() if attempt.process is not None]:
                measured = await asyncio.to_thread(usage.disk_bytes, attempt.directory.path)
                if attempt.process is not None:
                    attempt.usage.disk_bytes = measured

    async def _look(self, *, is_sample: bool) -> None:
        if is_sample:
            for attempt in self._attempts.values():
                if attempt.process is not None and attempt.log.check_place():
                    # A page of lines shows what is missing with the line after it: here is one.
                    self._build_line(attempt, attempt.log.warning)
            self.close_logs()
            await self._end_strays()
        attempts = [attempt for attempt in self._attempts.values() if attempt.process is not None]
        looks = await self._watch.look([(attempt, self._mark_of(attempt)) for attempt in attempts])
        guilty: list[Process] = []
        for attempt, look in zip(attempts, looks, strict=True):
            if attempt.process is None:
                continue  # it has ended meanwhile
            if is_sample:
                look.usage.disk_bytes = attempt.usage.disk_bytes
                attempt.usage = look.usage
                self._tell(attempt)
            attempt.usage.memory_peak_bytes = look.usage.memory_peak_bytes
            if look.exceeded is not None:
                guilty += look.held
                if attempt.stop_grace_s is None and not attempt.timed_out:
                    attempt.exceeded = attempt.exceeded or look.exceeded
        if guilty:  # and again at the next look, until nothing is left
            await self._watch.kill(guilty)

    # One attempt.

    async def _run(self, attempt: Attempt, entrypoint: bytes, hosts: str) -> None:
        """From the request to the end that is reported:

        1. Prepare: ports, working directory, workspace, entrypoint. A stop that comes meanwhile ends it here.
        2. Start the process, and tell that it runs.
        3. Wait until it has ended, nothing of it is left and its log is complete.
        4. Take its result; give its ports back; tell how it ended.
        """
        try:
            command = await self._prepare(attempt, entrypoint, hosts)
            if attempt.stop_grace_s is not None:
                self._finish_unstarted(attempt)
                return
            process = await self._start(attempt, command)
            self._headroom.started()
            attempt.announcement.process_started()
            attempt.state = cluster_pb2.TASK_STATE_RUNNING
            attempt.started_at_ms, attempt.started_s = now_ms(), time.monotonic()
            self._tell(attempt)
            timeout_s = attempt.request.timeout_seconds
            timer = None
            if timeout_s > 0:
                timer = asyncio.get_running_loop().call_later(timeout_s, self._time_out, attempt)
            exited = await process.wait()
            if timer is not None:
                timer.cancel()
            self._reaper.group_ended(process.pid)
            self._conclude(attempt, exited)
        except Exception as error:  # noqa: BLE001 - whatever it was, the attempt has ended and must be told of
            await self._run_failed(attempt, error)

    async def _run_failed(self, attempt: Attempt, error: Exception) -> None:
        """Ends an attempt that could not be prepared, started or looked after."""
        short = shortage_of(error)
        if isinstance(error, IrisError | OSError) and attempt.process is None and attempt.stop_grace_s is not None:
            self._finish_unstarted(attempt)
        elif short is not None and attempt.process is None:
            self._headroom.start_failed(short)
            self._could_not_start(attempt, short)
        elif isinstance(error, IrisError):
            if isinstance(error, NotStartedError):
                attempt.exit_code = error.exit_code
                if error.details:
                    self._build_line(attempt, error.details)
            self._finish(attempt, cluster_pb2.TASK_STATE_FAILED, error=str(error))
        else:
            _log.error("attempt %s", attempt.key, exc_info=error)
            await _abandon(attempt)
            text = f"the worker could not run it: {type(error).__name__}: {error}"
            self._finish(attempt, cluster_pb2.TASK_STATE_FAILED, error=text)

    async def _prepare(self, attempt: Attempt, entrypoint: bytes, hosts: str) -> list[str]:
        request, directory = attempt.request, attempt.directory
        if hosts:
            # One file for each attempt, never a hard link: the task may write to it, and peers read their own.
            directory.hosts.write_text(hosts, encoding="utf-8")
        for name in request.ports:
            attempt.ports[name.lower()] = self._ports.reserve()
        if request.bundle_hash:
            await self._provide_workspace(attempt)
        else:
            directory.work.mkdir()
        if request.command:
            command = list(request.command)
        else:
            directory.entrypoint.write_bytes(entrypoint)
            paths = (str(directory.entrypoint), str(directory.result), request.pickled_by)
            # By its file, and with nothing of the workspace on its path yet (-P): a file of the user's that is named
            # like one of ours, or of Python's, must not get in the way of starting.
            command = [sys.executable, "-P", run_callable.__file__, *paths]
        attempt.build_finished_ms = now_ms()
        return command

    async def _provide_workspace(self, attempt: Attempt) -> None:
        bundle_hash = attempt.request.bundle_hash
        bundle = self._directory.bundle(bundle_hash)
        async with self._unpacking.setdefault(bundle_hash, asyncio.Lock()):
            attempt.from_cache = bundle.is_dir()
            if not attempt.from_cache:
                self._build_line(attempt, f"fetching workspace {bundle_hash[:12]}")
                blob = await self._fetch_bundle(attempt)
                await asyncio.to_thread(unpack_workspace, blob, bundle_hash, bundle)
        self._build_line(attempt, f"copying workspace {bundle_hash[:12]}")
        await asyncio.to_thread(copy_workspace, bundle, attempt.directory.work)

    async def _fetch_bundle(self, attempt: Attempt) -> bytes:
        """The workspace, from the controller; that it does not answer is not the attempt's fault: it waits until then,
        or until nobody wants it any more."""
        request = cluster_pb2.Controller.FetchBundleRequest(bundle_hash=attempt.request.bundle_hash)
        line = self._controller
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = await call_async(line.stub.fetch_bundle, request, line.peer, timeout_s=_FETCH_S)
                return answer.bundle_blob
            except (UnavailableError, DeadlineExceededError) as error:
                if attempt.stop_grace_s is not None:
                    raise
                self._build_line(attempt, f"{error}; trying again")
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _start(self, attempt: Attempt, command: list[str]) -> AttemptProcess:
        attempt.holder = holder = self._enforcement.hold(attempt.number, attempt.request.resources.memory_bytes)

        async def end_rest() -> None:
            holder.kill()
            await self._end_strays()

        env = self._build_iris_env(attempt)
        env[MARK_VARIABLE] = make_mark(self._token, attempt.number, self._base_env.get(MARK_VARIABLE, ""))
        failpoint("spawn.before")
        attempt.is_starting = True
        try:
            process = await AttemptProcess.start(
                Program(command, str(attempt.working_directory), env, self._file_limit, _umask(attempt)),
                self._launcher,
                append=lambda source, data: attempt.log.append(source, data, now_ms()),
                end_strays=end_rest,
                stdin=None if attempt.stdin is None else attempt.stdin.reading,
            )
        finally:
            attempt.is_starting = False
            if attempt.stdin is not None:
                attempt.stdin.handed_over()
        attempt.process = process
        failpoint("spawn.after")
        self._reaper.group_started(process.pid)
        holder.enter(process.pid)
        if attempt.stop_grace_s is not None:  # somebody wanted it to end meanwhile
            process.stop(attempt.stop_grace_s)
        return process

    def _build_iris_env(self, attempt: Attempt) -> dict[str, str]:
        """The whole environment of a task: the worker's, then the user's, then Iris's own, which wins.

        Where the job brings a whole environment, as `iris run` does on this machine, the worker's is left out.
        """
        request, given = attempt.request, attempt.request.environment
        env = {"PYTHONUNBUFFERED": "1"}  # or the lines of a Python program would come in 8 KiB lumps
        if not given.complete:
            env |= self._base_env
            env.pop("OLDPWD", None)
        devices = list(request.visible_devices) or [str(number) for number in request.gpu_ids]
        chosen = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}  # else the engine's for this worker
        env |= chosen
        env.update(given.env_vars)
        if given.complete:  # what was inherited is no choice of devices
            env |= chosen
        # Those of a task that this worker itself runs in; and a token of the user's is for nobody else.
        for name in [name for name in env if name.startswith("IRIS_PORT_") or name in (TOKEN_VARIABLE, HOSTS_VARIABLE)]:
            del env[name]
        env |= self._own_env
        env |= {
            "PWD": str(attempt.working_directory),
            "IRIS_JOB_ID": request.job_id,
            "IRIS_TASK_ID": request.task_id,
            "IRIS_TASK_INDEX": str(request.task_index),
            "IRIS_NUM_TASKS": str(request.num_tasks),
            "IRIS_ATTEMPT_ID": str(request.attempt_id),
            "IRIS_WORKER_ID": self.worker_id,
            "IRIS_CONTROLLER_ADDRESS": self._controller.address,
            "IRIS_BIND_HOST": self._bind_host,
            "IRIS_ADVERTISE_HOST": self._advertise_host,
        }
        env |= rendezvous_variables(request)
        if request.hosts:
            env[HOSTS_VARIABLE] = str(attempt.directory.hosts)
        if request.token:
            env[TOKEN_VARIABLE] = request.token
        env |= {f"IRIS_PORT_{name.upper()}": str(port) for name, port in attempt.ports.items()}
        return env

    def _conclude(self, attempt: Attempt, exited: Exit) -> None:
        attempt.exit_code, attempt.term_signal = exited.code, exited.signal
        _count_exit(attempt, exited)
        if attempt.exceeded is not None and exited.code != 0:
            self._fail(attempt, exited, attempt.exceeded)
        elif attempt.timed_out:
            text = f"stopped: it ran for longer than its timeout of {attempt.request.timeout_seconds} s"
            self._finish(attempt, cluster_pb2.TASK_STATE_FAILED, error=text)
        elif attempt.stop_grace_s is not None:
            self._finish(attempt, *self._end_of_stopped(attempt, exited))
        elif exited.code == 0:
            self._take_result(attempt)
            self._finish(attempt, cluster_pb2.TASK_STATE_SUCCEEDED)
        else:
            self._fail(attempt, exited, attempt.holder.explain(exited) if attempt.holder is not None else None)

    def _fail(self, attempt: Attempt, exited: Exit, exceeded: Exceeded | None) -> None:
        """It failed by itself, or since it exceeded its limits, or the machine's."""
        error = _sentence(attempt.directory.failure) or _describe_exit(exited)
        attempt.out_of_memory = error.startswith(run_callable.OUT_OF_MEMORY)
        attempt.exception = _read_exception(attempt)
        if exceeded is not None:
            attempt.out_of_memory |= exceeded.out_of_memory
            was_killed = attempt.exceeded is not None or exceeded.out_of_memory
            error = exceeded.text if was_killed and exited.code == 128 + signal.SIGKILL else f"{exceeded.text}; {error}"
        self._finish(attempt, cluster_pb2.TASK_STATE_FAILED, error=error)

    def _end_of_stopped(self, attempt: Attempt, exited: Exit) -> tuple[cluster_pb2.TaskState, str]:
        if self._closing:
            return cluster_pb2.TASK_STATE_WORKER_FAILED, self._closing
        how = f"by {_signal_name(exited.signal)}" if exited.signal else f"with exit code {exited.code}"
        return cluster_pb2.TASK_STATE_KILLED, f"stopped; it ended {how}"

    def _take_result(self, attempt: Attempt) -> None:
        if attempt.request.command:
            attempt.result_error = "a command has no return value"
            return
        try:
            attempt.result = read_left(attempt.directory.result, MAX_RESULT_BYTES)
        except FileNotFoundError:
            full = self._headroom.why_none()  # then nothing could say why
            attempt.result_error = _sentence(attempt.directory.result_error) or (
                f"what the callable returned could not be stored on the worker: {full}"
                if full
                else "the process exited with 0 before the callable had returned"
            )
        except IrisError as error:
            attempt.result_error = f"the result cannot be taken: {error}"

    def _finish(self, attempt: Attempt, state: cluster_pb2.TaskState, error: str = "") -> None:
        if attempt.stdin is not None:
            attempt.stdin.close()
        failpoint("finish.before")
        attempt.log.close()
        failpoint("finish.after")
        if not attempt.log.is_ended:
            self._without_end[attempt.key] = attempt.log
        for port in attempt.ports.values():
            self._ports.release(port)
        if attempt.request.rendezvous and not attempt.request.task_index:
            self._ports.release(attempt.request.master_port)
        if attempt.holder is not None:
            self._enforcement.release(attempt.holder)
        attempt.process = None
        attempt.error = error
        attempt.finished_at_ms = now_ms()
        attempt.state = state
        self._tell(attempt)
        self._on_ended(attempt.request.job_id, attempt.request.task_index, attempt.request.attempt_id)
        if len(self._attempts) > _REMEMBERED:
            self._forget_oldest()

    def _finish_unstarted(self, attempt: Attempt) -> None:
        if self._closing:
            error = f"worker {self.worker_id} was shut down before it started"
            self._finish(attempt, cluster_pb2.TASK_STATE_WORKER_FAILED, error=error)
        else:
            self._finish(attempt, cluster_pb2.TASK_STATE_KILLED, error="stopped before it started")

    def _forget_oldest(self) -> None:
        """Drops the oldest record that is over and was reported; its log stays on disk, where `log_of` finds it."""
        for key, attempt in self._attempts.items():
            if attempt.is_final and attempt.reported:
                del self._attempts[key]
                return

    def _stop(self, attempt: Attempt, grace_s: float) -> None:
        if attempt.is_final:
            return
        attempt.stop_grace_s = grace_s
        if attempt.process is not None:
            attempt.process.stop(grace_s)

    def _time_out(self, attempt: Attempt) -> None:
        if attempt.process is not None and attempt.stop_grace_s is None:
            attempt.timed_out = True
            attempt.process.stop(_grace_s(attempt))

    # What belongs to all attempts.

    def _newest(self, task_id: str) -> Attempt:
        attempts = [attempt for (task, _), attempt in self._attempts.items() if task == task_id]
        if not attempts:
            raise NotFoundError(f"worker {self.worker_id} has no task {task_id!r}")
        return attempts[-1]

    def _tell(self, attempt: Attempt) -> None:
        if self.reporter is not None:
            self.reporter.tell(attempt)

    def _build_line(self, attempt: Attempt, text: str) -> None:
        attempt.log.append("build", f"{text}\n".encode(), now_ms())

    async def _end_strays(self) -> None:
        """Ends what lost its parent, so came to this process, and belongs to no attempt that goes on."""
        for _ in range(_STRAY_PASSES):
            if not self._kill_orphans():
                return
            await asyncio.sleep(_STRAY_PAUSE_S)  # what was killed hands its own children over to us: look again

    def _mark_of(self, attempt: Attempt) -> str:
        """Its own mark; where this worker runs in an attempt itself, that one's stands before it."""
        return f"{self._token}.{attempt.number}"

    def _kill_orphans(self) -> bool:
        """Collects those that have ended, kills those whose attempt has; True when it has killed somebody."""
        own = {self._reaper.pid, self._launcher.pid}
        going_on = []
        for key in self._runs:
            attempt = self._attempts[key]
            if attempt.is_starting or (attempt.process is not None and not attempt.process.has_exited):
                going_on.append(self._mark_of(attempt))
        killed = False
        for pid in orphans(own):
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    continue  # it had ended already
                if any(is_marked(pid, mark) for mark in going_on):
                    continue
                if not going_on or is_marked(pid, self._token):
                    os.kill(pid, signal.SIGKILL)
                    killed = True
        return killed


def take_hosts(request: cluster_pb2.Worker.RunTaskRequest) -> str:
    """Takes out of a request where the tasks of a gang are, but for the first: as text of a file, one host a line."""
    for host in request.hosts:
        if host and host.split() != [host]:
            raise InvalidArgumentError(f"not a host: {quoted(host)} (expected a name or an address, without spaces)")
    text = "".join(f"{host}\n" for host in request.hosts)
    del request.hosts[1:]
    return text


def _check_request(request: cluster_pb2.Worker.RunTaskRequest) -> None:
    """Refuses what no process can be started with; the controller has looked at it, who may not be who calls."""
    variables = request.environment.env_vars
    texts = [request.job_id, request.working_directory, request.pickled_by, *request.command]
    texts += [*request.hosts, *request.visible_devices]
    for text in (*texts, *variables.keys(), *variables.values()):
        if "\0" in text:
            raise InvalidArgumentError(f"{quoted(text)} contains NUL")
    for name in variables:
        if not name or "=" in name:
            raise InvalidArgumentError(f"not an environment variable: {quoted(name)}")
    for port in request.ports:
        check_port_name(port)
    if request.rendezvous and not request.hosts:
        raise InvalidArgumentError("a rendezvous needs the hosts of its tasks, or at least that of task 0")
    if request.bundle_hash and not _HASH.fullmatch(request.bundle_hash):
        raise InvalidArgumentError(f"not a bundle hash: {quoted(request.bundle_hash)}")


def _umask(attempt: Attempt) -> int | None:
    environment = attempt.request.environment
    return environment.umask & 0o777 if environment.HasField("umask") else None


def _grace_s(attempt: Attempt) -> float:
    if attempt.request.HasField("kill_grace_period_ms"):
        return attempt.request.kill_grace_period_ms / 1000
    return DEFAULT_GRACE_S


def _count_exit(attempt: Attempt, exited: Exit) -> None:
    lived_s = max(time.monotonic() - attempt.started_s, 0.001)
    attempt.usage.memory_bytes = 0
    attempt.usage.processes = 0
    attempt.usage.memory_peak_bytes = max(attempt.usage.memory_peak_bytes, exited.memory_peak_bytes)
    attempt.usage.cores = exited.cpu_s / lived_s
    attempt.usage.disk_bytes = usage.disk_bytes(attempt.directory.path)


def _sort_key(task_id: str) -> str:
    """Return what sorts tasks by job and index."""
    job_id, index = parse_task_id(task_id)
    return f"{job_id}/{index:010}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _describe_exit(exited: Exit) -> str:
    if exited.signal is None:
        return f"exit code {exited.code}"
    hint = " (not by Iris; the system does that to a process when memory runs out)" if exited.signal == 9 else ""
    return f"killed by {_signal_name(exited.signal)}{hint}"


def _read_exception(attempt: Attempt) -> cluster_pb2.TaskException | None:
    exception = cluster_pb2.TaskException(attempt_id=attempt.request.attempt_id)
    with contextlib.suppress(IrisError, FileNotFoundError):
        text = read_left(attempt.directory.traceback, MAX_TRACEBACK_BYTES)
        exception.traceback = text.decode("utf-8", "replace")
        exception.pickled = read_left(attempt.directory.exception, MAX_EXCEPTION_BYTES)
    return exception if exception.traceback else None


def _sentence(path: Path) -> str:
    try:
        return shown(read_left(path, _MAX_SENTENCE_BYTES).decode(errors="replace").strip())
    except (FileNotFoundError, IrisError):
        return ""


async def _abandon(attempt: Attempt) -> None:
    """Ends the processes of an attempt that cannot be looked after any more; what they wrote until now is captured."""
    if attempt.process is not None:
        attempt.process.signal_group(signal.SIGKILL)
        with contextlib.suppress(Exception):  # it may have been collected already: then all of it is done
            await attempt.process.wait()
