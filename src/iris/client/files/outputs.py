"""Describes the stored outputs of a job."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from iris.arguments import check_path
from iris.client.files.copied import Copied, OnProgress
from iris.cluster.types import make_task_id
from iris.counts import counted
from iris.rpc import cluster_pb2


@dataclass(frozen=True)
class MissingOutputs:
    """The outputs of an attempt that are not stored.

    Attributes:
        task_id: The id of the task.
        task_index: The index of the task.
        attempt_id: The number of the attempt, from 0.
        reason: Why the outputs are not stored, as a code: the name of an `OutputReason` of the wire without its prefix,
            for example `"TOO_LARGE"`.
        text: Why the outputs are not stored, for people.
    """

    task_id: str
    task_index: int
    attempt_id: int
    reason: str
    text: str


@dataclass(frozen=True)
class StoredFile:
    """The description of a file that an attempt has written into one of the job's output directories.

    Attributes:
        task_id: The id of the task.
        task_index: The index of the task.
        attempt_id: The number of the attempt, from 0.
        path: The path of the file, relative to the working directory of the task.
        size: The size of the file in bytes.
        modified_ns: When the contents changed last, in nanoseconds since the Unix epoch.
    """

    task_id: str
    task_index: int
    attempt_id: int
    path: str
    size: int
    modified_ns: int


class OutputClient(Protocol):
    """The client method that copies outputs. `IrisClient` implements this protocol."""

    def download(
        self,
        task_id: str,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        attempt_id: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from a task to this machine."""


class Output(StoredFile):
    """A file that an attempt has written into one of the job's output directories.

    Attributes:
        task_id: The id of the task.
        task_index: The index of the task.
        attempt_id: The number of the attempt, from 0.
        path: The path of the file, relative to the working directory of the task.
        size: The size of the file in bytes.
        modified_ns: When the contents changed last, in nanoseconds since the Unix epoch.
    """

    def __init__(self, client: OutputClient, file: StoredFile) -> None:
        super().__init__(**vars(file))
        object.__setattr__(self, "_client", client)

    def __repr__(self) -> str:
        return f"<Output {self.task_id}:{self.path} ({counted(self.size, 'byte')})>"

    def download(self, to: str | os.PathLike[str] | BinaryIO = ".", *, on_progress: OnProgress | None = None) -> Copied:
        """Copy the file to this machine. `IrisClient.download` documents the arguments and the errors."""
        client: OutputClient = vars(self)["_client"]
        return client.download(self.task_id, self.path, to, attempt_id=self.attempt_id, on_progress=on_progress)


class Outputs(list[Output]):
    """A list of the files that the attempts of a job have written into its output directories, sorted by task, attempt
    and path.

    Attributes:
        missing: The attempts whose outputs are not stored, with the reasons.
    """

    def __init__(self, client: OutputClient, answers: Iterable[cluster_pb2.Controller.Outputs], job_id: str) -> None:
        files, self.missing = read_outputs(answers, job_id)
        super().__init__(Output(client, file) for file in files)
        self._client = client

    def download(self, to: str | os.PathLike[str] = ".", *, on_progress: OnProgress | None = None) -> list[Copied]:
        """Copy all files of this list to this machine. The files of each task go into the folder `task-N` below `to`.
        If the list has files of several attempts of a task, the files of each attempt go into `task-N/attempt-M`.

        Args:
            to: The folder. A missing folder is created.
            on_progress: A function that is called as `on_progress(done, total)` with numbers of bytes. The numbers
                start at 0 again for each attempt.

        Raises:
            FailedPreconditionError: A local file cannot be written.
            ControllerUnreachableError: The controller does not answer.
        """
        copies = []
        for task_id, attempt_id, folder in folders_of(self, to):
            copies.append(self._client.download(task_id, "", folder, attempt_id=attempt_id, on_progress=on_progress))
        return copies


def read_outputs(
    answers: Iterable[cluster_pb2.Controller.Outputs], job_id: str
) -> tuple[list[StoredFile], list[MissingOutputs]]:
    """Return the regular files in the answers of a controller, and the missing outputs."""
    files: list[StoredFile] = []
    missing = []
    for outputs in answers:
        task_id = make_task_id(job_id, outputs.task_index)
        if outputs.missing:
            reason = _reason(outputs.reason)
            missing.append(MissingOutputs(task_id, outputs.task_index, outputs.attempt_id, reason, outputs.missing))
        files += [
            StoredFile(task_id, outputs.task_index, outputs.attempt_id, file.path, file.size, file.modified_ns)
            for file in outputs.files
            if file.type == cluster_pb2.FILE_TYPE_REGULAR
        ]
    return files, missing


def folders_of(files: Iterable[StoredFile], to: str | os.PathLike[str]) -> list[tuple[str, int, Path]]:
    """For each attempt that has written files, return the task, the attempt and the local folder for these files."""
    root = Path(check_path("to", to))
    attempts = list(dict.fromkeys((file.task_id, file.task_index, file.attempt_id) for file in files))
    tasks = [index for _, index, _ in attempts]
    found = []
    for task_id, index, attempt_id in attempts:
        folder = root / f"task-{index}"
        found.append((task_id, attempt_id, folder / f"attempt-{attempt_id}" if tasks.count(index) > 1 else folder))
    return found


def _reason(number: int) -> str:
    known = cluster_pb2.OutputReason.DESCRIPTOR.values_by_number.get(number)
    return str(number) if known is None else known.name.removeprefix("OUTPUT_REASON_")
