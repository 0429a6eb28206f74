"""Kills processes left behind by ended attempts. Such processes are children of this worker. A process whose parent
ends becomes a child of the worker, because the worker is a subreaper (reaper.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection

from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.supervision.reaper import is_marked, orphans

_PASSES = 200
_PAUSE_S = 0.005


class StrayProcesses:
    """The processes that became children of this worker because their parents have ended.

    Args:
        registry: The object that stores the attempts of this worker.
        token: The worker's token. Each process of an attempt has a mark in its environment, and the mark begins with
            this token.
        own_pids: The processes that the worker itself has started and that belong to no attempt.
    """

    def __init__(self, registry: AttemptRegistry, token: str, own_pids: Collection[int]) -> None:
        self._registry = registry
        self._token = token
        self._own_pids = set(own_pids)

    def spare(self, pid: int) -> None:
        """Record a child process that the worker itself has started. All other children count as left behind by an
        attempt, and are killed.
        """
        self._own_pids.add(pid)

    def release(self, pid: int) -> None:
        """Forget a child that has ended."""
        self._own_pids.discard(pid)

    async def kill(self) -> None:
        """Kill the inherited processes that belong to no running attempt, except processes of other users. When a
        process is killed, its children become children of this worker. Therefore several passes may be needed.
        """
        for _ in range(_PASSES):
            if not self._kill_once():
                return
            await asyncio.sleep(_PAUSE_S)

    def _kill_once(self) -> bool:
        """Collect the processes that have ended, kill the strays, and return whether any process was killed."""
        running = [attempt.mark(self._token) for attempt in self._registry.running() if attempt.has_live_process]
        killed = False
        for pid in orphans(self._own_pids):
            # A process of another user, for example one that a task has started by `sudo`, cannot be killed.
            with contextlib.suppress(ChildProcessError, ProcessLookupError, PermissionError):
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    continue  # A process that has already ended needs no kill.
                if any(is_marked(pid, mark) for mark in running):
                    continue
                # If no attempt is running, every orphan is a stray, even an orphan that has removed its mark.
                if not running or is_marked(pid, self._token):
                    os.kill(pid, signal.SIGKILL)
                    killed = True
        return killed
