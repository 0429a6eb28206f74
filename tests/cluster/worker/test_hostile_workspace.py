"""Archives that are made to break a worker are refused in limited time and memory, and leave nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import bundle_of, file, link, tree
from support.cluster import launch, running_cluster, shell, wait_for_end
from support.fuzzing import fuzz

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.worker.attempt.unpack_workspace import unpack_workspace
from iris.errors import InvalidArgumentError, ResourceExhaustedError
from iris.rpc import cluster_pb2

Member = tuple[tarfile.TarInfo, bytes]


def unpack(blob: bytes, into: Path) -> None:
    unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), into)


def sparse(name: str) -> Member:
    """Return a member of GNU's old sparse format that claims a gigabyte without content."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    return member, b""


def pax(name: str, headers: dict[str, str], content: bytes = b"x") -> Member:
    member = tarfile.TarInfo(name)
    member.pax_headers = headers
    return member, content


def chain(length: int) -> list[Member]:
    """Return links, each to the next one; the last one leads to a file."""
    return [file("end"), *(link(f"l{i}", f"l{i + 1}") for i in range(length - 1)), link(f"l{length - 1}", "end")]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([file("a" * 256)], "name of over 255 bytes", id="name"),
        pytest.param([file("é" * 200)], "name of over 255 bytes", id="name-in-bytes"),
        pytest.param([file("a/" * 2001 + "a")], "path of over 4000", id="path"),
        pytest.param([file("a" * 10_000)], "name of over 255 bytes", id="name-10k"),
        pytest.param([link("a", "b/" * 3000)], "path of over 4000", id="link-target"),
        pytest.param([link("a", "")], "without a target", id="empty-link"),
        pytest.param([pax("a", {"path": "../out"})], "leads out of the workspace", id="pax-path"),
        pytest.param([pax("a", {"path": "/out"})], "leads out of the workspace", id="pax-path-absolute"),
        pytest.param([pax("a", {"GNU.sparse.name": "../out"})], "leads out of the workspace", id="pax-sparse-name"),
        pytest.param([pax("a", {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"})], "neither file", id="pax-sparse"),
        pytest.param([sparse("a")], "neither file", id="gnu-sparse"),
        pytest.param(chain(50), "more than 40 links", id="chain"),
        pytest.param([link("a", "b"), link("b", "a")], "more than 40 links", id="loop"),
        pytest.param([link("a", "a/a")], "more than 40 links", id="loop-that-grows"),
        pytest.param(
            [link("a/b", "c"), link("a/c", "d/.."), link("a/d", ".."), link("x", "a/b/..")],
            "leads out of the workspace",
            id="way",
        ),
    ],
)
def test_a_forbidden_workspace_is_refused_with_a_reason(tmp_path: Path, members: list[Member], words: str) -> None:
    blob, bundle_hash = bundle_of(file("harmless"), *members)
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        unpack_workspace(blob, bundle_hash, tmp_path / "cache" / "bundle")
    assert len(str(caught.value)) < 500
    assert tree(tmp_path) == {"cache": "folder"}


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([file("new\nline"), file("bell\7"), file("\u202eright"), file("😀")], id="odd-characters"),
        pytest.param([file("Case"), file("case"), file("CASE/x"), file("cAsE")], id="cases"),
        pytest.param([file("a" * 255), file("d/" * 100 + "deep")], id="long"),
        pytest.param(chain(39), id="chain"),
        pytest.param([file("d/e/f"), link("d/up", "../d/e"), link("up", "d/up/f")], id="links"),
    ],
)
def test_a_strange_but_harmless_workspace_is_unpacked(tmp_path: Path, members: list[Member]) -> None:
    blob, bundle_hash = bundle_of(*members)
    unpack_workspace(blob, bundle_hash, tmp_path / "out")
    found = tree(tmp_path / "out")
    for member, content in members:
        expected = f"-> {member.linkname}" if member.issym() else (content, False)
        assert found[member.name] == expected


def test_workspace_with_too_many_implied_folders_is_refused(tmp_path: Path) -> None:
    """Each name implies a hundred folders, which count as members."""
    blob, bundle_hash = bundle_of(*(file(f"{i}/" + "d/" * 100 + "x", b"") for i in range(11)))
    with pytest.raises(ResourceExhaustedError, match="1,000 members"):
        unpack_workspace(blob, bundle_hash, tmp_path / "out", max_members=1000)
    assert list(tmp_path.iterdir()) == []


