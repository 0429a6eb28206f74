"""Directories whose content is trusted: another user's, or one that others may write, is refused with the cure."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from iris.errors import FailedPreconditionError
from iris.system.private_dir import check_entries, check_private, make_private

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
NOBODY = 65534


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722, 0o720, 0o702, 0o1777])
def test_directory_that_other_users_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(FailedPreconditionError, match=rf"mode {mode:04o}\).*chmod go-w {directory}$"):
        check_private(directory)
    directory.chmod(mode & ~0o022)
    check_private(directory)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o711])
def test_directory_that_other_users_may_read_is_accepted(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    check_private(directory)


@as_root
def test_directory_of_another_user_is_refused_also_for_root(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)
    with pytest.raises(FailedPreconditionError, match=r"belongs to user .*, not to user 'root'.*chown -R 0"):
        check_private(directory)


def test_directory_below_a_world_writable_directory_is_refused(tmp_path: Path) -> None:
    open_one = tmp_path / "open"
    directory = open_one / "mine" / "state"
    directory.mkdir(parents=True)
    open_one.chmod(0o777)
    with pytest.raises(
        FailedPreconditionError, match=rf"{open_one} can be written by every user.*chmod \+t {open_one}"
    ):
        check_private(directory)
    link = tmp_path / "link"
    link.symlink_to(directory)
    with pytest.raises(FailedPreconditionError, match="can be written by every user"):
        check_private(link)
    open_one.chmod(0o1777)
    check_private(directory)
    check_private(link)


AS_NOBODY = """
import os, sys
from pathlib import Path
from iris.system.private_dir import check_private
os.setuid(65534)
check_private(Path(sys.argv[1]))
print("taken")
"""


@as_root
def test_directory_in_a_writable_directory_of_another_user_is_accepted(tmp_path: Path) -> None:
    # As the volumes of containers are. What others would put there is theirs, and refused for that.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        directory = Path(name) / "state"
        directory.mkdir(mode=0o700)
        os.chown(directory, NOBODY, NOBODY)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(directory)], capture_output=True, text=True, check=False
        )
        assert done.stdout == "taken\n", done.stderr
        os.chown(directory, 1234, 1234)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(directory)], capture_output=True, text=True, check=False
        )
        assert "belongs to" in done.stderr


@as_root
def test_link_that_another_user_made_to_a_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(directory)
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(FailedPreconditionError, match="belongs to"):
        check_private(link)


@as_root
def test_private_directory_with_an_entry_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "planted").touch(mode=0o600)
    check_entries(tmp_path)
    os.chown(tmp_path / "planted", NOBODY, NOBODY)
    with pytest.raises(FailedPreconditionError, match=f"{tmp_path / 'planted'} belongs to"):
        check_entries(tmp_path)


def test_entry_writable_by_others_is_made_private_if_unreachable_and_refused_otherwise(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    entry = directory / "workers"
    entry.mkdir()
    entry.chmod(0o775)
    check_entries(directory)
    assert entry.stat().st_mode & 0o777 == 0o755
    directory.chmod(0o755)
    entry.chmod(0o775)
    with pytest.raises(FailedPreconditionError, match=f"chmod go-w {entry}"):
        check_entries(directory)


def test_private_directory_with_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "workers").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPreconditionError, match=r"is a symbolic link.*mount --bind"):
        check_entries(tmp_path / "state")


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_directories_are_made_for_their_owner_only(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_private(tmp_path / "a" / "b" / "c")
        make_private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    for name in ("a", "a/b", "a/b/c"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_private(tmp_path / "file")
