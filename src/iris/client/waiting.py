"""Waits for the end of a job."""

from __future__ import annotations

import math
import shlex
import time

from iris.client.notices import print_notice
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.verbs.watching import watch_timeout
from iris.errors import DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2


def wait_for_end(
    cluster: RemoteClusterClient, job_id: str, limit_s: float, end: float, longest_pause_s: float
) -> cluster_pb2.JobStatus:
    """Return the final status of a job.

    Args:
        cluster: The client of the cluster.
        job_id: The job.
        limit_s: The time limit of the user in seconds, for the error message.
        end: The end of the time limit, on the monotonic clock. `math.inf`: no limit.
        longest_pause_s: The longest pause between two tries while the controller does not answer.

    Raises:
        NotFoundError: There is no such job.
        DeadlineExceededError: (a `TimeoutError`) The job has not ended in time.
    """
    left = None if end == math.inf else max(0.0, end - time.monotonic())
    try:
        for _ in cluster.watch_job(job_id, timeout=left, longest_pause_s=longest_pause_s):
            pass  # `watch_job` ends after the final status of the job.
    except DeadlineExceededError as error:
        if end == math.inf:
            raise
        raise watch_timeout(job_id, limit_s, error.__cause__) from error
    return cluster.get_job_status(job_id)


def tell_about_other_tasks(cluster: RemoteClusterClient, job_id: str, end: float) -> None:
    """Print a notice that only task 0 is shown, if the job has more tasks.

    Args:
        cluster: The client of the cluster.
        job_id: The job.
        end: The time on the monotonic clock until which to wait for the number of tasks.
    """
    try:
        count = cluster.get_job_status(job_id, timeout_s=max(0.0, end - time.monotonic())).num_tasks
    except (UnavailableError, DeadlineExceededError):
        return  # The error is reported later, because reading the log fails for the same reason.
    if count > 1:
        others = "task 1 is" if count == 2 else f"tasks 1 to {count - 1} are"
        print_notice(
            f"showing task 0 of {count}; {others} not shown. For another task: stream_task_index=N;"
            f" for all of them: job.logs(follow=True), or in a terminal: iris logs -f {shlex.quote(job_id)}"
        )
