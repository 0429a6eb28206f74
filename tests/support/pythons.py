"""Runs the fast tests and one whole job with each Python that Iris supports and this machine has.

    python tests/support/pythons.py           each in an environment of its own, .venv-3.12 for example

A version that is not installed is named and left out. The exit code is 1 if the tests fail with any version.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_VERSIONS = ("3.11", "3.12", "3.13")
_ROOT = Path(__file__).parents[2]
_TESTS = ("@tests/fast.txt", "tests/cluster/test_e2e.py::test_each_task_of_a_job_gets_its_own_environment_variables")


def _main() -> int:
    failed = []
    for version in _VERSIONS:
        find = ["uv", "python", "find", "--no-python-downloads", "--system", version]
        if subprocess.run(find, capture_output=True).returncode:
            print(f"Python {version}: not installed")
            continue
        print(f"Python {version}", flush=True)
        env = os.environ | {"UV_PROJECT_ENVIRONMENT": str(_ROOT / f".venv-{version}")}
        env.pop("VIRTUAL_ENV", None)
        command = ["uv", "run", "--quiet", "--all-extras", "--python", version, "pytest", "-q", *_TESTS]
        if subprocess.run(command, cwd=_ROOT, env=env).returncode:
            failed.append(version)
    if failed:
        print(f"The tests fail with Python {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main())
