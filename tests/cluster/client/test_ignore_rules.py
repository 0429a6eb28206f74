"""The rules of `.gitignore` against git itself: on patterns that people write, and on random ones.

More random ones: `IRIS_GITIGNORE_EXAMPLES=5000 uv run pytest tests/cluster/client/test_ignore_rules.py`.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iris.cluster.client.ignore_rules import Rule, is_ignored, parse_rules
from iris.cluster.client.workspace_files import FoundFiles

EXAMPLES = int(os.environ.get("IRIS_GITIGNORE_EXAMPLES", "40"))
against_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
like_git = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="IRIS_GITIGNORE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)
ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}
# What each pattern is tried on, in a folder of its own.
TREE = [
    *(
        "a",
        "b",
        "A",
        "1",
        "ab",
        "ba",
        "abc",
        "a b",
        "a ",
        " a",
        "a\t",
        "a\r",
        "#a",
        "!a",
        "-",
        "]",
        "[",
        "[a]",
        "^",
        ":",
    ),
    *("é", "a.log", "Z.log", "7.ckpt", "*", "a*", "\\", "\\a", "a\\", "?", ".a", "aa", "bb", "a-b", "a]", "Icon\r"),
    *("d/a", "d/b", "d/ab", "d/1", "d/e/a", "d/e/ab", "d/e/f/a", "ad/a", "da/b", "x/a/b", "x/a/y/b", "x/ab/b", "a.d/a"),
    *("foo", "foobar/a", "foo x/bar", "fx/bar", "Icon/x", "d/a.log", "d/e/b.log", "d.log/a", "b.d/e/a"),
]
PEOPLES = """\
*
!*
a
/a
a/
/d
d/
/d/
d/*
d/**
d/**/a
**/a
**/d/a
**/e/**
/**
/**/
**
***
d/*/a
d/**/f
**a
a**
a**/b
fo**/bar
foo**/bar
x/**/b
x/**b
x/a**/b
*.log
*.[a-z]og
[a-Z]*.log
[A-z]*.log
[Z-A]*.log
[!a-z]*
[^a-z]*
[[:digit:]]*
[[:digit:]]*.ckpt
[[:alpha:]][[:alpha:]]
[[:upper:]]*
[[:punct:]]
[[:space:]]a
a[[:space:]]
a[[:blank:]]b
[[:nope:]]
[[:alpha:]
[[:alpha]
[[:]
[[:]]
[[::]]
[]]
[]a]
[!]a]
[a
[
]
[a-]
[-a]
[a-b-]
[a\\-b]
[\\]]
[\\
\\
\\\\
a\\
\\a
\\*
\\?
\\[a\\]
\\#a
\\!a
#a
!a
a\\_
a\\__
a_
a__
a\t
a\r
a\r\r
Icon\r\r
Icon\r
Icon?
Icon[\r]
 a
?
??
é
[é]
??[é]
.*
.?
*.d/
*a/
*/a
*/*/a
*?
?*
*a*b*
[/]
a[/]b
d[/]a
d?a
d[!x]a
d\\/a
d/\\a
d**\\/a
**\\/a
d//a
//a
d/e/
d/e
/d/e/../a
./a
d/./a
-
^
[^]
[!]
:
""".splitlines()  # "_" stands for a space


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with all of the tree: made once, since making files is what takes the time."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    subprocess.run(["git", "init", "-q", "--template="], cwd=folder, env=ENV, check=True)
    return folder


def kept_by_git(root: Path) -> set[bytes]:
    command = ["git", "ls-files", "-o", "--exclude-standard", "-z"]
    answer = subprocess.run(command, cwd=root, env=ENV, check=True, capture_output=True)
    return set(answer.stdout.split(b"\0")[:-1])


def kept_by_rules(root: Path) -> set[bytes]:
    kept: set[bytes] = set()

    def walk(path: bytes, rules: tuple[Rule, ...]) -> None:
        with os.scandir(os.path.join(os.fsencode(root), path)) as found:
            entries = list(found)
        for entry in entries:
            if entry.name == b".gitignore" and entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb") as file:
                    rules += parse_rules(file.read(), path)
        for entry in entries:
            if entry.name == b".git":
                continue
            name = path + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_ignored(name, is_folder, rules):
                continue
            if is_folder:
                walk(name + b"/", rules)
            else:
                kept.add(name)

    walk(b"", ())
    return kept


def assert_kept_alike(root: Path, files: dict[str, bytes]) -> None:
    """Writes ignore files, by the folder that they are in, and compares what remains."""
    try:
        for above, content in files.items():
            (root / above / ".gitignore").write_bytes(content)
        git, ours = kept_by_git(root), kept_by_rules(root)
        found = {os.fsencode(member.name) for member in FoundFiles(root).members() if member.kind != stat.S_IFDIR}
    finally:
        for above in files:
            (root / above / ".gitignore").unlink()
    assert found == git, "what is sent by git's own answer"
    assert ours == git, f"git alone keeps {sorted(git - ours)}, we alone {sorted(ours - git)}"


@against_git
@pytest.mark.parametrize("pattern", PEOPLES)
def test_common_ignore_pattern_matches_the_same_paths_as_in_git(pattern: str, root: Path) -> None:
    assert_kept_alike(root, {"": pattern.replace("_", " ").encode() + b"\n"})


pieces = st.sampled_from(
    [
        *("a", "b", "d", "e", "ab", "x", "A", "1", ".", "-", "log", "é", " ", "\t", "\r", "#", "!", "^", ":", "]", "Z"),
        *(
            "*",
            "**",
            "?",
            "/",
            "/",
            "**/",
            "/**",
            "/**/",
            "*.",
            "***",
            "[",
            "[!",
            "[^",
            "[a-",
            "\\",
            "\\\\",
            "\\ ",
            "\\/",
        ),
        *("[ab]", "[!a]", "[a-c]", "[c-a]", "[a-Z]", "[[:alpha:]]", "[![:digit:]]", "[[:", ":]", "[]", "[]a]", "[/]"),
    ]
)
patterns = st.lists(pieces, min_size=1, max_size=6).map(lambda parts: "".join(parts).encode())
any_bytes = st.binary(min_size=1, max_size=8).filter(lambda pattern: b"\n" not in pattern)


