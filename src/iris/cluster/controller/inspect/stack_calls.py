"""Serves the calls of ControllerService that read and sample the call stacks of tasks.

The controller asks all workers of the job at the same time, each with a deadline. If a worker does not answer, the
caller waits until the deadline, and gets the answers of all other workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from iris.arguments import check_whole_number
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import Task, TaskAttempt
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.stacks.merging import merge_samples, merge_stacks
from iris.cluster.stacks.size_limit import SizeLimit
from iris.cluster.types import state_name
from iris.errors import IrisError, ResourceExhaustedError, UnimplementedError
from iris.event_log import log_event
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import caller
from iris.rpc.calls import call_async
from iris.rpc.cluster_pb2 import Controller, ReadStacksResponse, SampleStacksResponse, StackReason
from iris.rpc.peer import Peer
from iris.rpc.serving.fair_lane import FairLane

_READ_S = 20.0  # Each worker must answer within this many seconds, which is less than the timeout of clients.
_SAMPLE_EXTRA_S = 12.0
_WORKERS_AT_ONCE = 256
_AT_ONCE = 8
_PER_CALLER = 2
_MOST_BYTES = 64 * 1024 * 1024  # The answers of all workers to one call may together have this many bytes.
_TOO_LARGE = "the stacks are too large for one answer: read fewer tasks at once, or leave out the values of variables"
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer", ReadStacksResponse, SampleStacksResponse)


class Unread(NamedTuple):
    """A task whose stacks cannot be read.

    Attributes:
        task_index: The index of the task in its job, from 0.
        attempt_id: The attempt; -1 if the task has had none.
        worker_id: The worker of the attempt.
        reason: The reason, as a code for programs.
        problem: The reason as text for people.
    """

    task_index: int
    attempt_id: int
    worker_id: str
    reason: StackReason
    problem: str


class _Wanted(NamedTuple):
    """A worker, and the attempts whose stacks this worker must read, by task index."""

    worker: WorkerRecord
    attempts: dict[int, cluster_pb2.Worker.StackedAttempt]


class StackCalls:
    """The calls of `ControllerService` about call stacks. The file cluster.proto documents each call.

    Args:
        jobs: The table of all jobs of the cluster.
        workers: The workers that have registered, by id.
        read_s: How many seconds a worker has to answer a call for stacks.
    """

    def __init__(self, jobs: JobTable, workers: Mapping[str, WorkerRecord], read_s: float = _READ_S) -> None:
        self._stack_jobs = jobs
        self._stack_workers = workers
        self._read_s = read_s
        self._stack_lane = FairLane(
            "readings of stacks", at_once=_AT_ONCE, per_caller=_PER_CALLER, waiting_per_caller=16, waiting=1000
        )

    async def read_stacks(self, request: Controller.ReadStacksRequest, ctx: Any) -> ReadStacksResponse:
        """Return the call stacks of all processes of a job's tasks."""
        record = await self._stack_jobs.find(request.job_id)
        if request.with_variables:
            log_event(
                _log,
                "stacks.read",
                job_id=request.job_id,
                tasks=len(request.task_indices) or len(record.job.tasks),
                variables=True,
                user=caller().name,
                role=caller().role,
            )

        async def ask(wanted: _Wanted) -> ReadStacksResponse:
            passed = cluster_pb2.Worker.ReadStacksRequest(
                attempts=wanted.attempts.values(), with_variables=request.with_variables
            )
            return await call_async(
                wanted.worker.stub.read_stacks, passed, _peer(wanted.worker), timeout_s=self._read_s
            )

        async with self._stack_lane.turn(caller().key):
            answers, unread = await self._gather(record, request.task_indices, ask)
            others = [cluster_pb2.TaskStacks(**one._asdict()) for one in unread]
            return await asyncio.to_thread(merge_stacks, answers, others)

    async def sample_stacks(self, request: Controller.SampleStacksRequest, ctx: Any) -> SampleStacksResponse:
        """Sample the call stacks of all processes of a job's tasks, and return how many times each stack was seen."""
        check_whole_number("seconds", request.seconds, least=1, most=10)
        check_whole_number("rate", request.rate, most=1000)
        record = await self._stack_jobs.find(request.job_id)
        timeout_s = request.seconds + _SAMPLE_EXTRA_S

        async def ask(wanted: _Wanted) -> SampleStacksResponse:
            passed = cluster_pb2.Worker.SampleStacksRequest(
                attempts=wanted.attempts.values(),
                seconds=request.seconds,
                rate=request.rate,
                with_idle=request.with_idle,
            )
            return await call_async(wanted.worker.stub.sample_stacks, passed, _peer(wanted.worker), timeout_s=timeout_s)

        async with self._stack_lane.turn(caller().key):
            answers, unread = await self._gather(record, request.task_indices, ask)
            others = [cluster_pb2.SampledTask(**one._asdict()) for one in unread]
            return await asyncio.to_thread(merge_samples, answers, others)

    async def _gather(
        self, record: JobRecord, task_indices: Iterable[int], ask: Callable[[_Wanted], Awaitable[Answer]]
    ) -> tuple[list[Answer], list[Unread]]:
        """Ask the workers of a job's running tasks, and return their answers and the tasks without an answer."""
        indices = sorted(set(task_indices)) or range(len(record.job.tasks))
        unread: list[Unread] = []
        wanted: dict[str, _Wanted] = {}
        for index in indices:
            record.check_index(index)
            task = record.job.tasks[index]
            attempt = task.live_attempt
            if attempt is None:
                unread.append(_not_running(task))
                continue
            worker = self._worker_of(attempt)
            if worker is None:
                unread.append(_unreachable(index, attempt))
                continue
            of_worker = wanted.setdefault(attempt.worker_id, _Wanted(worker, {}))
            of_worker.attempts[index] = cluster_pb2.Worker.StackedAttempt(
                task_id=task.task_id, attempt_id=attempt.attempt_id
            )
        turns, limit = asyncio.Semaphore(_WORKERS_AT_ONCE), SizeLimit(_MOST_BYTES)

        async def ask_one(one: _Wanted) -> Answer | IrisError:
            async with turns:
                try:
                    answer = await ask(one)
                except IrisError as error:
                    return error
            return answer if limit.admit(answer.ByteSize()) else ResourceExhaustedError(_TOO_LARGE)

        answers: list[Answer] = []
        asked = list(wanted.values())
        for one, answer in zip(asked, await asyncio.gather(*map(ask_one, asked)), strict=True):
            if isinstance(answer, IrisError):
                unread += _failed(one, answer)
            else:
                answers.append(answer)
        return answers, unread

    def _worker_of(self, attempt: TaskAttempt) -> WorkerRecord | None:
        worker = self._stack_workers.get(attempt.worker_id)
        if worker is None or worker.is_dead or worker.identity.incarnation != attempt.worker_incarnation:
            return None
        return worker


