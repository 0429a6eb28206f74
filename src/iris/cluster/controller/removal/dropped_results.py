"""Adds to task statuses the reason why a dropped result is missing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import SUCCEEDED
from iris.cluster.controller.storage.contents import reading as contents
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.store import Store
from iris.errors import quoted
from iris.rpc import cluster_pb2


async def explain_dropped_results(
    record: JobRecord, tasks: Sequence[cluster_pb2.TaskStatus], stored_jobs: StoredJobs, store: Store
) -> None:
    """If the results of a job were dropped, add the reason to the statuses of its tasks.

    Args:
        record: The record of the job.
        tasks: The statuses of tasks of the job, with the stored results.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        store: The database of the controller.
    """
    # Only a callable has a result.
    missing = [
        task
        for task in tasks
        if record.launch.pickled_by and task.state == SUCCEEDED and not (task.serialized_result or task.result_error)
    ]
    if not missing:
        return
    if not await stored_jobs.run(store.read, partial(contents.has_dropped_contents, number=record.number)):
        return
    for task in missing:
        task.result_dropped = True
        task.result_error = (
            f"the result was dropped, because the jobs of user {quoted(record.job.owner)} have stored more bytes than"
            " one user may store ('iris up --max-bytes-per-user' sets the limit)"
        )
