"""The documentation is true: its programs run, its links lead somewhere, and its lists are complete."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from support.preloaded import Preloaded

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def programs() -> list[object]:
    """Return the Python programs of the documentation.

    All blocks of a page of docs form one program. Each block of the README is a program of its own. A block that starts
    with "```python norun" needs something that the tests do not have, and is left out.
    """
    found: list[object] = []
    for page in PAGES:
        if page.parent == DOCS / "cookbook":
            continue  # tests/test_cookbook.py runs the recipes.
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        name = str(page.relative_to(ROOT))
        if page.name == "README.md" and page.parent == ROOT:
            found += [pytest.param(block, id=f"{name}-{index}") for index, block in enumerate(blocks)]
        elif blocks:
            found.append(pytest.param("\n".join(blocks), id=name))
    return found


@pytest.mark.parametrize("text", programs())
def test_program_in_documentation_runs(text: str, tmp_path: Path, preloaded: Preloaded) -> None:
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(text)
    with open(os.devnull) as nothing, output.open("wb") as file:
        streams = [nothing.fileno(), file.fileno(), file.fileno()]
        code = preloaded.start([], os.environ, tmp_path, streams, script=program).wait()
    assert code == 0, output.read_text()


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them from the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    anchors: set[str] = set()
    seen: Counter[str] = Counter()
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_on_a_documentation_page_lead_to_existing_files_and_headings(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(target)
    assert broken == []


def test_index_of_docs_links_to_every_page() -> None:
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", (DOCS / "README.md").read_text())}
    assert [str(page) for page in sorted(DOCS.rglob("*.md")) if page not in linked | {DOCS / "README.md"}] == []


def test_environment_page_lists_every_variable_of_the_source() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    used = set(re.findall(r'"(IRIS_[A-Z_]+[A-Z])"', source))
    assert len(used) > 15
    listed = set(re.findall(r"`(IRIS_[A-Z_]+[A-Z])`", (DOCS / "reference" / "environment.md").read_text()))
    assert used - listed == set()
    assert listed - used == set()


def test_glossary_defines_each_term_once() -> None:
    rows = re.findall(r"^\| (.*?) \| (.*?) \| .*\|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    terms = [term for term, meaning in rows if term != "term" and not term.startswith("---")]
    assert len(terms) > 100
    assert sorted(term for term in set(terms) if terms.count(term) > 1) == []


def test_layers_in_contributing_have_the_order_that_import_linter_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layers")[2].partition("has the full list")[0]
    named = [f"iris.{name}" for name in re.findall(r"`([a-z_.]+)`", section) if name != "pyproject.toml"]
    assert len(named) > 8
    assert [layer for layer in layers if layer in named] == named


def test_contributing_page_lists_every_poe_command() -> None:
    tasks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["poe"]["tasks"]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\| `uv run (?:--group docs )?poe ([\w-]+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in tasks if not name.startswith("_"))


def test_paths_named_on_the_page_how_it_works_exist() -> None:
    text = (DOCS / "how-it-works.md").read_text()
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|proto))?)`", text)
    assert len(named) > 30
    roots = (ROOT, ROOT / "src" / "iris")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_source_and_test_files_named_on_documentation_pages_exist() -> None:
    known = [f"/{path.relative_to(ROOT)}" for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")]
    for page in PAGES:
        text = page.read_text()
        named = {*re.findall(r"(?<![\w/])((?:src|tests|proto|examples)/[\w/]+\.(?:py|proto))", text)}
        assert [name for name in sorted(named) if not (ROOT / name).exists()] == [], page.name
        tests = {*re.findall(r"`((?:\w+/)*test_\w+\.py)`", text)}
        assert [name for name in sorted(tests) if not any(path.endswith(f"/{name}") for path in known)] == [], page.name


def test_readme_has_less_than_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_first_command_of_the_readme_installs_no_tools_of_developers() -> None:
    (command,) = re.findall(
        r"^pip install uv && (uv run .*iris run .*)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    options = shlex.split(command.partition(" iris run ")[0])
    assert "--no-dev" in options
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    # uv installs each default group, and --no-dev leaves out only the group dev.
    assert tool.get("uv", {}).get("default-groups", ["dev"]) == ["dev"]
    extras = {options[index + 1] for index, option in enumerate(options) if option == "--extra"}
    assert extras == {"server", "cli"}, "what iris run needs without a cluster"


def test_extras_in_install_commands_of_documentation_pages_exist() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for page in PAGES:
        commands = re.findall(r"pip install '?([^\s'`]+)", page.read_text())
        for command in commands:
            assert command in ("uv", "-e") or command.startswith((".", "iris-cluster[")), f"{page.name}: {command}"
            _, _, extras = command.partition("[")
            assert set(filter(None, extras.partition("]")[0].split(","))) <= known, f"{page.name}: {command}"


def test_example_programs_quoted_on_pages_equal_their_files() -> None:
    quoted = {
        name: code
        for page in PAGES
        for name, code in re.findall(r"^```\w+ (\S+/\S+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    }
    programs = sorted(
        str(path.relative_to(ROOT))
        for pattern in ("curl/*.sh", "buf/*.sh", "typescript/*.ts", "grpcio/*.py", "java/*.java")
        for path in (ROOT / "examples" / "clients").glob(pattern)
    )
    assert sorted(quoted) == programs
    assert {name: code for name, code in quoted.items() if code != (ROOT / name).read_text()} == {}
