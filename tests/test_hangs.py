"""A test process that hangs beyond its test's time limit prints the stacks of its threads and dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "support" / "hangs.py"
POOL = """
def test_thread_of_pool_hangs():
    with ThreadPoolExecutor() as pool:
        pool.submit(threading.Event().wait).result()
"""
TEARDOWN = """
@pytest.fixture
def hanging_teardown():
    yield
    threading.Event().wait()

def test_teardown_after_failure_hangs(hanging_teardown):
    raise AssertionError
"""


@pytest.mark.parametrize("test", [pytest.param(POOL, id="pool"), pytest.param(TEARDOWN, id="teardown")])
def test_process_that_hangs_prints_its_stacks_and_dies(test: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN.read_text())
    imports = "import pytest, threading\nfrom concurrent.futures import ThreadPoolExecutor\n"
    (tmp_path / "test_hang.py").write_text(imports + test)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 0.5\nhang_grace = 0.1\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Timeout (" in run.stderr
    assert "test_hang.py" in run.stderr  # the stack shows the line that hangs
    assert " failed" not in run.stdout  # pytest did not reach its summary