def _not_running(task: Task) -> Unread:
    newest = task.attempts[-1] if task.attempts else None
    return Unread(
        task.task_index,
        -1 if newest is None else newest.attempt_id,
        "" if newest is None else newest.worker_id,
        cluster_pb2.STACK_REASON_NOT_RUNNING,
        f"the task does not run: its state is {state_name(task.state)}",
    )


def _unreachable(task_index: int, attempt: TaskAttempt) -> Unread:
    return Unread(
        task_index,
        attempt.attempt_id,
        attempt.worker_id,
        cluster_pb2.STACK_REASON_WORKER_UNREACHABLE,
        f"worker {attempt.worker_id!r} does not answer",
    )


def _failed(wanted: _Wanted, error: IrisError) -> list[Unread]:
    worker_id = wanted.worker.identity.worker_id
    reason, problem = cluster_pb2.STACK_REASON_WORKER_UNREACHABLE, str(error)
    if isinstance(error, ResourceExhaustedError):
        reason = cluster_pb2.STACK_REASON_FAILED
    if isinstance(error, UnimplementedError):
        reason = cluster_pb2.STACK_REASON_WORKER_TOO_OLD
        problem = f"worker {worker_id!r} has an older release of Iris, which cannot read stacks"
    return [Unread(index, attempt.attempt_id, worker_id, reason, problem) for index, attempt in wanted.attempts.items()]


def _peer(worker: WorkerRecord) -> Peer:
    return Peer(worker.identity.address, f"worker {worker.identity.worker_id!r}")
