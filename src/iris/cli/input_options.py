"""Reads the inputs of `iris run`: the lines of a file (`--each`), or numbers (`--array`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from iris.errors import InvalidArgumentError, quoted

MAX_INPUTS = 10_000  # A job has at most this many tasks.
_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?", re.ASCII)


def read_lines(file: str) -> list[str]:
    """Return the lines of a file that are not blank. The file `-` is standard input.

    Raises:
        InvalidArgumentError: The file has no lines or too many, or is not text.
    """
    name = "standard input" if file == "-" else file
    try:
        text = sys.stdin.buffer.read().decode() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise InvalidArgumentError(f"--each cannot read {name}: {error}") from error
    lines = [line for line in text.split("\n") if line.strip()]
    return _checked([line.removesuffix("\r") for line in lines], f"--each {name}")


def read_array(text: str) -> tuple[list[str], int | None]:
    """Return two values: the numbers of an array such as `0-59%4` or `1,4,10-20:2`, and the limit after `%`. The second
    value is None if the array has no limit.

    Raises:
        InvalidArgumentError: The text is not such an array, or has too many numbers.
    """
    numbers, percent, limit = text.partition("%")
    parts = [_PART.fullmatch(part) for part in numbers.split(",")]
    if None in parts or (percent and not re.fullmatch("[1-9][0-9]{0,8}", limit)):
        raise InvalidArgumentError(
            f"--array must be numbers and ranges, such as '0-59', '0-59%4' or '1,4,10-20:2', got {quoted(text)}"
        )
    found: dict[str, None] = {}
    for part in parts:
        assert part is not None
        first, last, step = int(part[1]), int(part[2] or part[1]), int(part[3] or 1)
        if last < first or not step:
            raise InvalidArgumentError(
                "--array must have ranges FIRST-LAST or FIRST-LAST:STEP, where LAST is at least FIRST, and STEP is at"
                f" least 1, got {quoted(part[0])}"
            )
        if (last - first) // step >= MAX_INPUTS:
            raise _too_many(what="--array", count=(last - first) // step + 1)
        found.update((str(number), None) for number in range(first, last + 1, step))
    return _checked(list(found), "--array"), int(limit) if percent else None


def _checked(inputs: list[str], what: str) -> list[str]:
    if not inputs:
        raise InvalidArgumentError(f"{what} must have at least one line that is not blank")
    if len(inputs) > MAX_INPUTS:
        raise _too_many(what, len(inputs))
    return inputs


def _too_many(what: str, count: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{what} must have at most {MAX_INPUTS:,} inputs, because each input is a task, got {count:,}: split the work"
        " into several jobs, or use client.map, which gives several inputs to each task"
    )