@against_git
@like_git
@given(pattern=patterns | any_bytes)
def test_random_ignore_pattern_matches_the_same_paths_as_in_git(pattern: bytes, root: Path) -> None:
    assert_kept_alike(root, {"": pattern + b"\n"})


paths = st.sampled_from([*TREE, *(part for name in TREE for part in ("/" + name, name.rpartition("/")[0]) if part)])
lines = st.tuples(st.sampled_from(["", "", "!"]), paths | patterns.map(bytes.decode), st.sampled_from(["", "", "/"]))
files_of_rules = st.lists(lines.map("".join), min_size=1, max_size=5)
folders = st.sampled_from(["", "d", "d/e", "x", "x/a", "foobar"])


@against_git
@like_git
@given(
    files=st.dictionaries(folders, files_of_rules, min_size=1),
    newline=st.sampled_from(["\n", "\r\n"]),
    is_ended=st.booleans(),
)
def test_random_ignore_files_keep_the_same_files_as_git(
    files: dict[str, list[str]], newline: str, is_ended: bool, root: Path
) -> None:
    texts = {above: newline.join(found) + newline * is_ended for above, found in files.items()}
    assert_kept_alike(root, {above: text.encode() for above, text in texts.items()})


def test_byte_order_mark_is_not_part_of_the_first_ignore_pattern() -> None:
    assert is_ignored(b"a", False, parse_rules(b"\xef\xbb\xbfa\n"))
    assert not is_ignored(b"b", False, parse_rules(b"b\n\xef\xbb\xbfa\n!b\n"))


def test_pattern_with_many_stars_is_matched_without_long_backtracking() -> None:
    rules = parse_rules(b"*a*a*a*a*a*a*a*a*a*a*a*a*b\n/x/*a*a*a*a*a*a*a*a*a*a*b\n")
    assert not is_ignored(b"x/" + b"a" * 120, False, rules)
    deep = parse_rules(b"**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/b\n/**/*a*a*a*a/**/*a*a*a*a*a/**/*a*a*a*a*b\n")
    assert not is_ignored(b"aaaa/" * 40 + b"a/" * 300 + b"c", False, deep)
