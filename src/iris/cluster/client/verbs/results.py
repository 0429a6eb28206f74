"""Reads the results of a job's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from iris.arguments import JobReference
from iris.cluster.client.operations import results as operations
from iris.cluster.client.operations.results import Status
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.errors import UnavailableError


class ResultVerbs(ClusterVerbs):
    """The call that reads the results of a job's tasks."""

    def stream_results(
        self,
        job_id: str | JobReference,
        task_indices: Sequence[int] | None = None,
        *,
        timeout: float | None = None,
        patience_s: float | None = 60.0,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> Iterator[Status]:
        """Yield each task of a job once it has ended, with its result or exception. Reconnect after a lost connection.

        The first item is the job without its tasks, so that the caller learns the number of tasks. The tasks follow in
        the order of their ends. The last item is the job again.

        Args:
            job_id: The job: its id, or a `Job`.
            task_indices: The tasks to wait for. None: all tasks.
            timeout: The seconds after which to give up. None and `math.inf` wait forever. Even with a shorter timeout,
                the controller gets one second to send the tasks that have ended.
            patience_s: For how many seconds to retry when the controller does not answer. None and `math.inf` retry
                forever.
            on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.

        Raises:
            NotFoundError: There is no such job or task.
            DeadlineExceededError: (a `TimeoutError`) A task has not ended within `timeout`.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
            UnimplementedError: The controller has an older release of Iris, without this call.
        """
        return self.connection.items(
            operations.stream_results(
                job_id, task_indices, timeout=timeout, patience_s=patience_s, on_silence=on_silence
            )
        )
