"""Divides long work into steps. The work is a generator that yields wherever it may be interrupted, and returns the
result.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def finish(work: Steps[T]) -> T:
    """Do all steps at once and return the result. Use this for short work, or for work in a separate thread."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
