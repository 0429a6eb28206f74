"""`iris cp`."""

from __future__ import annotations

import io
import os
import posixpath
import stat
import sys
from collections.abc import Sequence
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
from iris.errors import FailedPreconditionError, IrisError, NotFoundError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from iris.client import IrisClient
    from iris.client.files.copied import Copied

_HELP = """\
Copy files from a task to this machine, or from this machine into a running task.

One of SOURCE and DESTINATION is JOB:PATH or JOB/task-N:PATH, and the other one is a local path. JOB is an id, the
beginning of an id, or '@' for your latest job. PATH is relative to the working directory of the task; an empty PATH is
the directory itself. '-' is stdin or stdout. Several SOURCEs need a folder as DESTINATION.

\b
  iris cp train-1a2b3c4d/task-0:checkpoints ./checkpoints
  iris cp @:loss.csv .                       from the only task of your latest job
  iris cp @:loss.csv - | tail                print a file
  iris cp new-lr.json @/task-2:config/       into the directory 'config' of a running task
  iris cp sweep-9c0d1e2f:results ./all       from each task, to ./all/task-0, ./all/task-1, …
  iris cp @:loss.csv @:model.pt results/     two files into the folder 'results'

Directories are copied whole, with permissions, times and symbolic links. Links that lead out of the copied directory
are skipped. If DESTINATION is an existing directory, the copy is put into it and keeps its name; 'DIR/.' copies the
contents of DIR. After a lost connection, the copy continues with the missing part. The hash of each file is checked.

Several SOURCEs are all checked before the first one is copied: each of them must exist, no two of them may have the
same name, and a folder that does not exist yet must be given with '/' at its end. If a job has several tasks, a task
without the file is reported at the end.
"""


# After one of these errors, the other files can still be copied.
_ERRORS_OF_ONE_FILE = (NotFoundError, FailedPreconditionError)


class _Place(NamedTuple):
    """One argument of `iris cp`: a SOURCE or the DESTINATION.

    Attributes:
        text: The argument, as the user has typed it.
        job: The job or task that has the files, by its name. None for a local path.
        path: The local path, or the path in the task.
    """

    text: str
    job: str | None
    path: str

    @property
    def name(self) -> str:
        """The name of the copy in a folder. An empty string if the contents of a directory are copied."""
        name = Path(self.path).name if self.job is None else posixpath.basename(self.path.rstrip("/"))
        return "" if name in (".", "..") else name


