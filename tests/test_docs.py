"""The programs in the pages of the project do what the pages say: they are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> list[str]:
    """The Python programs of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "program",
    [*python_blocks("README.md"), "\n".join(python_blocks("docs/python-api.md"))],
    ids=lambda program: program.strip().splitlines()[0][:40],
)
def test_a_program_of_the_pages_runs(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
