"""Contains the methods of `IrisClient` that list and count jobs."""

from __future__ import annotations

from collections.abc import Iterable

from iris.client.views.lists import JobList
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import JobState
from iris.rpc import cluster_pb2


class ListMethods:
    """The methods of `IrisClient` that list and count jobs.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: RemoteClusterClient) -> None:
        self.cluster = cluster

    def list_jobs(
        self,
        *,
        id_prefix: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[cluster_pb2.JobStatus]:
        """Return the jobs that meet all given conditions, without their tasks, the oldest first. Without a condition,
        all jobs are returned. The list is shown as a table.

        Args:
            id_prefix: The beginning of the job id.
            states: The accepted states, for example `["RUNNING", "PENDING"]`.
            owner: The name of the job's owner.
            since_ms: The earliest time of submission, in milliseconds since the epoch. This time is included.
            until_ms: The end of the times of submission, in milliseconds since the epoch. This time is not included.
                0 means no end.
            newest_first: Whether the newest job comes first.
            limit: The largest number of jobs to return. None: all jobs.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
        """
        jobs = self.cluster.list_jobs(
            id_prefix=id_prefix,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return JobList(jobs)

    def count_jobs(
        self,
        *,
        id_prefix: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
    ) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs meet all given conditions. Without a condition, all jobs
        are counted.

        Args:
            id_prefix: The beginning of the job id.
            states: The accepted states, for example `["RUNNING", "PENDING"]`.
            owner: The name of the job's owner.
            since_ms: The earliest time of submission, in milliseconds since the epoch. This time is included.
            until_ms: The end of the times of submission, in milliseconds since the epoch. This time is not included.
                0 means no end.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
        """
        return self.cluster.count_jobs(
            id_prefix=id_prefix,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
        )
