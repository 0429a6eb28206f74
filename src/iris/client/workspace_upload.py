"""Packs the workspace of a job and sends it with the job, and says what a person should know meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.errors import quoted
from iris.rpc import cluster_pb2
from iris.rpc.http.upload_progress import reporting

if TYPE_CHECKING:
    from iris.cluster.client.workspace_archive import Bundle
    from iris.cluster.client.workspace_files import LeftOut

Stage = Literal["packing", "sending"]
Progress = Callable[[Stage, int, int], None]

_SHOWN = 3
_QUIET_S = 1.0  # what takes no longer is not spoken of
_MB = 1_000_000


class WorkspaceSending:
    """Sends one workspace.

    Args:
        folder: The folder.
        on_notice: Told of what is left out, and, once, of packing and sending that take longer than a second.
        on_progress: Told how far packing and sending have come, some times a megabyte, from the start: the stage, the
            bytes done and the bytes in all. None: progress is not reported.
    """

    def __init__(self, folder: str, on_notice: Callable[[str], None], on_progress: Progress | None = None) -> None:
        self._folder = folder
        self._on_notice = on_notice
        self._on_progress = on_progress
        self._is_slow_told = False

    def pack(self) -> Bundle:
        """Pack the folder; see `pack_workspace` for the errors."""
        from iris.cluster.client.workspace_archive import pack_workspace  # with what few jobs need

        bundle = pack_workspace(self._folder, self._stage("packing"))
        if bundle.left_out:
            self._on_notice(_words_for(bundle.left_out))
        return bundle

    def add(self, bundle: Bundle, request: cluster_pb2.Controller.LaunchJobRequest) -> None:
        """Put the packed folder into a request."""
        request.environment.workspace = os.path.basename(os.path.abspath(self._folder))
        request.bundle_hash = bundle.hash
        request.bundle_blob = bundle.blob

    def launch(self, cluster: RemoteClusterClient, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        """Submit the job: by the hash of its workspace, and with its content where the cluster does not have that."""
        with reporting(self._stage("sending")):
            return cluster.launch_job(request)

    def _stage(self, stage: Stage) -> Callable[[int, int], None]:
        began = time.monotonic()

        def report(done: int, total: int) -> None:
            if self._on_progress is not None:
                self._on_progress(stage, done, total)
            elif not self._is_slow_told and time.monotonic() - began > _QUIET_S and done < total:
                self._is_slow_told = True
                self._on_notice(
                    f"{stage} the workspace {quoted(self._folder)}: {done // _MB} of {total // _MB} MB so far"
                    " (what git ignores is not sent)"
                )

        return report


def _words_for(left_out: tuple[LeftOut, ...]) -> str:
    """One sentence on what is not sent, with the first few of it."""
    shown = [
        f"{quoted(one.name)} ({one.why.value}{f', to {quoted(one.target)}' if one.target else ''})"
        for one in left_out[:_SHOWN]
    ]
    more = len(left_out) - len(shown)
    return f"not sent with the workspace: {', '.join(shown)}{f' and {more} more' if more else ''}"
