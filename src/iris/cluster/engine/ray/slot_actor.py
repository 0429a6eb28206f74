"""The actor that holds one slot of a gang on Ray: it has a worker started in its bundle, and lives while that is held.

Ray loads this on each machine of its cluster: nothing heavy is imported, and Ray itself only where it is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from iris.cluster.types import TOKEN_VARIABLE
from iris.cluster.worker.supervision.fork_client import HeldWorker, Order, end_template, start_worker
from iris.errors import IrisError

_UNSTARTED_S = 60.0
# What Ray tells an actor of the devices that it may use, whoever makes them.
_DEVICES = re.compile(r"\w*VISIBLE_\w+|ONEAPI_DEVICE_SELECTOR|RBLN_DEVICES|TPU_(CHIPS_PER_)?HOST_BOUNDS")
# What Ray sets for its own processes, besides RAY_*.
_OF_RAY = {"SPT_NOENV", "PYTHONBREAKPOINT"}


class Holder:
    """Holds a slot.

    Args:
        cluster_id: Whose it is.
        worker_id: The worker of the slot.
        arguments: More of its command line, see worker/supervision/fork_client.py.
        lease_s: The lease of workers. For as long the room is kept after the worker has ended: then who holds it is
            taken to be gone for good, and the whole gang is given back. 0: it is kept for ever.
    """

    def __init__(self, cluster_id: str, worker_id: str, arguments: Sequence[str], lease_s: float) -> None:
        self._cluster_id = cluster_id
        self._worker_id = worker_id
        self._arguments = arguments
        self._lease_s = lease_s
        self._starting = threading.Lock()
        self._started = threading.Event()
        self._worker: HeldWorker | None = None
        self._ended: Future[str] = Future()
        threading.Thread(target=self._keep, daemon=True).start()

    async def start(self, credentials: str) -> None:
        """Starts the worker, once."""
        await asyncio.to_thread(self._start, credentials)

    async def watch(self) -> str:
        """Returns when nothing of the worker is left, with how it ended."""
        return await asyncio.shield(asyncio.wrap_future(self._ended))

    async def stop(self) -> None:
        """Ends the worker gracefully: it ends its tasks, and hands over what it has."""
        if self._worker is not None:
            self._worker.stop(and_template=True)
            await self.watch()

    def _start(self, credentials: str) -> None:
        with self._starting:
            if self._started.is_set():
                return
            try:
                order = Order(self._worker_id, self._arguments, credentials, worker_environment())
                self._worker = start_worker(self._cluster_id, order)
            except (IrisError, OSError) as error:
                self._ended.set_result(f"it could not be started: {error}")
            self._started.set()

    def _keep(self) -> None:
        if not self._lease_s or self._started.wait(max(self._lease_s, _UNSTARTED_S)):
            self._started.wait()
            if self._worker is not None:
                self._ended.set_result(self._worker.wait())
            if not self._lease_s:
                return
            threading.Event().wait(self._lease_s)
        import ray.util

        group = ray.util.get_current_placement_group()
        if group is not None:
            ray.util.remove_placement_group(group)  # and us with it


def end_workers(cluster_id: str) -> None:
    """Runs once on each machine when an engine closes."""
    end_template(cluster_id)


def worker_environment() -> dict[str, str]:
    """The environment of the machine's Ray, without what Ray has put there, with the devices that this actor has."""
    base = _environment_of("self")
    with contextlib.suppress(OSError):  # that of the raylet, our parent: Ray adds less to it
        base = _environment_of(str(os.getppid())) or base
    return clean(base) | {name: value for name, value in os.environ.items() if _DEVICES.fullmatch(name)}


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """What of an environment is not Ray's.

    OMP_NUM_THREADS is not in it where Ray has set it: it does so in its actors, after their start.
    """
    kept = {name: value for name, value in env.items() if not name.startswith("RAY_") and name not in _OF_RAY}
    kept.pop(TOKEN_VARIABLE, None)  # whoever started Ray here may be a user of ours: that token is for nobody else
    preloaded = [word for word in re.split("[ :]", kept.get("LD_PRELOAD", "")) if not _is_of_ray(word)]
    kept.pop("LD_PRELOAD", None)
    return kept | ({"LD_PRELOAD": ":".join(preloaded)} if any(preloaded) else {})


def _is_of_ray(library: str) -> bool:
    return library.endswith("/ray/core/libjemalloc.so")


def _environment_of(pid: str) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)
