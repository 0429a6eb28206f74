"""Packs the workspace of a job, sends the workspace with the job, and notifies the user of the progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, ParamSpec, Protocol

from iris.arguments import check_callable, check_path
from iris.display import progress as display
from iris.display.board import Display, show_progress
from iris.errors import quoted
from iris.rpc import cluster_pb2
from iris.rpc.http.client.upload_progress import reporting
from iris.terminal.notices import print_notice

if TYPE_CHECKING:
    from iris.cluster.client.workspace_archive import Bundle
    from iris.cluster.client.workspace_files import LeftOut

Stage = Literal["packing", "sending"]
Progress = Callable[[Stage, int, int], None]

Arguments = ParamSpec("Arguments")


class Wrap(Protocol):
    """A function that wraps the callbacks of a user. The async client uses a wrapper with which the callbacks run on
    the event loop."""

    def __call__(self, function: Callable[Arguments, None], /) -> Callable[Arguments, None]: ...


# The largest number of files that a notice names.
_SHOWN = 3
# A notice is sent only if packing or sending takes longer than this many seconds.
_QUIET_S = 1.0
_MB = 1_000_000


class WorkspaceUpload:
    """The upload of one workspace.

    Args:
        folder: The path of the workspace.
        on_notice: A function that is called with a text about files that are not sent. If `on_progress` is None, the
            function is also called once if packing or sending takes longer than a second.
        on_progress: A function that is called with the stage, the number of bytes done so far, and the total number of
            bytes: about once per megabyte while the workspace is packed, and four times as often while it is sent. If
            None, the function is not called.
        shows_progress: Whether a terminal or a notebook shows the progress, instead of a call of `on_notice`.

    Attributes:
        folder: The path of the workspace.
    """

    def __init__(
        self,
        folder: str,
        on_notice: Callable[[str], None],
        on_progress: Progress | None = None,
        *,
        shows_progress: bool = False,
    ) -> None:
        self.folder = folder
        self._on_notice = on_notice
        self._on_progress = on_progress
        self._shows_progress = shows_progress
        self._is_slow_told = False

    @classmethod
    def checked(
        cls,
        workspace: str | os.PathLike[str] | None,
        on_notice: Callable[[str], None] | None,
        on_progress: Progress | None,
        wrap: Wrap = lambda function: function,
    ) -> WorkspaceUpload | None:
        """Check the arguments of `IrisClient.run` about the workspace, and return an object that packs and sends it.
        Return None if the job has no workspace.

        Args:
            workspace, on_notice, on_progress: `IrisClient.run` documents these arguments.
            wrap: A function that wraps the callbacks of the user. The async client passes a wrapper with which
                callbacks run on the event loop.

        Raises:
            InvalidArgumentError: An argument is invalid.
        """
        if on_notice is not None:
            check_callable("on_notice", on_notice, none="a line on stderr")
        if on_progress is not None:
            check_callable("on_progress", on_progress, none="no reports")
        if workspace is None:
            return None
        folder = check_path("workspace", workspace)
        return cls(
            folder,
            wrap(on_notice or print_notice),
            None if on_progress is None else wrap(on_progress),
            shows_progress=on_notice is None and on_progress is None,
        )

    def pack(self) -> Bundle:
        """Return the packed folder. `pack_workspace` documents the errors."""
        # The module is imported here, because the import is slow and few programs send a workspace.
        from iris.cluster.client.workspace_archive import pack_workspace

        with self.reported("packing") as report:
            bundle = pack_workspace(self.folder, report)
        if bundle.left_out:
            self._on_notice(_left_out_notice(bundle.left_out))
        return bundle

    def add(self, bundle: Bundle, request: cluster_pb2.Controller.LaunchJobRequest) -> None:
        """Add the packed folder to a request."""
        request.environment.workspace = os.path.basename(os.path.abspath(self.folder))
        request.bundle_hash = bundle.hash
        request.bundle_blob = bundle.blob

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Report the progress of sending the request inside the `with` block."""
        with self.reported("sending") as report, reporting(report):
            yield

    @contextmanager
    def reported(self, stage: Stage) -> Iterator[Callable[[int, int], None]]:
        """Return a context manager that shows the progress of one stage, "packing" or "sending". The `with` block gets
        a function that reports the progress. The arguments of this function are the number of bytes done so far, and
        the total number of bytes.
        """
        first = display.Progress(f"{stage} the workspace", unit="bytes")
        with show_progress(None if self._shows_progress else False, first, quiet_s=_QUIET_S) as shown:
            yield self._report_of(stage, shown)

    def _report_of(self, stage: Stage, shown: Display) -> Callable[[int, int], None]:
        began = time.monotonic()

        def report(done: int, total: int) -> None:
            if self._on_progress is not None:
                self._on_progress(stage, done, total)
            elif shown.is_shown:
                waits = stage == "sending" and done >= total
                note = "waiting for the cluster to store the workspace" if waits else ""
                title = f"{stage} the workspace"
                shown.update(display.Progress(title, total=total, done=done, unit="bytes", note=note))
            elif not self._is_slow_told and time.monotonic() - began > _QUIET_S and done < total:
                self._is_slow_told = True
                self._on_notice(
                    f"{stage} the workspace {quoted(self.folder)}: {done // _MB} of {total // _MB} MB so far"
                    " (what git ignores is not sent)"
                )

        return report


def _left_out_notice(left_out: tuple[LeftOut, ...]) -> str:
    """Return a sentence about the files that are not sent. The sentence names the first few files."""
    shown = [
        f"{quoted(one.name)} ({one.why.value}{f', to {quoted(one.target)}' if one.target else ''})"
        for one in left_out[:_SHOWN]
    ]
    more = len(left_out) - len(shown)
    return f"not sent with the workspace: {', '.join(shown)}{f' and {more} more' if more else ''}"
