"""Sends the source text of code that is pickled by value, for tracebacks on machines without the source files."""

from __future__ import annotations

import inspect
import linecache
import tokenize
import types
from collections.abc import Iterable, Mapping
from typing import Any

# The largest number of characters of a file that is sent as a whole. Of a longer file, only the lines of the pickled
# code are sent.
_MAX_WHOLE_CHARACTERS = 128 * 1024
_MAX_CHARACTERS = 2 * 1024**2  # The largest number of characters in the source text of all files together.


class SourceLines:
    """Collects the source text of code objects."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[int, int]]] = {}
        self._globals: dict[str, dict[str, Any]] = {}

    def add_globals(self, function: types.FunctionType) -> None:
        """Note the globals of a function. A loader in the globals may have the source text of the function's module."""
        self._globals.setdefault(function.__code__.co_filename, function.__globals__)

    def add(self, code: types.CodeType) -> None:
        """Note the lines of a code object and of the code objects inside it."""
        numbers = [line for _, _, line in code.co_lines() if line is not None]
        last = max([code.co_firstlineno, *numbers])
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                last = max(last, *(line for _, _, line in inner.co_lines() if line is not None), 0)
        self._spans.setdefault(code.co_filename, []).append((code.co_firstlineno, last))

    def collect(self) -> dict[str, str]:
        """Return the source text by file name. Files that cannot be read or exceed the size limit are left out."""
        collected: dict[str, str] = {}
        budget = _MAX_CHARACTERS
        for filename, spans in self._spans.items():
            linecache.checkcache(filename)
            lines = linecache.getlines(filename, self._globals.get(filename))
            if sum(map(len, lines)) > _MAX_WHOLE_CHARACTERS:
                lines = _only(lines, spans)
            text = "".join(lines)
            if text and len(text) <= budget:
                collected[filename] = text
                budget -= len(text)
        return collected


def _only(lines: list[str], spans: Iterable[tuple[int, int]]) -> list[str]:
    """Return the lines of a file that lie in one of the spans of line numbers. All other lines become empty, so that
    line numbers do not change.
    """
    kept = ["\n"] * len(lines)
    end = 0
    for first, last_with_code in spans:
        last = max(last_with_code, first - 1 + _count_block(lines[first - 1 :]))
        kept[first - 1 : last] = lines[first - 1 : last]
        end = max(end, last)
    return kept[:end]


def _count_block(lines: list[str]) -> int:
    """Return the number of lines of the definition that starts at the first line, including lines without code."""
    try:
        return len(inspect.getblock(lines))
    except (SyntaxError, IndentationError, tokenize.TokenError):
        return 1


def show_lines(lines: Mapping[str, str]) -> None:
    """Make `traceback` and `inspect` show the given source text for file names.

    The entries in the cache of `linecache` have no modification time. Therefore `linecache.checkcache` does not replace
    these entries by files on this machine.
    """
    for filename, text in lines.items():
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
