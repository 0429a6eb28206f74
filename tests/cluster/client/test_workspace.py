"""Packing a folder on the client, and unpacking it on the worker: what goes in comes out, and nothing else does."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import pytest
from support.bundles import bundle_of, file, link, tree

from iris.cluster.client import workspace_archive as packing
from iris.cluster.client.workspace_archive import MAX_WORKSPACE_BYTES, MAX_WORKSPACE_MEMBERS, pack_workspace
from iris.cluster.client.workspace_files import FoundFiles
from iris.cluster.worker.attempt import unpack_workspace as unpacking
from iris.cluster.worker.attempt.unpack_workspace import copy_workspace, unpack_workspace
from iris.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError


def make(root: Path, *names: str) -> Path:
    """Makes files that contain their own names; a name with "/" at its end is an empty folder."""
    root.mkdir(exist_ok=True)
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return root


def packed(folder: Path) -> set[str]:
    """The names in a folder's bundle, without the folders that only hold others."""
    with tarfile.open(fileobj=io.BytesIO(pack_workspace(folder).blob)) as tar:
        members = tar.getmembers()
    parents = {os.path.dirname(member.name) for member in members}
    return {member.name + "/" * member.isdir() for member in members if member.name not in parents}


def test_unpacked_workspace_equals_the_folder(tmp_path: Path) -> None:
    source = make(tmp_path / "source", "a.py", "pkg/b.py", "pkg/deep/c.txt", "empty/", "näme with space", "x" * 120)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o750)
    (source / "binary").write_bytes(bytes(range(256)) * 1000)
    (source / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    (source / "pkg" / "link").symlink_to("../a.py")
    (source / "dangling").symlink_to("later.txt")

    bundle = pack_workspace(source)
    unpack_workspace(bundle.blob, bundle.hash, tmp_path / "cache" / bundle.hash)
    copy_workspace(tmp_path / "cache" / bundle.hash, tmp_path / "work")

    assert tree(tmp_path / "cache" / bundle.hash) == tree(source)
    assert tree(tmp_path / "work") == tree(source)
    assert bundle.files == 10
    assert bundle.bytes == sum(
        path.stat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert bundle.hash == hashlib.sha256(bundle.blob).hexdigest()


def test_workspaces_with_the_same_content_have_the_same_hash(tmp_path: Path) -> None:
    one = make(tmp_path / "one", "a", "b/c", "b/d")
    two = make(tmp_path / "other-name", "b/d", "b/c", "a")  # made in another order
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
    (two / "a").chmod(0o600)
    assert pack_workspace(one).hash == pack_workspace(two).hash

    (two / "a").chmod(0o700)
    executable = pack_workspace(two).hash
    (two / "a").chmod(0o600)
    (two / "b/c").write_text("changed")
    assert len({pack_workspace(one).hash, executable, pack_workspace(two).hash}) == 3


def test_hash_of_a_workspace_does_not_depend_on_the_process(tmp_path: Path) -> None:
    make(tmp_path / "ws", "a", "b/c", "b/d", "e/f/g")
    code = (
        "import sys; from iris.cluster.client import workspace_archive as a; print(a.pack_workspace(sys.argv[1]).hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "ws")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert hashes == {pack_workspace(tmp_path / "ws").hash}


def test_packed_workspace_contains_no_owner_and_no_times(tmp_path: Path) -> None:
    make(tmp_path / "ws", "a", "b/c")
    with tarfile.open(fileobj=io.BytesIO(pack_workspace(tmp_path / "ws").blob)) as tar:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in tar} == {(0, 0, "", "", 0)}


def test_git_folders_caches_and_virtual_environments_are_not_sent(tmp_path: Path) -> None:
    make(
        tmp_path / "ws",
        "a.py",
        ".git/config",
        "sub/.git/config",
        "__pycache__/a.pyc",
        "sub/__pycache__/b.pyc",
        "sub/c.py",
    )
    make(tmp_path / "ws", ".venv/pyvenv.cfg", ".venv/lib/x.py", "other-env/pyvenv.cfg", "venv/no-environment.py")
    make(tmp_path, "env-elsewhere/pyvenv.cfg")
    (tmp_path / "ws" / "linked-env").symlink_to(tmp_path / "env-elsewhere")
    assert packed(tmp_path / "ws") == {"a.py", "sub/c.py", "venv/no-environment.py"}


def test_folder_is_not_sent_if_all_files_in_it_are_left_out(tmp_path: Path) -> None:
    make(tmp_path / "ws", "cache/x/y", "cache/x/z/", "empty/", "pkg/__pycache__/x.pyc")
    (tmp_path / "ws" / "cache" / ".gitignore").write_text("*\n")
    assert packed(tmp_path / "ws") == {"empty/"}


@pytest.mark.parametrize(
    ("rules", "remaining"),
    [
        pytest.param({"": "*.log"}, "a.py data/b.py data/sub/c.py src/data/d.py", id="anywhere"),
        pytest.param({"": "data"}, "a.log a.py", id="name"),
        pytest.param({"": "/data/"}, "a.log a.py src/data/d.py", id="anchored"),
        pytest.param({"": "data/*\n!data/b.py"}, "a.log a.py data/b.py src/data/d.py", id="negated"),
        pytest.param({"": "data/**\n!data/b.py"}, "a.log a.py data/b.py src/data/d.py", id="all-below"),
        pytest.param({"": "data/\n!data/b.py"}, "a.log a.py", id="nothing-comes-back-from-an-ignored-folder"),
        pytest.param({"": "/*\n!/src"}, "src/data/d.py", id="only"),
        pytest.param({"": "/*\n!/src\nd.py"}, "", id="only-does-not-cover-what-is-below"),
        pytest.param({"": "*\n!*/\n!*.py"}, "a.py data/b.py data/sub/c.py src/data/d.py", id="only-python"),
        pytest.param({"data": "sub/"}, "a.log a.py data/b.py data/x.log src/data/d.py", id="nested"),
        pytest.param(
            {"": "*.log", "data": "!x.log"}, "a.py data/b.py data/sub/c.py data/x.log src/data/d.py", id="nested-wins"
        ),
        pytest.param(
            {"": "# *\n\n\\#x\r\na.py\r\n\\\n"},
            "a.log data/b.py data/sub/c.py data/x.log src/data/d.py",
            id="comments-and-line-ends",
        ),
    ],
)
def test_ignored_files_are_not_sent(tmp_path: Path, rules: dict[str, str], remaining: str) -> None:
    root = make(tmp_path / "ws", "a.py", "a.log", "data/b.py", "data/x.log", "data/sub/c.py", "src/data/d.py")
    for folder, text in rules.items():
        (root / folder / ".gitignore").write_text(text)
    assert {name for name in packed(root) if not name.endswith(".gitignore")} == set(remaining.split())


def test_empty_folder_is_accepted_as_workspace(tmp_path: Path) -> None:
    bundle = pack_workspace(make(tmp_path / "ws"))
    unpack_workspace(bundle.blob, bundle.hash, tmp_path / "out")
    assert (bundle.files, bundle.bytes, tree(tmp_path / "out")) == (0, 0, {})


@pytest.mark.parametrize("name", ["missing", "a.py"])
def test_workspace_path_that_is_not_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a.py")
    with pytest.raises(InvalidArgumentError, match=name):
        pack_workspace(tmp_path / name)


def test_links_inside_the_workspace_are_valid_after_unpacking(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "sub/a.py", "b.py")
    (root / "sub" / "absolute").symlink_to(root / "b.py")
    (root / "sub" / "by-way-of-above").symlink_to("../../ws/b.py")
    (root / "folder").symlink_to("sub")
    bundle = pack_workspace(root)
    unpack_workspace(bundle.blob, bundle.hash, tmp_path / "out")
    assert os.readlink(tmp_path / "out/sub/absolute") == "../b.py"
    assert os.readlink(tmp_path / "out/sub/by-way-of-above") == "../b.py"
    assert os.readlink(tmp_path / "out/folder") == "sub"


def test_error_for_a_too_large_workspace_names_its_largest_folders_and_files(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py", "data/deep/small", "models/one", "models/two", "logs/x")
    for name, mib in {"data/deep/large": 90, "models/one": 5, "models/two": 5, "logs/x": 3, "b.bin": 2}.items():
        with open(root / name, "wb") as sparse:
            sparse.truncate(mib * 1024**2)
    with pytest.raises(ResourceExhaustedError) as raised:
        pack_workspace(root)
    text = str(raised.value)
    assert "105.0 MiB, over the limit of 100.0 MiB" in text
    assert "data/deep/large (90.0 MiB), models/ (10.0 MiB), logs/x (3.0 MiB)." in text
    assert ".gitignore" in text
    (root / ".gitignore").write_text("/data\n")
    assert pack_workspace(root).bytes < 16 * 1024**2


def test_workspace_limit_is_checked_before_any_file_is_read(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py")
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(2**40)  # a terabyte: to read it would take longer than any test may
    with pytest.raises(ResourceExhaustedError, match="sparse"):
        pack_workspace(root)


def test_workspace_with_too_many_files_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py", "many/", "few/b", "few/c")
    for index in range(MAX_WORKSPACE_MEMBERS):
        os.link(root / "a.py", root / "many" / str(index))  # costs less than a file or a folder
    with pytest.raises(ResourceExhaustedError, match=r"50,000 .*many/ \([0-9,]+\), few/ \(3\)"):
        pack_workspace(root)


def test_file_that_vanishes_or_shrinks_during_packing_is_an_error(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "sub/a", "sub/b")
    members = packing._scan(FoundFiles(root))
    (root / "sub/a").write_text("")
    with pytest.raises(FailedPreconditionError, match="'sub/a' cannot be read: it was changed"):
        packing._write(root, members)
    (root / "sub/a").unlink()
    with pytest.raises(FailedPreconditionError, match="'sub/a' cannot be read: No such file"):
        packing._write(root, members)


def test_incompressible_workspace_data_is_stored_uncompressed(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py")
    (root / "weights").write_bytes(os.urandom(3 * 1024**2))
    (root / "text").write_bytes(b"a line like all others\n" * 100_000)
    bundle = pack_workspace(root)
    assert 3 * 1024**2 < len(bundle.blob) < 3.2 * 1024**2
    unpack_workspace(bundle.blob, bundle.hash, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(root)


def test_progress_of_packing_ends_with_all_bytes(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "a.py")
    (root / "weights").write_bytes(bytes(5 * 1024**2))
    seen: list[tuple[int, int]] = []
    bundle = pack_workspace(root, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len(seen) > 4
    assert seen[-1] == (bundle.bytes, bundle.bytes)


def test_file_that_grows_during_packing_is_sent_up_to_its_initial_size(tmp_path: Path) -> None:
    root = make(tmp_path / "ws", "log")
    members = packing._scan(FoundFiles(root))
    (root / "log").write_text("log, and more")
    blob = packing._write(root, members)
    unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), tmp_path / "out")
    assert (tmp_path / "out/log").read_text() == "log"


# --- unpacking


def test_packing_and_unpacking_have_the_same_workspace_limits() -> None:
    assert MAX_WORKSPACE_BYTES == unpacking.MAX_WORKSPACE_BYTES
    assert MAX_WORKSPACE_MEMBERS == unpacking.MAX_WORKSPACE_MEMBERS


def test_damaged_workspace_is_refused(tmp_path: Path) -> None:
    blob, _ = bundle_of(file("a"))
    with pytest.raises(DataLossError, match="damaged"):
        unpack_workspace(blob, "0" * 64, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([file("../out-of-it")], id="parent"),
        pytest.param([file("a/../../out-of-it")], id="parent-inside"),
        pytest.param([file("ABSOLUTE/out-of-it")], id="absolute"),
        pytest.param([link("out-of-it", "..")], id="link-to-parent"),
        pytest.param([link("a/out-of-it", "../../x")], id="link-to-sibling"),
        pytest.param([link("out-of-it", "/etc/passwd")], id="link-absolute"),
        pytest.param([link("a", "b"), file("a/out-of-it")], id="below-a-link"),
        pytest.param([link("a", "."), link("out-of-it", "a/..")], id="link-by-way-of-a-link"),
        pytest.param([link("out-of-it", "a/.."), link("a", ".")], id="link-by-way-of-a-later-link"),
        pytest.param([link("a/b/c", "../.."), link("out-of-it", "a/b/c/..")], id="link-by-way-of-a-deep-link"),
        pytest.param([file("a"), link("out-of-it", "a", tarfile.LNKTYPE)], id="hard-link"),
        pytest.param([link("out-of-it", "../secret", tarfile.LNKTYPE)], id="hard-link-to-outside"),
        pytest.param([link("a", "b"), link("out-of-it", "a", tarfile.LNKTYPE)], id="hard-link-to-link"),
        pytest.param([link("out-of-it", "", tarfile.CHRTYPE)], id="character-device"),
        pytest.param([link("out-of-it", "", tarfile.BLKTYPE)], id="block-device"),
        pytest.param([link("out-of-it", "", tarfile.FIFOTYPE)], id="pipe"),
        pytest.param([file("out-of-it"), file("./out-of-it")], id="twice"),
        pytest.param([link("out-of-it", "b"), file("out-of-it")], id="file-over-link"),
        pytest.param([file("a/b"), link("a", "out-of-it")], id="link-over-folder"),
        pytest.param([file("a"), file("a/out-of-it")], id="below-a-file"),
    ],
)
def test_workspace_with_dangerous_members_is_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    make(tmp_path, "secret")
    for member, _ in members:
        member.name = member.name.replace("ABSOLUTE", str(tmp_path))
    blob, bundle_hash = bundle_of(file("harmless"), *members)
    # Named is the member, or for a link over a folder the folder's name.
    with pytest.raises(InvalidArgumentError, match=r"workspace.*(out-of-it|'a')|(out-of-it|'a').*workspace"):
        unpack_workspace(blob, bundle_hash, tmp_path / "cache" / "bundle")
    assert tree(tmp_path) == {"secret": (b"secret", False), "cache": "folder"}


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\3\4 a zip file, say", id="other"),
        pytest.param(gzip.compress(b"no tar" * 1000), id="gzip-of-something"),
        pytest.param(bundle_of(file("a", os.urandom(100_000)))[0][:50_000], id="cut"),
    ],
)
def test_workspace_that_is_not_a_gzipped_tar_is_refused(tmp_path: Path, blob: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a gzipped tar"):
        unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_workspace_that_unpacks_to_one_huge_file_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("large")
    member.size = 10 * 1024**3
    blob = gzip.compress(member.tobuf() + bytes(1024**2))
    with pytest.raises(ResourceExhaustedError, match=f"{MAX_WORKSPACE_BYTES:,}"):
        unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_workspace_that_unpacks_to_too_many_members_is_refused(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    blob = gzip.compress(folder.tobuf() * (MAX_WORKSPACE_MEMBERS + 1))
    with pytest.raises(ResourceExhaustedError, match=f"{MAX_WORKSPACE_MEMBERS:,}"):
        unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_workspace_with_a_huge_header_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("header")
    header.type = tarfile.XHDTYPE  # is read into memory before anything is known of the member
    header.size = 2**32
    buffer = io.BytesIO()
    with gzip.GzipFile(mode="wb", fileobj=buffer, compresslevel=1) as packed:
        packed.write(header.tobuf())
        for _ in range(400):
            packed.write(bytes(1024**2))
    blob = buffer.getvalue()
    with pytest.raises(ResourceExhaustedError, match="tar header in the archive of the workspace is over the limit"):
        unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_workspace_archives_made_by_other_programs_are_unpacked(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    member, content = file("./a/b", b"content")
    member.mode = 0o6777  # set-user-id, and writable for everybody
    member.uid = 12345
    blob, bundle_hash = bundle_of((folder, b""), (member, content))
    unpack_workspace(blob, bundle_hash, tmp_path / "out")
    status = (tmp_path / "out/a/b").stat()
    assert (tmp_path / "out/a/b").read_bytes() == b"content"
    assert stat.S_IMODE(status.st_mode) & 0o7022 == 0
    assert status.st_uid == os.geteuid()
    assert status.st_mtime > 315532800  # 1980: zip files know no time before


def test_workspace_that_was_unpacked_before_is_not_unpacked_again(tmp_path: Path) -> None:
    blob, bundle_hash = bundle_of(file("a"))
    unpack_workspace(blob, bundle_hash, tmp_path / "out")
    before = (tmp_path / "out/a").stat().st_ino
    unpack_workspace(blob, bundle_hash, tmp_path / "out")
    assert (tmp_path / "out/a").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_workspace_requested_by_many_threads_at_once_is_unpacked_once(tmp_path: Path) -> None:
    blob, bundle_hash = bundle_of(*(file(f"a/{i}") for i in range(200)))
    gate = threading.Barrier(8)
    counts: list[int] = []

    def unpack() -> None:
        gate.wait()
        unpack_workspace(blob, bundle_hash, tmp_path / "out")
        counts.append(len(list((tmp_path / "out/a").iterdir())))

    threads = [threading.Thread(target=unpack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [200] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unpacking_uses_only_old_features_of_tarfile(tmp_path: Path) -> None:
    """Python 3.11.0 to 3.11.3 have no `tarfile.data_filter`, and some systems ship one of them."""
    bundle = pack_workspace(make(tmp_path / "folder", "a.py", "sub/b"))
    (tmp_path / "blob").write_bytes(bundle.blob)
    code = """
        import sys, tarfile, pathlib
        del tarfile.data_filter
        from iris.cluster.worker.attempt.unpack_workspace import unpack_workspace
        folder = pathlib.Path(sys.argv[1])
        unpack_workspace((folder / "blob").read_bytes(), sys.argv[2], folder / "out")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path), bundle.hash], check=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "folder")


def test_attempt_that_writes_in_its_copy_leaves_the_workspace_unchanged(tmp_path: Path) -> None:
    cached = make(tmp_path / "cached", "a.py", "sub/b")
    (cached / "link").symlink_to("a.py")
    (tmp_path / "work").mkdir()
    before = tree(cached)
    copy_workspace(cached, tmp_path / "work")
    (tmp_path / "work/link").write_text("changed")
    (tmp_path / "work/sub/new").write_text("new")
    assert (tmp_path / "work/a.py").read_text() == "changed"
    assert tree(cached) == before
