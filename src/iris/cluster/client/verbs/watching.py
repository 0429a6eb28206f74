"""Watches the states of a job and its tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from iris.arguments import (
    JobReference,
    check_callable,
    check_flag,
    check_instance,
    check_job_id,
    check_seconds,
    check_timeout,
)
from iris.cluster.client.verbs.connection import ClusterConnection, ClusterVerbs
from iris.cluster.types import is_job_finished
from iris.errors import DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import left_until, stream
from iris.rpc.http.client.stream_handle import StreamHandle
from iris.system.backoff import Backoff

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
# The controller gets at least this many seconds for its first answer, even if `timeout` is shorter.
_SHORTEST_WAIT_S = 1.0

# `on_silence` is called after this many seconds without an answer. Shorter silences are normal, for example at a
# restart.
_SILENCE_S = 2.0


class WatchVerbs(ClusterVerbs):
    """The call that watches a job."""

    def watch_job(
        self,
        job_id: str | JobReference,
        *,
        timeout: float | None = None,
        patience_s: float | None = 60.0,
        longest_pause_s: float = _LONGEST_PAUSE_S,
        include_tasks: bool = False,
        handle: StreamHandle | None = None,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> Iterator[cluster_pb2.JobStatus]:
        """Yield the state of a job after each change, up to its final state. Reconnect after a lost connection.

        Args:
            job_id: The job: its id, or a `Job`.
            timeout: The seconds after which to give up. None and `math.inf` wait forever. Even with a shorter timeout,
                the controller gets one second to answer the first request.
            patience_s: For how many seconds to retry when the controller does not answer. None and `math.inf` retry
                forever.
            longest_pause_s: The longest pause in seconds between two tries.
            include_tasks: Whether each state includes the tasks that have changed. If True, the first state includes
                all tasks.
            handle: A handle with which another thread can end the watch.
            on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.

        Raises:
            NotFoundError: There is no such job.
            DeadlineExceededError: (a `TimeoutError`) The job has not ended within `timeout`. If the controller did not
                answer at the end, `__cause__` is the reason.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
        """
        request = cluster_pb2.Controller.WatchJobRequest(
            job_id=check_job_id(job_id), include_tasks=check_flag("include_tasks", include_tasks)
        )
        watch = _Watch(
            self._connection,
            request,
            check_timeout("timeout", timeout),
            check_timeout("patience_s", patience_s),
            check_seconds("longest_pause_s", longest_pause_s, above_zero=True),
            handle if handle is None else check_instance("handle", handle, StreamHandle),
            check_callable("on_silence", on_silence),
        )
        return watch.states()


class _Watch:
    """One running call of `WatchVerbs.watch_job`, with its arguments and its state."""

    def __init__(
        self,
        connection: ClusterConnection,
        request: cluster_pb2.Controller.WatchJobRequest,
        timeout_s: float,
        patience_s: float,
        longest_pause_s: float,
        handle: StreamHandle | None,
        on_silence: Callable[[UnavailableError], None],
    ) -> None:
        self._connection = connection
        self._request = request
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._backoff = Backoff(_FIRST_PAUSE_S, longest_pause_s)
        self._handle = handle
        self._on_silence = on_silence
        self._unreachable: UnavailableError | None = None
        self._silent_since: float | None = None
        self._is_silence_told = False

    def states(self) -> Iterator[cluster_pb2.JobStatus]:
        """Yield the states."""
        end = time.monotonic() + self._timeout_s
        if self._timeout_s < _SHORTEST_WAIT_S:
            job = self._ask_once()
            if job is not None:
                yield job
                if is_job_finished(job.state):
                    return
        while end - time.monotonic() > 0.01:
            try:
                with closing(self._stream(end)) as jobs:
                    for job in jobs:
                        yield job
                        if is_job_finished(job.state):
                            return
            except DeadlineExceededError:
                pass  # Two causes are possible: the deadline has passed, or the connection was silent for too long.
            except UnavailableError as error:
                self._note_silence(error)
            self._connection.lifetime.pause(min(self._backoff.next_s(), max(0.0, end - time.monotonic())))
        raise watch_timeout(self._request.job_id, self._timeout_s, self._unreachable) from self._unreachable

    def _stream(self, end: float) -> Generator[cluster_pb2.JobStatus]:
        # A timeout of months needs several streams, because one stream lasts a day at most.
        left_ms = None if end == math.inf else left_until(end)
        watched = self._connection.controller.watch_job(self._request, timeout_ms=left_ms)
        with closing(stream(watched, self._connection.peer, self._handle)) as messages:
            for message in messages:
                self._silent_since, self._is_silence_told, self._unreachable = None, False, None
                self._backoff.reset()
                if message.HasField("job"):
                    yield message.job

    def _ask_once(self) -> cluster_pb2.JobStatus | None:
        request = cluster_pb2.Controller.GetJobStatusRequest(job_id=self._request.job_id)
        try:
            method = self._connection.controller.get_job_status
            return self._connection.call(method, request, timeout_s=_SHORTEST_WAIT_S).job
        except UnavailableError as error:
            self._unreachable = error
        except DeadlineExceededError:
            pass
        return None

    def _note_silence(self, error: UnavailableError) -> None:
        self._unreachable = error
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        silent_s = time.monotonic() - self._silent_since
        if silent_s > self._patience_s or (self._handle is not None and self._handle.aborted):
            raise error
        if silent_s > _SILENCE_S and not self._is_silence_told:
            self._is_silence_told = True
            self._on_silence(error)


def watch_timeout(job_id: str, timeout_s: float, unreachable: BaseException | None) -> DeadlineExceededError:
    """Return the error for a job that has not ended within the timeout.

    Args:
        job_id: The job.
        timeout_s: The time in seconds.
        unreachable: The error of the last request, if the controller did not answer. None: the controller answered.
    """
    known = f", as far as is known: {unreachable}" if unreachable else ""
    return DeadlineExceededError(f"job {job_id!r} has not ended within {timeout_s:g} s{known}")
