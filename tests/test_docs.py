"""The programs in the pages of the project do what the pages say: they are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> list[str]:
    """The Python programs of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "program",
    [*python_blocks("README.md"), "\n".join(python_blocks("docs/reference/python-api.md"))],
    ids=lambda program: program.strip().splitlines()[0][:40],
)
def test_a_program_of_the_pages_runs(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_layers_of_the_contributing_page_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layers")[2].partition("import-linter")[0]
    assert [f"iris.{name}" for name in re.findall(r"`([a-z.]+)`", section)] == layers


def test_files_that_the_page_of_how_it_works_names_exist() -> None:
    known = {path.name for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")}
    named = re.findall(r"`[^`\s]*?([a-z_]+\.py)`", (ROOT / "docs" / "how-it-works.md").read_text())
    assert len(named) > 100
    assert [name for name in named if name not in known] == []


def test_first_command_of_the_readme_installs_no_tools_of_developers() -> None:
    (command,) = re.findall(
        r"^pip install uv && (uv run .*iris run .*)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    options = shlex.split(command.partition(" iris run ")[0])
    assert "--no-dev" in options
    extras = {options[index + 1] for index, option in enumerate(options) if option == "--extra"}
    assert extras == {"server", "cli"}, "what iris run needs without a cluster"


def test_install_commands_of_the_pages_name_extras_that_there_are() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        commands = re.findall(r"pip install '?([^\s'`]+)", page.read_text())
        for command in commands:
            assert command in ("uv", "-e") or command.startswith((".", "iris-cluster[")), f"{page.name}: {command}"
            _, _, extras = command.partition("[")
            assert set(filter(None, extras.partition("]")[0].split(","))) <= known, f"{page.name}: {command}"
