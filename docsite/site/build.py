"""Builds the web site of the documentation with Sphinx.

The pages of `docs/` are read on GitHub too. Therefore they are plain Markdown whose links are relative to the
repository. `stage` copies the pages and adapts them for Sphinx:

1. `docs/README.md` becomes the start page `index.md`, and its sections become the navigation.
2. CHANGELOG.md and CONTRIBUTING.md become pages of the site.
3. A file outside of `docs/` to which a page links is copied, so that it can be downloaded from the site.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

CONFIGURATION = Path(__file__).parent
PROJECT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_FILES = "files"  # The folder of the site for files outside of `docs/`.
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_CODE_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def build_site(root: Path, source: Path, output: Path) -> int:
    """Build the site. Broken links, missing anchors and pages outside of the navigation are errors.

    Args:
        root: The repository.
        source: The folder for the adapted pages. It is replaced.
        output: The folder for the site. It is replaced.

    Returns:
        The exit code of Sphinx, which prints all errors on stderr.
    """
    for folder in (source, output):
        shutil.rmtree(folder, ignore_errors=True)
    stage(root, source)
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "html"]
    doctrees = source.with_name(f"{source.name}-doctrees")
    folders = ["--conf-dir", str(CONFIGURATION), "--doctree-dir", str(doctrees), str(source), str(output)]
    return subprocess.run([*command, *folders], check=False).returncode


def stage(root: Path, source: Path) -> None:
    """Copy the pages of the repository `root` into the folder `source`, in the form that Sphinx reads."""
    docs = root / "docs"
    shutil.copytree(docs, source)
    (source / "README.md").unlink()
    pages = {page: page.relative_to(docs) for page in docs.rglob("*.md")}
    pages[docs / "README.md"] = Path("index.md")
    pages |= {root / name: Path(target) for name, target in PROJECT_PAGES.items() if (root / name).exists()}
    for page, target in pages.items():
        parts = _CODE_BLOCK.split(page.read_text())  # Each second part is a block of code, which stays as it is.
        parts[::2] = [_with_new_links(part, page, root, source, pages) for part in parts[::2]]
        text = "".join(parts)
        if page == docs / "README.md":
            text += _navigation(text, [str(pages[root / name]) for name in PROJECT_PAGES if root / name in pages])
        (source / target).write_text(text)


def _with_new_links(text: str, page: Path, root: Path, source: Path, pages: dict[Path, Path]) -> str:
    """Return the text of a page with links that fit the places of the pages in the site."""

    def replace(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        linked = (page.parent / target).resolve()
        if linked in pages:
            path = pages[linked]
        elif linked.is_relative_to(root / "docs") or not linked.exists():
            return match[0]  # Sphinx copies the file, or reports the broken link.
        elif linked.is_dir():
            return label
        else:
            path = Path(_FILES) / linked.relative_to(root)
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(linked, source / path)
        up = "../" * (len(pages[page].parts) - 1)
        return f"[{label}]({up}{path.as_posix()}{anchor})"

    return _LINK.sub(replace, text)


def _navigation(index: str, project_pages: list[str]) -> str:
    """Return the navigation of the site: each section of the start page with its links, in the same order."""
    parts = []
    for title, body in re.findall(r"^##+ (.*)\n((?:(?!^##).*\n?)*)", index, re.MULTILINE):
        found = [target.removesuffix(".md") for _, target, _ in _LINK.findall(body) if target.endswith(".md")]
        if found:
            parts.append((title, list(dict.fromkeys(found))))
    parts.append(("Project", [page.removesuffix(".md") for page in project_pages]))
    options = [":hidden:", ":titlesonly:", ":maxdepth: 1", ""]
    trees = ["\n".join([f":caption: {title}", *options, *found]) for title, found in parts]
    return "".join(f"\n```{{toctree}}\n{tree}\n```\n" for tree in trees)
