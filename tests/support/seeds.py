"""Runs a test with many seeds as one test, because pytest spends more time on a test than such a test on a seed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def for_each_seed(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that runs a test with each `seed` from 0 to `count` - 1.

    If the test fails, a note at the end of the traceback names the seed.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**arguments: Any) -> None:
            for seed in range(count):
                try:
                    test(seed=seed, **arguments)
                except BaseException as error:
                    error.add_note(f"The seed was {seed}.")
                    raise

        signature = inspect.signature(test)
        others = [one for one in signature.parameters.values() if one.name != "seed"]
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined] # read by pytest
        return run

    return decorate
