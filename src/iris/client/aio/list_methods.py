"""Contains the methods of `AsyncIrisClient` that list, count and watch jobs, and read events and usage."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable

from iris.arguments import JobReference, check_task_index, check_whole_number
from iris.client.views.lists import JobList
from iris.cluster.client.aio.remote_client import AsyncClusterClient
from iris.cluster.client.operations.watches.list_watching import MOST_JOBS, WatchedJobs
from iris.cluster.types import JobState
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2


class AsyncListMethods:
    """The methods of `AsyncIrisClient` that list, count and watch jobs, and read events and usage.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    async def list_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[cluster_pb2.JobStatus]:
        """Return the jobs that meet all given conditions, without their tasks, the oldest first. Without a condition,
        all jobs are returned. `print` and notebooks show the list as a table.

        Args:
            id_prefix: Accept only jobs whose id begins with this text.
            id_contains: Accept only jobs whose id contains this text.
            states: Accept only jobs in one of these states, for example `["RUNNING", "PENDING"]`.
            owner: Accept only jobs of the user with this name.
            since_ms: Accept only jobs that were submitted at or after this time, in milliseconds since the epoch.
            until_ms: Accept only jobs that were submitted before this time, in milliseconds since the epoch. 0: no end.
            newest_first: Whether the newest job comes first.
            limit: The largest number of jobs to return. None: all jobs.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
        """
        jobs = await self.cluster.list_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return JobList(jobs)

    async def count_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
    ) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs meet all given conditions. Without a condition, all jobs
        are counted.

        Args:
            id_prefix: Accept only jobs whose id begins with this text.
            id_contains: Accept only jobs whose id contains this text.
            states: Accept only jobs in one of these states, for example `["RUNNING", "PENDING"]`.
            owner: Accept only jobs of the user with this name.
            since_ms: Accept only jobs that were submitted at or after this time, in milliseconds since the epoch.
            until_ms: Accept only jobs that were submitted before this time, in milliseconds since the epoch. 0: no end.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
        """
        return await self.cluster.count_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
        )

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
        limit: int = MOST_JOBS,
        patience_s: float | None = 60.0,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> AsyncGenerator[WatchedJobs]:
        """Yield the list of jobs, and the new list after each change, until the caller ends the iteration. Reconnect
        after a lost connection.

        Changes come at most four times a second. A slow caller misses intermediate lists, but never the last list. Each
        `WatchedJobs` has the list `jobs`, the numbers of jobs by state in `counts`, `has_more`, and the ids of the jobs
        that have `changed`.

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
            on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
        """
        return self.cluster.watch_jobs(
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
        )

    def events(
        self,
        job_id: str | JobReference | None = None,
        *,
        kinds: Iterable[str] = (),
        since_ms: int = 0,
        cursor: str | None = None,
        tail: int = 0,
        follow: bool = False,
        patience_s: float | None = 60.0,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> AsyncGenerator[cluster_pb2.Controller.Event]:
        """Yield the stored events of the cluster, the oldest first, and with `follow` also each new event. Reconnect
        after a lost connection, without losing or repeating an event.

        Events are numbered and stored, so that the numbering continues after a restart of the controller. An event is a
        `cluster_pb2.Controller.Event`. Its `name` is the kind, for example `job.failed`. Further fields are `time_ms`,
        `job_id`, `task_index`, `attempt_id`, `worker_id`, `owner`, `reason`, `text`, `fields` and `cursor`.
        docs/reference/events.md lists the kinds. An event of the kind `events.gap` takes the place of events that were
        removed before they were read. The cluster keeps the newest 100,000 events (`iris up --keep-events`).

        Args:
            job_id: Only events of this job (its id, or its `AsyncJob` handle) and of its child jobs. None: all events.
            kinds: Only events of these kinds, for example `["job.failed", "worker.*"]`. Empty: all kinds.
            since_ms: Only events from this time on, in milliseconds since the epoch. 0: all events.
            cursor: The `cursor` of an earlier event. Only later events are yielded. None: all events.
            tail: Only the newest `tail` of the stored events that meet all conditions. 0: all of them.
            follow: Whether to wait for new events, until the caller ends the iteration.
            patience_s: For how many seconds to retry when the controller does not answer. None and `math.inf` retry
                forever.
            on_silence: A function that is called once each time the controller does not answer for more than 2 seconds.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
            UnimplementedError: The controller has an older release of Iris.
        """
        return self.cluster.watch_events(
            job_id,
            kinds=kinds,
            since_ms=since_ms,
            cursor=cursor,
            tail=tail,
            follow=follow,
            patience_s=patience_s,
            on_silence=on_silence,
        )

    async def usage(
        self,
        job_id: str | JobReference,
        task_index: int | None = None,
        *,
        since_ms: int = 0,
        until_ms: int = 0,
        max_points: int = 240,
    ) -> cluster_pb2.UsageSeries:
        """Return the CPU, memory and GPUs that a job or one of its tasks has used over time.

        Workers measure their tasks about every two seconds. The series of a whole task has at most 240 points. One
        point stands for 2 s if the task has run for up to 8 minutes, and for a longer time otherwise. In a job of more
        than 1,000 tasks, the series of a task has fewer points, but at least 60. The cluster keeps the series until the
        job is removed. If the stored series of all jobs are larger than 256 MiB, the series of the oldest ended jobs
        are removed earlier.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            task_index: The task, from 0. None: the sum over all tasks of the job.
            since_ms: The beginning of the returned period, in milliseconds since the epoch. 0: the beginning of the
                series. If the period begins in the last minutes, one point stands for 2 s.
            until_ms: The end of the returned period, in milliseconds since the epoch. 0 is now.
            max_points: The largest number of points to return, from 1 to 1000.

        Returns:
            The series, as a `cluster_pb2.UsageSeries`: `times_ms`, `cpu_millicores` (1000 for one core), `memory_mb`,
            `gpu_percent` (100 for one GPU) and `gpu_memory_mb` are lists with one item for each point, and `step_ms` is
            the time for which one point stands. The lists are empty if nothing was measured, and the two lists about
            GPUs are also empty if no GPU was used.

        Raises:
            NotFoundError: There is no such job or task.
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            UnimplementedError: The controller has an older release of Iris.
        """
        found = await self.cluster.get_usage(
            job_id,
            [] if task_index is None else [check_task_index(task_index)],
            since_ms=since_ms,
            until_ms=until_ms,
            max_points=check_whole_number("max_points", max_points, least=1, most=1000),
        )
        return found[0] if found else cluster_pb2.UsageSeries(task_index=task_index)
