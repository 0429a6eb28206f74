"""Answers the calls that store and list outputs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from iris.cluster.controller.api import messages
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.outputs.output_store import OutputStore
from iris.cluster.controller.outputs.stored_files import why_missing
from iris.cluster.controller.storage.saver import SavedJobs
from iris.cluster.memory_profile import stores_outputs
from iris.cluster.types import parse_task_id
from iris.errors import FailedPreconditionError, InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import Controller
from iris.rpc.pages import number_in, page_token_of

_PAGE_BYTES = 1 << 20
_PAGE_ATTEMPTS = 200


class OutputCalls:
    """The calls that store and list outputs.

    Args:
        jobs: The table of all jobs of the cluster.
        saved: The object that returns the last saved state of a job, which callers may see.
        store: The stored outputs; None if this controller stores none.
    """

    def __init__(self, jobs: JobTable, saved: SavedJobs, store: OutputStore | None) -> None:
        self._jobs = jobs
        self._saved = saved
        self._store = store

    async def store_outputs(self, request: Controller.StoreOutputsRequest) -> Controller.StoreOutputsResponse:
        """Store a part of the outputs of an attempt.

        Raises:
            InvalidArgumentError: A number in the request is invalid.
        """
        directory = await self._directory_for(request)
        if directory is None or self._store is None:
            why = "this controller stores none" if self._store is None else "the attempt is unknown, or has ended"
            return Controller.StoreOutputsResponse(refused=why, reason=cluster_pb2.OUTPUT_REASON_NOT_COLLECTED)
        if min(request.position, request.total_bytes, request.index_bytes) < 0:
            raise InvalidArgumentError(
                "position, total_bytes and index_bytes must be 0 or greater,"
                f" got {request.position}, {request.total_bytes} and {request.index_bytes}"
            )
        return await self._store.store(directory, request)

    async def _directory_for(self, request: Controller.StoreOutputsRequest) -> Path | None:
        """Return the directory for the outputs of a live attempt. Return None if the calling worker does not run the
        attempt.
        """
        job_id, task_index = parse_task_id(request.task_id)
        record = await self._jobs.get(job_id)
        tasks = record.job.tasks if record is not None else ()
        attempts = tasks[task_index].attempts if task_index < len(tasks) else ()
        attempt = attempts[request.attempt_id] if 0 <= request.attempt_id < len(attempts) else None
        if record is None or attempt is None or not attempt.is_live or self._store is None:
            return None
        if (attempt.worker_id, attempt.worker_incarnation) != (request.worker_id, request.incarnation):
            return None
        if request.job_submitted_at_ms != record.job.submitted_at_ms:
            return None
        return self._store.directory_of(record, task_index, request.attempt_id)

    async def list_outputs(self, request: Controller.ListOutputsRequest) -> Controller.ListOutputsResponse:
        """Return a page of the outputs of a job.

        Raises:
            NotFoundError: There is no such job or task.
            FailedPreconditionError: The job was submitted without outputs.
            InvalidArgumentError: The page token was not made for this list.
        """
        record = await self._jobs.find(request.job_id)
        for index in request.task_indices:
            record.check_index(index)
        if not stores_outputs(record.launch):
            raise FailedPreconditionError(
                f"job {record.job_id!r} was submitted without outputs: submit it with 'iris run --output DIR', or"
                " outputs=[…]"
            )
        shown = self._saved.shown(record)
        attempts = _attempts(shown, request)
        begin = number_in("outputs", request.page_token, len(attempts)) if request.page_token else 0
        answer, size = Controller.ListOutputsResponse(), 0
        for number, (index, attempt_id) in enumerate(attempts[begin:], begin):
            if number - begin >= _PAGE_ATTEMPTS or size > _PAGE_BYTES:
                answer.next_page_token = page_token_of("outputs", number)
                break
            attempt = messages.task_status(shown, index).attempts[attempt_id]
            outputs = await asyncio.to_thread(self._outputs, record, index, attempt)
            size += outputs.ByteSize()
            answer.outputs.append(outputs)
        return answer

    def _outputs(
        self, record: JobRecord, index: int, attempt: cluster_pb2.TaskAttempt
    ) -> cluster_pb2.Controller.Outputs:
        outputs = Controller.Outputs(task_index=index, attempt_id=attempt.attempt_id)
        stored = pack = None
        if self._store is not None:
            directory = self._store.directory_of(record, index, attempt.attempt_id)
            stored = self._store.stored(directory)
            try:
                pack = self._store.pack(directory)
            except (OSError, ValueError) as error:
                outputs.reason, outputs.missing = cluster_pb2.OUTPUT_REASON_UNREADABLE, f"they cannot be read: {error}"
                return outputs
        if pack is not None:
            outputs.files.extend(pack.files)
        else:
            reason, outputs.missing = why_missing(stored, attempt)
            outputs.reason = reason  # type: ignore[assignment] # The number of an enum.
        return outputs


def _attempts(shown: JobRecord, request: Controller.ListOutputsRequest) -> list[tuple[int, int]]:
    """Return the task index and the attempt id of each requested attempt. No messages are made, because a job may have
    very many attempts, and a page contains only a few of them.
    """
    found = []
    for index in sorted(set(request.task_indices)) or range(len(shown.job.tasks)):
        count = len(shown.job.tasks[index].attempts)
        found += [(index, number) for number in range(0 if request.all_attempts else max(0, count - 1), count)]
    return found
