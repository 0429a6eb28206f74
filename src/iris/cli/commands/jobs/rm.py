"""`iris rm`."""

from __future__ import annotations

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import LATEST, Lookup, is_pattern
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, PermissionDeniedError

_HELP = """\
Remove jobs that have ended, and all that the cluster has stored about them: status, logs, results and files of
attempts. New jobs can use the names of removed jobs. The child jobs of a job are removed together with the job.

JOB is a whole id, a pattern in quotes, or '@' for your latest job. A pattern matches only jobs that have ended. The
beginning of an id is not enough, because a repeated command could otherwise remove another job.

\b
  iris rm train-1a2b3c4d
  iris rm train-1a2b3c4d eval-5e6f7a8b
  iris rm 'sweep-*'                     all jobs with such an id that have ended
  iris rm --json train-1a2b3c4d

A job that has not ended is not removed; end the job with 'iris kill --wait JOB' first. 'iris up --keep-jobs' removes
old jobs by itself.
"""


@click.command(help=_HELP, short_help="Remove jobs that have ended.")
@json_option()
@address_option
@click.argument("jobs", type=JobName(), metavar="JOB...", nargs=-1)
def rm(*, jobs: tuple[str, ...], as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    if not jobs:
        # Other commands show the latest job if no job is given. This command requires '@' instead, so that an
        # unfinished command line removes no job.
        raise click.UsageError("give the JOBs to remove; '@' stands for your latest job")
    removed: dict[str, None] = {}  # The ids of the removed jobs. The dictionary serves as an ordered set.
    failed = False
    with connect(address) as connection:
        lookup = Lookup(connection.client, with_tasks=False)
        for name in dict.fromkeys(jobs):
            # An error about one of the given names is printed and not raised, so that the command also removes the
            # other jobs.
            try:
                found = _find(lookup, name)
            except (NotFoundError, InvalidArgumentError) as error:
                failed = failed or name not in removed
                if name not in removed:
                    output.error(str(error))
                continue
            for job_id in found:
                if job_id in removed:
                    continue  # This child job is gone: it was removed together with its parent job.
                try:
                    removed |= dict.fromkeys(connection.client.forget(job_id))
                except (NotFoundError, FailedPreconditionError, PermissionDeniedError) as error:
                    failed = True
                    output.error(str(error))
    if removed:
        output.answer({"removed": list(removed)}, lambda: "\n".join(f"{job_id} was removed" for job_id in removed))
    return EXIT_ERROR if failed else 0


def _find(lookup: Lookup, name: str) -> list[str]:
    targets = lookup.all_of(name)
    for target in targets:
        if target.task_index is not None:
            raise InvalidArgumentError(
                f"{target.name!r} is a task: only the whole job {target.job.job_id!r} can be removed"
            )
        # The lookup also accepts the beginning of an id, which is too risky for a removal.
        if target.name != name and name != LATEST and not is_pattern(name):
            raise NotFoundError(f"no job named {name!r}: give the whole id, for example {target.name}")
    if is_pattern(name):
        targets = [target for target in targets if is_job_finished(target.job.state)]
        if not targets:
            raise NotFoundError(f"no job that has ended matches the pattern {name!r} ('iris ps --all' shows all jobs)")
    return [target.job.job_id for target in targets]
