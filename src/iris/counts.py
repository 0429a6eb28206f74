"""Writes numbers of things for people, with the noun in the singular or the plural."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun, for example `1 byte` or `2,000 bytes`.

    Args:
        count: The number of things.
        one: The noun, or more words, for one thing.
        many: The words for any other number. Default: `one` with an `s`.
    """
    return f"{count:,} {word_for(count, one, many)}"


def word_for(count: int, one: str, many: str = "") -> str:
    """Return the singular `one` if the number is 1, and otherwise the plural `many`. The default plural is `one` with
    an `s`."""
    return one if count == 1 else many or f"{one}s"
