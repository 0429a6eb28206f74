"""Defines handles on a job and its tasks for asyncio. Each method calls the controller.

A handle also remembers the last received state, which only `repr` and `str` show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from iris.arguments import (
    check_callable,
    check_flag,
    check_job_id,
    check_task_index,
    check_timeout,
)
from iris.client.aio.answers import Answer
from iris.client.aio.files.task_file_methods import AsyncFileClient, AsyncJobFileMethods, AsyncTaskFileMethods
from iris.client.aio.inspect.handle_methods import AsyncInspectClient, AsyncJobInspectMethods, AsyncTaskInspectMethods
from iris.client.exec.async_exec_methods import AsyncExecClient, AsyncTaskExecMethods
from iris.client.results import (
    Loads,
    Outcomes,
    first_failed_task,
    job_failure,
    last_line_arguments,
    load_result,
    result_bytes,
)
from iris.client.task_exceptions import load_exception
from iris.client.views.handle_text import Seen, handle_repr, handle_str
from iris.client.views.job_tables import exit_code_of, has_ended
from iris.client.views.lists import TaskList
from iris.client.views.notebook_views import JobCell, in_background
from iris.cluster.logs.entries.log_entry import LogEntry as LogEntry
from iris.cluster.pickles.loading import load_here
from iris.cluster.types import JobState, TaskState
from iris.errors import IrisError, JobFailedError, UnimplementedError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client.aio.logs.tree import AsyncTreeLogStream
    from iris.client.aio.streams import AsyncLogStream
    from iris.client.logs.read_options import LogArguments, TreeLogArguments
    from iris.cluster.client.aio.remote_client import AsyncClusterClient


class AsyncJobClient(AsyncFileClient, AsyncInspectClient, AsyncExecClient, Protocol):
    """The client methods used by the handles on jobs and tasks. `AsyncIrisClient` implements this protocol."""

    cluster: AsyncClusterClient

    async def status(self, job_id: str | AsyncJob) -> cluster_pb2.JobStatus:
        """Return the current state of a job."""

    async def task_status(self, job_id: str | AsyncJob, task_index: int) -> cluster_pb2.TaskStatus:
        """Return the current state of a task."""

    async def terminate(self, job_id: str | AsyncJob, task_index: int | None = None) -> None:
        """Terminate a job or one of its tasks."""

    async def usage(
        self,
        job_id: str | AsyncJob,
        task_index: int | None = None,
        *,
        since_ms: int = 0,
        until_ms: int = 0,
        max_points: int = 240,
    ) -> cluster_pb2.UsageSeries:
        """Return the CPU, memory and GPUs that a job or one of its tasks has used over time."""

    async def retry(self, job_id: str | AsyncJob, *, name: str | None = None, failed_only: bool = False) -> AsyncJob:
        """Submit a job again."""

    async def wait(
        self,
        job_id: str | AsyncJob,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        stream_logs: bool = False,
        stream_task_index: int | None = None,
        *,
        progress: bool | None = None,
    ) -> cluster_pb2.JobStatus:
        """Wait for the end of a job."""

    def stream_task_logs(
        self,
        job_id: str | AsyncJob,
        task_index: int,
        *,
        follow: bool = ...,
        start_ms: int = ...,
        max_lines: int = ...,
        **arguments: Unpack[LogArguments],
    ) -> AsyncLogStream:
        """Return the lines of a task."""

    def stream_job_logs(
        self,
        job_id: str | AsyncJob,
        *,
        follow: bool = ...,
        start_ms: int = ...,
        max_lines: int = ...,
        **arguments: Unpack[LogArguments],
    ) -> AsyncLogStream:
        """Return the lines of all tasks of a job."""

    def stream_tree_logs(
        self,
        job_id: str | AsyncJob,
        *,
        follow: bool = ...,
        start_ms: int = ...,
        max_lines: int = ...,
        **arguments: Unpack[TreeLogArguments],
    ) -> AsyncTreeLogStream:
        """Return the lines of a job and of all its child jobs."""


class AsyncTask(AsyncTaskFileMethods, AsyncTaskInspectMethods, AsyncTaskExecMethods):
    """A handle on one task of a job. Methods that expect a task id accept such a handle, too."""

    _client: AsyncJobClient

    def __init__(self, client: AsyncJobClient, job_id: str | AsyncJob, task_index: int) -> None:
        self._client = client
        self.job_id = check_job_id(job_id)
        self.task_index = check_task_index(task_index)
        self._seen: Seen | None = None
        # `as_completed` stores the final status with the result here.
        self._ended: cluster_pb2.TaskStatus | None = None

    def __repr__(self) -> str:
        return handle_repr("AsyncTask", self.task_id, self._seen)

    def __str__(self) -> str:
        return handle_str(f"task {self.task_id}", self._seen)

    def _ipython_display_(self) -> None:
        cell = JobCell(repr(self))

        async def show() -> None:
            try:
                cell.show_task(await self.status())
            except IrisError as error:
                cell.fail(error)

        in_background(show())

    @property
    def state(self) -> Answer[TaskState]:
        """The current state of the task. Each time the value is read, the client calls the controller. The value can be
        compared with a name, such as `"SUCCEEDED"`.

        Raises:
            NotFoundError: There is no such task.
        """

        async def state() -> TaskState:
            return TaskState((await self.status()).state)

        return Answer(f"{self!r}.state", state)

    @property
    def exit_code(self) -> Answer[int | None]:
        """The exit code of the newest attempt. 128 + n stands for signal n. None if the task has not ended, or if its
        process never started. Each time the value is read, the client calls the controller.

        Raises:
            NotFoundError: There is no such task.
        """

        async def exit_code() -> int | None:
            return exit_code_of(await self.status())

        return Answer(f"{self!r}.exit_code", exit_code)

    async def done(self) -> bool:
        """Return whether the state of the task is final. This method calls the controller."""
        return has_ended(await self.status())

    async def status(self) -> cluster_pb2.TaskStatus:
        """Return the current state of the task, with all its attempts."""
        return self._remember(await self._client.task_status(self.job_id, self.task_index))

    def logs(
        self, start_ms: int = 0, max_lines: int = 0, *, follow: bool = False, **arguments: Unpack[LogArguments]
    ) -> AsyncLogStream:
        """Return an iterator over the lines of the task. `AsyncIrisClient.stream_task_logs` documents the arguments and
        the errors. `follow` is False by default, therefore the iterator ends after the last existing line."""
        return self._client.stream_task_logs(
            self.job_id, self.task_index, follow=follow, start_ms=start_ms, max_lines=max_lines, **arguments
        )

    async def terminate(self) -> None:
        """Request the termination of the task. A terminated task is not retried. `AsyncIrisClient.terminate` describes
        the effect on the other tasks of the job.
        """
        await self._client.terminate(self.job_id, self.task_index)

    async def usage(self, *, since_ms: int = 0, until_ms: int = 0, max_points: int = 240) -> cluster_pb2.UsageSeries:
        """Return the CPU, memory and GPUs that the task has used over time. `AsyncIrisClient.usage` documents the
        arguments and the result."""
        return await self._client.usage(
            self.job_id, self.task_index, since_ms=since_ms, until_ms=until_ms, max_points=max_points
        )

    async def result(self, timeout: float | None = 0, *, loads: Loads = load_here) -> Any:
        """Return the value that the task's callable returned.

        Args:
            timeout: How many seconds to wait for the end of the task. None waits forever. 0, the default, does not
                wait.
            loads: A function that converts the bytes sent by the task into the value. The default unpickles the bytes.
                Unpickling runs code of the job's owner in this program. If you do not trust the owner, pass another
                function, or use `result_bytes`.

        Raises:
            ResultError: The task has not succeeded, the value could not be sent, or `loads` failed. The message gives
                the reason. If the callable raised an exception, `__cause__` is the return value of `exception`.
            NotFoundError: There is no such task.
            TimeoutError: The task has not ended within a `timeout` above 0.
        """
        check_callable("loads", loads)
        return await asyncio.to_thread(load_result, await self._with_result(timeout), loads)

    async def result_bytes(self) -> bytes:
        """Return the pickle of the value that the task's callable returned, without unpickling it.

        Raises:
            ResultError: The task has not succeeded, or the value could not be sent. The message contains the reason.
        """
        return result_bytes(await self._with_result())

    async def exception(self, *, loads: Loads = load_here) -> BaseException | None:
        """Return the exception that the callable raised in the task's newest attempt. Return None if no exception was
        raised.

        The `__cause__` of the exception is a `RemoteTraceback` with the traceback in the task as text. If the exception
        could not be pickled in the task, or cannot be loaded in this program, the `RemoteTraceback` itself is returned.

        Args:
            loads: A function that converts the bytes sent by the task into the exception. `result` describes the
                default.
        """
        check_callable("loads", loads)
        return await asyncio.to_thread(load_exception, await self._with_result(), loads)

    async def _with_result(self, timeout: float | None = 0) -> cluster_pb2.TaskStatus:
        if self._ended is not None:
            return self._ended
        if check_timeout("timeout", timeout):
            stream = self._client.cluster.stream_results(self.job_id, [self.task_index], timeout=timeout)
            async with contextlib.aclosing(stream):
                async for one in stream:
                    if isinstance(one, cluster_pb2.TaskStatus):
                        return self._set_ended(one)
        return self._remember(
            await self._client.cluster.get_task_status(self.job_id, self.task_index, include_result=True)
        )

    def _set_ended(self, status: cluster_pb2.TaskStatus) -> cluster_pb2.TaskStatus:
        self._ended = status
        return self._remember(status)

    def _remember(self, status: cluster_pb2.TaskStatus) -> cluster_pb2.TaskStatus:
        self._seen = Seen.of_task(status)
        return status


class AsyncJob(AsyncJobFileMethods, AsyncJobInspectMethods):
    """A handle on a job. Methods that expect a job id accept such a handle, too."""

    _client: AsyncJobClient

    def __init__(self, client: AsyncJobClient, job_id: str | AsyncJob) -> None:
        self._client = client
        self.job_id = check_job_id(job_id)
        self._seen: Seen | None = None

    def __repr__(self) -> str:
        return handle_repr("AsyncJob", self.job_id, self._seen)

    def __str__(self) -> str:
        return handle_str(f"job {self.job_id}", self._seen)

    def _ipython_display_(self) -> None:
        cell = JobCell(repr(self))
        in_background(cell.follow(self._client.cluster.watch_job(self.job_id, include_tasks=True)))

    @property
    def state(self) -> Answer[JobState]:
        """The current state of the job. Each time the value is read, the client calls the controller. The value can be
        compared with a name, such as `"SUCCEEDED"`.

        Raises:
            NotFoundError: There is no such job.
        """

        async def state() -> JobState:
            return JobState((await self._brief()).state)

        return Answer(f"{self!r}.state", state)

    @property
    def exit_code(self) -> Answer[int | None]:
        """The exit code of the first task that failed, or 0 if the job has succeeded. 128 + n stands for signal n. None
        if the job has not ended, or has no exit code. Each time the value is read, the client calls the controller.

        Raises:
            NotFoundError: There is no such job.
        """

        async def exit_code() -> int | None:
            return exit_code_of(await self._brief())

        return Answer(f"{self!r}.exit_code", exit_code)

    async def done(self) -> bool:
        """Return whether the state of the job is final. This method calls the controller."""
        return has_ended(await self._brief())

    async def status(self) -> cluster_pb2.JobStatus:
        """Return the current state of the job, with all its tasks."""
        return self._remember(await self._client.status(self.job_id))

    async def tasks(self) -> list[AsyncTask]:
        """Return handles on the tasks of the job, in index order. `print` and notebooks show the list as a table."""
        status = await self.status()
        handles = [AsyncTask(self._client, self.job_id, index) for index in range(status.num_tasks)]
        for handle, task in zip(handles, status.tasks, strict=False):
            handle._remember(task)
        return TaskList(handles, status.tasks)

    async def wait(
        self,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        stream_logs: bool = False,
        stream_task_index: int | None = None,
        *,
        progress: bool | None = None,
        raise_on_failure: bool = True,
    ) -> cluster_pb2.JobStatus:
        """Wait for the end of the job and return its final status. `AsyncIrisClient.wait` documents the other
        arguments.

        Args:
            progress: Whether to show the progress. Default: True on a terminal and in a notebook.
            raise_on_failure: Whether to raise an error if the job has not succeeded.

        Raises:
            JobFailedError: The job has not succeeded, and `raise_on_failure` is True.
            TimeoutError: The job has not ended within `timeout` seconds.
        """
        check_flag("raise_on_failure", raise_on_failure)
        status = self._remember(
            await self._client.wait(
                self.job_id, timeout, poll_interval, stream_logs, stream_task_index, progress=progress
            )
        )
        if raise_on_failure and status.state != cluster_pb2.JOB_STATE_SUCCEEDED:
            raise await self._failure(status)
        return status

    def logs(
        self, start_ms: int = 0, max_lines: int = 0, *, follow: bool = False, **arguments: Unpack[LogArguments]
    ) -> AsyncLogStream:
        """Return an iterator over the lines of all tasks. `AsyncIrisClient.stream_job_logs` documents the arguments and
        the errors. `follow` is False by default, therefore the iterator ends after the last existing line."""
        return self._client.stream_job_logs(
            self.job_id, follow=follow, start_ms=start_ms, max_lines=max_lines, **arguments
        )

    def tree_logs(
        self, start_ms: int = 0, max_lines: int = 0, *, follow: bool = False, **arguments: Unpack[TreeLogArguments]
    ) -> AsyncTreeLogStream:
        """Return an iterator over the lines of the job and of all its child jobs. `AsyncIrisClient.stream_tree_logs`
        documents the arguments and the errors. `follow` is False by default."""
        return self._client.stream_tree_logs(
            self.job_id, follow=follow, start_ms=start_ms, max_lines=max_lines, **arguments
        )

    async def terminate(self) -> None:
        """Request the termination of the job with its child jobs. `wait` returns when the job has ended."""
        await self._client.terminate(self.job_id)

    async def usage(self, *, since_ms: int = 0, until_ms: int = 0, max_points: int = 240) -> cluster_pb2.UsageSeries:
        """Return the CPU, memory and GPUs that all tasks of the job together have used over time.
        `AsyncIrisClient.usage` documents the arguments and the result.
        """
        return await self._client.usage(self.job_id, since_ms=since_ms, until_ms=until_ms, max_points=max_points)

    async def retry(self, *, name: str | None = None, failed_only: bool = False) -> AsyncJob:
        """Submit the job again, and return the handle of the new job. `AsyncIrisClient.retry` documents the arguments
        and the errors.
        """
        return await self._client.retry(self.job_id, name=name, failed_only=failed_only)

    async def results(
        self, timeout: float | None = None, *, return_exceptions: bool = False, loads: Loads = load_here
    ) -> list[Any]:
        """Wait for the end of the job, and return the value that the callable returned in each task, in index order.

        Args:
            timeout: How many seconds to wait before TimeoutError is raised. None waits forever.
            return_exceptions: If True, a task without a value does not raise an error. Its item in the list is the
                exception that the callable raised, or a `ResultError` with the reason.
            loads: A function that converts the bytes sent by a task into the value. `AsyncTask.result` describes the
                default. With `loads=bytes` this method returns the pickles.

        Raises:
            JobFailedError: The job has not succeeded, and `return_exceptions` is False. If the first failed task
                raised an exception, `__cause__` is the return value of `AsyncTask.exception`.
            ResultError: A task has no result: it failed within `max_task_failures`, its value could not be sent, or
                `loads` failed. The message names the task and the reason.
            TimeoutError: The job has not ended within `timeout` seconds.
        """
        check_callable("loads", loads)
        check_flag("return_exceptions", return_exceptions)
        outcomes = await self._outcomes(timeout)
        failed = None if return_exceptions else outcomes.failed_status()
        if failed is not None:
            error = await self._failure(self._remember(failed))
            raise error from await asyncio.to_thread(outcomes.exception_of, error.task_index, loads)
        return await asyncio.to_thread(outcomes.load, loads, return_exceptions=return_exceptions)

    async def as_completed(self, timeout: float | None = None) -> AsyncGenerator[AsyncTask]:
        """Yield a handle on each task once the task has ended, in the order in which the tasks end. The results of
        these tasks have been read already, so `AsyncTask.result` and `AsyncTask.exception` return at once.

        Args:
            timeout: How many seconds to wait, from 0, before TimeoutError is raised. None waits forever.

        Raises:
            NotFoundError: There is no such job.
            TimeoutError: A task has not ended within `timeout` seconds.
            UnimplementedError: The controller has an older release of Iris.
        """
        async with contextlib.aclosing(self._client.cluster.stream_results(self.job_id, timeout=timeout)) as stream:
            async for status in stream:
                if isinstance(status, cluster_pb2.TaskStatus):
                    task = AsyncTask(self._client, self.job_id, status.task_index)
                    task._set_ended(status)
                    yield task

    async def _outcomes(self, timeout: float | None) -> Outcomes:
        outcomes = Outcomes()
        try:
            async with contextlib.aclosing(self._client.cluster.stream_results(self.job_id, timeout=timeout)) as stream:
                async for status in stream:
                    outcomes.add(status)
        except UnimplementedError:
            # A controller of an older release has no stream of results, so the results are read one by one.
            outcomes.add(await self.wait(timeout, raise_on_failure=False))
            for index in range(outcomes.job.num_tasks):
                outcomes.add(await AsyncTask(self._client, self.job_id, index)._with_result())
        return outcomes

    async def _brief(self) -> cluster_pb2.JobStatus:
        return self._remember(await self._client.cluster.get_job_status(self.job_id, without_tasks=True))

    def _remember(self, status: cluster_pb2.JobStatus) -> cluster_pb2.JobStatus:
        self._seen = Seen.of_job(status)
        return status

    async def _failure(self, status: cluster_pb2.JobStatus) -> JobFailedError:
        index = first_failed_task(status)
        if index is None:
            return job_failure(self.job_id, status, None, ())
        task = status.tasks[index] if index < len(status.tasks) else await self._client.task_status(self.job_id, index)
        return job_failure(self.job_id, status, task, await self._last_lines(index))

    async def _last_lines(self, task_index: int) -> Sequence[str]:
        try:
            async with self._client.stream_task_logs(self.job_id, task_index, **last_line_arguments()) as last:
                return [entry.message async for entry in last]
        except IrisError:
            return ()  # If the log cannot be read, the JobFailedError shows no lines.
