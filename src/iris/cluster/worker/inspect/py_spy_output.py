"""Parses what py-spy prints: stacks as JSON, samples as lines of text, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from iris.cluster.stacks.frame_table import FrameTable
from iris.cluster.stacks.merging import StackCounts
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StackReason, StackVariable, StackVariables, ThreadStack

# The longest value in characters. Longer values are cut here, because py-spy cuts only the values of some types.
_MAX_VALUE = 200


class StackProblem(NamedTuple):
    """Why stacks could not be read.

    Attributes:
        reason: Why the stacks could not be read, as a code for programs.
        text: Why the stacks could not be read, with a remedy, as text for people.
    """

    reason: StackReason
    text: str


def parse_dump(text: str, table: FrameTable, *, with_variables: bool) -> list[ThreadStack]:
    """Return the threads in the output of `py-spy dump --json`, the main thread first.

    Args:
        text: The output of `py-spy dump --json`.
        table: The table to which the frames of the stacks are added.
        with_variables: Whether to return the local variables.

    Raises:
        ValueError: The text is not the output of this command.
    """
    document = json.loads(text)
    if not isinstance(document, list):
        raise ValueError(f"expected a list of threads, got {type(document).__name__}")
    try:
        threads = [_thread(entry, table, with_variables=with_variables) for entry in document]
    except (KeyError, TypeError) as error:
        raise ValueError(f"py-spy has reported a thread in an unknown form: {error!r}") from error
    # py-spy lists the newest thread first, so the order is reversed.
    return threads[::-1]


def _thread(entry: dict[str, Any], table: FrameTable, *, with_variables: bool) -> ThreadStack:
    frames, thread_id = entry["frames"], entry["os_thread_id"] or 0
    # If a program has not imported the module `threading`, its threads have no names. Its main thread gets the usual
    # name here.
    unnamed = "MainThread" if thread_id and thread_id == entry.get("pid") else ""
    thread = ThreadStack(
        name=entry["thread_name"] or unnamed,
        thread_id=thread_id,
        is_active=bool(entry["active"]),
        holds_gil=bool(entry["owns_gil"]),
        frames=[table.add(str(frame["name"]), str(frame["filename"]), int(frame["line"] or 0)) for frame in frames],
    )
    if with_variables:
        thread.variables.extend(_variables(frame.get("locals") or []) for frame in frames)
    return thread


def _variables(entries: list[dict[str, Any]]) -> StackVariables:
    return StackVariables(
        variables=[
            StackVariable(
                name=str(entry["name"]), value=_cut(str(entry.get("repr") or "")), is_argument=bool(entry.get("arg"))
            )
            for entry in entries
        ]
    )


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[: _MAX_VALUE - 1]}…"


def parse_samples(text: str, counts: StackCounts) -> int:
    """Add the samples in the output of `py-spy record --format raw`, and return their number. A line is `outermost
    (file:line);…;innermost (file:line) samples`. Lines of another form are ignored.
    """
    total = 0
    for line in text.splitlines():
        stack, _, number = line.rpartition(" ")
        if not stack or not number.isdecimal():
            continue
        counts.add((counts.table.add(*_frame(part)) for part in stack.split(";")), int(number))
        total += int(number)
    return total


def _frame(text: str) -> tuple[str, str, int]:
    function, bracket, place = text.rpartition(" (")
    if not bracket or not place.endswith(")"):
        return text, "", 0
    file, colon, line = place[:-1].rpartition(":")
    if not colon or not line.isdecimal():
        return function, place[:-1], 0
    return function, file, int(line)


def problem_in(text: str, refusal: Callable[[], str]) -> StackProblem:
    """Return the problem that py-spy has reported.

    Args:
        text: What py-spy has printed to stderr.
        refusal: A function that returns the cause and the remedy if the system has refused the access.
    """
    lowered = text.lower()
    if "permission denied" in lowered or "operation not permitted" in lowered:
        return StackProblem(cluster_pb2.STACK_REASON_PERMISSION, refusal())
    if "unsupported version" in lowered:
        return StackProblem(
            cluster_pb2.STACK_REASON_UNSUPPORTED,
            "py-spy does not know this version of Python: install a newer py-spy on the worker",
        )
    if "failed to find python version" in lowered:
        return StackProblem(cluster_pb2.STACK_REASON_NOT_PYTHON, "the process is not a Python program")
    if "check that the process is running" in lowered or "no such process" in lowered:
        return StackProblem(cluster_pb2.STACK_REASON_ENDED, "the process has ended")
    return StackProblem(cluster_pb2.STACK_REASON_FAILED, f"py-spy failed: {_first_lines(text)}")


def _first_lines(text: str) -> str:
    """Return the error that py-spy has printed, with the causes of the error and without the backtrace."""
    lines = []
    for line in text.partition("Stack backtrace:")[0].splitlines():
        words = line.strip().removeprefix("Error: ")
        if words and words != "Caused by:":
            lines.append(words)
    return _cut("; ".join(lines)) or "it printed nothing"
