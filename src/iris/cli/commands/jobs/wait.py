"""`iris wait`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from iris.cli.attach import words_of_failure
from iris.cli.cluster.connect import connect
from iris.cli.cluster.ends import Status, wait_for_ends
from iris.cli.cluster.lookup import Lookup, Target
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_TIMEOUT, JobCodeCommand, exit_code_of
from iris.cli.options import DURATION, address_option, json_option
from iris.cli.output.documents import job_document, task_document
from iris.cli.output.printer import Output
from iris.cluster.types import state_name
from iris.durations import write_span
from iris.rpc import cluster_pb2

_HELP = """\
Wait until jobs or tasks have ended, print how each of them ended, and exit with the exit code of the job. With several
JOBs, the exit code is the code of the first given JOB that did not succeed. No lines of tasks are shown; 'iris attach'
shows them.

JOB is an id, the beginning of an id, a task (JOB/task-2), a pattern in quotes, or '@' for your latest job. Default:
your latest job.

\b
  iris wait train-1a2b3c4d && iris run -- ./evaluate
  iris wait 'sweep-*'                          all of them
  iris wait --any train-a train-b              the first that ends
  iris wait --timeout 10m || echo "failed, or not ready: $?"

The exit code is 124 if the time of --timeout is over before the jobs have ended. The other exit codes are those of
'iris run'. Ctrl-C gives 130, and the jobs continue.
"""


@click.command(cls=JobCodeCommand, help=_HELP, short_help="Wait for the end of jobs, and exit with their exit code.")
@click.option("--timeout", type=DURATION, help="Wait at most this time, such as 90s, 10m or 2h. Default: no limit.")
@click.option("--any", "only_one", is_flag=True, help="Wait only until one of the jobs has ended.")
@json_option(
    'Print one JSON document: {"jobs": […], "tasks": […], "timed_out"} with the jobs and tasks that have ended, in the'
    " order of their ends."
)
@address_option
@click.argument("jobs", type=JobName(with_tasks=True), metavar="[JOB]...", nargs=-1)
def wait(*, jobs: tuple[str, ...], timeout: float | None, only_one: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        wanted = Lookup(connection.client).several(jobs)
        ended: dict[str, Status] = {}
        for target, status in wait_for_ends(connection.client, wanted, timeout):
            ended[target.name] = status
            _print_end(target, status, output)
            if only_one:
                break
    timed_out = not ended if only_one else len(ended) < len(wanted)
    if as_json:
        output.answer(_document(ended.values(), timed_out), str)
    codes = [exit_code_of(ended[target.name]) for target in wanted if target.name in ended]
    if timed_out and timeout is not None:
        left = [target.name for target in wanted if target.name not in ended]
        others = f" and {len(left) - 1} more have" if len(left) > 1 else " has"
        output.error(f"{left[0]}{others} not ended within {write_span(timeout)}")
        return EXIT_TIMEOUT
    return next((code for code in codes if code), 0)


def _document(ended: Iterable[Status], timed_out: bool) -> dict[str, Any]:
    return {
        "jobs": [job_document(end) for end in ended if isinstance(end, cluster_pb2.JobStatus)],
        "tasks": [task_document(end) for end in ended if isinstance(end, cluster_pb2.TaskStatus)],
        "timed_out": timed_out,
    }


def _print_end(target: Target, status: Status, output: Output) -> None:
    """Print how a job or a task has ended. With --json, print only the reason of a failure, on stderr."""
    if not output.as_json:
        output.answer({}, lambda: f"{target.name} ended: {state_name(status.state)}")
    if isinstance(status, cluster_pb2.JobStatus):
        if exit_code_of(status):
            output.error(words_of_failure(status))
    elif status.state != cluster_pb2.TASK_STATE_SUCCEEDED:
        output.error(f"task {target.name} ended as {state_name(status.state)}: {status.error or 'no reason was given'}")
