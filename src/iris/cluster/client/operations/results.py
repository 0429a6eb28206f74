"""The operation that reads the results of a job's tasks. `ResultVerbs` documents the arguments and errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from iris.arguments import JobReference, check_callable, check_job_id, check_task_indices, check_timeout
from iris.cluster.client.operations.steps import CloseStream, ItemOperation, NextMessage, OpenStream
from iris.cluster.client.operations.watches.job_watching import LONGEST_PAUSE_S, Watch
from iris.cluster.types import is_job_finished
from iris.errors import DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import left_until

Request = cluster_pb2.Controller.StreamResultsRequest
Response = cluster_pb2.Controller.StreamResultsResponse
Status = cluster_pb2.TaskStatus | cluster_pb2.JobStatus
Results = ItemOperation[Status, None]

_FIRST_ANSWER_S = 1.0  # The least number of seconds that the controller gets for its first answer.


def stream_results(
    job_id: str | JobReference,
    task_indices: Sequence[int] | None = None,
    *,
    timeout: float | None = None,
    patience_s: float | None = 60.0,
    on_silence: Callable[[UnavailableError], None] = lambda error: None,
    is_aborted: Callable[[], bool] = lambda: False,
) -> Results:
    """Check the arguments, and return an operation that yields the job, then each task of the job once it has ended,
    and at last the job again.

    Args:
        job_id: The job.
        task_indices, timeout, patience_s, on_silence: `ResultVerbs.stream_results` documents these arguments.
        is_aborted: A function that returns whether the caller has ended the stream, so that a broken stream is not
            opened again.
    """
    indices = [] if task_indices is None else check_task_indices("task_indices", task_indices)
    results = _ResultWatch(
        Request(job_id=check_job_id(job_id), task_indices=indices, follow=True),
        check_timeout("timeout", timeout),
        check_timeout("patience_s", patience_s),
        check_callable("on_silence", on_silence),
        is_aborted,
    )
    return results.states()


class _ResultWatch(Watch[Status]):
    """A stream of the ended tasks of a job. After a lost connection, only the missing tasks are requested."""

    def __init__(
        self,
        request: Request,
        timeout_s: float,
        patience_s: float,
        on_silence: Callable[[UnavailableError], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        super().__init__(request.job_id, timeout_s, patience_s, LONGEST_PAUSE_S, on_silence, is_aborted)
        self._request = request
        self._received = bytearray()
        self._missing = set(request.task_indices)

    def _read_stream(self, end: float) -> ItemOperation[Status, bool]:
        return (yield from self._read(self._request, end))

    def _ask_once(self) -> ItemOperation[Status, bool]:
        request = Request()
        request.CopyFrom(self._request)
        request.follow = False
        try:
            return (yield from self._read(request, time.monotonic() + _FIRST_ANSWER_S))
        except UnavailableError as error:
            self._unreachable = error
        except DeadlineExceededError:
            pass
        return False

    def _read(self, request: Request, end: float) -> ItemOperation[Status, bool]:
        request.received = bytes(self._received)
        stream = yield OpenStream("stream_results", request, timeout_ms=None if end == math.inf else left_until(end))
        while True:
            message: Response | None = yield NextMessage(stream)
            if message is None:
                return False
            self._answered()
            for task in message.tasks:
                self._note_received(task.task_index)
                yield task
            if message.HasField("job"):
                yield message.job
            if self._has_all(message):
                yield CloseStream(stream)
                return True

    def _has_all(self, message: Response) -> bool:
        if self._request.task_indices:
            return not self._missing
        if not message.HasField("job") or not is_job_finished(message.job.state):
            return False
        return sum(byte.bit_count() for byte in self._received) == message.job.num_tasks

    def _note_received(self, index: int) -> None:
        if len(self._received) <= index // 8:
            self._received.extend(bytes(index // 8 + 1 - len(self._received)))
        self._received[index // 8] |= 1 << index % 8
        self._missing.discard(index)
