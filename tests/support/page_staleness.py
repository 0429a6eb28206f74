"""Checks that the built page in src/iris/web/assets belongs to the sources in web/. The check needs no Node.

    python tests/support/page_staleness.py

The exit code is 1 if the page must be built again. `web/inputs.mjs` computes the same hash when it builds the page.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "src" / "iris" / "web" / "assets"
FILES = ("build.mjs", "buf.gen.yaml", "generate.mjs", "index.html", "inputs.mjs", "package.json", "tsconfig.json")
PROTO = Path("proto/iris/rpc/cluster.proto")


def main() -> int:
    """Print whether the page is up to date. Return the exit code."""
    try:
        built = (ASSETS / "inputs.sha256").read_text().strip()
    except FileNotFoundError:
        built = "missing"
    if built != hash_of_inputs(REPOSITORY):
        print("The built page in src/iris/web/assets is stale. Build it with: poe web")
        return 1
    print("The built page is up to date.")
    return 0


def hash_of_inputs(repository: Path) -> str:
    """Return the SHA-256 of everything that determines the built files, in hexadecimal digits."""
    web = repository / "web"
    found = (path.relative_to(web).as_posix() for path in (web / "src").rglob("*") if path.is_file())
    hashed = hashlib.sha256()
    for name in sorted([*FILES, *(name for name in found if not name.startswith("src/gen/"))]):
        hashed.update(f"{name}\n".encode() + (web / name).read_bytes() + b"\n")
    # Comments of the proto file do not change the built files.
    lines = (repository / PROTO).read_text().split("\n")
    hashed.update("\n".join(line for line in lines if line.strip() and not line.strip().startswith("//")).encode())
    return hashed.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
