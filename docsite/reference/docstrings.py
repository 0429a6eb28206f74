"""Parses docstrings in the form of Google: paragraphs, and sections such as `Args:` with one entry for each name."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_UNNAMED = ("Returns", "Yields")  # One text, and no list of names.
_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")


@dataclass(frozen=True)
class Docstring:
    """A parsed docstring.

    Attributes:
        blocks: The paragraphs and the indented examples before the first section, as they are in the source.
        sections: The entries of each section, by its title. An entry is a pair of its names and its text.
    """

    blocks: list[str] = field(default_factory=list)
    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first sentence, which says what the function returns or does."""
        first = " ".join(self.blocks[0].split()) if self.blocks else ""
        return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", first, maxsplit=1)[0]


def parse(text: str | None) -> Docstring:
    """Return the parts of a docstring. The docstring of an object without one is empty."""
    found = Docstring()
    if not text:
        return found
    titles = "|".join(_SECTIONS)
    before, *rest = re.split(rf"^({titles}):\n", inspect.cleandoc(text), flags=re.MULTILINE)
    found.blocks.extend(_blocks(before))
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        found.sections[title] = [("", " ".join(body.split()))] if title in _UNNAMED else _entries(body)
    return found


def _blocks(text: str) -> list[str]:
    """Split a text at empty lines. Indented lines that follow each other are one block, with the empty lines in it."""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        block = part.rstrip()
        if not block:
            continue
        if blocks and block.startswith("    ") and blocks[-1].startswith("    "):
            blocks[-1] += f"\n\n{block}"
        else:
            blocks.append(block)
    return blocks


def _entries(body: str) -> list[tuple[str, str]]:
    """Return the entries of a section. The lines that continue an entry are indented more than its first line."""
    entries: list[tuple[str, str]] = []
    for line in body.rstrip().splitlines():
        match = re.match(r"    (?! )([\w*, ]+?): ?(.*)", line)
        if match is not None:
            entries.append((match[1], match[2]))
        elif line.strip() and entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}".strip())
        elif line.strip():
            entries.append(("", line.strip()))
    return entries
