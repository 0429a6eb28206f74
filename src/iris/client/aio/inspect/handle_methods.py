"""Contains the methods of `AsyncJob` and `AsyncTask` that look inside of running tasks."""

from __future__ import annotations

from typing import Protocol

from iris.arguments import JobReference, TaskReference
from iris.client.inspect.profile import DEFAULT_RATE, OnProgress, Profile
from iris.client.inspect.stacks import JobStacks, TaskStacks


class AsyncInspectClient(Protocol):
    """The client methods that look inside of running tasks. `AsyncIrisClient` implements this protocol."""

    async def stacks(
        self, job_id: str | JobReference, task_index: int | None = None, *, variables: bool = False
    ) -> JobStacks:
        """Return the call stacks of tasks."""

    async def profile(
        self,
        job_id: str | JobReference,
        task_index: int | None = None,
        *,
        duration_s: int = 10,
        rate: int = DEFAULT_RATE,
        idle: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Profile:
        """Sample the call stacks of tasks."""


class AsyncTaskInspectMethods(TaskReference):
    """The methods of `AsyncTask` that look inside of the running task."""

    _client: AsyncInspectClient

    async def stacks(self, *, variables: bool = False) -> TaskStacks:
        """Return where the task is: the call stacks of all threads of its Python processes. `AsyncIrisClient.stacks`
        documents the arguments and the errors.
        """
        return (await self._client.stacks(self.job_id, self.task_index, variables=variables)).tasks[0]

    async def profile(
        self,
        *,
        duration_s: int = 10,
        rate: int = DEFAULT_RATE,
        idle: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Profile:
        """Return where the task spends its time, by sampling the call stacks of its Python processes.
        `AsyncIrisClient.profile` documents the arguments and the errors.
        """
        return await self._client.profile(
            self.job_id, self.task_index, duration_s=duration_s, rate=rate, idle=idle, on_progress=on_progress
        )


class AsyncJobInspectMethods(JobReference):
    """The methods of `AsyncJob` that look inside of the running tasks."""

    _client: AsyncInspectClient

    async def stacks(self, *, variables: bool = False) -> JobStacks:
        """Return where the tasks are: the call stacks of all threads of their Python processes. `print` shows a summary
        in which identical stacks of many tasks are merged. `AsyncIrisClient.stacks` documents the arguments and the
        errors.
        """
        return await self._client.stacks(self.job_id, variables=variables)

    async def profile(
        self,
        *,
        duration_s: int = 10,
        rate: int = DEFAULT_RATE,
        idle: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Profile:
        """Return where the tasks spend their time, by sampling the call stacks of their Python processes.
        `AsyncIrisClient.profile` documents the arguments and the errors.
        """
        return await self._client.profile(
            self.job_id, duration_s=duration_s, rate=rate, idle=idle, on_progress=on_progress
        )
