"""Long work in steps: a generator that yields wherever it may be interrupted, and gives back its result in the end."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def finish(work: Steps[T]) -> T:
    """Do some work at once: where it is known to be short, or runs in a thread of its own."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
