"""Starts and stops attempts on their workers, according to a job's instructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from iris.cluster.controller.api.standard_input import StandardInput
from iris.cluster.controller.auth.cluster_tokens import ClusterTokens
from iris.cluster.controller.background import BackgroundTasks
from iris.cluster.controller.jobs.instructions import StartAttempt, StopAttempt
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import FAILED, KILLED, AttemptEnd
from iris.cluster.controller.scheduling.deadlines import job_left_ms
from iris.cluster.controller.scheduling.slots import SlotTable
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.workers import dispatch
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.rendezvous import GangRendezvous
from iris.cluster.pickles.transfer_limits import explain_python_mismatch
from iris.errors import IrisError
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms


class AttemptControl:
    """Calls workers to start and stop attempts. Each call runs in the background, until the worker has answered or the
    attempt has ended.

    Args:
        fleet: The object that knows all workers of the cluster.
        slots: The table of the slots of all placed tasks.
        stdin: The object that passes standard input to attempts.
        tokens: The object that makes the tokens of attempts.
        saver: The object that saves the changed jobs.
        background: The object that runs the calls to workers in the background.
    """

    def __init__(
        self,
        fleet: Fleet,
        slots: SlotTable,
        stdin: StandardInput,
        tokens: ClusterTokens,
        saver: Saver,
        background: BackgroundTasks,
    ) -> None:
        self._fleet = fleet
        self._slots = slots
        self._stdin = stdin
        self._tokens = tokens
        self._saver = saver
        self._background = background

    def carry_out(self, record: JobRecord, instructions: Iterable[StartAttempt | StopAttempt]) -> None:
        """Start and stop attempts of a job, in the order of the instructions."""
        starts: list[StartAttempt] = []
        for instruction in instructions:
            if isinstance(instruction, StartAttempt):
                starts.append(instruction)
            else:
                # Calls that start attempts are sent first, because a call to stop an attempt must not reach the worker
                # earlier than the call to start it.
                self._start_all(record, starts)
                starts = []
                self._background.start(self._stop(record, instruction))
        self._start_all(record, starts)

    def _start_all(self, record: JobRecord, starts: Sequence[StartAttempt]) -> None:
        if not starts:
            return
        hosts = dispatch.hosts_of(record.job)
        if record.job.rendezvous:
            self._background.start(self._start_rendezvous(record, starts, hosts))
        else:
            for worker_id, group in _by_worker(starts).items():
                self._background.start(self._start(record, worker_id, group, hosts))

    async def _start_rendezvous(self, record: JobRecord, starts: Sequence[StartAttempt], hosts: Sequence[str]) -> None:
        """Start the attempts of a job with a rendezvous.

        1. The worker of task 0 is called first, because this worker reserves the port at which all tasks meet. If the
           worker already runs task 0, for example after a restart of the controller, the worker returns the same port
           again.
        2. The other workers are called with this port. An attempt that has been stopped by that time is not started.
        3. If task 0 succeeded before a restart of the controller, the port is unknown. The other workers are then
           called without a port. A worker that already runs its attempt ignores the call, and any other worker refuses
           the attempt.
        """
        job = record.job

        def is_wanted() -> bool:
            return any(job.is_attempt_live(start.task_index, start.attempt_id) for start in starts)

        for attempt in job.live_attempts().values():
            await self._fleet.registered(attempt.worker_id, is_wanted)
        if not is_wanted():
            return
        meeting = GangRendezvous.of(record, self._slots.of_job(job.job_id), self._fleet.workers)
        groups = _by_worker(start for start in starts if start.task_index)
        first = job.tasks[0].live_attempt
        if first is not None:
            own = [StartAttempt(0, first.attempt_id, first.worker_id), *groups.pop(first.worker_id, ())]
            answer = await self._start(record, first.worker_id, own, hosts, meeting)
            if answer is None:
                # The other attempts are started only after the worker of task 0 has answered. Without an answer, the
                # worker has refused task 0, or the gang restarts or ends.
                return
            meeting.master_port = answer.master_port
        for worker_id, group in groups.items():
            self._background.start(self._start(record, worker_id, group, hosts, meeting))

    async def _start(
        self,
        record: JobRecord,
        worker_id: str,
        starts: Sequence[StartAttempt],
        hosts: Sequence[str],
        meeting: GangRendezvous | None = None,
    ) -> cluster_pb2.Worker.RunTasksResponse | None:
        """Start attempts on one worker, and return the worker's answer. Return None if no attempt was started, because
        the worker refuses the attempts or has another Python than the callable needs, or because all attempts have
        ended.
        """
        job, is_live = record.job, record.job.is_attempt_live
        worker = await self._fleet.registered(
            worker_id, lambda: any(is_live(start.task_index, start.attempt_id) for start in starts)
        )
        if worker is None:
            return None
        starts = [start for start in starts if is_live(start.task_index, start.attempt_id)]
        # Attempts that were stopped while the controller waited for the answer about task 0 are not started.
        if meeting is not None:
            starts = [start for start in starts if job.tasks[start.task_index].stop is None]
        why_not = explain_python_mismatch(worker.python_version, record.launch.pickled_by)
        if why_not:  # No attempt is started, because the worker's Python cannot load the callable.
            self._starts_failed(record, starts, why_not)
            return None
        slots = self._slots.of_job(job.job_id)
        request = dispatch.run_tasks_request(
            worker.identity, job, record.launch, starts, slots, hosts, self._tokens.task_token
        )
        for place in request.places:
            # The worker gets the ports of the last attempt, which the facts contain until the next attempt reports.
            place.last_ports.update(record.facts[place.task_index].ports)
        is_taken = self._stdin.is_taken(job.job_id)
        request.shared.stdin = record.launch.stdin and not is_taken and not self._stdin.has_ended(job.job_id)
        request.shared.stdin_spent = is_taken
        if meeting is not None:
            meeting.describe(request)
        set_time_left = partial(_set_time_left, request, record)
        try:
            return await dispatch.start_attempts(
                worker, job.job_id, starts, request, is_live, self._fleet.calls, set_time_left
            )
        except IrisError as error:
            self._starts_failed(record, starts, f"worker {worker_id} refused the attempt: {error}")
            return None

    def _starts_failed(self, record: JobRecord, starts: Sequence[StartAttempt], error: str) -> None:
        end = AttemptEnd(FAILED, now_ms(), error=error, failure=FailureCode.START_FAILED)
        for start in starts:
            instructions = record.job.attempt_ended(start.task_index, start.attempt_id, end, now_ms())
            self._saver.job_changed(record, instructions)

    async def _stop(self, record: JobRecord, stop: StopAttempt) -> None:
        job = record.job
        worker = await self._fleet.registered(
            stop.worker_id, lambda: job.is_attempt_live(stop.task_index, stop.attempt_id)
        )
        if worker is None:
            return
        has_it = await dispatch.stop_attempt(worker, job.job_id, stop, job.is_attempt_live, self._fleet.calls)
        if not has_it:
            end = AttemptEnd(KILLED, now_ms(), error="stopped before it started", failure=FailureCode.STOPPED_ON_WORKER)
            self._saver.job_changed(record, job.attempt_ended(stop.task_index, stop.attempt_id, end, now_ms()))


def _set_time_left(request: cluster_pb2.Worker.RunTasksRequest, record: JobRecord) -> None:
    left_ms = job_left_ms(record)
    if left_ms is not None:
        request.shared.job_left_ms = left_ms


def _by_worker(starts: Iterable[StartAttempt]) -> dict[str, list[StartAttempt]]:
    groups: dict[str, list[StartAttempt]] = {}
    for start in starts:
        groups.setdefault(start.worker_id, []).append(start)
    return groups
