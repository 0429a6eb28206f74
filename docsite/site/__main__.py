"""Builds the site of this checkout into build/docs: `python -m docsite.site`. Needs the dependency group `docs`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from docsite.site.build import build_site

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Build the site, print where it is, and return the exit code."""
    if importlib.util.find_spec("sphinx") is None:
        print("Sphinx is not installed. Build the site with: uv run --group docs poe docs")
        return 1
    output = ROOT / "build" / "docs"
    code = build_site(ROOT, ROOT / "build" / "docs-source", output)
    if code == 0:
        print(f"The site is in {output.relative_to(ROOT)}: open index.html in a browser")
    return code


if __name__ == "__main__":
    sys.exit(main())
