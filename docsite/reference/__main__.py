"""Writes the generated pages of `docs/reference`, or checks that they are up to date.

python -m docsite.reference            write the pages
python -m docsite.reference --check    exit with 1 if a page differs from the code
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from docsite.reference.command_line import command_line_page
from docsite.reference.messages import messages_page
from docsite.reference.metrics import metrics_page
from docsite.reference.python_api import python_api_page
from iris.cli.commands.submission.run import run
from iris.cli.job_files.schema import schema_text

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "uv run poe reference"
# The generated files, and the functions that return their text. The schema is also a file of the package.
FILES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": command_line_page,
    "docs/reference/python-api.md": python_api_page,
    "docs/reference/messages.md": messages_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/job-file.schema.json": lambda: schema_text(run),
    "src/iris/cli/job_files/job-file.schema.json": lambda: schema_text(run),
}


def stale_files() -> dict[Path, str]:
    """Return the new text of each generated file that differs from the code."""
    texts = {ROOT / name: make() for name, make in FILES.items()}
    return {path: text for path, text in texts.items() if not path.exists() or path.read_text() != text}


def main() -> int:
    """Write or check the files, print what was found, and return the exit code."""
    stale = stale_files()
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if not stale:
        print("The reference pages are up to date.")
        return 0
    if "--check" in sys.argv[1:]:
        print(f"These files differ from the code: {names}\nWrite them with: {COMMAND}   (and commit them)")
        return 1
    for path, text in stale.items():
        path.write_text(text)
    print(f"Written: {names}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
