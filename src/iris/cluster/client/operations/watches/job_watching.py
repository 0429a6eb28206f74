"""The operation that watches the states of a job and its tasks. `WatchVerbs` documents the arguments and errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic

from iris.arguments import JobReference, check_callable, check_flag, check_job_id, check_seconds, check_timeout
from iris.cluster.client.operations.steps import (
    Call,
    CloseStream,
    Item,
    ItemOperation,
    NextMessage,
    OpenStream,
    Pause,
)
from iris.cluster.types import is_job_finished
from iris.errors import ControllerUnreachableError, DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import left_until
from iris.system.backoff import Backoff

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
# The least number of seconds that the controller gets for its first answer, even if `timeout` is shorter.
_SHORTEST_WAIT_S = 1.0

# `on_silence` is called after this many seconds without an answer. Shorter silences are normal, for example at a
# restart.
_SILENCE_S = 2.0
# A watch is over if less than this number of seconds is left until its deadline.
_DEADLINE_S = 0.01

States = ItemOperation[cluster_pb2.JobStatus, None]


def watch_job(
    job_id: str | JobReference,
    *,
    timeout: float | None = None,
    patience_s: float | None = 60.0,
    longest_pause_s: float = LONGEST_PAUSE_S,
    include_tasks: bool = False,
    on_silence: Callable[[UnavailableError], None] = lambda error: None,
    is_aborted: Callable[[], bool] = lambda: False,
) -> States:
    """Check the arguments, and return the operation that yields the states of a job.

    Args:
        job_id: The job.
        timeout, patience_s, longest_pause_s, include_tasks, on_silence: `WatchVerbs.watch_job` documents these
            arguments.
        is_aborted: A function that returns whether the caller has ended the watch, so that a broken stream is not
            opened again.
    """
    request = cluster_pb2.Controller.WatchJobRequest(
        job_id=check_job_id(job_id), include_tasks=check_flag("include_tasks", include_tasks)
    )
    watch = _JobWatch(
        request,
        check_timeout("timeout", timeout),
        check_timeout("patience_s", patience_s),
        check_seconds("longest_pause_s", longest_pause_s, above_zero=True),
        check_callable("on_silence", on_silence),
        is_aborted,
    )
    return watch.states()


class Watch(Generic[Item]):
    """A watch, whose stream is opened again after a lost connection. A subclass reads the stream.

    Args:
        job_id: The id of the job, for errors.
        timeout_s: How many seconds the watch may take. `math.inf`: no limit.
        patience_s: For how many seconds to retry when the controller does not answer.
        longest_pause_s: The longest pause between two tries, in seconds.
        on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.
        is_aborted: A function that returns whether the caller has ended the watch.
    """

    def __init__(
        self,
        job_id: str,
        timeout_s: float,
        patience_s: float,
        longest_pause_s: float,
        on_silence: Callable[[UnavailableError], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        self._job_id = job_id
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._longest_pause_s = longest_pause_s
        self._backoff = Backoff(FIRST_PAUSE_S, longest_pause_s)
        self._on_silence = on_silence
        self._is_aborted = is_aborted
        self._unreachable: UnavailableError | None = None
        self._silent_since: float | None = None
        self._is_silence_told = False

    def states(self) -> ItemOperation[Item, None]:
        """Yield the items of the watch until the watch is over, and open a broken stream again."""
        end = time.monotonic() + self._timeout_s
        if self._timeout_s < _SHORTEST_WAIT_S and (yield from self._ask_once()):
            return
        while end - time.monotonic() > _DEADLINE_S:
            try:
                if (yield from self._read_stream(end)):
                    return
            except DeadlineExceededError as error:
                # If the deadline of the watch has passed, the loop ends. Otherwise the controller has accepted the
                # connection and then was silent for too long, for example because its process was stopped.
                if end - time.monotonic() > _DEADLINE_S:
                    self._note_silence(ControllerUnreachableError(str(error), metadata=error.metadata))
            except UnavailableError as error:
                self._note_silence(error)
            # The pauses of a backoff have jitter, and may therefore be longer than its longest pause.
            left_s = max(0.0, end - time.monotonic())
            yield Pause(min(self._backoff.next_s(), self._longest_pause_s, left_s))
        raise watch_timeout(self._job_id, self._timeout_s, self._unreachable) from self._unreachable

    def _read_stream(self, end: float) -> ItemOperation[Item, bool]:
        """Yield the items that one stream sends. Return whether the watch is over after the last item."""
        raise NotImplementedError

    def _ask_once(self) -> ItemOperation[Item, bool]:
        """Yield the present states once, without waiting for changes. Return whether the last state is final, so that
        the watch is over.
        """
        raise NotImplementedError

    def _answered(self) -> None:
        """Record that the controller has answered."""
        self._silent_since, self._is_silence_told, self._unreachable = None, False, None
        self._backoff.answered()

    def _note_silence(self, error: UnavailableError) -> None:
        self._unreachable = error
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        silent_s = time.monotonic() - self._silent_since
        if silent_s > self._patience_s or self._is_aborted():
            raise error
        if silent_s > _SILENCE_S and not self._is_silence_told:
            self._is_silence_told = True
            self._on_silence(error)


class _JobWatch(Watch[cluster_pb2.JobStatus]):
    """A watch of the states of a job."""

    def __init__(
        self,
        request: cluster_pb2.Controller.WatchJobRequest,
        timeout_s: float,
        patience_s: float,
        longest_pause_s: float,
        on_silence: Callable[[UnavailableError], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        super().__init__(request.job_id, timeout_s, patience_s, longest_pause_s, on_silence, is_aborted)
        self._request = request

    def _read_stream(self, end: float) -> ItemOperation[cluster_pb2.JobStatus, bool]:
        """Yield the states of the job that one stream sends. Return whether the last state is final."""
        # A timeout of months needs several streams, because one stream lasts a day at most.
        left_ms = None if end == math.inf else left_until(end)
        stream = yield OpenStream("watch_job", self._request, timeout_ms=left_ms)
        while True:
            message: cluster_pb2.Controller.WatchJobResponse | None = yield NextMessage(stream)
            if message is None:
                return False
            self._answered()
            if message.HasField("job"):
                yield message.job
                if is_job_finished(message.job.state):
                    yield CloseStream(stream)
                    return True

    def _ask_once(self) -> ItemOperation[cluster_pb2.JobStatus, bool]:
        request = cluster_pb2.Controller.GetJobStatusRequest(job_id=self._request.job_id)
        try:
            answer: cluster_pb2.Controller.GetJobStatusResponse
            answer = yield Call("get_job_status", request, _SHORTEST_WAIT_S)
            yield answer.job
            return is_job_finished(answer.job.state)
        except UnavailableError as error:
            self._unreachable = error
        except DeadlineExceededError:
            pass
        return False


def watch_timeout(job_id: str, timeout_s: float, unreachable: BaseException | None) -> DeadlineExceededError:
    """Return the error for a job that has not ended within the timeout.

    Args:
        job_id: The id of the job.
        timeout_s: The timeout of the watch in seconds.
        unreachable: The error of the last request, if the controller did not answer. None: the controller answered.
    """
    known = f", as far as is known: {unreachable}" if unreachable else ""
    return DeadlineExceededError(f"job {job_id!r} has not ended within {timeout_s:g} s{known}")
