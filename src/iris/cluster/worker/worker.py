"""The operations of a worker: begin, stop and describe attempts, accept standard input, drain and close.

One asyncio event loop owns the state of all attempts and captures their output. Threads do the slow work, for example
unpacking workspaces, reading the process table, and reading logs. Starting a process blocks the event loop for well
under a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.types import make_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.environment import TaskEnvironment, usable_variables
from iris.cluster.worker.attempt.ports import PortReservations
from iris.cluster.worker.attempt.preparation import AttemptPreparer
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.attempt.request_checks import check_request, split_off_entrypoint, split_off_hosts
from iris.cluster.worker.attempt.runner import AttemptRunner, ProcessSetup
from iris.cluster.worker.cleanup import remove_discarded
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.controller_link.log_upload import LogUpload
from iris.cluster.worker.controller_link.reporter import Reporter
from iris.cluster.worker.exec.sessions import EXEC_TUNNEL_TIMES, ExecSessions
from iris.cluster.worker.files.attempt_files import AttemptFiles
from iris.cluster.worker.files.collect_outputs import OutputCollector
from iris.cluster.worker.inspect.attempt_stacks import AttemptStacks
from iris.cluster.worker.inspect.py_spy import PySpy
from iris.cluster.worker.limits.enforcement import Enforcement
from iris.cluster.worker.limits.monitor import AttemptMonitor
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.limits.sampler import Sampler
from iris.cluster.worker.limits.timeout_warning import TimeoutWarnings
from iris.cluster.worker.paths import AttemptDir, WorkerDir
from iris.cluster.worker.process.launcher import Launcher
from iris.cluster.worker.process.shortage import WorkerHeadroom, WorkerShortageError, shortage_of
from iris.cluster.worker.process.task_input import SENDER_GONE_S, TaskInput
from iris.cluster.worker.supervision.reaper import MARK_VARIABLE, Reaper
from iris.cluster.worker.supervision.shutdown import Shutdown
from iris.cluster.worker.supervision.strays import StrayProcesses
from iris.cluster.worker.tunnels.task_ports import TaskPorts
from iris.cluster.worker.tunnels.tunnels import Tunnels
from iris.config import DEFAULT_MAX_LOG_BYTES
from iris.errors import FailedPreconditionError, UnavailableError
from iris.failpoints import failpoint
from iris.reasons import Shortage, ShortageCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

_HEADROOM_S = 1.0  # The seconds between two checks whether the worker has headroom for another attempt.
_SHUTDOWN_GRACE_S = 5.0
# The number of tasks whose directories are removed before the event loop does other work.
_FORGOTTEN_AT_ONCE = 50
# The seconds that a call with standard input waits for space in the pipe.
_STDIN_TIMEOUT_S = 8.0
_SENDER_GONE = f"standard input ends here, because its sender has been silent for {SENDER_GONE_S:g} s"


@dataclass(frozen=True)
class WorkerSettings:
    """The settings that a worker gets when it starts.

    Attributes:
        worker_id: The id of this worker.
        token: A secret, new for each process. The marks of this process's attempts begin with the token.
        incarnation: The incarnation with which this process registers.
        bind_host: The address to which tasks bind, for `IRIS_BIND_HOST`.
        advertise_host: The address at which others reach the tasks, for `IRIS_ADVERTISE_HOST`.
        base_env: The variables with which the environment of a task begins, unless its job brings a complete one.
        own_env: The variables with which each task of this worker reaches the controller by TLS.
        file_limit: How many files a task may open (the soft limit).
        max_log_bytes: How much of an attempt's log is kept if its job sets no limit.
        allocation_end_s: When the engine ends this worker's allocation, in seconds of the monotonic clock. Infinity if
            the engine has no time limit, or if the limit is unknown.
    """

    worker_id: str
    token: str
    incarnation: str
    bind_host: str
    advertise_host: str
    base_env: Mapping[str, str]
    file_limit: int
    own_env: Mapping[str, str] | None = None
    max_log_bytes: int = DEFAULT_MAX_LOG_BYTES
    allocation_end_s: float = math.inf


class Worker:
    """The attempts of this process, and the calls that act on these attempts.

    Args:
        settings: The settings that the worker got when it started.
        directory: The worker directory.
        registry: The object that stores the attempts of this worker.
        shutdown: The object that records whether the worker is ending.
        controller: The connection to the controller.
        reaper: The object that kills the attempts' processes when this process is killed.
        launcher: The object that starts the attempts' processes.
        enforcement: The object that enforces the limits of attempts.
        reporter: The object that reports to the controller; None in tests without a controller.
        log_upload: The object that uploads logs to the controller; None if logs are written into a directory of the
            controller.
        on_ended: A function that is called with the job id, task index and attempt id of each ended attempt.
        headroom: The object that finds out whether the machine can start another attempt. By default, the disks of
            `directory` are measured.

    Attributes:
        tunnels: The tunnels of clients to ports of attempts.
        stacks: The object that reads the call stacks of attempts.
        execs: The tunnels of clients to the commands that they run in attempts.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        directory: WorkerDir,
        registry: AttemptRegistry,
        shutdown: Shutdown,
        controller: ControllerConnection,
        reaper: Reaper,
        launcher: Launcher,
        enforcement: Enforcement,
        reporter: Reporter | None = None,
        log_upload: LogUpload | None = None,
        on_ended: Callable[[str, int, int], None] = lambda job_id, task_index, attempt_id: None,
        headroom: WorkerHeadroom | None = None,
    ) -> None:
        self.worker_id, self._settings = settings.worker_id, settings
        self.registry, self._directory = registry, directory
        self._shutdown = shutdown
        self._controller = controller
        self._enforcement = enforcement
        self._reporter = reporter
        self._log_upload = log_upload
        self._headroom = headroom or WorkerHeadroom(directory.disks)
        self.files = AttemptFiles(registry, self._headroom)
        self._environment = TaskEnvironment(
            settings.worker_id,
            usable_variables(settings.base_env),
            settings.own_env or {},
            settings.bind_host,
            settings.advertise_host,
        )
        self._preparer = AttemptPreparer(directory, controller, PortReservations(settings.bind_host))
        processes = self._make_setup(reaper, launcher)
        self._sampler, self._on_ended = Sampler(enforcement), on_ended
        self.tunnels = self._make_tunnels()
        self.stacks = AttemptStacks(registry, self._find_all_processes, PySpy(processes.strays))
        sessions = ExecSessions(processes, self._build_iris_env)
        self.execs = Tunnels(registry, sessions, EXEC_TUNNEL_TIMES, event="exec")
        self._runner = AttemptRunner(
            registry,
            shutdown,
            self._preparer,
            processes,
            self._headroom,
            reporter,
            self._build_iris_env,
            TimeoutWarnings(self._sampler, settings.token, settings.allocation_end_s),
            self._attempt_ended,
            None if reporter is None else OutputCollector(controller, settings.worker_id, settings.incarnation),
            sessions.end_all,
        )
        self.monitor = AttemptMonitor(registry, self._sampler, settings.token, processes.strays, self._runner.report)
        self._started_at_s, self._count, self._is_draining = time.monotonic(), 0, False

    def _make_setup(self, reaper: Reaper, launcher: Launcher) -> ProcessSetup:
        settings = self._settings
        return ProcessSetup(
            token=settings.token,
            parent_mark=settings.base_env.get(MARK_VARIABLE, ""),
            file_limit=settings.file_limit,
            launcher=launcher,
            reaper=reaper,
            enforcement=self._enforcement,
            strays=StrayProcesses(self.registry, settings.token, (reaper.pid, launcher.pid)),
        )

    def _make_tunnels(self) -> Tunnels:
        hosts = (self._settings.bind_host, self._settings.advertise_host)
        return Tunnels(self.registry, TaskPorts(self._find_processes, hosts))

    async def _find_processes(self, attempt: Attempt) -> list[Process]:
        return await self._sampler.find_processes(attempt, attempt.mark(self._settings.token))

    async def _find_all_processes(self, attempts: Sequence[Attempt]) -> list[list[Process]]:
        token = self._settings.token
        return await self._sampler.find_all_processes([(attempt, attempt.mark(token)) for attempt in attempts])

    def _attempt_ended(self, job_id: str, task_index: int, attempt_id: int) -> None:
        self._on_ended(job_id, task_index, attempt_id)
        for tunnels in (self.tunnels, self.execs):
            tunnels.attempt_ended(make_task_id(job_id, task_index), attempt_id)

    def run_task(self, request: cluster_pb2.Worker.RunTaskRequest, entrypoint: bytes, hosts: str = "") -> Attempt:
        """Begin an attempt and return its record. A repeated request returns the record that exists.

        Args:
            request: The request to run the attempt. The record of the attempt keeps the request.
            entrypoint: The pickled callable. The callable is not part of the request, because all attempts of a job
                share it.
            hosts: The hosts of the gang's tasks, one per line. The hosts are not part of the request, because all
                attempts of a job share them.

        Raises:
            InvalidArgumentError: The request is invalid.
            UnavailableError: The worker is ending, the request is meant for another incarnation, or an attempt of a
                removed job with the same name is still running.
            FailedPreconditionError: The request has no port for the gang's rendezvous.
            ResourceExhaustedError: The attempt needs a port for the rendezvous, and no port is free.
        """
        check_request(request)
        known = self.registry.get(request.task_id, request.attempt_id)
        if known is not None and not self._forget_removed(known, request):
            return known
        self._check_can_begin(request)
        directory = self._directory.attempt(request.task_id, request.attempt_id)
        failpoint("attempt.before")
        shortage = self._create(request, directory)
        failpoint("attempt.after")
        self._count += 1
        log = LogWriter(directory.log, max_bytes=request.max_log_bytes or self._settings.max_log_bytes)
        attempt = Attempt(request, self._count, directory, log, build_started_ms=now_ms())
        if request.HasField("job_left_ms"):
            attempt.job_end_s = time.monotonic() + request.job_left_ms / 1000
        self.registry.add(attempt)
        if shortage is not None:
            self._runner.fail_for_shortage(attempt, shortage)
            return attempt
        if request.stdin:
            attempt.stdin = TaskInput(partial(attempt.write_build_line, _SENDER_GONE))
        elif request.stdin_spent:
            attempt.write_build_line("standard input is empty, because an earlier attempt has read from it")
        if self._log_upload is not None:
            self._log_upload.add(attempt)
        self.registry.start_run(attempt, self._runner.run(attempt, entrypoint, hosts))
        return attempt

    def _forget_removed(self, known: Attempt, request: cluster_pb2.Worker.RunTaskRequest) -> bool:
        """Forget a known attempt if it belongs to a removed job with the same name. Return whether it was forgotten."""
        before, now = known.request.job_submitted_at_ms, request.job_submitted_at_ms
        if before == now or not (before and now):
            return False
        if not known.is_final:
            raise UnavailableError(
                f"worker {self.worker_id} still runs attempt {request.attempt_id} of a removed job named"
                f" {request.job_id!r}"
            )
        self.registry.forget_job(request.job_id, before)
        return True

    async def forget_job(self, request: cluster_pb2.Worker.ForgetJobRequest) -> None:
        """Remove an ended job from this worker: its records, the directories of its attempts with the logs in them, and
        the unpacked workspace. Attempts of a later job with the same name stay.
        """
        self.registry.forget_job(request.job_id, request.job_submitted_at_ms)
        discarded = []
        for first in range(0, request.num_tasks, _FORGOTTEN_AT_ONCE):
            # The directories are chosen anew after each await, because attempts of a later job may begin meanwhile.
            needed = self.registry.busy_directories() | self.registry.directories_of(request.job_id)
            for index in range(first, min(first + _FORGOTTEN_AT_ONCE, request.num_tasks)):
                for directory in self._directory.attempts_of(make_task_id(request.job_id, index)):
                    if directory.path not in needed:
                        discarded.append(self._directory.discard(directory.path))
            await asyncio.sleep(0)
        running = {attempt.request.bundle_hash for attempt in self.registry.running()}
        if request.bundle_hash and request.bundle_hash not in running:
            discarded.append(self._directory.discard_bundle(request.bundle_hash))
        await asyncio.to_thread(remove_discarded, discarded)

    def run_tasks(self, request: cluster_pb2.Worker.RunTasksRequest) -> int:
        """Begin attempts of several tasks of one job.

        Returns:
            The port that is reserved for the rendezvous if task 0 is one of these tasks; otherwise 0.
        """
        entrypoint = split_off_entrypoint(request.shared)
        hosts = split_off_hosts(request.shared)
        reserved = 0
        for slot in sorted(request.places, key=lambda place: place.task_index):
            one = cluster_pb2.Worker.RunTaskRequest()
            one.CopyFrom(request.shared)
            one.task_id = make_task_id(request.shared.job_id, slot.task_index)
            one.task_index = slot.task_index
            one.attempt_id = slot.attempt_id
            one.gpu_ids.extend(slot.gpu_ids)
            one.visible_devices.extend(slot.visible_devices)
            one.token = slot.token
            one.last_ports.update(slot.last_ports)
            one.traceparent = slot.traceparent
            if slot.HasField("seen_task_index"):
                one.seen_task_index = slot.seen_task_index
            one.local_rank, one.local_world_size = slot.local_rank, slot.local_world_size
            attempt = self.run_task(one, entrypoint, hosts)
            if request.shared.rendezvous and not slot.task_index:
                request.shared.master_port = reserved = attempt.request.master_port
        return reserved

    def kill_task(self, task_id: str, attempt_id: int | None, grace_s: float | None) -> None:
        """Stop an attempt. Stopping an attempt that has already ended has no effect.

        Args:
            task_id: The id of the task.
            attempt_id: The id of the attempt; None means the newest attempt.
            grace_s: The grace period; None means the grace period of the job.

        Raises:
            NotFoundError: This process does not know the attempt.
        """
        attempt = self.registry.newest(task_id) if attempt_id is None else self.registry.find(task_id, attempt_id)
        attempt.stop(attempt.grace_s if grace_s is None else grace_s)

    async def write_stdin(self, request: cluster_pb2.Worker.WriteStdinRequest) -> cluster_pb2.Worker.WriteStdinResponse:
        """Write bytes to the standard input of an attempt. If the pipe has too little space, write only the first
        bytes.

        Raises:
            NotFoundError: This process does not know the attempt.
            InvalidArgumentError: There is a gap between the bytes that were written before and the bytes of `request`.
        """
        attempt = self.registry.find(request.task_id, request.attempt_id)
        if attempt.stdin is None:
            return cluster_pb2.Worker.WriteStdinResponse(position=request.position, closed=True)
        is_open = await attempt.stdin.write(request.position, request.data, end=request.end, within_s=_STDIN_TIMEOUT_S)
        return cluster_pb2.Worker.WriteStdinResponse(position=attempt.stdin.position, closed=not is_open)

    def health_check(self) -> cluster_pb2.HealthResponse:
        """Return how long this worker has been running, and how many attempts it runs."""
        return cluster_pb2.HealthResponse(
            healthy=not self._shutdown.reason,
            uptime_ms=int((time.monotonic() - self._started_at_s) * 1000),
            running_tasks=len(self.registry.running()),
            worker_id=self.worker_id,
            now_ms=now_ms(),
        )

    async def drain(self) -> None:
        """Accept no new attempts, and wait until the controller has the ends and the logs of all attempts. The caller
        limits the time to wait.
        """
        self._is_draining = True
        await self.registry.until_all_ended()
        if self._reporter is not None:
            await self._reporter.until_acknowledged()
        if self._log_upload is not None:
            await self._log_upload.until_uploaded()

    async def watch_headroom(self) -> None:
        """Until the worker ends, report to the controller each time the headroom is used up or available again."""
        while True:
            self._runner.report_shortage()
            await asyncio.sleep(_HEADROOM_S)

    async def close(self) -> None:
        """Stop all attempts, and wait until no process of an attempt is left."""
        self._shutdown.begin()
        self.registry.stop_all(_SHUTDOWN_GRACE_S)
        await self.registry.until_all_ended()
        await asyncio.to_thread(self._enforcement.close)

    async def until_ended(self, timeout_s: float) -> bool:
        """Wait until all attempts have ended, and return whether they have ended within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.registry.until_all_ended()
        return not self.registry.running()

    def _check_can_begin(self, request: cluster_pb2.Worker.RunTaskRequest) -> None:
        if self._shutdown.reason or self._is_draining:
            raise UnavailableError(f"worker {self.worker_id} is ending")
        if request.incarnation not in ("", self._settings.incarnation):
            # An earlier process of this worker may have run this attempt already, and the controller may not know yet
            # how the attempt ended. Therefore this process must not run the attempt again.
            raise UnavailableError(f"the request is meant for an earlier or later process of worker {self.worker_id}")
        if request.rendezvous and request.task_index and not request.master_port:
            raise FailedPreconditionError(
                f"task {request.task_index} has no port for the rendezvous of its gang, because task 0 has ended"
                " already, or because the worker of task 0 has a version without rendezvous"
            )

    def _create(self, request: cluster_pb2.Worker.RunTaskRequest, directory: AttemptDir) -> WorkerShortageError | None:
        """Create the attempt's directory and reserve its rendezvous port. Return None after a success. Otherwise return
        the shortage on this machine that prevented the attempt.
        """
        shortage = self._headroom.shortage()
        if shortage:
            return WorkerShortageError(shortage)
        try:
            directory.create()
            if request.rendezvous and not request.task_index:
                request.master_port = self._preparer.reserve_rendezvous_port()
        # The directory and the port do not depend on the job. Therefore the worker is at fault for this error, not the
        # job.
        except OSError as error:
            lack = shortage_of(error) or WorkerShortageError(
                Shortage(f"the worker cannot prepare an attempt: {error}", ShortageCode.OTHER)
            )
            self._headroom.start_failed(lack)
            return lack
        return None

    def _build_iris_env(self, attempt: Attempt) -> dict[str, str]:
        """Return the whole environment of a task's process; see `TaskEnvironment.build`."""
        return self._environment.build(attempt, self._controller.address)
