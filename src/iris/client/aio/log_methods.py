"""Contains the methods of `AsyncIrisClient` that read logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iris.arguments import (
    check_job_id,
    check_task_index,
    check_task_indices,
)
from iris.client.aio.job import AsyncJob
from iris.client.aio.logs.tree import AsyncTreeLogStream
from iris.client.aio.streams import AsyncLogStream, AsyncTaskLogReader
from iris.client.logs.fetching import Fetch
from iris.client.logs.read_options import DEFAULT_PATIENCE_S, ReadOptions, Route
from iris.cluster.client.aio.remote_client import AsyncClusterClient
from iris.cluster.logs.entries.log_entry import LogEntry


class AsyncLogMethods:
    """The methods of `AsyncIrisClient` that read logs.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    async def fetch_task_logs(
        self,
        job_id: str | AsyncJob,
        task_index: int,
        start_ms: int = 0,
        max_lines: int = 0,
        *,
        attempt_id: int | None = None,
    ) -> list[LogEntry]:
        """Return the lines that a task has written so far, as a list. The list is empty if no attempt has started.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            task_index: The index of the task in its job, from 0.
            start_ms: Return only lines that were finished after this time, in milliseconds since the Unix epoch. 0:
                all lines.
            max_lines: Return only the first N lines. 0: all lines.
            attempt_id: The attempt, from 0. Default: the newest attempt.

        Raises:
            NotFoundError: There is no such job, task or attempt.
            WorkerUnreachableError: The worker that has the log does not answer.
        """
        fetch = Fetch.checked(job_id, task_index, start_ms, max_lines, attempt_id)
        attempt_id = await self.cluster.connection.perform(fetch.find_attempt())
        if attempt_id is None:
            return []
        options = fetch.options(attempt_id)
        reader = AsyncTaskLogReader(self.cluster.connection, fetch.job_id, [fetch.task_index], options)
        async with AsyncLogStream(reader) as stream:
            return fetch.lines([entry async for entry in stream], stream.ends)

    def stream_task_logs(
        self,
        job_id: str | AsyncJob,
        task_index: int,
        *,
        follow: bool = True,
        cursor: str | None = None,
        attempt_id: int | None = None,
        start_ms: int = 0,
        end_ms: int = 0,
        max_lines: int = 0,
        tail: int | None = None,
        sources: Sequence[str] = (),
        regex: str = "",
        route: Route = "auto",
        patience_s: float | None = DEFAULT_PATIENCE_S,
        on_notice: Callable[[str], None] | None = None,
        partial: bool = False,
    ) -> AsyncLogStream:
        """Return an iterator over the lines of a task, through all its attempts.

        The iterator returns the existing lines. With `follow` the iterator then returns each new line as soon as the
        task has written it, until the task has ended and its log was read to the end. Each line is returned once, and
        the lines of each source are returned in order. After a lost connection, reading continues at the exact byte.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            task_index: The index of the task in its job, from 0.
            follow: Whether to continue until the task has ended. If False, only the existing lines are returned.
            cursor: The `cursor` of an entry. Return only the lines after this entry.
            attempt_id: Return only the lines of this attempt, from 0. Default: all attempts.
            start_ms: Return only lines that were finished after this time, in milliseconds since the Unix epoch. 0:
                all lines.
            end_ms: Return only lines that were finished up to this time, inclusive. 0: all lines. With `follow`, the
                iterator ends soon after this time. If a server is out of reach then, the iterator waits for it.
            max_lines: End after the first N lines that pass all other filters. 0: no limit.
            tail: Begin with the last N existing lines that pass all other filters. None: all lines.
            sources: Return only lines of these sources. The sources are `stdout`, `stderr` and `build`. Empty: all
                sources.
            regex: Return only lines in which this RE2 pattern is found.
            route: `"auto"` reads directly from a worker if this machine can reach it, and otherwise through the
                controller. `"worker"` reads only directly from workers. `"controller"` reads only through the
                controller.
            patience_s: For how many seconds to retry when a server does not answer. None and `math.inf` retry forever.
            on_notice: A function that is called with a text about each lost connection, each retry of the task, and a
                log whose end is missing. Default: print the text on stderr.
            partial: Whether to return a partial line, such as a prompt or a progress bar, within 0.2 seconds. The entry
                of a partial line has `partial` set. If False, each line is one entry, and the entry is returned when
                the line is finished.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. Iterating raises this error if the cursor
                belongs to another job or task.
            NotFoundError: There is no such job, task or attempt. Iterating raises this error.
            ControllerUnreachableError, WorkerUnreachableError: The server has not answered for `patience_s`. Iterating
                raises these errors.
        """
        job_id, task_index = check_job_id(job_id), check_task_index(task_index)
        options = ReadOptions.checked(
            follow=follow,
            cursor=cursor,
            attempt_id=attempt_id,
            start_ms=start_ms,
            end_ms=end_ms,
            max_lines=max_lines,
            tail=tail,
            sources=sources,
            regex=regex,
            route=route,
            patience_s=patience_s,
            on_notice=on_notice,
            partial=partial,
        )
        return AsyncLogStream(AsyncTaskLogReader(self.cluster.connection, job_id, [task_index], options))

    def stream_job_logs(
        self,
        job_id: str | AsyncJob,
        task_indices: Sequence[int] | None = None,
        *,
        follow: bool = True,
        cursor: str | None = None,
        attempt_id: int | None = None,
        start_ms: int = 0,
        end_ms: int = 0,
        max_lines: int = 0,
        tail: int | None = None,
        sources: Sequence[str] = (),
        regex: str = "",
        route: Route = "auto",
        patience_s: float | None = DEFAULT_PATIENCE_S,
        on_notice: Callable[[str], None] | None = None,
        partial: bool = False,
    ) -> AsyncLogStream:
        """Return an iterator over the lines of several tasks.

        Existing lines are sorted by time. New lines are returned as they are written. The lines of each task are always
        returned in the order in which the task wrote them.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            task_indices: The tasks, from 0. Default: all tasks of the job.
            follow: Whether to continue until all tasks have ended.
            cursor: The `cursor` of an entry, after which the iterator begins. A cursor contains the position of each
                task, so its length grows with the number of tasks.
            attempt_id, start_ms, end_ms: `stream_task_logs` documents these arguments.
            max_lines: End after the first N lines of all tasks together. 0: no limit.
            tail: Begin with the last N existing lines of all tasks together. None: all lines.
            sources, regex, route, patience_s, on_notice, partial: `stream_task_logs` documents these arguments.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. Iterating raises this error if the cursor
                belongs to another job.
            NotFoundError: There is no such job, task or attempt. Iterating raises this error.
            ControllerUnreachableError, WorkerUnreachableError: The server has not answered for `patience_s`. Iterating
                raises these errors.
        """
        job_id = check_job_id(job_id)
        indices = None if task_indices is None else check_task_indices("task_indices", task_indices)
        options = ReadOptions.checked(
            follow=follow,
            cursor=cursor,
            attempt_id=attempt_id,
            start_ms=start_ms,
            end_ms=end_ms,
            max_lines=max_lines,
            tail=tail,
            sources=sources,
            regex=regex,
            route=route,
            patience_s=patience_s,
            on_notice=on_notice,
            partial=partial,
        )
        return AsyncLogStream(AsyncTaskLogReader(self.cluster.connection, job_id, indices, options))

    def stream_tree_logs(
        self,
        job_id: str | AsyncJob,
        *,
        follow: bool = True,
        start_ms: int = 0,
        end_ms: int = 0,
        max_lines: int = 0,
        tail: int | None = None,
        sources: Sequence[str] = (),
        regex: str = "",
        route: Route = "auto",
        patience_s: float | None = DEFAULT_PATIENCE_S,
        on_notice: Callable[[str], None] | None = None,
    ) -> AsyncTreeLogStream:
        """Return an iterator over the lines of a job and of all its child jobs. `LogEntry.job_id` names the job of a
        line.

        Existing lines are sorted by time. New lines are returned as they are written. With `follow`, child jobs that
        are submitted later are found within a second or two, and the iterator ends when all jobs of the tree have
        ended. At most 200 unfinished jobs are followed at the same time. When one of these jobs has ended, the next job
        is followed. Code in a task cannot call this method, because a task may not list the jobs of the cluster.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            follow: Whether to continue until all jobs have ended.
            start_ms, end_ms: `stream_task_logs` documents these arguments.
            max_lines: End after the first N lines of all jobs together. 0: no limit.
            tail: Begin with the last N existing lines of all jobs together. None: all lines.
            sources, regex, route, patience_s, on_notice: `stream_task_logs` documents these arguments.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid.
            NotFoundError: There is no such job. Iterating raises this error.
            ControllerUnreachableError, WorkerUnreachableError: The server has not answered for `patience_s`. Iterating
                raises these errors.
        """
        options = ReadOptions.checked(
            follow=follow,
            start_ms=start_ms,
            end_ms=end_ms,
            max_lines=max_lines,
            tail=tail,
            sources=sources,
            regex=regex,
            route=route,
            patience_s=patience_s,
            on_notice=on_notice,
        )
        return AsyncTreeLogStream(self.cluster.connection, check_job_id(job_id), options)
