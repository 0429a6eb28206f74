"""Describes what the tasks of an asyncio loop wait for, to find the cause of a server that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

_STDERR = 2


def write_stacks_on(number: signal.Signals) -> None:
    """Write the stacks of all tasks of the running loop to stderr whenever this process gets the signal `number`."""
    asyncio.get_running_loop().add_signal_handler(number, _write_stacks)


def describe_tasks(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return the stacks of tasks as text. Tasks with equal stacks share one entry, with the number of these tasks."""
    counts = Counter("\n".join(_lines(task)) for task in tasks)
    return "".join(f"asyncio tasks: {count}\n{stack}\n" for stack, count in counts.most_common())


def _lines(task: asyncio.Task[Any]) -> Iterator[str]:
    for frame in _frames(task.get_coro()):
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_qualname}'


def _frames(awaited: Any) -> Iterator[FrameType]:
    # The loop follows a chain of suspended coroutines: it yields the frame of a coroutine, and continues with the
    # object that the coroutine awaits.
    while awaited is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await", None)
                break
        else:
            return


def _write_stacks() -> None:
    text = describe_tasks(asyncio.all_tasks())
    # An error of the write is ignored, because a server must continue even if the disk is full.
    with contextlib.suppress(OSError):
        os.write(_STDERR, text.encode(errors="backslashreplace"))
