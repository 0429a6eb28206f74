"""`iris profile`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from iris.cli.cluster.connect import Connection, connect
from iris.cli.cluster.lookup import LATEST, Lookup, Target
from iris.cli.commands.inspect.ended_jobs import note_end
from iris.cli.commands.inspect.memory import show_memory
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import DURATION, POSITIVE_COUNT, address_option, json_option
from iris.cli.output.description import show_memory_command
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished
from iris.errors import FailedPreconditionError, InvalidArgumentError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.client.inspect.profile import Profile

_ENDINGS = {"speedscope": ".speedscope.json", "flamegraph": ".svg", "collapsed": ".collapsed.txt"}
_FORMATS = ("text", *_ENDINGS)
_SHOWN_FUNCTIONS = 200
_HELP = """\
Show where the tasks of a job spend their time: sample the call stacks of their Python processes, and sum the samples.

With JOB, all tasks of the job are sampled at the same time. With JOB/task-N, one task is sampled. The tasks continue,
and are not stopped for a sample. Ctrl-C ends the sampling and shows the samples so far.

\b
  iris profile                                       your latest job: the most frequent functions
  iris profile train-1a2b3c4d/task-0 --duration 30s
  iris profile @ -o train.svg                        a flame graph, which a browser opens
  iris profile @ --format speedscope                 a file for https://www.speedscope.app
  iris profile @ --json | jq '.functions[0]'
  iris profile --memory @/task-0 -o memory.html      what held memory at the peak of 'iris run --profile-memory'

Only threads that use the CPU are counted, unless --idle is given. 'iris stack' shows where the tasks are now. Only the
owner of a job and admins can sample its tasks. The workers need the extra [inspect] (py-spy).
"""


@click.command(help=_HELP, short_help="Show where the tasks of a job spend their time.")
@click.option(
    "--duration", metavar="TIME", type=DURATION, default="10s", help="How long to take samples. Default: 10s."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="The format of the profile. Default: the format that fits the file name extension of FILE, otherwise text.",
)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    help="Write the profile to FILE, or to stdout if FILE is '-'. Default: stdout for text, and a file with the name of"
    " the job for the other formats.",
)
@click.option("--rate", metavar="N", type=POSITIVE_COUNT, default="100", help="Samples per second. Default: 100.")
@click.option(
    "--idle", is_flag=True, help="Also sample threads that only wait, for example for a lock or for the network."
)
@click.option(
    "--memory",
    is_flag=True,
    help="Show the stored memory profile of one task's newest attempt. The job must have been submitted with"
    " 'iris run --profile-memory'. This machine needs the extra [memory] (memray).",
)
@json_option(
    'Print one JSON document: {"job_id", "seconds", "rate", "samples", "functions", "tasks"}. Each function has'
    ' "self_samples" and "total_samples". --output then gets the result as well. With --memory, the document has'
    ' "task_id", "peak_bytes", "allocations" and "functions", and each function has "self_bytes" and "total_bytes".'
)
@address_option
@click.argument("job", metavar="[JOB]", type=JobName(with_tasks=True), default=LATEST)
def profile(
    *,
    job: str,
    duration: float,
    form: str | None,
    path: str | None,
    rate: int,
    idle: bool,
    memory: bool,
    as_json: bool,
    address: str | None,
) -> int:
    """See `_HELP`."""
    if as_json and path == "-":
        raise click.UsageError("--json and --output - exclude each other, because both write to stdout")
    if memory:
        _refuse_sampling_options(click.get_current_context())
        return show_memory(job, form, path, address, as_json=as_json)
    form = form or _form_of(path)
    output = Output(as_json=as_json)
    with connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        found = _sample(connection.client, target, output, round(duration), rate, idle=idle)
        memory_command = "" if found.samples else _memory_command(connection, target)
    document = _document(found)
    if not found.samples:
        note_end(output, target.job, connection.options)
        if memory_command:
            output.note(f"'{memory_command}' shows what held memory at the peak")
    prints_table = form == "text" and path in (None, "-")
    if not idle and (as_json or not prints_table):
        _note_idle(output, found)
    if prints_table:
        output.answer(document, lambda: str(found))
    elif path == "-":
        output.show_raw(_written(found, form).encode())
    else:
        to = path or target.name.replace("/", "-") + _ENDINGS.get(form, ".txt")
        if path or not as_json:
            _write(Path(to), _written(found, form))
            document["path"] = os.path.abspath(to)
        output.answer(document, lambda: f"{str(found).splitlines()[0]}\nwritten to {to}")
    return 0 if found.samples or any(not task.reason for task in found.tasks) else EXIT_ERROR


def _refuse_sampling_options(context: click.Context) -> None:
    for name in ("duration", "rate", "idle"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--memory and --{name} exclude each other, because --memory only shows a stored profile"
            )


def _note_idle(output: Output, found: Profile) -> None:
    """If the profile has very few samples, advise the user to count the samples of waiting threads, too."""
    from iris.client.inspect.profile_formats import idle_hint

    if hint := idle_hint(found):
        output.note(hint)


def _form_of(path: str | None) -> str:
    """Return the format in which to write a profile to a file, from the extension of the file's name."""
    endings = {".json": "speedscope", ".svg": "flamegraph", ".html": "flamegraph"}
    return "text" if path is None else endings.get(Path(path).suffix.lower(), "text")


def _memory_command(connection: Connection, target: Target) -> str:
    """Return the command that shows the memory profile of an ended job, or an empty text if the job has none."""
    job = target.job
    # A job that was killed has no memory profile, because the outputs of killed attempts are not stored.
    if not is_job_finished(job.state) or job.state == cluster_pb2.JOB_STATE_KILLED:
        return ""
    if not connection.client.submission(job.job_id).submission.profile_memory:
        return ""
    return show_memory_command(job.job_id, target.task_index or 0, connection.options)


def _sample(client: IrisClient, target: Target, output: Output, duration_s: int, rate: int, *, idle: bool) -> Profile:
    """Sample the call stacks of tasks until `duration_s` has passed or the user presses Ctrl-C."""
    from iris.client.inspect.profile import ProfileSum, check_profile, slices

    try:
        check_profile(duration_s, rate, None)
    except InvalidArgumentError as error:
        raise click.UsageError(str(error).replace("duration_s", "--duration").replace("rate", "--rate")) from error
    job_id = target.job.job_id
    indices = None if target.task_index is None else [target.task_index]
    total = ProfileSum(job_id, rate)
    try:
        for seconds in slices(duration_s):
            if output.has_status_line:
                output.set_status(f"sampling {target.name}: {total.seconds} of {duration_s} seconds (Ctrl-C: enough)")
            answer = client.cluster.sample_stacks(job_id, indices, seconds=seconds, rate=rate, idle=idle)
            total.add(answer, seconds)
            if total.is_over:
                break
    except KeyboardInterrupt:
        if not total.seconds:
            raise
    output.set_status("")
    return total.profile()


def _written(found: Profile, form: str) -> str:
    if form == "text":
        return f"{found}\n"
    text: str = getattr(found, form)()
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FailedPreconditionError(f"cannot write the profile to {path}: {error.strerror}") from error


def _document(found: Profile) -> dict[str, Any]:
    return {
        "job_id": found.job_id,
        "seconds": found.seconds,
        "rate": found.rate,
        "samples": found.samples,
        "functions": [function._asdict() for function in found.functions()[:_SHOWN_FUNCTIONS]],
        "tasks": [
            {"task_id": task.task_id, "samples": task.samples, "reason": task.reason, "problem": task.problem}
            for task in found.tasks
        ],
    }
