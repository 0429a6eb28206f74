"""Finds a job by its id, and what may have been meant when there is none."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from iris.errors import NotFoundError

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.rpc import cluster_pb2

_SHOWN = 3


def known_job(client: IrisClient, job_id: str) -> cluster_pb2.JobStatus:
    """A job's status.

    Raises:
        NotFoundError: There is no such job; the text names those that are spelt alike.
    """
    try:
        return client.status(job_id)
    except NotFoundError as error:
        near = _near(job_id, [job.job_id for job in client.list_jobs()])
        advice = f"did you mean {', '.join(near)}?" if near else "'iris ps --all' shows all jobs"
        raise NotFoundError(f"{error} ({advice})") from None


def _near(job_id: str, known: list[str]) -> list[str]:
    begins = [name for name in reversed(known) if job_id and name.startswith(job_id)]
    alike = difflib.get_close_matches(job_id, known, n=_SHOWN)
    return list(dict.fromkeys(begins + alike))[:_SHOWN]
