"""Shows the progress of packing and uploading a workspace, and of copying files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from iris.client.workspace_upload import Progress

_QUIET_S = 1.0
_MB = 1_000_000
_BAR = 24  # The width of the bar in characters.
# The shortest time in seconds between two changes of the status line of a copy.
_EVERY_S = 0.2


def show_progress(output: Output) -> Progress:
    """Return a progress callback for `IrisClient.run`.

    The callback shows the stages "packing" and "sending" of a workspace, each only if it takes longer than a second. A
    terminal shows a temporary line with a bar. Other outputs get one line on stderr for each stage, so that logs stay
    short.
    """
    began: dict[str, float] = {}
    told: set[str] = set()

    def show(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - began.setdefault(stage, now) < _QUIET_S or not total:
            return
        if done >= total:
            # After the upload, the display stays until the cluster has written the workspace to disk.
            output.set_status("waiting for the cluster to store the workspace…" if stage == "sending" else "")
        elif output.has_status_line:
            bar = "#" * (_BAR * done // total)
            output.set_status(f"{stage} the workspace [{bar:<{_BAR}}] {done // _MB} of {total // _MB} MB")
        elif stage not in told:
            output.note(f"{stage} the workspace: {done // _MB} of {total // _MB} MB so far")
        told.add(stage)

    return show


class CopyDisplay:
    """The status line of `iris cp`. If stderr is a pipe or a file, no progress is shown.

    Args:
        output: The object that prints the status line.

    Attributes:
        is_quiet: Whether no progress is shown.
    """

    def __init__(self, output: Output) -> None:
        self.is_quiet = False
        self._output = output
        self._label = ""
        self._began_s = time.monotonic()
        self._shown_s = 0.0

    def begin(self, label: str) -> None:
        """Begin to show the progress of a copy. The label is shown before the progress."""
        self._label = f"{label}: "
        self._began_s = time.monotonic()

    def show(self, done: int, total: int) -> None:
        """Show the number of copied bytes, the total number of bytes, and the speed."""
        now_s = time.monotonic()
        taken_s = now_s - self._began_s
        if self.is_quiet or not self._output.has_status_line or taken_s < _QUIET_S or now_s - self._shown_s < _EVERY_S:
            return
        self._shown_s = now_s
        share = f"{done / _MB:,.1f} of {total / _MB:,.1f} MB"
        self._output.set_status(f"{self._label}{share}, {done / _MB / taken_s:,.1f} MB/s")

    def end(self) -> None:
        """Remove the line."""
        self._output.set_status("")
