"""Defines the Ray actor of a gang's slot. The actor starts the slot's worker and keeps the slot allocated.

Ray loads this module on each machine of its cluster. Therefore the module imports nothing large, and imports Ray only
in the function that needs Ray.
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
# The variables in which Ray names the devices of an actor, for devices of all vendors.
_DEVICES = re.compile(r"\w*VISIBLE_\w+|ONEAPI_DEVICE_SELECTOR|RBLN_DEVICES|TPU_(CHIPS_PER_)?HOST_BOUNDS")
# Variables besides RAY_* that Ray sets for its own processes.
_OF_RAY = {"SPT_NOENV", "PYTHONBREAKPOINT"}


class SlotActor:
    """Holds one slot and runs its worker.

    Args:
        cluster_id: The id of the cluster that the slot belongs to.
        worker_id: The id of the slot's worker.
        arguments: Additional arguments of the worker's command line, see worker/supervision/fork_client.py.
        lease_s: The lease of workers in seconds. If the slot is not released within this time after its worker has
            ended, the controller is assumed to be gone and the whole gang is released. The gang is also released if the
            worker is not started within this time, or within 60 s if the lease is shorter. 0 means that the slot is
            kept.
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
        """Start the worker. Later calls have no effect."""
        await asyncio.to_thread(self._start, credentials)

    async def watch(self) -> str:
        """Wait until the worker and all its processes have ended, and return how the worker ended."""
        return await asyncio.shield(asyncio.wrap_future(self._ended))

    async def stop(self) -> None:
        """End the worker gracefully, so that the worker ends its tasks and uploads its logs."""
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
                self._ended.set_result(f"the worker could not be started: {error}")
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
            ray.util.remove_placement_group(group)  # This call also ends this actor.


def end_workers(cluster_id: str) -> None:
    """End the fork server of this machine. When an engine closes, it calls this function once on each machine."""
    end_template(cluster_id)


def worker_environment() -> dict[str, str]:
    """Return the environment for the worker.

    The worker's environment is the environment in which Ray was started on this machine, without Ray's own variables,
    and with the variables that name this actor's devices.
    """
    base = _environment_of("self")
    # The environment of the parent process (the raylet) is used if it can be read, because Ray adds less to this
    # environment than to an actor's environment.
    with contextlib.suppress(OSError):
        base = _environment_of(str(os.getppid())) or base
    return clean(base) | {name: value for name, value in os.environ.items() if _DEVICES.fullmatch(name)}


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that Ray has added. OMP_NUM_THREADS is kept, because Ray sets it only
    in actors after their start, not in the raylet.
    """
    kept = {name: value for name, value in env.items() if not name.startswith("RAY_") and name not in _OF_RAY}
    kept.pop(TOKEN_VARIABLE, None)  # The token of the user who started Ray must not reach tasks.
    preloaded = [word for word in re.split("[ :]", kept.get("LD_PRELOAD", "")) if not _is_of_ray(word)]
    kept.pop("LD_PRELOAD", None)
    return kept | ({"LD_PRELOAD": ":".join(preloaded)} if any(preloaded) else {})


def _is_of_ray(library: str) -> bool:
    return library.endswith("/ray/core/libjemalloc.so")


def _environment_of(pid: str) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)