def test_workspace_whose_links_take_too_many_steps_is_refused(tmp_path: Path) -> None:
    deep = "x/" * 1000
    names = [link(f"l{i}", deep + "../" * 1000 + f"l{i + 1}") for i in range(2000)]
    blob, _ = bundle_of(*names)
    with pytest.raises((ResourceExhaustedError, InvalidArgumentError), match=r"too many|more than 40|path of over"):
        unpack(blob, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def bomb(head: bytes, fill: bytes, megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(mode="wb", fileobj=buffer, compresslevel=1) as packed:
        packed.write(head)
        for _ in range(megabytes):
            packed.write(fill * (1024**2 // len(fill)))
    return buffer.getvalue()


def long_header(kind: bytes) -> bytes:
    header = tarfile.TarInfo("header")
    header.type = kind
    header.size = 200 * 1024**2
    return bomb(header.tobuf(), b"\0", 200)


def sparse_map() -> bytes:
    """Return a sparse file of GNU's newest format, with a map of some hundred million numbers before its content."""
    member, _ = pax("a", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"})
    member.size = 200 * 1024**2
    return bomb(member.tobuf(tarfile.PAX_FORMAT) + b"999999999\n", b"1\n", 200)


@pytest.mark.parametrize(
    "make_blob",
    [
        pytest.param(partial(long_header, tarfile.XHDTYPE), id="pax"),
        pytest.param(partial(long_header, tarfile.XGLTYPE), id="global-pax"),
        pytest.param(partial(long_header, tarfile.GNUTYPE_LONGNAME), id="long-name"),
        pytest.param(partial(long_header, tarfile.GNUTYPE_LONGLINK), id="long-link"),
        pytest.param(sparse_map, id="sparse-map"),
    ],
)
def test_a_gzip_bomb_is_refused_with_little_memory(tmp_path: Path, make_blob: Callable[[], bytes]) -> None:
    """The archive is unpacked in a process of its own, so that the peak of its memory can be measured."""
    (tmp_path / "blob").write_bytes(make_blob())
    program = """
import hashlib, pathlib, resource, sys
from iris.cluster.worker.attempt.unpack_workspace import unpack_workspace
blob = pathlib.Path(sys.argv[1], "blob").read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    unpack_workspace(blob, hashlib.sha256(blob).hexdigest(), pathlib.Path(sys.argv[1], "out"))
except Exception as error:
    print(type(error).__name__, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    name, mebibytes = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert name == "ResourceExhaustedError"
    assert int(mebibytes) < 40
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RemoteClusterClient, Path]]:
    directory = tmp_path_factory.mktemp("hostile-workspace")
    with running_cluster(directory) as server, RemoteClusterClient(server.address) as client:
        yield client, directory


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([file("../../../out-of-it")], "leads out of the workspace", id="parent"),
        pytest.param([link("a", "../../.."), file("a/out-of-it")], "leads out of the workspace", id="through-a-link"),
        pytest.param([file("a" * 10_000)], "name of over 255 bytes", id="name"),
        pytest.param([link("out-of-it", "", tarfile.FIFOTYPE)], "neither file", id="pipe"),
    ],
)
def test_a_job_with_a_forbidden_workspace_fails_with_a_reason(
    cluster: tuple[RemoteClusterClient, Path], members: list[Member], words: str
) -> None:
    client, directory = cluster
    blob, bundle_hash = bundle_of(file("harmless"), *members)
    job_id = launch(client, shell("true"), bundle_hash=bundle_hash, bundle_blob=blob)
    job = wait_for_end(client, job_id)
    assert job.state == cluster_pb2.JOB_STATE_FAILED
    assert words in job.error
    assert "could not run it" not in job.error  # which a bug would say
    assert list(directory.rglob("out-of-it")) == []
    assert list((directory / "workers" / "local-0" / "bundles").iterdir()) == []
    assert wait_for_end(client, launch(client, shell("true"))).state == cluster_pb2.JOB_STATE_SUCCEEDED


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "é", "\n", "a" * 300]), min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S", b"Z"]
)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Return tars of odd members, sometimes with changed bytes, sometimes truncated."""
    buffer = io.BytesIO()
    with tarfile.open(
        mode="w", fileobj=buffer, format=draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    ) as tar:
        for _ in range(draw(st.integers(0, 5))):
            member = tarfile.TarInfo(draw(NAMES))
            member.type, member.linkname, member.mode = draw(KINDS), draw(NAMES), draw(st.integers(0, 0o7777))
            content = draw(st.binary(max_size=20)) if member.isreg() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, min(len(data), 4096) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@fuzz(examples=150)
@given(tar=archives(), packed=st.booleans())
def test_random_workspace_archive_is_either_unpacked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tar: bytes, packed: bool
) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "secret").write_text("secret")
    blob = gzip.compress(tar, compresslevel=1) if packed else tar
    try:
        unpack(blob, root / "cache" / "out")
    except (InvalidArgumentError, ResourceExhaustedError):
        assert not (root / "cache" / "out").exists()
    assert {path.name for path in root.iterdir()} <= {"secret", "cache"}
    assert (root / "secret").read_text() == "secret"
    assert {path.name for path in (root / "cache").iterdir()} <= {"out"}
    for path in (root / "cache").rglob("*"):
        assert os.path.realpath(path).startswith(os.path.realpath(root / "cache" / "out"))
        assert path.lstat().st_mode & 0o7000 == 0
        assert path.is_symlink() or path.is_dir() or path.is_file()
