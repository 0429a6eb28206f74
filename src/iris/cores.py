"""Reads and writes numbers of CPU cores. Iris counts cores in millicores: 1000 millicores are one core."""

from __future__ import annotations

import re

from iris.arguments import MAX_INT32, check_millicores
from iris.errors import InvalidArgumentError, quoted

MILLICORES = 1000  # The number of millicores in one core.
_CORES = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})(m?)", re.ASCII)


def cores_of(millicores: int) -> int | float:
    """Return a number of cores: an `int` for whole cores, and otherwise a `float`."""
    return millicores / MILLICORES if millicores % MILLICORES else millicores // MILLICORES


def read_cores(text: str) -> int | float:
    """Return a number of cores, from text such as `"2"`, `"0.25"` or `"250m"`.

    Raises:
        InvalidArgumentError: The text has another form, is not a whole number of millicores, or is too large.
    """
    match = _CORES.fullmatch(text.strip())
    if match is None:
        raise InvalidArgumentError(
            f"cpu must be a number of cores from 0 to {MAX_INT32}, such as '2', '0.25' or '250m', got {quoted(text)}"
        )
    return cores_of(check_millicores("cpu", float(match[1]) / (MILLICORES if match[2] else 1)))
