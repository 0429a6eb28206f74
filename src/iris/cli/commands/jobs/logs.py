"""`iris logs`."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import Connection, connect
from iris.cli.cluster.lookup import LATEST, Lookup, Target, no_such_task
from iris.cli.commands.jobs.merge_job_logs import merged_batches
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_ERROR, EXIT_IRIS_FAILED, JobCodeCommand, exit_code_of
from iris.cli.options import COUNT, MOMENT, address_option, json_option, refused_options
from iris.cli.output.closed_reader import leave_with_reader
from iris.cli.output.job_labels import JobLabels
from iris.cli.output.printer import LONGEST_CURSOR, Output
from iris.cluster.logs.records import SOURCES
from iris.cluster.types import is_job_finished, state_name
from iris.counts import counted
from iris.errors import IrisError, NotFoundError

if TYPE_CHECKING:
    from iris.cli.job_watch import JobWatch
    from iris.client import LogEntry
    from iris.client.logs.streams import LogStream
    from iris.rpc import cluster_pb2

# Without -f, a server that does not answer is retried for only this number of seconds, because a person waits for the
# command.
_PATIENCE_S = 15.0
_MOST_JOBS = 100
_MOST_WATCHED = 20  # `-f` watches at most this many jobs, with two threads each.
_HELP = """\
Show what the tasks of jobs have written in all their attempts, ordered by time. With -f, also show new lines until the
jobs end.

JOB is an id, the beginning of an id, a pattern in quotes, or '@' for your latest job. Default: your latest job.

\b
  iris logs -f                                           follow your latest job
  iris logs 'sweep-*' eval-5e6f7a8b -f                   follow several jobs; labels name the jobs
  iris logs train-1a2b3c4d                               everything up to now
  iris logs train-1a2b3c4d --task 2 -f                   follow one task until the job ends
  iris logs train-1a2b3c4d/task-2 -f                     the same
  iris logs train-1a2b3c4d --tree -f                     the job and all jobs that its tasks submit
  iris logs train-1a2b3c4d --tail 20 -f                  the last 20 lines, then every new line
  iris logs train-1a2b3c4d --since 10m --grep 'loss=nan' --timestamps
  iris logs train-1a2b3c4d --task 0 --source stdout --raw > result.bin
  iris logs train-1a2b3c4d --json | jq -r 'select(.source == "stderr") | .message'

A TIME is an age (90 or 90s, 10m, 1h30m, 2d), a date or time (2026-11-24, 2026-11-24T10:00, local unless it ends with a
zone), or seconds since the epoch (@1732445000). The time of a line is the time at which its end was written.

The tasks' stdout and stderr go to stdout. Lines about the preparation of tasks go to stderr. Lines of several tasks
have labels. An unfinished line is shown at once on a terminal, and wherever lines have no labels.

