"""Files that clients send to the directories of attempts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from iris.cluster.worker.files.incoming import IncomingFiles
from iris.cluster.worker.paths import WorkerDir
from iris.rpc import cluster_pb2 as pb


def test_transfer_whose_first_part_could_not_be_written_succeeds_later(tmp_path: Path) -> None:
    directory = WorkerDir(tmp_path / "worker").attempt("job/task-0", 0)
    directory.create()
    directory.work.mkdir()
    request = pb.WriteTaskFileRequest(
        file=pb.TaskFile(path="copy", type=pb.FILE_TYPE_REGULAR),
        transfer_id="a" * 32,
        data=b"hello",
        end=True,
        sha256=hashlib.sha256(b"hello").hexdigest(),
    )
    files = IncomingFiles()
    directory.incoming.touch()  # A file in place of the folder makes the first part fail, also for root.
    with pytest.raises(NotADirectoryError):
        files.write(directory, request)
    directory.incoming.unlink()
    assert files.write(directory, request) == 5
    assert (directory.work / "copy").read_bytes() == b"hello"
