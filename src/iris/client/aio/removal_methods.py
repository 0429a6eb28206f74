"""Contains the methods of `AsyncIrisClient` that remove jobs."""

from __future__ import annotations

from iris.arguments import check_job_id
from iris.client.aio.job import AsyncJob
from iris.cluster.client.aio.remote_client import AsyncClusterClient


class AsyncRemovalMethods:
    """The methods of `AsyncIrisClient` that remove jobs.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    async def forget(self, job_id: str | AsyncJob) -> list[str]:
        """Remove a job that has ended, and everything that the cluster has stored about the job: its status, logs and
        results, the files on its workers, and its workspace if no other job uses the workspace.

        The child jobs of the job are also removed. Afterwards the names of the removed jobs are free for new jobs.
        Readers of the job's logs get an error.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.

        Returns:
            The ids of the removed jobs: the job first, and then its child jobs.

        Raises:
            NotFoundError: There is no such job.
            FailedPreconditionError: The job or one of its child jobs has not ended. `terminate` ends these jobs.
            PermissionDeniedError: The job belongs to another user, and the caller is not an admin.
        """
        return await self.cluster.forget_job(check_job_id(job_id))
