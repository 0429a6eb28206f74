"""Shows an answer that changes, for `--watch` and `iris top`, until the user presses Ctrl-C or nothing can change any
more.

A terminal shows the newest answer in place of the earlier one. One write erases the earlier rows and draws the new
rows, so that the terminal does not flicker. A pipe or a file gets each answer that differs from the one before. With
--json, each such answer is one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iris.cli.output.closed_reader import leave_with_reader
from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

POLL_S = 2.0


@dataclass(frozen=True)
class Frame:
    """One state of a live view.

    Attributes:
        document: The state for programs. A pipe gets a frame if its document differs from the earlier document in more
            than the `resource_usage` of jobs and tasks.
        view: A function that returns what people see: text or a table.
        is_last: Whether the view is final, because nothing can change any more.
    """

    document: Mapping[str, Any]
    view: Callable[[], str | RenderableType]
    is_last: bool = False


def show_live(frames: Iterator[Frame], output: Output) -> None:
    """Show frames until the last frame."""
    shown: Any = None
    with leave_with_reader():
        for frame in frames:
            if not output.redraw(frame.view) and (state := _without_usage(frame.document)) != shown:
                shown = state
                if output.as_json:
                    output.event(frame.document)
                else:
                    output.answer(frame.document, frame.view)
            if frame.is_last:
                return


def _without_usage(value: Any) -> Any:
    """Return a copy of a JSON document without the resource usage of jobs and tasks, because the usage changes all the
    time while a task runs."""
    if isinstance(value, Mapping):
        return {name: _without_usage(item) for name, item in value.items() if name != "resource_usage"}
    return [_without_usage(item) for item in value] if isinstance(value, list) else value


def polled(read: Callable[[], Frame]) -> Iterator[Frame]:
    """Yield a new frame every `POLL_S` seconds, until the last frame."""
    while True:
        frame = read()
        yield frame
        if frame.is_last:
            return
        time.sleep(POLL_S)
