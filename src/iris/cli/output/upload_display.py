"""Shows the progress of packing and uploading a workspace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from iris.client.workspace_upload import Progress

_QUIET_S = 1.0
_MB = 1_000_000
_BAR = 24  # characters


def show_progress(output: Output) -> Progress:
    """Return a progress callback for `IrisClient.run`.

    A stage that takes less than a second is not shown. A terminal shows a temporary line with a bar. Other outputs get
    one line on stderr for each stage, so that logs stay short.
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
