"""Checks the arguments of `download` and `upload`, and returns the operations that copy the files. `FileMethods`
documents the arguments and errors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from iris.arguments import TaskReference, check_text, check_timeout, refuse
from iris.client.files.copied import Copied, OnProgress, Progress
from iris.client.files.download import download
from iris.client.files.local_folder import local_error
from iris.client.files.upload import upload
from iris.cluster.client.operations.files import find_route
from iris.cluster.client.operations.logs import ReachableWorkers
from iris.cluster.client.operations.steps import Operation
from iris.cluster.files.confined_tree import parts_of

LocalFile = str | os.PathLike[str] | BinaryIO


def download_operation(
    reachable: ReachableWorkers,
    task_id: str | TaskReference,
    path: str,
    to: LocalFile,
    attempt_id: int | None,
    patience_s: float | None,
    on_progress: OnProgress | None,
) -> Operation[Copied]:
    """Check the arguments of a download, and return the operation that downloads the files."""
    parts_of(check_text("path", path))
    local = _local_file("to", to, "write")
    progress = Progress(on_progress)
    patience = check_timeout("patience_s", patience_s)

    def run() -> Operation[Copied]:
        route = yield from find_route(reachable, task_id, attempt_id, patience)
        return (yield from download(route, path, local, progress))

    return run()


def upload_operation(
    reachable: ReachableWorkers,
    source: LocalFile,
    task_id: str | TaskReference,
    path: str,
    patience_s: float | None,
    on_progress: OnProgress | None,
) -> Operation[Copied]:
    """Check the arguments of an upload, and return the operation that uploads the files."""
    parts_of(check_text("path", path))
    local = _local_file("source", source, "read")
    progress = Progress(on_progress)
    patience = check_timeout("patience_s", patience_s)

    def run() -> Operation[Copied]:
        route = yield from find_route(reachable, task_id, None, patience)
        return (yield from upload(route, local, path, progress))

    return run()


def _local_file(name: str, value: LocalFile, method: str) -> Path | BinaryIO:
    """Return the argument `value`, which must be a local path or an open binary file with the given method ("read" or
    "write"). For "write", create the directory if the path ends with a slash.
    """
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if not isinstance(text, str) or not text:
            refuse(name, "a path or an open binary file", value)
        if text.endswith("/") and method == "write":
            try:
                Path(text).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise local_error(error, text) from error
        return Path(text)
    if not callable(getattr(value, method, None)):
        refuse(name, "a path or an open binary file", value)
    return value