def _place(text: str) -> _Place:
    """Parse SOURCE or DESTINATION: a local path, or a job or task with a path. A local path that contains a colon must
    begin with `/` or `.`."""
    job, colon, path = text.partition(":")
    if not colon or not job or text.startswith(("/", ".")):
        return _Place(text, None, text)
    return _Place(text, job, path)


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
@click.argument("paths", metavar="SOURCE... DESTINATION", nargs=-1, required=True, shell_complete=complete_file)
def cp(*, paths: tuple[str, ...], attempt_id: int | None, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    if len(paths) < 2:
        raise click.UsageError(f"missing DESTINATION: expected SOURCE and DESTINATION, got only {quoted(paths[0])}")
    come, go = [_place(source) for source in paths[:-1]], _place(paths[-1])
    _check_places(come, go)
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
        client, lookup = connection.client, Lookup(connection.client, with_tasks=False)
        copies: list[_Result]
        if go.job is not None:
            copies = _upload_all(client, come, lookup.one(go.job), go.path, display)
        elif to_stdout:
            display.is_quiet = True
            task_id = _only_task(lookup.one(come[0].job or ""))
            client.download(task_id, come[0].path, cast(BinaryIO, _Stdout(output)), attempt_id=attempt_id)
            return 0
        else:
            targets = [lookup.one(place.job or "") for place in come]
            copies = _download_all(client, list(zip(come, targets, strict=True)), go.path, attempt_id, display)
    display.end()
    return _report(output, copies)


def _check_places(come: Sequence[_Place], go: _Place) -> None:
    """Refuse sources and a destination that do not fit together."""
    for place in come:
        if (place.job is None) == (go.job is None):
            raise click.UsageError(
                "one of SOURCE and DESTINATION must be JOB:PATH or JOB/task-N:PATH, and the other one a local path, got"
                f" {quoted(place.text)} and {quoted(go.text)}"
            )
    if len(come) > 1 and any(place.job is None and place.path == "-" for place in (*come, go)):
        raise click.UsageError(f"'-' (stdin or stdout) needs exactly one SOURCE, got {len(come)}")


def _upload_all(
    client: IrisClient, come: Sequence[_Place], target: Target, path: str, display: CopyDisplay
) -> list[_Result]:
    """Copy local files into one task. Several sources are checked before the first byte is copied."""
    task_id = _only_task(target)
    if len(come) == 1:
        source: Path | BinaryIO = sys.stdin.buffer if come[0].path == "-" else Path(come[0].path)
        copied = client.upload(source, task_id, path, on_progress=display.show)
        return [_Result(task_id, copied, None, come[0].text)]
    _check_names([(place, "") for place in come])
    for place in come:
        _check_readable(place.path)
    _check_task_folder(client, task_id, path)
    results = []
    for place in come:
        display.begin(place.text)
        try:
            copied = client.upload(Path(place.path), task_id, path, on_progress=display.show)
            results.append(_Result(task_id, copied, None, place.text))
        except IrisError as error:
            results.append(_Result(task_id, None, error, place.text))
            if not isinstance(error, _ERRORS_OF_ONE_FILE):
                break  # The next copy would fail, too, for example because the controller does not answer.
    return results


def _download_all(
    client: IrisClient,
    wanted: Sequence[tuple[_Place, Target]],
    to: str,
    attempt_id: int | None,
    display: CopyDisplay,
) -> list[_Result]:
    """Copy files from tasks to this machine. Several sources are checked before the first byte is copied."""
    if len(wanted) > 1:
        can_be_created = to.endswith("/") and not os.path.lexists(to.rstrip("/"))
        if not os.path.isdir(to) and not can_be_created:
            raise _not_a_folder(to, "")
        _check_names([(place, "task-N" if _has_folders(target) else "") for place, target in wanted])
        for place, target in wanted:
            if not _has_folders(target):
                client.cluster.list_task_files(_only_task(target), place.path, attempt_id=attempt_id)
    results: list[_Result] = []
    for place, target in wanted:
        if len(wanted) > 1:
            display.begin(place.text)
        try:
            copies = _download(client, target, place.path, to, attempt_id, display)
        except IrisError as error:
            if len(wanted) == 1:
                raise
            results.append(_Result(target.name, None, error, place.text))
            if not isinstance(error, _ERRORS_OF_ONE_FILE):
                break  # The next copy would fail, too, for example because the controller does not answer.
            continue
        results += [copy._replace(source=place.text) for copy in copies]
    return results


def _has_folders(target: Target) -> bool:
    """Return whether the files of the target come from several tasks, each of which gets a folder."""
    return target.task_index is None and target.job.num_tasks > 1


def _check_names(places: Sequence[tuple[_Place, str]]) -> None:
    """Refuse two sources with the same name in the same folder, because the second copy would replace the first one."""
    earlier: dict[tuple[str, str], _Place] = {}
    for place, folder in places:
        other = earlier.setdefault((folder, place.name), place)
        if other is not place:
            what = f"have the name {quoted(place.name)}" if place.name else "copy the contents of a directory"
            raise click.UsageError(
                f"{quoted(other.text)} and {quoted(place.text)} both {what}, so one copy would replace the other: copy"
                " them to different folders, with one command each"
            )


def _check_readable(path: str) -> None:
    """Refuse a local path that cannot be copied.

    Raises:
        FailedPreconditionError: The path does not exist, is not a file or directory, or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
        elif stat.S_ISREG(mode):
            open(path, "rb").close()
        else:
            raise FailedPreconditionError(f"{quoted(path)} is not a regular file or a directory: no file was copied")
    except OSError as error:
        raise FailedPreconditionError(f"cannot read {quoted(path)}: {error.strerror}; no file was copied") from error


def _check_task_folder(client: IrisClient, task_id: str, path: str) -> None:
    """Refuse a path of a task that is not a directory. A missing directory is accepted if the path ends with `/`.

    Raises:
        FailedPreconditionError: The path is a file, or a missing directory without `/`.
    """
    try:
        (found, *_) = client.cluster.list_task_files(task_id, path.rstrip("/"))
    except NotFoundError as error:
        if error.reason != ErrorReason.FILE_NOT_FOUND:
            raise
        if path.endswith("/"):
            return
    else:
        if found.type == cluster_pb2.FILE_TYPE_DIRECTORY:
            return
    raise _not_a_folder(path, f" of {task_id}")


def _not_a_folder(path: str, whose: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"several SOURCEs need a folder as DESTINATION, but {quoted(path)} is not a folder{whose}: write a new name"
        " with '/' at its end to create a folder"
    )


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
        except _ERRORS_OF_ONE_FILE as error:
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
        error: The error that ended the copy of the task's files, or None if all files were copied.
        source: SOURCE, as the user has typed it.
    """

    task_id: str
    copied: Copied | None
    error: IrisError | None
    source: str = ""


def _only_task(target: Target) -> str:
    if target.task_index is None and target.job.num_tasks > 1:
        raise click.UsageError(
            f"job {target.job.job_id} has {target.job.num_tasks} tasks: name one, for example"
            f" {target.job.job_id}/task-0"
        )
    return make_task_id(target.job.job_id, target.task_index or 0)


def _report(output: Output, results: list[_Result]) -> int:
    document = []
    for task_id, copied, error, source in results:
        if copied is not None:
            document.append(
                {
                    "source": source,
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
