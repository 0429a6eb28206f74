"""Whether a state directory is a copy, and what a copy does without."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from iris.cluster.controller.storage.state_copies import detect_copy
from iris.cluster.controller.storage.state_dir import lock_state_dir


def use_once(state: Path, *, take_over: bool = False) -> str:
    with lock_state_dir(state):
        return detect_copy(state, take_over=take_over)


def copy_of(state: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", str(state), str(to)], check=True)
    return to


def test_copied_state_directory_is_detected_once_and_keys_and_worker_files_are_removed_from_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    own = ("token-key", "token", "part.pem", "workers/local-0.json", "workers/ledger", "workers/controller")
    own += ("slurm/slurm-cluster", "ray/cluster-id")
    assert use_once(state) == ""
    for name in (*own, "workers/local-0.lock", "logs/a"):
        (state / name).parent.mkdir(exist_ok=True)
        (state / name).touch()
    copy = copy_of(state, tmp_path / "copy")
    before = (copy / "cluster-id").read_text()
    for _ in range(2):  # as long as its jobs are not disowned: its server may be killed before that
        assert use_once(copy) == str(state)
    (copy / "copied").unlink()
    assert use_once(copy) == ""
    assert not any((copy / name).exists() for name in own)
    assert (copy / "workers/local-0.lock").exists()
    assert (copy / "logs/a").exists()
    assert (copy / "cluster-id").read_text() != before
    assert use_once(state) == ""
    assert all((state / name).exists() for name in own)
    assert use_once(copy_of(copy, tmp_path / "again")) == str(copy), "a copy of a copy"


def test_copied_state_directory_with_take_over_counts_as_the_original(tmp_path: Path) -> None:
    state = tmp_path / "state"
    use_once(state)
    (state / "token-key").touch()
    copy = copy_of(state, tmp_path / "copy")
    assert use_once(copy, take_over=True) == ""
    assert use_once(copy) == ""
    assert (copy / "token-key").exists()


def test_state_directory_with_a_new_mode_or_device_does_not_count_as_a_copy(tmp_path: Path) -> None:
    state = tmp_path / "state"
    use_once(state)
    subprocess.run(["chmod", "-R", "g-rwx", str(state)], check=True)
    assert use_once(state) == ""
    place = json.loads((state / "place").read_text())
    (state / "place").write_text(json.dumps(place | {"device": place["device"] + 1}))
    assert use_once(state) == "", "mounted again"
    (state / "place").write_text(json.dumps(place | {"device": place["device"] + 1, "changed_ns": 1}))
    assert use_once(state) == str(state), "another file system, where it has the same inode by chance"


def test_state_directory_of_an_earlier_version_does_not_count_as_a_copy(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("1\n")
    (tmp_path / "token-key").touch(mode=0o600)
    assert use_once(tmp_path) == ""
    assert (tmp_path / "token-key").exists()
    (tmp_path / "place").write_text("nonsense")
    assert use_once(tmp_path) == ""
