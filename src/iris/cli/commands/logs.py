"""`iris logs`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import Connection, connect
from iris.cli.cluster.lookup import known_job_or_task, no_such_task
from iris.cli.options import COUNT, MOMENT, address_option, json_option
from iris.cli.output.closed_reader import leave_with_reader
from iris.cli.output.printer import LONGEST_CURSOR, Output
from iris.cluster.logs.records import SOURCES
from iris.cluster.types import is_job_finished, state_name
from iris.errors import IrisError, NotFoundError

if TYPE_CHECKING:
    from iris.client import LogEntry
    from iris.client.logs.read_options import Route
    from iris.client.logs.streams import LogStream
    from iris.rpc import cluster_pb2

# For how long servers that do not answer are tried when nothing is followed: somebody sits there and waits.
_PATIENCE_S = 15.0
_HELP = """\
Show what the tasks of a job have written, of all their attempts, by time; with -f also what comes.

\b
  iris logs train-1a2b3c4d                               all that there is until now
  iris logs train-1a2b3c4d --task 2 -f                   go on until the job has ended
  iris logs train-1a2b3c4d/task-2 -f                     the same
  iris logs train-1a2b3c4d --tail 20 -f                  the last 20 lines, then what comes
  iris logs train-1a2b3c4d --since 10m --grep 'loss=nan' --timestamps
  iris logs train-1a2b3c4d --task 0 --source stdout --raw > result.bin
  iris logs train-1a2b3c4d --json | jq -r 'select(.source == "stderr") | .message'

TIME is how long ago (90 or 90s, 10m, 1h30m, 2d), a date or time (2026-11-24, 2026-11-24T10:00, local unless it
ends with a zone), or seconds since the epoch (@1732445000). A line's time is when its end was written.

What tasks wrote goes to stdout, their stderr too; how they were prepared goes to stderr. With more than one task,
each line is labelled. An unfinished line shows at once on a terminal, and where the output of one task has no labels.

