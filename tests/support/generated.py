"""Checks that the generated files in src/iris/rpc match the proto file: generates them again in another folder, and
compares.

    python tests/support/generated.py

The check works offline, because buf and its plugins are installed with the group `dev`. The exit code is 1 if a file
differs, is missing, or belongs to no proto file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_connect.py")


def main() -> int:
    """Print the outdated files, and the command that generates them. Return the exit code."""
    with tempfile.TemporaryDirectory(prefix="iris-generated-") as directory:
        fresh = Path(directory) / "out"
        generate(fresh, cache=Path(directory) / "cache")
        complaints = compare(fresh / "src", REPOSITORY / "src")
    if complaints:
        print("The generated code is stale:", *complaints, "Write it with: poe generate", sep="\n  ")
        return 1
    print("The generated code is up to date.")
    return 0


def generate(into: Path, cache: Path) -> None:
    """Run `buf generate` with its output below `into`, and with a cache outside of the home directory."""
    programs = Path(sys.executable).parent  # where the dev group is, whether or not its environment is activated
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "BUF_CACHE_DIR": str(cache)}
    subprocess.run(["buf", "generate", "--output", str(into)], cwd=REPOSITORY, env=env, check=True)


def compare(fresh: Path, committed: Path) -> list[str]:
    """Return one line for each file that differs, with its path relative to the two directories."""
    made = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    there = {path.relative_to(committed) for pattern in PATTERNS for path in committed.rglob(pattern)}
    complaints = []
    for path in sorted(made | there):
        if path not in made:
            complaints.append(f"src/{path}: no proto file makes it any more")
        elif path not in there:
            complaints.append(f"src/{path}: missing")
        elif (fresh / path).read_bytes() != (committed / path).read_bytes():
            complaints.append(f"src/{path}: differs")
    return complaints


if __name__ == "__main__":
    sys.exit(main())
