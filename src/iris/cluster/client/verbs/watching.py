"""Watches the states of a job and its tasks, the list of jobs, and the events of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from iris.arguments import JobReference, check_instance
from iris.cluster.client.operations.watches import event_watching, list_watching
from iris.cluster.client.operations.watches import job_watching as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.cluster.types import JobState
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.stream_handle import StreamHandle


class WatchVerbs(ClusterVerbs):
    """The calls that watch a job, the list of jobs, or the events of the cluster."""

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

    def watch_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        newest_first: bool = False,
        limit: int = list_watching.MOST_JOBS,
        patience_s: float | None = 60.0,
        handle: StreamHandle | None = None,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> Iterator[list_watching.WatchedJobs]:
        """Yield the list of jobs, and the new list after each change, until the caller ends the iteration. Reconnect
        after a lost connection. Changes come at most four times a second. A slow caller misses intermediate lists, but
        always gets the newest list next.

        Args:
            id_prefix: Accept only jobs whose id begins with this text.
            id_contains: Accept only jobs whose id contains this text.
            states: Accept only jobs in one of these states, for example `["RUNNING", "PENDING"]`.
            owner: Accept only jobs of the user with this name.
            since_ms: Accept only jobs that were submitted at or after this time, in milliseconds since the epoch.
            until_ms: Accept only jobs that were submitted before this time, in milliseconds since the epoch. 0: no end.
            newest_first: Whether the newest job comes first.
            limit: The largest number of jobs in the list, from 1 to 1,000.
            patience_s: For how many seconds to retry when the controller does not answer. None and `math.inf` retry
                forever.
            handle: A handle with which another thread can end the watch.
            on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
        """
        if handle is not None:
            check_instance("handle", handle, StreamHandle)
        operation = list_watching.watch_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
            newest_first=newest_first,
            limit=limit,
            patience_s=patience_s,
            on_silence=on_silence,
            is_aborted=lambda: handle is not None and handle.aborted,
        )
        return self.connection.items(operation, handle)

    def watch_events(
        self,
        job_id: str | JobReference | None = None,
        *,
        kinds: Iterable[str] = (),
        since_ms: int = 0,
        cursor: str | None = None,
        tail: int = 0,
        follow: bool = False,
        patience_s: float | None = 60.0,
        handle: StreamHandle | None = None,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> Iterator[cluster_pb2.Controller.Event]:
        """Yield the stored events of the cluster, the oldest first, and with `follow` also each new event. Reconnect
        after a lost connection, without losing or repeating an event.

        Events are numbered and stored, so that the numbering continues after a restart of the controller. An event is a
        `cluster_pb2.Controller.Event`. Its `name` is the kind, for example `job.failed`. Further fields are `time_ms`,
        `job_id`, `task_index`, `attempt_id`, `worker_id`, `owner`, `reason`, `text`, `fields` and `cursor`.
        docs/reference/events.md lists the kinds. An event of the kind `events.gap` takes the place of events that were
        removed before they were read. The cluster keeps the newest 100,000 events (`iris up --keep-events`).

        Args:
            job_id: Only events of this job (its id, or a `Job`) and of its child jobs. None: all events.
            kinds: Only events of these kinds, for example `["job.failed", "worker.*"]`. Empty: all kinds.
            since_ms: Only events from this time on, in milliseconds since the epoch. 0: from any time.
            cursor: The `cursor` of an earlier event, whose successors are yielded. None: from the oldest event on.
            tail: Only the newest `tail` of the stored events that meet all conditions. 0: all of them.
            follow: Whether to wait for new events, until the caller ends the iteration.
            patience_s: For how many seconds to retry when the controller does not answer. None and `math.inf` retry
                forever.
            handle: A handle with which another thread can end the iteration.
            on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
            UnimplementedError: The controller has an older release of Iris.
        """
        if handle is not None:
            check_instance("handle", handle, StreamHandle)
        operation = event_watching.watch_events(
            job_id,
            kinds=kinds,
            since_ms=since_ms,
            cursor=cursor,
            tail=tail,
            follow=follow,
            patience_s=patience_s,
            on_silence=on_silence,
            is_aborted=lambda: handle is not None and handle.aborted,
        )
        return self.connection.items(operation, handle)

    def list_webhooks(self) -> list[cluster_pb2.Controller.WebhookStatus]:
        """Return the webhooks of the cluster, and whether their deliveries succeed. Only admins may call this method.

        Raises:
            PermissionDeniedError: The client's token does not have the role `admin`.
            UnimplementedError: The controller has an older release of Iris.
        """
        return self.connection.perform(event_watching.list_webhooks())
