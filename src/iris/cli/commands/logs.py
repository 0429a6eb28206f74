"""`iris logs`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from iris.cli.clusters import connect
from iris.cli.lookup import known_job
from iris.cli.options import address_option, json_option
from iris.cli.output import Output
from iris.cli.reader import leave_with_reader
from iris.errors import IrisError, NotFoundError

if TYPE_CHECKING:
    from iris.client import IrisClient, LogEntry
    from iris.rpc import cluster_pb2

# How many lines of all tasks together are held at once: each task's are read page by page.
_HELD_LINES = 20_000
_HELP = """\
Show what the tasks of a job have written so far, of all their attempts, by time.

\b
  iris logs train-1a2b3c4d
  iris logs train-1a2b3c4d --task 2 -f
  iris logs train-1a2b3c4d --json | jq -r 'select(.source == "stderr") | .message'

What tasks wrote goes to stdout, their stderr too; how they were prepared goes to stderr. With more than one task,
each line is labelled.
Exits with 141 when who reads the output leaves, as 'head' does, and with 130 after Ctrl-C.
"""


@click.command(help=_HELP, short_help="Show what tasks have written.")
@click.option(
    "--task",
    "tasks",
    metavar="N",
    type=click.IntRange(min=0),
    multiple=True,
    help="Only this task, from 0; may be given several times.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the job has ended.")
@json_option('One line of JSON for each line: {"task", "attempt", "source", "timestamp_ms", "message"}.')
@address_option
@click.argument("job")
def logs(*, job: str, tasks: tuple[int, ...], follow: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        status = known_job(connection.client, job)
        shown = _checked(tasks, status)
        if len(shown) > 1:
            output.label_lines(status.num_tasks)
        if follow:
            with leave_with_reader():
                pause_s = min(2.0, max(0.2, len(shown) * 0.01))
                for entry in connection.client.follow_logs(job, shown, poll_interval=pause_s, on_notice=output.note):
                    output.show_line(entry)
            return 0
        reader = _Reader(connection.client, job, output, page_lines=max(100, _HELD_LINES // len(shown)))
        for entry in heapq.merge(*map(reader.lines, shown), key=lambda entry: entry.timestamp_ms):
            output.show_line(entry, more=True)
        output.flush()
        return 1 if reader.failed else 0


def _checked(tasks: Sequence[int], status: cluster_pb2.JobStatus) -> list[int]:
    for index in tasks:
        if index >= status.num_tasks:
            has = f"its tasks are 0 to {status.num_tasks - 1}" if status.num_tasks > 1 else "its only task is 0"
            raise NotFoundError(f"job {status.job_id!r} has no task {index}: {has}")
    return sorted(set(tasks)) or list(range(status.num_tasks))


class _Reader:
    """Reads the lines of tasks, page by page, through all attempts until now.

    Attributes:
        failed: Whether some could not be read; that has been said.
    """

    def __init__(self, client: IrisClient, job_id: str, output: Output, page_lines: int) -> None:
        self._client = client
        self._job_id = job_id
        self._output = output
        self._page_lines = page_lines
        self.failed = False

    def lines(self, task_index: int) -> Iterator[LogEntry]:
        """One task's lines, in its order."""
        attempts = self._client.task_status(self._job_id, task_index).attempts
        for attempt in attempts:
            try:
                yield from self._attempt_lines(task_index, attempt)
            except IrisError as error:
                self.failed = True
                self._output.error(f"task {task_index}, attempt {attempt.attempt_id}: {error}")
            if attempt is not attempts[-1]:
                why = attempt.error or "stopped"
                self._output.note(f"attempt {attempt.attempt_id} of task {task_index} ended: {why}; the next follows")

    def _attempt_lines(self, task_index: int, attempt: cluster_pb2.TaskAttempt) -> Iterator[LogEntry]:
        from iris.client.job import to_log_entries
        from iris.cluster.types import make_task_id
        from iris.rpc import cluster_pb2

        wanted = cluster_pb2.Worker.FetchLogsFilter(max_lines=self._page_lines)
        pending: dict[str, bytes] = {}
        while True:
            page = self._client.cluster.fetch_log_page(make_task_id(self._job_id, task_index), attempt, wanted)
            yield from to_log_entries(page.logs, pending, task_index, attempt.attempt_id, complete=page.at_end)
            if page.at_end:
                return
            wanted.start_line = page.next_line
