"""`iris cp`: files from and to tasks, with stdin and stdout, several tasks, and errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from support.waiting import wait_until

from iris.cli.cluster.lookup import Target
from iris.cli.commands.jobs.cp import _download
from iris.cli.output.printer import Output
from iris.cli.output.upload_display import CopyDisplay
from iris.client import IrisClient
from iris.errors import ControllerUnreachableError
from iris.rpc import cluster_pb2

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.

_READY = "mkdir out; echo $IRIS_TASK_INDEX > out/index; ln -s /etc out/etc; touch ready; sleep 1000"


def run(iris: Iris, *options: str) -> str:
    (iris.folder / "space").mkdir()
    job: str = iris.detach(_READY, "--workspace", str(iris.folder / "space"), *options)
    iris.wait_for(job, "RUNNING")
    wait_until(lambda: iris("cp", f"{job}/task-0:ready", "-", code=None).returncode == 0, "the files")
    return job


def test_cp_copies_a_file_to_stdout_to_a_folder_and_back_from_stdin(remote_iris: Iris) -> None:
    job = run(remote_iris)
    assert remote_iris("cp", f"{job}:out/index", "-").stdout == "0\n"
    done = remote_iris("cp", f"{job}/task-0:out", ".")
    assert done.stdout == "copied 1 file, 2 bytes, to out\n"
    assert "not copied: out/etc: a symbolic link out of the directory" in done.stderr
    (remote_iris.folder / "local:file").write_text("x")
    document = remote_iris.json("cp", "./local:file", f"{job}:new/")
    assert document["copies"] == [
        {"task_id": f"{job}/task-0", "path": "new/local:file", "files": 1, "bytes": 1, "skipped": []}
    ]
    sent = subprocess.run(
        remote_iris.command("cp", "-", f"{job}:typed"),
        input=b"typed\0words",
        env=remote_iris.env,
        cwd=remote_iris.folder,
        check=True,
        capture_output=True,
    )
    assert sent.stdout == b"copied 1 file, 11 bytes, to typed\n"
    assert remote_iris("cp", f"{job}:typed", "-").stdout == "typed\0words"
    remote_iris("kill", job)


def test_files_of_several_tasks_get_a_folder_for_each_task(remote_iris: Iris) -> None:
    job = run(remote_iris, "--replicas", "2")
    wait_until(lambda: remote_iris("cp", f"{job}/task-1:ready", "-", code=None).returncode == 0, "the files")
    document = remote_iris.json("cp", f"{job}:out/index", "all/")
    assert [copy["bytes"] for copy in document["copies"]] == [2, 2]
    for index in range(2):
        assert (remote_iris.folder / f"all/task-{index}/index").read_text() == f"{index}\n"
    some = remote_iris("cp", f"{job}:nope", "all", "--json", code=1)
    assert some.stdout == ""
    assert some.stderr.count("there is no file 'nope'") == 2
    assert "name one, for example" in remote_iris("cp", "all", f"{job}:", code=2).stderr
    remote_iris("kill", job)


def test_invalid_cp_command_lines_are_refused_with_the_next_step(remote_iris: Iris) -> None:
    for words in (("a", "b"), ("a:x", "b:y"), ("./a:x", "b")):
        assert "one of SOURCE and DESTINATION must be JOB:PATH" in remote_iris("cp", *words, code=2).stderr
    assert "no job named" in remote_iris("cp", "nope:x", ".", code=1).stderr
    assert "--attempt is only for copies from a task" in remote_iris("cp", "x", "a:x", "--attempt", "1", code=2).stderr
    assert "exclude each other" in remote_iris("cp", "a:x", "-", "--json", code=2).stderr
    job = remote_iris.detach("true")
    remote_iris("wait", job)
    assert "must not leave its directory" in remote_iris("cp", f"{job}:../x", ".", code=1).stderr
    assert json.loads(remote_iris("status", job, "--json").stdout)["state"] == "SUCCEEDED"


def test_lost_controller_during_a_copy_is_not_reported_as_an_error_of_the_local_folder(tmp_path: Path) -> None:
    class Unreachable:
        def download(self, *_: object, **__: object) -> None:
            raise ControllerUnreachableError("the controller does not answer")

    target = Target(cluster_pb2.JobStatus(job_id="job", num_tasks=2))
    display = CopyDisplay(Output(as_json=False))
    # The error is also an OSError, and must not be reported as an error of the local folder.
    with pytest.raises(ControllerUnreachableError, match="the controller does not answer"):
        _download(cast(IrisClient, Unreachable()), target, "out", str(tmp_path), None, display)
