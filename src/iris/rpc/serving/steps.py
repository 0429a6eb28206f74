"""Divides long work into steps, between which other work can be done. The long work is a generator: it yields after
each step, and returns the result at its end.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def finish(work: Steps[T]) -> T:
    """Run all steps of a generator without a pause, and return the generator's result."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
