"""Paths and links never lead out of a confined directory, also while another program changes the directory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from iris.cluster.files.confined_tree import MAX_DEPTH, ConfinedTree
from iris.cluster.files.listing import list_page
from iris.errors import FailedPreconditionError, InvalidArgumentError, IrisError, NotFoundError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_text("inside")
    return root


@pytest.fixture
def tree(root: Path) -> Iterator[ConfinedTree]:
    with ConfinedTree(root) as opened:
        yield opened


def content(tree: ConfinedTree, path: str) -> str:
    with os.fdopen(tree.open_file(path)) as file:
        return file.read()


@pytest.mark.parametrize("path", ["/etc/passwd", "..", "../secret", "a/../../secret", "a/\0", "x/" * (MAX_DEPTH + 1)])
def test_path_that_could_leave_a_confined_directory_is_refused(tree: ConfinedTree, path: str) -> None:
    for use in (tree.open_file, tree.open_directory, tree.status, tree.make_directory):
        with pytest.raises(InvalidArgumentError, match="must not leave its directory"):
            use(path)


@pytest.mark.parametrize(
    "target", ["../..", "../../secret", "/etc", "b/../../../secret", "{root}/../secret", "{root}x"]
)
def test_link_that_leads_out_of_a_confined_directory_is_refused(tree: ConfinedTree, root: Path, target: str) -> None:
    (root / "a/link").symlink_to(target.format(root=root))
    for path in ("a/link", "a/link/x", "a/link/x/y"):
        for use in (tree.open_file, tree.make_directory):
            with pytest.raises(IrisError):
                use(path)
    assert not list(root.parent.glob("**/x"))


@pytest.mark.parametrize("target", ["b/file", "../a/b/file", "./b/./file", "{root}/a/b/file", "other"])
def test_link_that_stays_inside_a_confined_directory_is_followed(tree: ConfinedTree, root: Path, target: str) -> None:
    (root / "a/other").symlink_to("b/file")
    (root / "a/link").symlink_to(target.format(root=root))
    assert content(tree, "a/link") == "inside"
    assert tree.status("a/link", follow=False).st_mode != tree.status("a/link").st_mode


def test_links_in_a_circle_and_special_files_are_refused(tree: ConfinedTree, root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    os.mkfifo(root / "pipe")
    for path in ("one", "one/x", "pipe", "a"):
        with pytest.raises(FailedPreconditionError):
            tree.open_file(path)
    with pytest.raises(NotFoundError, match="no file 'a/none'"):
        tree.open_file("a/none")


def test_path_through_a_directory_that_is_swapped_with_a_link_never_leads_outside(
    tree: ConfinedTree, root: Path
) -> None:
    """A task swaps a directory with a link to the outside, again and again, while files are opened and created."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    (root / "link").symlink_to(outside)
    (root / "real").mkdir()
    (root / "real/file").write_text("inside")
    os.rename(root / "real", root / "now")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "now", root / "real")
            os.rename(root / "link", root / "now")
            os.rename(root / "now", root / "link")
            os.rename(root / "real", root / "now")

    thread = threading.Thread(target=swap)
    thread.start()
    seen, refused = 0, 0
    try:
        while not (seen > 50 and refused > 50):
            try:
                assert content(tree, "now/file") == "inside"
                with tree.locate(f"now/new{seen}", create=False) as (parent, name):
                    os.mkdir(name, dir_fd=parent)
                seen += 1
            except (IrisError, FileExistsError):
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert sorted(os.listdir(outside)) == ["file"]


def listed(tree: ConfinedTree, path: str = "") -> list[str]:
    paths, token = [], ""
    while True:
        page, token = list_page(tree, path, recursive=True, page_token=token)
        paths += [file.path for file in page]
        if not token:
            return paths


def test_pages_of_a_list_of_files_have_every_file_once_and_in_order(tree: ConfinedTree, root: Path) -> None:
    for directory in ("", "a/", "a/b/", "z/"):
        (root / directory).mkdir(exist_ok=True)
        for number in range(600):
            (root / f"{directory}{number:03}").touch()
    expected = sorted((str(path.relative_to(root)) for path in root.rglob("*")), key=lambda path: path.split("/"))
    assert listed(tree) == ["", *expected]
    assert listed(tree, "a/b") == ["a/b", *(path for path in expected if path.startswith("a/b/"))]


def test_list_of_files_names_one_special_or_misnamed_file_of_each_directory(tree: ConfinedTree, root: Path) -> None:
    for number in range(1, 4):
        (root / os.fsdecode(b"odd\xff%d" % number)).touch()
    (root / "deep").mkdir()
    (root / "deep/socket").touch()
    os.mkfifo(root / "deep/pipe")
    page, token = list_page(tree, "", recursive=True, page_token="")
    assert token == ""
    others = [file.path for file in page if file.type == 4]
    assert len(others) == 2
    assert others[0].startswith("odd\\udcff")
    assert others[1] == "deep/pipe"
