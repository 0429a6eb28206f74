"""The check that src/iris/rpc is what the proto file says: generates it once more, elsewhere, and compares.

    python tests/support/generated.py

Offline: buf and its plugins are programs of the dev group. Exit code 1 when a file differs, is missing, or is left
over from a proto file that is gone.
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
    """Prints what is stale, and how to write it anew."""
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
    """Runs `buf generate`, with its output below `into` instead of the repository, and its cache not at home."""
    programs = Path(sys.executable).parent  # where the dev group is, whether or not its environment is activated
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "BUF_CACHE_DIR": str(cache)}
    subprocess.run(["buf", "generate", "--output", str(into)], cwd=REPOSITORY, env=env, check=True)


def compare(fresh: Path, committed: Path) -> list[str]:
    """What differs, one line a file, with paths relative to the two directories."""
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
