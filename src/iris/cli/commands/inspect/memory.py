"""`iris profile --memory`: shows the memory profile that an attempt has written."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target
from iris.cli.output.printer import Output
from iris.cluster.memory_profile import PROFILE_PATH
from iris.cluster.types import make_task_id, parse_task_id
from iris.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.client.inspect.memory_profile import MemoryProfile

MEMORY_ENDINGS = {"flamegraph": ".memory.html", "collapsed": ".memory.txt"}
_SHOWN_FUNCTIONS = 200


def show_memory(job: str, form: str | None, path: str | None, address: str | None, *, as_json: bool) -> int:
    """Show the memory profile of a task's newest attempt.

    Args:
        job: The job or task that the user has named.
        form: The format that the user has chosen, or None if the user has chosen none.
        path: The file for the result, or None if the user has named none.
        address: The address of the cluster that the user has given.
        as_json: Whether to print JSON.
    """
    from iris.client.inspect.memory_profile import read_memory_profile

    form = form or ("flamegraph" if path and Path(path).suffix == ".html" else "text")
    if form == "speedscope":
        raise click.UsageError("--memory can be shown only as text, flamegraph or collapsed, got --format speedscope")
    if form == "flamegraph" and path == "-":
        raise click.UsageError("--format flamegraph needs a file: give --output FILE.html")
    output = Output(as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="iris-memory-") as folder, connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        task_id = _task_of(target, connection.client)
        found = read_memory_profile(_fetch(connection.client, task_id, Path(folder)))
        document = _document(task_id, found)
        if form == "text" and path in (None, "-"):
            output.answer(document, lambda: str(found))
        elif path == "-":
            output.show_raw(found.collapsed().encode())
        else:
            to = Path(path or task_id.replace("/", "-") + MEMORY_ENDINGS.get(form, ".txt"))
            if path or not as_json:
                _write(found, form, to, Path(folder))
                document["path"] = os.path.abspath(to)
            output.answer(document, lambda: f"{str(found).splitlines()[0]}\nwritten to {to}")
    return 0


def _task_of(target: Target, client: IrisClient) -> str:
    if target.task_index is not None:
        return make_task_id(target.job.job_id, target.task_index)
    tasks = client.status(target.job.job_id).num_tasks
    if tasks != 1:
        raise click.UsageError(f"--memory shows one task: name it, for example {target.job.job_id}/task-0")
    return make_task_id(target.job.job_id, 0)


def _fetch(client: IrisClient, task_id: str, folder: Path) -> Path:
    """Copy the profile of a task's newest attempt into a folder, and return its path."""
    path, why = folder / "memray.bin", ""
    try:
        outputs = client.outputs(*parse_task_id(task_id))
    except FailedPreconditionError:  # The job stores neither outputs nor a profile.
        pass
    else:
        for file in outputs:
            if file.path == PROFILE_PATH:
                file.download(path)
                return path
        why = "".join(f", because its outputs are not stored: {missing.text}" for missing in outputs.missing)
    raise NotFoundError(
        f"{task_id} has no memory profile{why}. Submit the job with 'iris run --profile-memory', and wait until the"
        " attempt has ended. A profile that exceeds the limits of outputs is not stored, and the build lines of the log"
        f" say so ('iris logs --source build {task_id}')"
    )


def _write(found: MemoryProfile, form: str, to: Path, folder: Path) -> None:
    try:
        if form == "flamegraph":
            page = folder / "page.html"
            found.flamegraph(page)
            shutil.copyfile(page, to)
        else:
            to.write_text(f"{found}\n" if form == "text" else found.collapsed(), encoding="utf-8")
    except OSError as error:
        raise FailedPreconditionError(f"{to}: {error.strerror or error}") from error


def _document(task_id: str, found: MemoryProfile) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "peak_bytes": found.peak_bytes,
        "allocations": found.allocations,
        "functions": [one._asdict() for one in found.functions()[:_SHOWN_FUNCTIONS]],
    }
