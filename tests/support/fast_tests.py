"""Runs the tests of pure code in two processes: `poe test-fast`.

pytest-xdist needs 12 s of CPU time for these 2,900 small tests: it collects all of them in each process, and sends each
result from one process to another. Two runs of pytest that share the modules need 1 s more than one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# These modules take as long as all others together.
_SLOW = ("tests/cluster/controller/test_queue.py", "tests/cluster/logs/test_log_parts.py")


def _main() -> int:
    modules = (_ROOT / "tests" / "fast.txt").read_text().split()
    others = [*(f"--ignore={module}" for module in _SLOW), *(module for module in modules if module not in _SLOW)]
    command = [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]]
    # Otherwise, each process that the tests start would compile all modules again.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(
        [*command, *_SLOW], cwd=_ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as slow:
        codes = [subprocess.run([*command, *others], cwd=_ROOT, env=env, check=False).returncode]
        assert slow.stdout is not None
        print(slow.stdout.read().decode(), end="")
    codes.append(slow.returncode)
    # With arguments that select tests, one process may have none.
    bad = [code for code in codes if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)]
    return bad[0] if bad else min(codes)


if __name__ == "__main__":
    sys.exit(_main())
