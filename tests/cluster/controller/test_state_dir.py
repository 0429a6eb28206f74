"""Who may use a state directory, and which versions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import wait_until

from iris.cluster.controller.storage.schema import SCHEMA_VERSION
from iris.cluster.controller.storage.state_dir import lock_state_dir
from iris.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError

HOLDER = """
import signal, sys
from pathlib import Path
from iris.cluster.controller.storage.state_dir import lock_state_dir
with lock_state_dir(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_state_directory_is_locked_until_its_controller_is_killed(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(state)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert state.stat().st_mode & 0o777 == 0o700
        with (
            pytest.raises(FailedPreconditionError, match=rf"in use by .* process {holder.pid}: .*iris down"),
            lock_state_dir(state),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        wait_until(lambda: holder.poll() is not None)
    for _ in range(2):
        with lock_state_dir(state):
            assert (state / "lock").read_text() == f"{os.getpid()}\n"
    assert (state / "lock").read_text() == ""


def test_state_directory_contains_its_version_and_a_newer_version_is_refused(tmp_path: Path) -> None:
    with lock_state_dir(tmp_path):
        assert (tmp_path / "version").read_text() == f"{SCHEMA_VERSION}\n"
    (tmp_path / "version").write_text("1\n")
    with lock_state_dir(tmp_path):
        assert (tmp_path / "version").read_text() == f"{SCHEMA_VERSION}\n"
    (tmp_path / "version").write_text(f"{SCHEMA_VERSION + 1}\n")
    (tmp_path / "lock").unlink()
    with pytest.raises(FailedPreconditionError, match="written by a newer version of Iris"), lock_state_dir(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["version"]
    (tmp_path / "version").write_text("a few\n")
    with pytest.raises(DataLossError, match="expected a version number"), lock_state_dir(tmp_path):
        pass


def test_state_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceExhaustedError, match="cannot write"), lock_state_dir(tmp_path / "file" / "below"):
        pass


def test_state_directory_that_other_users_can_write_is_refused_and_not_changed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(FailedPreconditionError, match=f"chmod go-w {state}"), lock_state_dir(state):
        pass
    assert list(state.iterdir()) == []
    state.chmod(0o755)
    with lock_state_dir(state):
        pass
    workers = state / "workers"
    workers.mkdir()
    workers.chmod(0o777)
    with pytest.raises(FailedPreconditionError, match=f"chmod go-w {workers}"), lock_state_dir(state):
        pass
