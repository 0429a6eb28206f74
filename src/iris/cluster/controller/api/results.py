"""Streams the results of a job's tasks. A result is sent when the end of its task is saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.watch import BEAT_S, JobWatches
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable, removed_meanwhile
from iris.cluster.controller.removal.dropped_results import explain_dropped_results
from iris.cluster.controller.storage.contents.stored_outcome import add_outcome
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.rpc import cluster_pb2
from iris.system.event_loop import happens

Response = cluster_pb2.Controller.StreamResultsResponse

# A message has at most this many tasks, so that making a message does not keep the controller's loop busy.
_MAX_TASKS = 200
# A message gets no further results once it has this many bytes. A single result has up to 8 MiB.
_MAX_BYTES = 2 * 1024**2
_MERGE_S = 0.02  # Tasks that end within this many seconds are sent in one message.


class ResultStreams:
    """Serves the streams of results.

    Args:
        jobs: The table of all jobs of the cluster.
        reading: The object that reads from the database, in its own threads.
        saver: The object that returns the last saved state of a job, which readers may see.
        store: The database, which contains the results of tasks.
        watches: The object that announces the changes of jobs.
    """

    def __init__(self, jobs: JobTable, reading: StoredJobs, saver: Saver, store: Store, watches: JobWatches) -> None:
        self._jobs = jobs
        self._reading = reading
        self._saver = saver
        self._store = store
        self._watches = watches

    async def check(self, request: cluster_pb2.Controller.StreamResultsRequest) -> JobRecord:
        """Return the job of a request.

        Raises:
            NotFoundError: There is no such job, or no such task.
        """
        record = await self._jobs.find(request.job_id)
        for index in request.task_indices:
            record.check_index(index)
        return record

    async def messages(
        self, record: JobRecord, request: cluster_pb2.Controller.StreamResultsRequest
    ) -> AsyncGenerator[Response]:
        """Yield the messages of one stream of results. While nothing changes, an empty message follows every `BEAT_S`
        seconds.

        1. Send the job at once, so that the caller learns the number of tasks.
        2. Send the tasks that have ended, in the order of their ends, in messages of limited size.
        3. With `follow`, wait for the next change of the job and repeat step 2, until all requested tasks were sent.
        4. With `follow`, and if all tasks are requested, wait until the job is final.
        5. Send the job again.
        """
        wanted = request.task_indices or range(len(record.job.tasks))
        left = dict.fromkeys(index for index in wanted if not _has_bit(request.received, index))
        yield Response(job=await self._job(record))
        while True:
            changed = self._watches.next_change(record.job_id)
            for batch in _batches(await self._ended(record, left)):
                remaining = batch
                while remaining:
                    tasks = await self._with_outcomes(record, remaining)
                    yield Response(tasks=tasks)
                    remaining = remaining[len(tasks) :]
                for index in batch:
                    del left[index]
            is_over = not left and (request.task_indices or self._jobs.is_concluded(record))
            if is_over or not request.follow:
                yield Response(job=await self._job(record))
                return
            while not await happens(changed, BEAT_S):
                yield Response()
            await asyncio.sleep(_MERGE_S)

    async def _job(self, record: JobRecord) -> cluster_pb2.JobStatus:
        while True:
            job = messages.job_status(self._saver.shown(record))
            if await self._saver.settled():
                return job

    async def _ended(self, record: JobRecord, left: dict[int, None]) -> list[int]:
        """Return the indices of the tasks in `left` whose end is saved, in the order of their ends."""
        while True:
            tasks = self._saver.shown(record).job.tasks
            ended = sorted((tasks[index].finished_at_ms, index) for index in left if tasks[index].is_finished)
            if await self._saver.settled():
                return [index for _, index in ended]

    async def _with_outcomes(self, record: JobRecord, indices: Sequence[int]) -> list[cluster_pb2.TaskStatus]:
        """Return the statuses of the given tasks with the outcomes of the tasks. Leave out the last tasks if their
        outcomes do not fit into one message.
        """
        outcomes = await self._reading.run(self._read_outcomes, record, indices)
        shown = self._saver.shown(record)
        tasks = [messages.task_status(shown, index) for index in indices[: len(outcomes)]]
        for task, outcome in zip(tasks, outcomes, strict=True):
            add_outcome(task, outcome)
        await explain_dropped_results(record, tasks, self._reading, self._store)
        return tasks

    def _read_outcomes(self, record: JobRecord, indices: Sequence[int]) -> list[bytes]:
        outcomes: list[bytes] = []
        size = 0
        for index in indices:
            outcome = self._store.result(record.number, index)
            if outcome is None:
                raise removed_meanwhile(record, what="results")
            outcomes.append(outcome)
            size += len(outcome)
            if size > _MAX_BYTES:
                break
        return outcomes


def _batches(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[start : start + _MAX_TASKS] for start in range(0, len(indices), _MAX_TASKS)]


def _has_bit(bits: bytes, index: int) -> bool:
    return index // 8 < len(bits) and bool(bits[index // 8] >> index % 8 & 1)
