"""Watches the states of a job and its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from iris.arguments import JobReference, check_instance
from iris.cluster.client.operations import watching as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.stream_handle import StreamHandle


class WatchVerbs(ClusterVerbs):
    """The call that watches a job."""

    def watch_job(
        self,
        job_id: str | JobReference,
        *,
        timeout: float | None = None,
        patience_s: float | None = 60.0,
        longest_pause_s: float = operations.LONGEST_PAUSE_S,
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
        if handle is not None:
            check_instance("handle", handle, StreamHandle)
        operation = operations.watch_job(
            job_id,
            timeout=timeout,
            patience_s=patience_s,
            longest_pause_s=longest_pause_s,
            include_tasks=include_tasks,
            on_silence=on_silence,
            is_aborted=lambda: handle is not None and handle.aborted,
        )
        return self.connection.items(operation, handle)
