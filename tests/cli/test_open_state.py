"""Commands refuse state that other users can write or own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cluster import is_alive
from support.waiting import wait_until

from iris.system.process_identity import identify_process

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
NOBODY = 65534


_SUBMIT = """
import sys
from iris.client import IrisClient
with IrisClient.remote(sys.argv[1]) as client:
    job = client.run(["sh", "-c", "umask; touch made; mkdir made.d; stat -c %a made made.d"])
    job.wait()
    print(*(line.message for line in job.logs()))
"""


def record_of(iris: Iris) -> Path:
    (path,) = (iris.home / "state" / "iris").glob("up-*.json")
    return path


def test_state_directory_that_others_may_write_is_refused_by_up_and_down(iris: Iris) -> None:
    state = iris.folder / "state"
    state.mkdir()
    state.chmod(0o777)
    (state / "server.log").symlink_to(iris.folder / "somewhere")
    refused = iris("up", "--port", "0", "--state-dir", "state", code=1).stderr
    assert f"chmod go-w {state}" in refused
    assert not (iris.folder / "somewhere").exists(), "nothing is opened in it"
    (state / "server.log").unlink()
    state.chmod(0o755)
    up = iris.json("up", "--port", "0", "--state-dir", "state")
    os.kill(up["pid"], 9)
    wait_until(lambda: not is_alive(up["pid"]), "the end of the server")
    (state / "workers").chmod(0o777)
    assert f"chmod go-w {state / 'workers'}" in iris("down", code=1).stderr
    (state / "workers").chmod(0o700)
    assert iris.json("down")["workers_ended"] == 1


def test_down_does_not_end_the_process_named_by_a_forged_server_record(iris: Iris) -> None:
    up = iris.json("up", "--port", "0")
    record = record_of(iris)
    known = json.loads(record.read_text())
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        planted = known | {"pid": bystander.pid, "process": identify_process(bystander.pid)}
        record.write_text(json.dumps(planted))
        iris("down", code=None)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    record.write_text(json.dumps(known))
    assert iris.json("down")["stopped"] is True
    assert not is_alive(up["pid"])


def test_server_record_that_other_users_may_write_is_refused(iris: Iris) -> None:
    up = iris.json("up", "--port", "0")
    record = record_of(iris)
    record.chmod(0o666)
    for command in (["down"], ["up", "--port", "0"], ["ps"]):
        assert f"chmod go-w {record}" in iris(*command, code=1).stderr
    assert is_alive(up["pid"])
    record.chmod(0o600)
    assert iris.json("down")["stopped"] is True


@as_root
def test_state_directory_of_another_user_is_refused_for_root_too(iris: Iris) -> None:
    state = iris.folder / "state"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    assert f"{state} belongs to" in iris("up", "--port", "0", "--state-dir", "state", code=1).stderr


@pytest.mark.parametrize("umask", ["002", "077"])
def test_files_in_the_state_directory_are_private_and_tasks_keep_the_umask_of_the_user(iris: Iris, umask: str) -> None:
    up_with_umask(iris, umask)
    # `iris run` would bring the umask of its own shell.
    program = [sys.executable, "-c", _SUBMIT, json.loads(record_of(iris).read_text())["address"]]
    done = subprocess.run(program, env=iris.env, capture_output=True, text=True, check=True)
    said, made, made_directory = (int(word, 8) for word in done.stdout.split())
    assert (said, made, made_directory) == (int(umask, 8), 0o666 & ~int(umask, 8), 0o777 & ~int(umask, 8))
    open_ones = [
        path
        for path, mode in modes_below(iris.home / "state").items()
        if mode & 0o077 and "work" not in path.parts[len(iris.home.parts) :]
    ]
    assert not open_ones


def modes_below(directory: Path) -> dict[Path, int]:
    """Return the permissions of all files and directories in a directory, except those that are removed meanwhile."""
    modes = {}
    for folder, directories, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*directories, *files)):
            with contextlib.suppress(FileNotFoundError):
                modes[path] = stat.S_IMODE(path.lstat().st_mode)
    return modes


def test_copied_logs_outside_the_state_directory_have_the_umask_of_their_user(iris: Iris) -> None:
    kept = iris.folder / "shared" / "logs"
    up_with_umask(iris, "002", "--log-location", f"file://{kept}")
    iris("run", "--", "echo", "hello")
    iris("down")
    up_with_umask(iris, "002", "--log-location", f"file://{kept}")  # which looks at once what is to be copied
    end = wait_until(lambda: next(kept.rglob("end"), None), "the copy of the log")
    for path, mode in ((end, 0o664), (end.parent, 0o775), (kept.parent, 0o775)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def up_with_umask(iris: Iris, umask: str, *options: str) -> None:
    words = shlex.join(iris.command("up", "--port", "0", *options))
    subprocess.run(["sh", "-c", f"umask {umask}; {words}"], env=iris.env, cwd=iris.folder, check=True)
