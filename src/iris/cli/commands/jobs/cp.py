"""`iris cp`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target
from iris.cli.completion import complete_file
from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import COUNT, address_option, json_option
from iris.cli.output.printer import Output
from iris.cli.output.upload_display import CopyDisplay
from iris.cluster.types import make_task_id
from iris.counts import counted
from iris.errors import FailedPreconditionError, IrisError, NotFoundError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from iris.client import IrisClient
    from iris.client.files.copied import Copied

_HELP = """\
Copy files from a task to this machine, or from this machine into a running task.

One of SOURCE and DESTINATION is JOB:PATH or JOB/task-N:PATH, and the other one is a local path. JOB is an id, the
beginning of an id, or '@' for your latest job. PATH is relative to the working directory of the task; an empty PATH is
the directory itself. '-' is stdin or stdout.

\b
  iris cp train-1a2b3c4d/task-0:checkpoints ./checkpoints
  iris cp @:loss.csv .                       from the only task of your latest job
  iris cp @:loss.csv - | tail                print a file
  iris cp new-lr.json @/task-2:config/       into the directory 'config' of a running task
  iris cp sweep-9c0d1e2f:results ./all       from each task, to ./all/task-0, ./all/task-1, …

Directories are copied whole, with permissions, times and symbolic links. Links that lead out of the copied directory
are skipped. If DESTINATION is an existing directory, the copy is put into it and keeps its name; 'DIR/.' copies the
contents of DIR. After a lost connection, the copy continues with the missing part. The hash of each file is checked.
"""


class _Place(NamedTuple):
    """SOURCE or DESTINATION.

    Attributes:
        job: The name of the job or task, or None for a local path.
        path: The local path, or the path in the task.
    """

    job: str | None
    path: str


def _place(text: str) -> _Place:
    """Parse SOURCE or DESTINATION: a local path, or a job or task with a path. A local path that contains a colon must
    begin with `/` or `.`."""
    job, colon, path = text.partition(":")
    if not colon or not job or text.startswith(("/", ".")):
        return _Place(None, text)
    return _Place(job, path)


@click.command(help=_HELP, short_help="Copy files from and to tasks.")
@click.option(
    "--attempt",
    "attempt_id",
    metavar="N",
    type=COUNT,
    help="Copy from the attempt with this number. The first attempt has the number 0. Default: the newest attempt.",
)
@json_option()
@address_option
@click.argument("source", metavar="SOURCE", shell_complete=complete_file)
@click.argument("destination", metavar="DESTINATION", shell_complete=complete_file)
def cp(*, source: str, destination: str, attempt_id: int | None, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    come, go = _place(source), _place(destination)
    if (come.job is None) == (go.job is None):
        raise click.UsageError(
            "one of SOURCE and DESTINATION must be JOB:PATH or JOB/task-N:PATH, and the other one a local path"
        )
    if go.job is not None and attempt_id is not None:
        raise click.UsageError(
            "--attempt is only for copies from a task: a copy to a task always goes to its running attempt"
        )
    to_stdout = go.job is None and go.path == "-"
    if as_json and to_stdout:
        raise click.UsageError("--json and a copy to stdout ('-') exclude each other")
    output = Output(as_json=as_json)
    display = CopyDisplay(output)
    with connect(address) as connection:
        client = connection.client
        target = Lookup(client, with_tasks=False).one(come.job or go.job or "")
        if go.job is not None:
            copies = [_upload(client, come.path, target, go.path, display)]
        elif to_stdout:
            display.is_quiet = True
            client.download(_only_task(target), come.path, cast(BinaryIO, _Stdout(output)), attempt_id=attempt_id)
            return 0
        else:
            copies = _download(client, target, come.path, go.path, attempt_id, display)
    display.end()
    return _report(output, copies)


def _upload(client: IrisClient, source: str, target: Target, path: str, display: CopyDisplay) -> _Result:
    task_id = _only_task(target)
    local: Path | BinaryIO = sys.stdin.buffer if source == "-" else Path(source)
    return _Result(task_id, client.upload(local, task_id, path, on_progress=display.show), None)


def _download(
    client: IrisClient, target: Target, path: str, to: str, attempt_id: int | None, display: CopyDisplay
) -> list[_Result]:
    """Copy files from one task, or from all tasks of a job. The files of each task get a separate directory."""
    if target.task_index is not None or target.job.num_tasks == 1:
        task_id = _only_task(target)
        copied = client.download(task_id, path, to, attempt_id=attempt_id, on_progress=display.show)
        return [_Result(task_id, copied, None)]
    results = []
    for index in range(target.job.num_tasks):
        task_id = make_task_id(target.job.job_id, index)
        display.begin(f"task-{index}")
        folder = Path(to) / f"task-{index}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPreconditionError(f"cannot create the folder {folder}: {error.strerror}") from error
        try:
            copied = client.download(task_id, path, folder, attempt_id=attempt_id, on_progress=display.show)
            results.append(_Result(task_id, copied, None))
        except (NotFoundError, FailedPreconditionError) as error:
            # An error of one task is reported at the end, so that the files of the other tasks are copied.
            results.append(_Result(task_id, None, error))
    return results


class _Stdout(io.RawIOBase):
    """The stdout of this command as a binary file."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Buffer, /) -> int:
        """Write bytes, and return their number."""
        written = bytes(data)
        self._output.show_raw(written)
        return len(written)


class _Result(NamedTuple):
    """How copying the files of one task has ended.

    Attributes:
        task_id: The id of the task.
        copied: The `Copied` object that describes the copied files, or None after an error.
        error: The error that ended the copy, or None if the files were copied.
    """

    task_id: str
    copied: Copied | None
    error: IrisError | None


def _only_task(target: Target) -> str:
    if target.task_index is None and target.job.num_tasks > 1:
        raise click.UsageError(
            f"job {target.job.job_id} has {target.job.num_tasks} tasks: name one, for example"
            f" {target.job.job_id}/task-0"
        )
    return make_task_id(target.job.job_id, target.task_index or 0)


def _report(output: Output, results: list[_Result]) -> int:
    document = []
    for task_id, copied, error in results:
        if copied is not None:
            document.append(
                {
                    "task_id": task_id,
                    "path": str(copied.path),
                    "files": copied.files,
                    "bytes": copied.bytes,
                    "skipped": copied.skipped,
                }
            )
            for skipped in copied.skipped:
                output.note(f"not copied: {skipped}")
        elif error is not None:
            output.error(f"{task_id}: {error}")
    if document:
        output.answer({"copies": document}, lambda: "\n".join(map(_words, document)))
    return EXIT_ERROR if any(result.error for result in results) else 0


def _words(copy: dict[str, Any]) -> str:
    return f"copied {counted(copy['files'], 'file')}, {counted(copy['bytes'], 'byte')}, to {copy['path']}"
