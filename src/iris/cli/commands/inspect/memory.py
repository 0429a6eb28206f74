"""`iris profile --memory`: shows the memory profile that an attempt has written."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target
from iris.cli.output.printer import Output
from iris.cluster.memory_profile import PROFILE_PATH
from iris.cluster.types import is_task_finished, make_task_id, parse_task_id, state_name
from iris.errors import FailedPreconditionError, NotFoundError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.client.files.outputs import MissingOutputs
    from iris.client.inspect.memory_profile import MemoryProfile

MEMORY_ENDINGS = {"flamegraph": ".memory.html", "collapsed": ".memory.txt"}
_SHOWN_FUNCTIONS = 200


def show_memory(job: str, form: str | None, path: str | None, address: str | None, *, as_json: bool) -> int:
    """Show the memory profile of a task's newest attempt.

    Args:
        job: The job or task that the user has named.
        form: The format that the user has chosen for the result, or None if the user has chosen no format.
        path: The file to which the result is written, or None if the user has named no file.
        address: The address of the cluster that the user has given.
        as_json: Whether to print the result as JSON.
    """
    from iris.client.inspect.memory_profile import read_memory_profile

    ending = Path(path).suffix.lower() if path else ""
    if ending in (".svg", ".json"):
        raise click.UsageError(
            f"--memory writes a web page or text, got --output {path}: give --output memory.html for a flame graph, or"
            " print JSON with --json"
        )
    form = form or ("flamegraph" if ending == ".html" else "text")
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
    path = folder / "memray.bin"
    missing: list[MissingOutputs] = []
    try:
        outputs = client.outputs(*parse_task_id(task_id))
    except FailedPreconditionError:  # The job has neither outputs nor a profile.
        pass
    else:
        for file in outputs:
            if file.path == PROFILE_PATH:
                file.download(path)
                return path
        missing = outputs.missing
    raise NotFoundError(f"{task_id} has no memory profile, because {_why_none(client, task_id, missing)}")


def _why_none(client: IrisClient, task_id: str, missing: list[MissingOutputs]) -> str:
    """Return why the newest attempt of a task has no memory profile, and what the user can do.

    Args:
        client: The client of the cluster.
        task_id: The id of the task.
        missing: The attempts of the task whose outputs are not stored.
    """
    job_id, index = parse_task_id(task_id)
    if not client.submission(job_id).submission.profile_memory:
        return "its job was submitted without one: submit the job with 'iris run --profile-memory'"
    task = client.task_status(job_id, index)
    if not is_task_finished(task.state):
        state = state_name(task.state).lower()
        return f"the task has not ended (it is {state}): wait for its end with 'iris wait {shlex.quote(job_id)}'"
    if task.state == cluster_pb2.TASK_STATE_KILLED or (missing and missing[-1].reason == "TERMINATED"):
        return (
            "its attempt was terminated, and a terminated attempt leaves no profile: 'iris retry"
            f" {shlex.quote(job_id)}' runs the job again"
        )
    if missing:
        return f"its outputs are not stored: {missing[-1].text}"
    return (
        "the profile exceeds a limit of outputs or could not be read: 'iris logs --source build"
        f" {shlex.quote(task_id)}' shows the cause"
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
        raise FailedPreconditionError(f"cannot write the profile to {to}: {error.strerror or error}") from error


def _document(task_id: str, found: MemoryProfile) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "peak_bytes": found.peak_bytes,
        "allocations": found.allocations,
        "functions": [one._asdict() for one in found.functions()[:_SHOWN_FUNCTIONS]],
    }
