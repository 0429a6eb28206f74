"""Long work in steps: a generator that yields wherever the work may be interrupted, and returns the result."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def finish(work: Steps[T]) -> T:
    """Do all steps at once and return the result, if the work is short or runs in a thread of its own."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