With -f, the exit code is the code of the job, or of the chosen tasks, as with 'iris run'. With several JOBs, it is the
code of the first job that did not succeed. With --no-exit-code, the exit code is 0. If a part of the logs could not be
read, the exit code is 125 with -f, and 1 otherwise. The exit code is 141 if the reader of the output, such as 'head',
has ended, and 130 after Ctrl-C.
"""
_MULTIPLE = "May be given several times."


@click.command(cls=JobCodeCommand, help=_HELP, short_help="Show what tasks have written.")
@click.option(
    "--task",
    "tasks",
    metavar="N",
    type=COUNT,
    multiple=True,
    help=f"Show only the task with this index. The first task has the index 0. {_MULTIPLE}",
)
@click.option(
    "--attempt",
    metavar="N",
    type=COUNT,
    help="Show only the attempt with this number of each task. The first attempt has the number 0.",
)
@click.option("-f", "--follow", is_flag=True, help="Also show each new line, until the job has ended.")
@click.option(
    "--tree",
    is_flag=True,
    help="Show the lines of the job and of all its child jobs, with the job's id before each line.",
)
@click.option("--since", type=MOMENT, help="Show only lines after this time.")
@click.option("--until", type=MOMENT, help="Show only lines up to this time.")
@click.option("--tail", metavar="N", type=COUNT, help="Show only the last N lines of all tasks of a job together.")
@click.option("--grep", metavar="RE", help="Show only lines that contain this pattern, in the syntax of RE2.")
@click.option(
    "--source",
    "sources",
    type=click.Choice(SOURCES),
    multiple=True,
    help=f"Show only lines of this source. 'build' is the preparation of tasks. {_MULTIPLE}",
)
@click.option("--timestamps", is_flag=True, help="Begin each line with its time, in UTC.")
@click.option("--cursor", metavar="C", help="Continue after the line with this cursor, which --json prints.")
@json_option(
    'Print one JSON object for each line: {"task", "attempt", "source", "timestamp_ms", "message", "cursor"}. It has'
    ' "job" if several JOBs are shown, "partial" if the line has no newline, "data_base64" if the message is not exact,'
    ' and "missing_bytes" if something is missing. A partial line is printed once it is complete, or when its attempt'
    " has ended."
)
@click.option(
    "--raw",
    is_flag=True,
    help="Print only the exact bytes that the tasks wrote. Lines of different tasks or sources may be mixed.",
)
@click.option(
    "--route",
    type=click.Choice(["auto", "worker", "controller"]),
    default="auto",
    help="Read logs from the workers, through the controller, or in any way that works (auto). Default: auto.",
)
@click.option(
    "--exit-code/--no-exit-code",
    "with_exit_code",
    default=None,
    help="With -f: exit with the exit code of the job or the chosen tasks (the default), or with 0.",
)
@address_option
@click.argument("jobs", type=JobName(with_tasks=True), metavar="[JOB]...", nargs=-1)
def logs(
    *, jobs: tuple[str, ...], with_exit_code: bool | None, as_json: bool, address: str | None, **options: Any
) -> int:
    """See `_HELP`."""
    _check_options(as_json, with_exit_code, options)
    follow = options["follow"]
    output = Output(as_json=as_json, with_times=options["timestamps"])
    if options["tree"]:
        with connect(address) as connection:
            return _show_tree(connection, jobs, options, output, with_exit_code=with_exit_code)
    with connect(address) as connection, contextlib.ExitStack() as stack:
        chosen = _choose(Lookup(connection.client).several(jobs), options)
        _label(chosen, output)
        stack.enter_context(refused_options())
        streams = [stack.enter_context(_open_stream(connection, one, options, output)) for one in chosen]
        for watch in _watches(connection, chosen, options, output):
            stack.enter_context(watch)
        if len(chosen) > 1:
            whole = _show(streams, merged_batches(streams, follow=follow), output, again="")
        elif options["raw"]:
            whole = _show_raw(streams[0], output)
        else:
            again = ""
            if follow and not as_json:
                job_id = chosen[0].status.job_id
                again = _words_again(connection, job_id, options, with_exit_code=with_exit_code)
            batches = streams[0].batches()
            # With -f, the stream of log lines prints a notice about each retry of a task. Without -f, `_with_retries`
            # prints these notices.
            shown = batches if follow else _with_retries(batches, chosen[0].status, output)
            whole = _show(streams, shown, output, again)
        if not follow:
            for one in chosen:
                _note_no_start(one.status, one.indices if one.is_part else (), output)
        codes = []
        if follow and with_exit_code is not False:
            codes = [_code_of(connection, one, stream, output) for one, stream in zip(chosen, streams, strict=True)]
    code = next((code for code in codes if code), 0)
    return code or (0 if whole else EXIT_IRIS_FAILED if follow else EXIT_ERROR)


def _show_tree(
    connection: Connection,
    jobs: Sequence[str],
    options: Mapping[str, Any],
    output: Output,
    *,
    with_exit_code: bool | None,
) -> int:
    """Show the lines of a job and of its child jobs, and return the exit code. With `-f`, the exit code is the code of
    the job."""
    if len(jobs) > 1:
        raise click.UsageError(f"--tree needs exactly one JOB, got {len(jobs)}")
    status = Lookup(connection.client).job(jobs[0] if jobs else LATEST)
    root = status.job_id
    follow, whole = options["follow"], True
    patience: dict[str, Any] = {} if follow else {"patience_s": _PATIENCE_S}
    with (
        refused_options(),
        connection.client.stream_tree_logs(
            root,
            follow=follow,
            start_ms=options["since"] or 0,
            end_ms=options["until"] or 0,
            tail=options["tail"],
            sources=options["sources"],
            regex=options["grep"] or "",
            route=options["route"],
            on_notice=output.note,
            **patience,
        ) as stream,
    ):
        labels = JobLabels({}, {})
        output.label_jobs(labels)
        with leave_with_reader(), output.interrupted_between_writes():
            for lines in stream.batches():
                if lines:
                    job_id = lines[0].job_id
                    labels.add_job(job_id, stream.jobs[job_id].num_tasks)
                    whole = whole and not lines[0].missing_bytes
                output.show_lines(lines)
        output.end_lines()
    if not follow:
        _note_no_start(status, (), output)
    code = _code_of_job(connection, root, output) if follow and with_exit_code is not False else 0
    return code or (0 if whole else EXIT_IRIS_FAILED if follow else EXIT_ERROR)


def _note_no_start(status: cluster_pb2.JobStatus, indices: Sequence[int], output: Output) -> None:
    """Print why there are no lines, if a job or its chosen tasks have not started."""
    chosen = [status.tasks[index] for index in indices]
    attempts = [attempt for task in chosen or status.tasks for attempt in task.attempts]
    if not any(attempt.started_at_ms for attempt in attempts):
        # The import is here, because it takes a third of a second and is rarely needed.
        from iris.cli.job_watch import words_of_no_start

        output.note(words_of_no_start(status, chosen))


@dataclass(frozen=True)
class _Chosen:
    """The tasks of one job whose lines are shown.

    Attributes:
        status: The status of the job.
        indices: The indices of the tasks.
        is_part: Whether the user has chosen tasks or an attempt. The exit code of `iris logs -f` is then the code of
            these tasks, and not of the job.
        is_one_of_several: Whether other jobs are shown, too.
    """

    status: cluster_pb2.JobStatus
    indices: list[int]
    is_part: bool
    is_one_of_several: bool


def _choose(targets: Sequence[Target], options: dict[str, Any]) -> list[_Chosen]:
    """Return the tasks whose lines are shown, as one `_Chosen` for each job. Put the tasks that the user named into
    `options["tasks"]`.
    """
    jobs: dict[str, list[Target]] = {}
    for target in targets:
        if target.task_index is not None and options["tasks"]:
            raise click.UsageError(
                f"{target.name} is the id of a task: --task needs the id of the job, {target.job.job_id}"
            )
        jobs.setdefault(target.job.job_id, []).append(target)
    if len(jobs) > 1:
        _check_several(len(jobs), options)
    chosen = []
    for of_job in jobs.values():
        status = of_job[0].job
        # The whole job is shown if the user has named the job, even if the user has named its tasks, too.
        named = tuple(target.task_index for target in of_job if target.task_index is not None)
        tasks = options["tasks"] or (named if len(named) == len(of_job) else ())
        if len(jobs) == 1:
            options["tasks"] = tasks
        indices = _chosen_indices(tasks, options["attempt"], status, options["follow"])
        is_part = bool(tasks) or options["attempt"] is not None
        chosen.append(_Chosen(status, indices, is_part, is_one_of_several=len(jobs) > 1))
    return chosen


def _check_tree(options: Mapping[str, Any]) -> None:
    for name, option in (("raw", "--raw"), ("cursor", "--cursor"), ("tasks", "--task")):
        if options[name]:
            raise click.UsageError(f"--tree and {option} exclude each other")
    if options["attempt"] is not None:
        raise click.UsageError("--tree and --attempt exclude each other")


def _check_several(count: int, options: Mapping[str, Any]) -> None:
    if count > _MOST_JOBS:
        raise click.UsageError(f"expected at most {_MOST_JOBS} jobs, got {count}: show fewer jobs at a time")
    for name, option in (("raw", "--raw"), ("cursor", "--cursor")):
        if options[name]:
            raise click.UsageError(f"{option} needs exactly one JOB, got {count}")


def _label(chosen: Sequence[_Chosen], output: Output) -> None:
    if len(chosen) > 1:
        counts = {one.status.job_id: one.status.num_tasks for one in chosen}
        output.label_jobs(JobLabels(counts, {one.status.job_id: one.indices for one in chosen}))
    elif len(chosen[0].indices) > 1:
        output.label_lines(chosen[0].status.num_tasks)


def _watches(
    connection: Connection, chosen: Sequence[_Chosen], options: Mapping[str, Any], output: Output
) -> list[JobWatch]:
    """Return one `JobWatch` for each followed job, which shows why the job waits. Without -f, the list is empty."""
    # The import is here, because it takes a third of a second and only `iris logs -f` needs it.
    from iris.cli.job_watch import JobWatch

    live = [one for one in chosen if options["follow"] and not is_job_finished(one.status.state)]
    return [
        JobWatch(
            connection.client,
            one.status.job_id,
            output,
            tasks=one.indices if one.is_part else None,
            has_line=len(chosen) == 1 and not options["raw"],
        )
        for one in live[:_MOST_WATCHED]
    ]


def _open_stream(connection: Connection, chosen: _Chosen, options: Mapping[str, Any], output: Output) -> LogStream:
    """Open a stream of the log lines that the options of `iris logs` select, from the chosen tasks of one job."""
    follow, sources = options["follow"], options["sources"]
    if options["raw"] and not sources:
        sources = tuple(source for source in SOURCES if source != "build")
    about = f"job {chosen.status.job_id}: " if chosen.is_one_of_several else ""
    patience: dict[str, Any] = {} if follow else {"patience_s": _PATIENCE_S}
    return connection.client.stream_job_logs(
        chosen.status.job_id,
        chosen.indices,
        follow=follow,
        cursor=options["cursor"],
        attempt_id=options["attempt"],
        start_ms=options["since"] or 0,
        end_ms=options["until"] or 0,
        tail=options["tail"],
        sources=sources,
        regex=options["grep"] or "",
        route=options["route"],
        on_notice=lambda text: output.note(f"{about}{text}"),
        # Without -f, the log may end with an unfinished line, which is shown.
        partial=output.shows_pieces or not (follow or output.as_json),
        **patience,
    )


def _code_of(connection: Connection, chosen: _Chosen, stream: LogStream, output: Output) -> int:
    if chosen.is_part:
        return _code_of_tasks(stream, output)
    return _code_of_job(connection, chosen.status.job_id, output)


def _code_of_job(connection: Connection, job: str, output: Output) -> int:
    """Return the exit code of a job that was followed to its end, and print why the code is not 0."""
    from iris.cli.attach import words_of_failure

    status = connection.client.wait(job, progress=False)
    code = exit_code_of(status)
    if code:
        output.error(words_of_failure(status))
    return code


def _code_of_tasks(stream: LogStream, output: Output) -> int:
    """Return the exit code of the first followed task that did not succeed, and print why that task failed."""
    for index, end in sorted(stream.ends.items()):
        code = exit_code_of(end)
        if code:
            output.error(f"task {index} ended as {state_name(end.state)}: {end.error or f'exit code {end.exit_code}'}")
            return code
    return 0


def _show(streams: Sequence[LogStream], batches: Iterable[Sequence[LogEntry]], output: Output, again: str) -> bool:
    """Show lines until all log streams have ended. Return True if no line was missing.

    Args:
        streams: The log streams from which the lines come. If there is only one stream and a task ends, the unfinished
            line of this task is ended at once.
        batches: The batches of log lines to show.
        output: The object that shows log lines and messages.
        again: The command that continues after the last shown line. After an interruption, a message shows this
            command. If the command is empty, no message is shown.
    """
    whole = True
    try:
        with leave_with_reader(), output.interrupted_between_writes():
            for lines in batches:
                output.show_lines(lines)
                if len(streams) == 1:
                    output.end_tasks(streams[0].ends)
                if lines and lines[0].missing_bytes:
                    whole = False
    except (KeyboardInterrupt, IrisError):
        output.drop_lines()
        output.end_lines()
        if again and output.last_shown is not None:
            cursor = output.last_shown.cursor
            if len(cursor) <= LONGEST_CURSOR:
                output.note(f"to continue from here: {again} --cursor {cursor}")
        raise
    output.end_lines()
    return whole and not any(end.missing_reason for stream in streams for end in stream.ends.values())


def _with_retries(
    batches: Iterable[Sequence[LogEntry]], status: cluster_pb2.JobStatus, output: Output
) -> Iterator[Sequence[LogEntry]]:
    """Yield the batches of lines unchanged. Print a note before the first line of each further attempt."""
    attempts: dict[int, int] = {}
    for lines in batches:
        if lines:
            index, attempt_id = lines[0].task_index, lines[0].attempt_id
            before = attempts.setdefault(index, attempt_id)
            if before != attempt_id:
                attempts[index] = attempt_id
                # The log may contain newer attempts than `status`, because `status` was read at the start of this
                # command.
                known = status.tasks[index].attempts
                why = (before < len(known) and known[before].error) or "stopped"
                output.note(f"attempt {before} of task {index} ended: {why}; attempt {attempt_id} follows")
        yield lines


def _show_raw(stream: LogStream, output: Output) -> bool:
    with leave_with_reader():
        for data in stream.raw():
            output.show_raw(data)
    return not any(end.missing_reason or end.bytes_missing for end in stream.ends.values())


def _check_options(as_json: bool, with_exit_code: bool | None, options: Mapping[str, Any]) -> None:
    """Refuse options that exclude each other."""
    _check_formats(as_json, options)
    _check_range(options)
    if options["tree"]:
        _check_tree(options)
    if with_exit_code is not None and not options["follow"]:
        raise click.UsageError("--exit-code and --no-exit-code need -f, which waits for the end of the job")


def _check_formats(as_json: bool, options: Mapping[str, Any]) -> None:
    if options["raw"] and as_json:
        raise click.UsageError("--raw and --json exclude each other: --raw prints bytes, --json prints objects")
    if options["raw"] and options["timestamps"]:
        raise click.UsageError("--raw and --timestamps exclude each other: --raw prints only what the tasks wrote")
    if as_json and options["timestamps"]:
        raise click.UsageError('--json and --timestamps exclude each other: each JSON object has a "timestamp_ms"')


def _check_range(options: Mapping[str, Any]) -> None:
    since, until = options["since"], options["until"]
    if options["tail"] is not None and options["cursor"] is not None:
        raise click.UsageError("--tail and --cursor exclude each other: both select the first line to show")
    if since is not None and until is not None and since > until:
        raise click.UsageError("--since must be earlier than --until")
    if options["follow"] and until is not None:
        raise click.UsageError("--follow and --until exclude each other: --follow shows lines until the job has ended")


def _chosen_indices(
    tasks: Sequence[int], attempt: int | None, status: cluster_pb2.JobStatus, follow: bool
) -> list[int]:
    """Return the indices of the tasks to show.

    `--task` selects tasks. Without `--task`, all tasks that have the requested attempt or may get it are shown.
    """
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
                f"no task of job {status.job_id!r} has an attempt {attempt}:"
                f" no task has had more than {counted(most, 'attempt')}, and attempts count from 0"
            )
        return found
    return list(range(status.num_tasks))


def _words_again(connection: Connection, job: str, options: Mapping[str, Any], *, with_exit_code: bool | None) -> str:
    """Return the command line that continues to follow the same logs, without `--since` and `--tail`. The caller adds
    `--cursor`."""
    repeated = {
        "--task": options["tasks"],
        "--attempt": options["attempt"],
        "--grep": options["grep"],
        "--source": options["sources"],
        "--timestamps": options["timestamps"],
        "--route": None if options["route"] == "auto" else options["route"],
        "--no-exit-code": with_exit_code is False,
    }
    words = ["iris", "logs", "-f", *shlex.split(connection.options), job]
    for name, value in repeated.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            for one in value if isinstance(value, tuple) else (value,):
                words += [name, str(one)]
    return shlex.join(words)
