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
        {
            "source": "./local:file",
            "task_id": f"{job}/task-0",
            "path": "new/local:file",
            "files": 1,
            "bytes": 1,
            "skipped": [],
        }
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


def test_cp_copies_several_sources_into_a_folder_after_all_were_checked(remote_iris: Iris) -> None:
    job, here = run(remote_iris), remote_iris.folder
    for name in ("a.txt", "b.txt"):
        (here / name).write_text(name)
    (here / "taken").write_text("")

    def refused(*words: str, code: int = 1) -> str:
        stderr: str = remote_iris("cp", *words, code=code).stderr
        return stderr

    assert "cannot read 'c.txt': No such file" in refused("a.txt", "c.txt", f"{job}:new/")
    assert "'new' is not a folder of" in refused("a.txt", "b.txt", f"{job}:new")
    assert "'ready' is not a folder of" in refused("a.txt", "b.txt", f"{job}:ready")
    assert "there is no file 'new'" in refused(f"{job}:new", "."), "a refused command copies nothing"
    document = remote_iris.json("cp", "a.txt", "b.txt", f"{job}:new/")
    assert [(copy["source"], copy["path"]) for copy in document["copies"]] == [
        ("a.txt", "new/a.txt"),
        ("b.txt", "new/b.txt"),
    ]
    assert "there is no file 'nope'" in refused(f"{job}:ready", f"{job}/task-0:nope", "got/")
    assert "'got' is not a folder" in refused(f"{job}:ready", f"{job}:new", "got")
    assert "'taken/' is not a folder" in refused(f"{job}:ready", f"{job}:new", "taken/")
    assert "both have the name 'ready'" in refused(f"{job}:ready", f"{job}/task-0:ready", "got/", code=2)
    assert "both copy the contents" in refused(f"{job}:new/.", f"{job}:", "got/", code=2)
    assert "needs exactly one SOURCE, got 2" in refused(f"{job}:ready", f"{job}:new", "-", code=2)
    assert "got 'a.txt' and 'got/'" in refused(f"{job}:ready", "a.txt", "got/", code=2)
    assert not (here / "got").exists(), "a refused command copies nothing"
    done = remote_iris("cp", f"{job}:out/index", f"{job}/task-0:new", "got/")
    assert done.stdout == "copied 1 file, 2 bytes, to got/index\ncopied 2 files, 10 bytes, to got/new\n"
    assert (here / "got/new/b.txt").read_text() == "b.txt"
    remote_iris("kill", job)


def test_cp_of_several_sources_reports_the_copies_before_and_after_an_error(remote_iris: Iris) -> None:
    job, here = run(remote_iris), remote_iris.folder
    (here / "got/out").mkdir(parents=True)
    (here / "got/ready").mkdir()
    (here / "got/ready/child").write_text("a file cannot replace this directory")
    done = remote_iris("cp", "--json", f"{job}:ready", f"{job}:out", "got", code=1)
    assert "ready" in done.stderr
    assert [copy["source"] for copy in json.loads(done.stdout)["copies"]] == [f"{job}:out"]
    remote_iris("kill", job)


def test_invalid_cp_command_lines_are_refused_with_the_next_step(remote_iris: Iris) -> None:
    for words in (("a", "b"), ("a:x", "b:y"), ("./a:x", "b")):
        said = " ".join(remote_iris("cp", *words, code=2).stderr.split())
        assert "one of SOURCE and DESTINATION must be JOB:PATH" in said
        assert f"got '{words[0]}' and '{words[1]}'" in said
    assert "missing DESTINATION" in remote_iris("cp", "a:x", code=2).stderr
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
