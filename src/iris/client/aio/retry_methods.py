"""Contains the methods of `AsyncIrisClient` that submit earlier jobs again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iris.client.aio.job import AsyncJob
from iris.client.retry.resubmit import retry_job
from iris.client.submission import parent_job
from iris.cluster.client.aio.remote_client import AsyncClusterClient
from iris.rpc import cluster_pb2


class AsyncRetryMethods:
    """The methods of `AsyncIrisClient` that submit earlier jobs again.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    if TYPE_CHECKING:

        def job(self, job_id: str | AsyncJob) -> AsyncJob:
            """Return the handle of a job. `AsyncIrisClient` implements this method."""

    async def submission(self, job_id: str | AsyncJob) -> cluster_pb2.Controller.GetSubmissionResponse:
        """Return how a job was submitted: its command, resources, policies, and names of environment variables.

        The field `submission` of the answer has no values of variables, no callable and no workspace. The field
        `problem` says why `retry` cannot submit the job again. `problem` is empty if `retry` can submit the job.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.

        Raises:
            NotFoundError: There is no such job.
        """
        return await self.cluster.get_submission(job_id)

    async def retry(self, job_id: str | AsyncJob, *, name: str | None = None, failed_only: bool = False) -> AsyncJob:
        """Submit a job again, and return the handle of the new job.

        The new job has the same command or callable, workspace, environment, resources and policies. The controller
        copies all of these from its database, so that secrets in the environment are not sent to this program. The new
        job reads no standard input, and does not wait for the jobs in `after`. Inside a task, it becomes a child job of
        the task's job. The earlier job and its logs stay unchanged.

        Args:
            job_id: The earlier job: its id, or its `AsyncJob` handle.
            name: The name of the new job. Default: the earlier name with a new random suffix.
            failed_only: Whether to run only the tasks that have not succeeded. Each of these tasks sees the same
                `IRIS_TASK_INDEX` and `IRIS_NUM_TASKS` as in the earlier job, but its task id counts the tasks of the
                new job from 0. A gang needs all of its tasks. Therefore all tasks of a gang run again.

        Raises:
            NotFoundError: There is no such job.
            AlreadyExistsError: Another job has this name.
            FailedPreconditionError: The command, callable or workspace of the job is no longer stored. With
                `failed_only`: the job has not ended, or all its tasks have succeeded.
            PermissionDeniedError: You are neither the owner of the earlier job nor an admin.
        """
        parent = parent_job(await self.cluster.token(), self.cluster.controller_address)
        operation = retry_job(job_id, name, failed_only, parent)
        return self.job(await self.cluster.connection.perform(operation))
