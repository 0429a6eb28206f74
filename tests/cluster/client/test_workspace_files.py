"""Which files of a folder are sent: the same with git and without it. What cannot be sent is left out and listed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from iris.cluster.client.workspace_archive import pack_workspace
from iris.cluster.client.workspace_files import FoundFiles, LeftOut, WhyLeftOut

GIT = shutil.which("git")
needs_git = pytest.mark.skipif(GIT is None, reason="git is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git as it is without settings of the machine and of the user."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


@pytest.fixture(params=["git", "no git"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Who says what is ignored: git, or, where git is not installed, we."""
    if request.param == "git" and GIT is None:
        pytest.skip("git is not installed")
    if request.param == "no git":
        (tmp_path / "no-programs").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    return str(request.param)


def make(root: Path, *names: str) -> Path:
    """Make files that contain their own names; a name with "/" at its end is an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(os.fsencode(name))
    return root


def checkout(root: Path, *names: str) -> Path:
    """Make files, and a repository as `git init` makes it, without git."""
    make(root, ".git/objects/", ".git/refs/heads/", ".git/info/", *names)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return root


def git(folder: Path, *words: str) -> None:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    subprocess.run([str(GIT), *settings, *words], cwd=folder, check=True, capture_output=True)


def found(folder: Path) -> tuple[set[str], list[LeftOut]]:
    """What is sent, without the folders that only hold others, and what is left out."""
    files = FoundFiles(folder.resolve())
    names = {member.name: member for member in files.members()}
    parents = {os.path.dirname(name) for name in names}
    folders = {
        name for name, member in names.items() if not (member.size or member.target) and (folder / name).is_dir()
    }
    return {name + "/" * (name in folders) for name in names if name not in parents}, files.left_out


def sent(folder: Path) -> set[str]:
    names, left_out = found(folder)
    assert not left_out
    return names


def test_ignore_rules_of_the_surrounding_checkout_apply_to_a_workspace(by: str, tmp_path: Path) -> None:
    top = checkout(tmp_path / "repo", "project/a.py", "project/a.log", "project/b.tmp", "project/out/x", "other/a")
    (top / ".git/info/exclude").write_text("*.tmp\n")
    (top / ".gitignore").write_text("*.log\n/project/out\n")
    assert sent(top / "project") == {"a.py"}
    (top / "project" / ".gitignore").write_text("!b.tmp\n")
    assert sent(top / "project") == {".gitignore", "a.py", "b.tmp"}


def test_unusual_ignore_patterns_match_the_same_files_as_in_git(by: str, tmp_path: Path) -> None:
    top = checkout(tmp_path / "repo", "7.ckpt", "a.log", "keep/Icon/x", "a\t", "b")
    (top / ".gitignore").write_bytes(b"Icon\r\r\n[a-Z]*.log\n[[:digit:]]*.ckpt\nb\t\n")
    assert sent(top) == {".gitignore", "keep/Icon/x", "a\t", "b"}


def test_ignore_files_apply_in_a_folder_without_a_checkout(by: str, tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py", "a.log", "sub/b.log", "sub/b.py")
    (root / ".gitignore").write_text("*.log\n")
    (root / "sub/.gitignore").write_text("!b.log\n")
    assert sent(root) == {".gitignore", "a.py", "sub/.gitignore", "sub/b.log", "sub/b.py"}


def test_worktree_uses_the_exclude_file_of_its_repository(by: str, tmp_path: Path) -> None:
    repo = checkout(tmp_path / "repo", ".git/worktrees/tree/")
    (repo / ".git/info/exclude").write_text("*.tmp\n")
    own = repo / ".git/worktrees/tree"
    (own / "commondir").write_text("../..\n")
    (own / "HEAD").write_text("ref: refs/heads/other\n")
    tree = make(tmp_path / "tree", "a.py", "b.tmp")
    (own / "gitdir").write_text(f"{tree}/.git\n")
    (tree / ".git").write_text(f"gitdir: {own}\n")
    assert sent(tree) == {"a.py"}


@pytest.mark.parametrize("folder", ["project", "project/sub"])
def test_workspace_that_git_ignores_uses_only_ignore_files_inside_it(by: str, folder: str, tmp_path: Path) -> None:
    top = checkout(tmp_path / "home", f"{folder}/a.py", f"{folder}/a.log")
    (top / ".gitignore").write_text("project\n*.py\n")
    (top / folder / ".gitignore").write_text("*.log\n")
    assert sent(top / folder) == {".gitignore", "a.py"}


def test_repository_inside_a_workspace_has_separate_ignore_rules(by: str, tmp_path: Path) -> None:
    top = checkout(tmp_path / "repo", "a.py", "a.log")
    (top / ".gitignore").write_text("*.log\n/ignored\n")
    inner = checkout(top / "vendored" / "inner", "b.log", "b.tmp", "deep/c.tmp")
    (inner / ".gitignore").write_text("*.tmp\n")
    checkout(top / "ignored", "d.py")
    assert sent(top) == {".gitignore", "a.py", "vendored/inner/.gitignore", "vendored/inner/b.log"}


def test_repository_inside_a_folder_without_a_checkout_has_separate_ignore_rules(by: str, tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.log")
    (root / ".gitignore").write_text("*.log\n")
    inner = checkout(root / "inner", "b.log", "b.tmp")
    (inner / ".gitignore").write_text("*.tmp\n")
    assert sent(root) == {".gitignore", "inner/.gitignore", "inner/b.log"}


def test_folder_named_git_without_a_repository_does_not_change_the_ignore_rules(by: str, tmp_path: Path) -> None:
    top = checkout(tmp_path / "repo", "sub/.git/config", "sub/a.log", "sub/a.py")
    (top / ".gitignore").write_text("*.log\n")
    assert sent(top) == {".gitignore", "sub/a.py"}
    assert sent(top / "sub") == {"a.py"}


def test_empty_folders_are_sent_unless_they_are_ignored(by: str, tmp_path: Path) -> None:
    top = checkout(
        tmp_path / "repo", "out/", "build/", "deep/er/out/", "a.py", "cache/a.log", "mixed/a.log", "mixed/e/"
    )
    (top / ".gitignore").write_text("build\n*.log\n")
    assert sent(top) == {".gitignore", "a.py", "out/", "deep/er/out/", "mixed/e/"}


def test_symbolic_link_named_gitignore_is_not_followed(by: str, tmp_path: Path) -> None:
    top = checkout(tmp_path / "repo", "rules", "a.log", "sub/b.log")
    (top / "rules").write_text("*.log\n")
    (top / ".gitignore").symlink_to("rules")
    assert sent(top) == {".gitignore", "rules", "a.log", "sub/b.log"}
    assert sent(top / "sub") == {"b.log"}


def test_file_names_that_are_not_text_are_matched_by_their_bytes(by: str, tmp_path: Path) -> None:
    odd = ["new\nline", 'quo"te', "back\\slash", "ümlaut", os.fsdecode(b"not-utf8-\xff"), " lead", "trail "]
    top = checkout(tmp_path / "repo", *odd, *(f"drop {name}" for name in odd), "é.x")
    (top / ".gitignore").write_bytes(b"drop*\n??.x\n")
    assert sent(top) == {".gitignore", *odd}


@needs_git
def test_tracked_file_is_sent_even_if_an_ignore_rule_matches(tmp_path: Path) -> None:
    top = make(tmp_path / "repo", "kept.log", "other.log", "build/tracked", "build/made", "gone.log", "both/x")
    git(top, "init", "-q")
    git(top, "add", "-f", "kept.log", "build/tracked", "gone.log")
    (top / "gone.log").unlink()
    (top / ".gitignore").write_text("*.log\nbuild\n")
    assert sent(top) == {".gitignore", "kept.log", "build/tracked", "both/x"}
    assert sent(top / "build") == {"tracked"}


@needs_git
def test_submodule_has_separate_ignore_rules(tmp_path: Path) -> None:
    library = make(tmp_path / "library", "lib.py")
    git(library, "init", "-q")
    git(library, "add", ".")
    git(library, "commit", "-qm", "a")
    top = make(tmp_path / "repo", "a.py", "a.log")
    git(top, "init", "-q")
    git(top, "submodule", "add", "-q", str(library), "lib")
    (top / ".gitignore").write_text("*.log\n")
    make(top / "lib", "made.log", "made.tmp")
    (library / ".git/modules").mkdir()
    (top / ".git/modules/lib/info").mkdir(exist_ok=True)
    (top / ".git/modules/lib/info/exclude").write_text("*.tmp\n")
    assert sent(top) == {".gitignore", ".gitmodules", "a.py", "lib/lib.py", "lib/made.log"}


@needs_git
def test_global_ignore_file_of_the_user_applies_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = checkout(tmp_path / "repo", "a.py", "a.swp")
    (tmp_path / "ignore").write_text("*.swp\n")
    (tmp_path / "config").write_text(f"[core]\n\texcludesFile = {tmp_path / 'ignore'}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    assert sent(top) == {"a.py"}


@needs_git
def test_environment_variables_of_a_git_hook_do_not_change_the_sent_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = checkout(tmp_path / "repo", "a.py", "a.log")
    (top / ".gitignore").write_text("*.log\n")
    other = checkout(tmp_path / "other", "b")
    for name, value in {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git/index"),
        "GIT_PREFIX": "sub/",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.excludesFile",
        "GIT_CONFIG_VALUE_0": "/dev/null",
        "GIT_TRACE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert sent(top) == {".gitignore", "a.py"}


@needs_git
@needs_root
def test_ignore_files_apply_in_a_checkout_that_git_refuses_because_of_its_owner(tmp_path: Path) -> None:
    top = checkout(tmp_path / "repo", "a.py", "a.log")
    (top / ".gitignore").write_text("*.log\n")
    for path in (top, top / ".git"):
        os.chown(path, 65534, 65534)
    refused = subprocess.run([str(GIT), "status"], cwd=top, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    assert sent(top) == {".gitignore", "a.py"}


# What cannot be sent.


def test_links_out_of_the_workspace_are_left_out_of_the_archive(tmp_path: Path) -> None:
    make(tmp_path, "secret", "data/x")
    root = make(tmp_path / "ws", "sub/a.py", "a/b/")
    (root / "sub" / "way-out").symlink_to("../../secret")
    (root / "data").symlink_to(tmp_path / "data")
    (root / "nowhere").symlink_to("/nowhere/at/all")
    (root / "a/b/top").symlink_to("../..")
    (root / "by-another").symlink_to("a/b/top/..")  # by its text this is a/b
    (root / "below").symlink_to("data/x")
    names, left_out = found(root)
    assert names == {"sub/a.py", "a/b/top"}
    assert {(one.name, one.why, one.target) for one in left_out} == {
        ("sub/way-out", WhyLeftOut.LINK_OUT, "../../secret"),
        ("data", WhyLeftOut.LINK_OUT, str(tmp_path / "data")),
        ("nowhere", WhyLeftOut.LINK_OUT, "/nowhere/at/all"),
        ("by-another", WhyLeftOut.LINK_OUT, "a/b/top/.."),
        ("below", WhyLeftOut.LINK_OUT, "data/x"),
    }
    assert pack_workspace(root).left_out == tuple(left_out)


def test_links_that_form_a_cycle_are_left_out(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py")
    (root / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "absolute").symlink_to(root / "absolute")
    (root / "below").symlink_to("below/deeper")
    for index in range(60):  # more than Linux follows
        (root / f"chain-{index}").symlink_to(f"chain-{index + 1}")
    names, left_out = found(root)
    assert names >= {"a.py", "chain-59", "chain-58"}
    assert {one.name for one in left_out} >= {"self", "one", "two", "absolute", "below", "chain-0"}
    assert {one.why for one in left_out} == {WhyLeftOut.LINK_BROKEN}
    assert not names & {one.name for one in left_out}


def test_ignored_links_out_of_the_workspace_are_not_reported(by: str, tmp_path: Path) -> None:
    make(tmp_path, "secret")
    root = checkout(tmp_path / "ws", "a.py")
    (root / "way-out").symlink_to(tmp_path / "secret")
    (root / "self").symlink_to("self")
    (root / ".gitignore").write_text("way-out\nself\n")
    assert sent(root) == {".gitignore", "a.py"}


def test_sockets_and_pipes_in_a_workspace_are_left_out(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        names, left_out = found(root)
    assert names == {"a.py"}
    assert left_out == [LeftOut("pipe", WhyLeftOut.SPECIAL), LeftOut("socket", WhyLeftOut.SPECIAL)]


@needs_root
def test_workspace_files_that_the_user_may_not_read_are_left_out(tmp_path: Path) -> None:
    """Seen by another user than root, who may read everything."""
    root = make(tmp_path / "ws", "a.py", "secret", "closed/x", "open/y")
    (root / "to-closed").symlink_to("/root/somewhere")
    (root / "into-closed").symlink_to("closed/x")
    (root / "secret").chmod(0)
    (root / "closed").chmod(0)
    for above in tmp_path.parents:
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    for path in (tmp_path, root, root / "open"):
        path.chmod(0o755)
    code = """
import os, sys
from pathlib import Path
from iris.cluster.client.workspace_files import FoundFiles
os.setuid(65534)
files = FoundFiles(Path(sys.argv[1]))
print(sorted(member.name for member in files.members()))
print(sorted((one.name, one.why.name) for one in files.left_out))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(root.resolve())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    names, left_out = done.stdout.splitlines()
    assert names == "['a.py', 'open', 'open/y']"
    assert left_out == str(
        [
            ("closed", "UNREADABLE"),
            ("into-closed", "LINK_BROKEN"),
            ("secret", "UNREADABLE"),
            ("to-closed", "LINK_OUT"),
        ]
    )