With -f the exit code is that of the job, as with 'iris run', or of the chosen tasks or attempt: 0 when they
succeeded. --no-exit-code: 0 however they ended. Exits with 1 when something could not be read, with 141 when who reads
the output leaves, as 'head' does, and with 130 after Ctrl-C.
"""


@click.command(help=_HELP, short_help="Show what tasks have written.")
@click.option(
    "--task",
    "tasks",
    metavar="N",
    type=COUNT,
    multiple=True,
    help="Only this task, from 0; may be given several times.",
)
@click.option("--attempt", metavar="N", type=COUNT, help="Only this attempt of each task, from 0.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the job has ended.")
@click.option("--since", type=MOMENT, help="Only lines after this time.")
@click.option("--until", type=MOMENT, help="Only lines up to this time.")
@click.option("--tail", metavar="N", type=COUNT, help="Only the last N lines, counted over all tasks together.")
@click.option("--grep", metavar="RE", help="Only lines in which this pattern (RE2) is found.")
@click.option(
    "--source",
    "sources",
    type=click.Choice(SOURCES),
    multiple=True,
    help="Only lines from there; may be given several times. 'build' is how tasks were prepared.",
)
@click.option("--timestamps", is_flag=True, help="Begin each line with its time, in UTC.")
@click.option("--cursor", metavar="C", help="Go on right after the line with this cursor, of those in --json.")
@json_option(
    'One line of JSON for each line: {"task", "attempt", "source", "timestamp_ms", "message", "cursor"}, with "partial"'
    ' where no newline ends it, "data_base64" where the message is not exact, and "missing_bytes" where something'
    " is missing. An unfinished line comes when it is finished, or when its attempt ends."
)
@click.option(
    "--raw",
    is_flag=True,
    help="The exact bytes that tasks wrote, and nothing else. Of several tasks or sources, lines may be torn.",
)
@click.option(
    "--route",
    type=click.Choice(["auto", "worker", "controller"]),
    default="auto",
    help="Read from workers, through the controller, or (auto, the default) as it goes.",
)
@click.option(
    "--exit-code/--no-exit-code",
    "with_exit_code",
    default=None,
    help="With -f: exit with the code of what was followed (the default), or with 0 however that ended.",
)
@address_option
@click.argument("job")
def logs(
    *,
    job: str,
    tasks: tuple[int, ...],
    attempt: int | None,
    follow: bool,
    since: int | None,
    until: int | None,
    tail: int | None,
    grep: str | None,
    sources: tuple[str, ...],
    timestamps: bool,
    cursor: str | None,
    as_json: bool,
    raw: bool,
    route: Route,
    with_exit_code: bool | None,
    address: str | None,
) -> int:
    """See `_HELP`."""
    _check_forms(raw=raw, as_json=as_json, timestamps=timestamps)
    _check_range(follow=follow, tail=tail, cursor=cursor, since=since, until=until)
    if with_exit_code is not None and not follow:
        raise click.UsageError("--exit-code and --no-exit-code go with -f: without it nothing is waited for")
    output = Output(as_json=as_json, with_times=timestamps)
    with connect(address) as connection:
        status, task_index = known_job_or_task(connection.client, job)
        if task_index is not None:
            if tasks:
                raise click.UsageError(f"{job} is a task: --task goes with the id of a job, {status.job_id}")
            job, tasks = status.job_id, (task_index,)
        shown = _chosen(tasks, attempt, status, follow)
        if len(shown) > 1:
            output.label_lines(status.num_tasks)
        if raw and not sources:
            sources = tuple(source for source in SOURCES if source != "build")
        wanted: dict[str, Any] = {} if follow else {"patience_s": _PATIENCE_S}
        with connection.client.stream_job_logs(
            job,
            shown,
            follow=follow,
            cursor=cursor,
            attempt_id=attempt,
            start_ms=since or 0,
            end_ms=until or 0,
            tail=tail,
            sources=sources,
            regex=grep or "",
            route=route,
            on_notice=output.note,
            partial=output.shows_pieces or not (follow or as_json),  # what there is ends with an unfinished line
            **wanted,
        ) as stream:
            if raw:
                whole = _show_raw(stream, output)
            else:
                again = ""
                if follow and not as_json:
                    options = {
                        "--task": tasks,
                        "--attempt": attempt,
                        "--grep": grep,
                        "--source": sources,
                        "--timestamps": timestamps,
                        "--route": None if route == "auto" else route,
                    }
                    again = _words_again(connection, job, options)
                # A follow tells of retries by itself.
                batches = stream.batches() if follow else _with_retries(stream.batches(), status, output)
                whole = _show(stream, batches, output, again)
        code = 0
        if follow and with_exit_code is not False:
            code = (
                _code_of_tasks(stream, output)
                if tasks or attempt is not None
                else _code_of_job(connection, job, output)
            )
    return code or (0 if whole else 1)


def _code_of_job(connection: Connection, job: str, output: Output) -> int:
    """The exit code of a job that was followed to its end; says why where that is not 0."""
    from iris.cli.attach import exit_code_of, words_of_failure

    status = connection.client.wait(job)
    code = exit_code_of(status)
    if code:
        output.error(words_of_failure(status))
    return code


def _code_of_tasks(stream: LogStream, output: Output) -> int:
    """The exit code of the first of the tasks that were followed that did not succeed; says why."""
    from iris.cli.attach import exit_code_of

    for index, end in sorted(stream.ends.items()):
        code = exit_code_of(end)
        if code:
            output.error(f"task {index} ended as {state_name(end.state)}: {end.error or f'exit code {end.exit_code}'}")
            return code
    return 0


def _show(stream: LogStream, batches: Iterable[Sequence[LogEntry]], output: Output, again: str) -> bool:
    """Shows lines until the end; whether nothing was missing.

    Args:
        stream: Where they come from.
        batches: The lines.
        output: Where.
        again: The command that goes on with what comes, where it is to be told of when this is interrupted.
    """
    whole = True
    try:
        with leave_with_reader(), output.interrupted_between_writes():
            for lines in batches:
                output.show_lines(lines)
                output.end_tasks(stream.ends)
                if lines and lines[0].missing_bytes:
                    whole = False
    except (KeyboardInterrupt, IrisError):
        output.drop_lines()
        output.end_lines()
        if again and output.last_shown is not None:
            cursor = output.last_shown.cursor
            if len(cursor) <= LONGEST_CURSOR:
                output.note(f"to go on from here: {again} --cursor {cursor}")
        raise
    output.end_lines()
    return whole and not any(end.missing_reason for end in stream.ends.values())


def _with_retries(
    batches: Iterable[Sequence[LogEntry]], status: cluster_pb2.JobStatus, output: Output
) -> Iterator[Sequence[LogEntry]]:
    """Says where the lines of another attempt begin."""
    attempts: dict[int, int] = {}
    for lines in batches:
        if lines:
            index, attempt_id = lines[0].task_index, lines[0].attempt_id
            before = attempts.setdefault(index, attempt_id)
            if before != attempt_id:
                attempts[index] = attempt_id
                known = status.tasks[index].attempts  # until now: there may be more
                why = (before < len(known) and known[before].error) or "stopped"
                output.note(f"attempt {before} of task {index} ended: {why}; attempt {attempt_id} follows")
        yield lines


def _show_raw(stream: LogStream, output: Output) -> bool:
    with leave_with_reader():
        for data in stream.raw():
            output.show_raw(data)
    return not any(end.missing_reason or end.bytes_missing for end in stream.ends.values())


def _check_forms(*, raw: bool, as_json: bool, timestamps: bool) -> None:
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other: exact bytes, or a document for each line")
    if raw and timestamps:
        raise click.UsageError("--raw and --timestamps exclude each other: the exact bytes have no times among them")
    if as_json and timestamps:
        raise click.UsageError('--json and --timestamps exclude each other: each document has its "timestamp_ms"')


def _check_range(*, follow: bool, tail: int | None, cursor: str | None, since: int | None, until: int | None) -> None:
    if tail is not None and cursor is not None:
        raise click.UsageError("--tail and --cursor exclude each other: the last lines, or those after a place")
    if since is not None and until is not None and since > until:
        raise click.UsageError("--since is later than --until: no line is after the one and before the other")
    if follow and until is not None:
        raise click.UsageError("--follow and --until exclude each other: a follow goes on until the job has ended")


def _chosen(tasks: Sequence[int], attempt: int | None, status: cluster_pb2.JobStatus, follow: bool) -> list[int]:
    """The tasks to show: those that were named, else all, or all that have or may still get the attempt."""
    for index in tasks:
        if index >= status.num_tasks:
            raise no_such_task(status, index)
    if tasks:
        return sorted(set(tasks))
    if attempt is not None and not (follow and not is_job_finished(status.state)):
        found = [task.task_index for task in status.tasks if attempt < len(task.attempts)]
        if not found:
            most = max((len(task.attempts) for task in status.tasks), default=0)
            raise NotFoundError(
                f"no task of job {status.job_id!r} has an attempt {attempt}: they have had {most} at most, from 0"
            )
        return found
    return list(range(status.num_tasks))


def _words_again(connection: Connection, job: str, options: Mapping[str, object]) -> str:
    """The command that follows the same lines. `--since` and `--tail` say where to begin, as does a cursor."""
    words = ["iris", "logs", "-f", *connection.options.split(), job]
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            for one in value if isinstance(value, tuple) else (value,):
                words += [name, str(one)]
    return shlex.join(words)
