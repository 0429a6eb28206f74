"""Tells the user which commands show an ended job. The tasks of an ended job have no call stacks any more."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished, state_name

if TYPE_CHECKING:
    from iris.rpc import cluster_pb2


def note_end(output: Output, job: cluster_pb2.JobStatus, options: str) -> None:
    """If a job has ended, print which commands show how it ended and what it wrote.

    Args:
        output: The object that prints the commands.
        job: The status of the job.
        options: The options of `iris` that choose the cluster.
    """
    if is_job_finished(job.state):
        name = f"{options} {shlex.quote(job.job_id)}"
        output.note(
            f"job {job.job_id} has ended ({state_name(job.state)}): 'iris describe{name}' shows its end, and"
            f" 'iris logs{name}' its lines"
        )
