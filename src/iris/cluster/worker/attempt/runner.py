"""Runs attempts: prepares an attempt, starts its process, waits for its end, and reports the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from iris.cluster.memory_profile import PROFILE_PATH, profiled
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.outcome import Outcome, conclude, stopped_before_start
from iris.cluster.worker.attempt.preparation import AttemptPreparer
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.controller_link.reporter import Reporter
from iris.cluster.worker.files.collect_outputs import OutputCollector
from iris.cluster.worker.limits.enforcement import Enforcement
from iris.cluster.worker.limits.timeout_warning import TimeoutWarnings
from iris.cluster.worker.process.attempt_process import AttemptProcess
from iris.cluster.worker.process.launcher import Launcher, Program
from iris.cluster.worker.process.memory_profiler import check_memray
from iris.cluster.worker.process.shortage import WorkerHeadroom, WorkerShortageError, shortage_of
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.cluster.worker.supervision.reaper import MARK_VARIABLE, Reaper, make_mark
from iris.cluster.worker.supervision.shutdown import Shutdown
from iris.cluster.worker.supervision.strays import StrayProcesses
from iris.errors import IrisError
from iris.failpoints import failpoint
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessSetup:
    """The parts of a worker that start and end the processes of attempts.

    Attributes:
        token: A secret of the worker. Each process of an attempt has a mark in its environment, and the mark begins
            with this secret.
        parent_mark: The mark of the attempt in which this worker itself runs; empty if the worker runs in no attempt.
        file_limit: How many files a process of an attempt may open (the soft limit).
        launcher: The object that starts the processes.
        reaper: The object that kills the attempts' processes when this worker is killed.
        enforcement: The object that enforces the limits of attempts.
        strays: The object that kills the processes that left the group of their attempt.
    """

    token: str
    parent_mark: str
    file_limit: int
    launcher: Launcher
    reaper: Reaper
    enforcement: Enforcement
    strays: StrayProcesses

    def mark(self, attempt: Attempt) -> dict[str, str]:
        """Return the environment variable by which the processes of an attempt are found."""
        return {MARK_VARIABLE: make_mark(self.token, attempt.number, self.parent_mark)}


class AttemptRunner:
    """Runs the attempts of one worker.

    Args:
        registry: The object that stores the attempts of this worker.
        shutdown: The object that records whether the worker is ending.
        preparer: The object that prepares attempts.
        processes: The parts of the worker that start and end the processes of attempts.
        headroom: The object that finds out whether the machine can start another attempt.
        reporter: The object that reports to the controller; None in tests without a controller.
        build_env: A function that returns the environment of an attempt's process.
        warnings: The object that warns the processes of an attempt before a time limit ends the attempt.
        on_ended: A function that is called when an attempt has ended, with its job id, task index and attempt id.
        outputs: The object that sends the outputs of ended attempts to the controller; None in tests without a
            controller.
        end_execs: A function that kills the commands that clients have started in an attempt, and waits for their ends.
    """

    def __init__(
        self,
        registry: AttemptRegistry,
        shutdown: Shutdown,
        preparer: AttemptPreparer,
        processes: ProcessSetup,
        headroom: WorkerHeadroom,
        reporter: Reporter | None,
        build_env: Callable[[Attempt], dict[str, str]],
        warnings: TimeoutWarnings,
        on_ended: Callable[[str, int, int], None],
        outputs: OutputCollector | None = None,
        end_execs: Callable[[Attempt], Awaitable[None]] | None = None,
    ) -> None:
        self._end_execs = end_execs
        self._outputs = outputs
        self._registry = registry
        self._shutdown = shutdown
        self._preparer = preparer
        self._processes = processes
        self._headroom = headroom
        self._reporter = reporter
        self._build_env = build_env
        self._warnings = warnings
        self._on_ended = on_ended

    async def run(self, attempt: Attempt, entrypoint: bytes, hosts: str) -> None:
        """Run an attempt until it ends, and report the end in every case.

        An attempt runs in these steps:
        1. Prepare the ports, the working directory, the workspace and the entrypoint. An attempt that is stopped during
           the preparation ends here.
        2. Start the process and report that the attempt runs.
        3. Wait until the main process has ended, no other process of the attempt is left, and the log is complete.
        4. Read the result, and send the outputs to the controller.
        5. Release the ports, and report the end. Therefore the outputs are stored before anyone learns of the end.
        """
        try:
            command = await self._preparer.prepare(attempt, entrypoint, hosts)
            if attempt.stop_grace_s is not None:
                self._finish_unstarted(attempt)
                return
            process = await self._start(attempt, command)
            self._started(attempt)
            timeout_s = attempt.request.timeout_seconds
            timer = asyncio.get_running_loop().call_later(timeout_s, attempt.time_out) if timeout_s > 0 else None
            warning = self._warnings.start(attempt)
            exited = await process.wait()
            for limit in (timer, warning):
                if limit is not None:
                    limit.cancel()
            self._processes.reaper.group_ended(process.pid)
            outcome = conclude(attempt, exited, self._shutdown.reason, self._headroom.shortage)
            self.finish(attempt, await self._collect(attempt, outcome))
        except Exception as error:  # noqa: BLE001 - The end of the attempt must be reported after any error.
            await self._run_failed(attempt, error)

    def fail_for_shortage(self, attempt: Attempt, why: WorkerShortageError) -> None:
        """End an attempt that this machine cannot start now. The end counts as a failure of the worker, and not of the
        job.
        """
        self.report_shortage()
        error = f"worker {self._registry.worker_id} could not start the attempt: {why}"
        _log.warning("attempt %s: %s", attempt.key, error)
        self.finish(attempt, Outcome(cluster_pb2.TASK_STATE_WORKER_FAILED, FailureCode.WORKER_SHORTAGE, error))

    def report_shortage(self) -> None:
        """Report to the controller what this worker lacks for another attempt. If the worker lacks nothing, report the
        end of the shortage.
        """
        if self._reporter is not None:
            self._reporter.set_shortage(self._headroom.shortage())

    def finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """End an attempt: close its log, release what it has reserved, set its final state, and report the end."""
        if attempt.stdin is not None:
            attempt.stdin.close()
        failpoint("finish.before")
        attempt.log.close()
        failpoint("finish.after")
        if not attempt.log.is_ended:
            self._registry.log_without_end(attempt)
        self._preparer.release_ports(attempt)
        if attempt.enforcer is not None:
            self._processes.enforcement.release(attempt.enforcer)
        attempt.process = None
        attempt.out_of_memory = outcome.code is not None and outcome.code.is_out_of_memory
        attempt.error = outcome.error
        attempt.failure = outcome.code or FailureCode.UNSPECIFIED
        attempt.finished_at_ms = now_ms()
        attempt.state = outcome.state
        attempt.log_state()
        self._registry.tally.add(attempt.state, attempt.log)
        self.report(attempt)
        self._on_ended(attempt.request.job_id, attempt.request.task_index, attempt.request.attempt_id)
        self._registry.forget_surplus()

    def _finish_unstarted(self, attempt: Attempt) -> None:
        self.finish(attempt, stopped_before_start(self._registry.worker_id, self._shutdown.reason))

    async def _collect(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Send the outputs of an attempt that has succeeded or failed. Return how the attempt has ended.

        If the attempt is stopped while its outputs are being sent, even a successful attempt ends without success. If
        the worker is ending, the task is retried elsewhere, because its outputs would be lost otherwise.
        """
        is_ended = outcome.state in (cluster_pb2.TASK_STATE_SUCCEEDED, cluster_pb2.TASK_STATE_FAILED)
        has_outputs = attempt.request.outputs or attempt.request.profile_memory
        if self._outputs is None or not has_outputs or not is_ended:
            return outcome
        attempt.collection = asyncio.create_task(self._outputs.collect(attempt))
        await asyncio.wait({attempt.collection})
        if not attempt.collection.cancelled():
            return outcome
        attempt.output_warning = "the outputs are not stored, because the attempt was stopped while they were collected"
        if outcome.state == cluster_pb2.TASK_STATE_FAILED:
            return outcome
        if self._shutdown.reason:
            return Outcome(cluster_pb2.TASK_STATE_WORKER_FAILED, FailureCode.WORKER_SHUTDOWN, self._shutdown.reason)
        return Outcome(cluster_pb2.TASK_STATE_KILLED, FailureCode.STOPPED_ON_WORKER, attempt.output_warning)

    async def _start(self, attempt: Attempt, command: list[str]) -> AttemptProcess:
        processes = self._processes
        memory_bytes = attempt.request.resources.memory_bytes
        attempt.enforcer = enforcer = processes.enforcement.create_enforcer(attempt.number, memory_bytes)

        async def end_strays() -> None:
            if self._end_execs is not None:
                await self._end_execs(attempt)
            enforcer.kill()
            await processes.strays.kill()

        env = self._build_env(attempt) | processes.mark(attempt)
        if attempt.request.profile_memory:
            await check_memray(command, str(attempt.working_directory), env, processes.strays)
            if attempt.stop_grace_s is not None:
                raise NotStartedError("the attempt was stopped before its program was started")
            command = profiled(command, str(attempt.directory.profiled / PROFILE_PATH))
        failpoint("spawn.before")
        attempt.is_starting = True
        try:
            process = await AttemptProcess.start(
                Program(command, str(attempt.working_directory), env, processes.file_limit, attempt.umask),
                processes.launcher,
                append=lambda source, data: attempt.log.append(source, data, now_ms()),
                end_strays=end_strays,
                stdin=None if attempt.stdin is None else attempt.stdin.reading,
            )
        finally:
            attempt.is_starting = False
            if attempt.stdin is not None:
                attempt.stdin.close_reading_end()
        attempt.process = process
        failpoint("spawn.after")
        processes.reaper.group_started(process.pid)
        enforcer.enter(process.pid)
        # If the attempt was stopped while its process was starting, the new process is stopped at once.
        if attempt.stop_grace_s is not None:
            process.stop(attempt.stop_grace_s)
        return process

    def _started(self, attempt: Attempt) -> None:
        self._headroom.started()
        attempt.announcement.process_started()
        attempt.state = cluster_pb2.TASK_STATE_RUNNING
        attempt.started_at_ms, attempt.started_s = now_ms(), time.monotonic()
        attempt.log_state()
        self.report(attempt)

    async def _run_failed(self, attempt: Attempt, error: Exception) -> None:
        """End an attempt that could not be prepared or started, or that this worker can no longer supervise."""
        shortage = shortage_of(error)
        if isinstance(error, IrisError | OSError) and attempt.process is None and attempt.stop_grace_s is not None:
            self._finish_unstarted(attempt)
        elif shortage is not None and attempt.process is None:
            self._headroom.start_failed(shortage)
            self.fail_for_shortage(attempt, shortage)
        elif isinstance(error, IrisError):
            if isinstance(error, NotStartedError):
                attempt.exit_code = error.exit_code
                if error.details:
                    attempt.write_build_line(error.details)
            self.finish(attempt, Outcome(cluster_pb2.TASK_STATE_FAILED, FailureCode.START_FAILED, str(error)))
        else:
            _log.error("attempt %s", attempt.key, exc_info=error)
            if attempt.process is not None:
                await _abandon(attempt.process)
                self._processes.reaper.group_ended(attempt.process.pid)
            text = f"the worker could not run the attempt: {type(error).__name__}: {error}"
            self.finish(attempt, Outcome(cluster_pb2.TASK_STATE_FAILED, FailureCode.INTERNAL, text))

    def report(self, attempt: Attempt) -> None:
        """Report the state of an attempt to the controller."""
        if self._reporter is not None:
            self._reporter.report(attempt)


async def _abandon(process: AttemptProcess) -> None:
    """Kill the processes of an attempt that can no longer be supervised, and capture the rest of their output."""
    process.signal_group(signal.SIGKILL)
    # The error that has ended the supervision may occur again. The attempt ends with the first error.
    with contextlib.suppress(Exception):
        await process.wait()
