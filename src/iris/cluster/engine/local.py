"""This machine as an engine: standing worker processes, and a ledger of what their tasks hold.

A worker costs some tenths of a second of CPU to start and a task must cost milliseconds, so workers stand and slots
share them. `workers=N` splits the machine into N of them, so that several "hosts" can be had on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iris.cluster.engine.base import (
    GangRejectedError,
    GangRequest,
    GangState,
    GangStatus,
    Machine,
    Resources,
    Slot,
    place,
)
from iris.cluster.engine.machine import gpu_ids, this_machine
from iris.cluster.types import TOKEN_VARIABLE
from iris.cluster.worker.trust import WorkerCredentials
from iris.errors import InvalidArgumentError
from iris.rpc.process import happens

MAX_WORKERS = 64
_RESTART_PAUSE_S = (0.0, 0.2, 1.0, 5.0)  # between the deaths of a worker that never lived for long
_LIVED_LONG_S = 10.0
_STOP_S = 15.0  # for a worker to end its tasks and itself, before it is killed


@dataclass(slots=True)
class _Host:
    """One of the standing workers, and the share of the machine that it serves."""

    worker_id: str
    total: Resources
    gpus: tuple[int, ...]
    free: Resources
    free_gpus: list[int]
    tasks: int = 0
    keeper: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Gang:
    request: GangRequest
    hosts: list[int] = field(default_factory=list)  # empty while it waits
    slots: tuple[Slot, ...] = ()
    lost: set[int] = field(default_factory=set)


class LocalEngine:
    """Places gangs on this machine.

    Args:
        directory: Where each worker gets a folder for its attempts and a file for its own messages.
        workers: How many worker processes share the machine, 1 to 64.
        machine: What there is to give away; default what this process may use (see `this_machine`).
        host: The address that workers bind to.
        advertise_host: Where others reach them; default `host`.
        log_directory: Where workers write logs, so that these outlive them; default: they hand them over.
        worker_options: More of the worker's command line, see worker/daemon.py.
        credentials: What a worker of that id is to show, and whom it is to trust; asked for each process. None: nothing
            that any controller takes.
    """

    elastic = False

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 1,
        machine: Resources | None = None,
        host: str = "127.0.0.1",
        advertise_host: str = "",
        log_directory: Path | None = None,
        worker_options: Sequence[str] = (),
        credentials: Callable[[str], WorkerCredentials] | None = None,
    ) -> None:
        if not 1 <= workers <= MAX_WORKERS:
            raise InvalidArgumentError(f"workers={workers}: expected 1 to {MAX_WORKERS}")
        total = this_machine() if machine is None else machine
        devices = gpu_ids() if machine is None else tuple(range(machine.gpu))
        self._directory = directory
        self._bind_host = host
        self._advertise_host = advertise_host or host
        self._worker_options = list(worker_options)
        if log_directory is not None:
            self._worker_options += ["--log-directory", str(log_directory)]
        self._hosts = [_share(total, devices, i, workers) for i in range(workers)]
        self._gangs: dict[str, _Gang] = {}
        self._changed = asyncio.Event()
        self._controller_address = ""
        self._file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # for tasks; we may raise our own
        self._credentials = credentials or (lambda worker_id: WorkerCredentials(token="none"))
        # As it is now: what this program changes later is not for workers and tasks, and our user's token never is.
        self._env = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}

    async def start(self, controller_address: str) -> None:
        """Starts the workers; they register by themselves."""
        self._controller_address = controller_address
        for host in self._hosts:
            process = await self._start_worker(host)
            host.keeper = asyncio.create_task(self._keep_worker(host, process))

    async def submit(self, gang: GangRequest) -> None:
        """See `Engine.submit`. Room that is free is held when this returns."""
        if gang.gang_id in self._gangs:
            return
        if place(gang, [_empty(host) for host in self._hosts]) is None:
            raise GangRejectedError(f"{gang.slots} x {gang.need} do not fit on this machine even when it is empty")
        self._gangs[gang.gang_id] = _Gang(gang)
        self._hold_what_fits()

    async def release(self, gang_id: str) -> None:
        """See `Engine.release`. The controller has ended what ran there: workers stand, only the ledger changes."""
        gang = self._gangs.pop(gang_id, None)
        if gang is None:
            return
        for i, slot in zip(gang.hosts, gang.slots, strict=True):
            host = self._hosts[i]
            host.free += gang.request.need
            host.tasks -= 1
            host.free_gpus = sorted([*host.free_gpus, *slot.gpu_ids])
        self._hold_what_fits()

    async def snapshot(self) -> dict[str, GangStatus]:
        """See `Engine.snapshot`."""
        return {gang_id: _status(gang) for gang_id, gang in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        """One for each worker: its share of the machine."""
        return [Machine(host.worker_id, host.total, host.free, host.tasks) for host in self._hosts]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a gang got room or lost a worker, or after the time."""
        await happens(self._changed, timeout_s)
        self._changed.clear()

    async def close(self) -> None:
        """Ends the workers, which end their tasks."""
        for host in self._hosts:
            if host.keeper is not None:
                host.keeper.cancel()
        await asyncio.gather(*(h.keeper for h in self._hosts if h.keeper is not None), return_exceptions=True)

    def _hold_what_fits(self) -> None:
        for gang in self._gangs.values():
            if gang.hosts:
                continue
            machines = [Machine(host.worker_id, host.total, host.free, host.tasks) for host in self._hosts]
            spots = place(gang.request, machines)
            if spots is None:
                continue
            slots = []
            for i in spots:
                host = self._hosts[i]
                host.free -= gang.request.need
                host.tasks += 1
                taken, host.free_gpus = host.free_gpus[: gang.request.need.gpu], host.free_gpus[gang.request.need.gpu :]
                slots.append(Slot(host.worker_id, tuple(taken)))
            gang.hosts, gang.slots = spots, tuple(slots)
            self._changed.set()

    async def _keep_worker(self, host: _Host, process: asyncio.subprocess.Process) -> None:
        """Watches the worker's process, and starts another when it has died; ends it when this is cancelled."""
        deaths = 0
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await process.wait()
            except asyncio.CancelledError:
                await _stop(process)
                raise
            self._worker_died(host)
            deaths = 0 if loop.time() - started > _LIVED_LONG_S else deaths + 1
            await asyncio.sleep(_RESTART_PAUSE_S[min(max(deaths - 1, 0), len(_RESTART_PAUSE_S) - 1)])
            process = await self._start_worker(host)

    async def _start_worker(self, host: _Host) -> asyncio.subprocess.Process:
        self._directory.mkdir(parents=True, exist_ok=True)
        ours, theirs = os.pipe()  # neither a command line nor an environment is a place for a secret
        with (
            open(self._directory / f"{host.worker_id}.log", "ab") as messages,
            os.fdopen(ours, "rb"),
            os.fdopen(theirs, "w") as pipe,
        ):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "iris.cluster.worker"),  # -P: nothing of the current folder takes our modules' places
                *("--worker-id", host.worker_id),
                *("--incarnation", secrets.token_hex(8)),
                *("--controller", self._controller_address),
                *("--credentials", f"/dev/fd/{ours}"),
                *("--directory", str(self._directory / host.worker_id)),
                *("--host", self._bind_host),
                *("--advertise-host", self._advertise_host),
                *("--task-file-limit", str(self._file_limit)),
                *("--parent-pid", str(os.getpid())),
                *self._worker_options,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                pass_fds=(ours,),
                start_new_session=True,  # a terminal's Ctrl-C is for the client, not for the workers
            )
            # It loads its program now: the time that signing takes is not added to that.
            with contextlib.suppress(BrokenPipeError):
                pipe.write(self._credentials(host.worker_id).to_json())
                pipe.close()
        return process

    def _worker_died(self, host: _Host) -> None:
        for gang in self._gangs.values():
            gang.lost |= {i for i, slot in enumerate(gang.slots) if slot.worker_id == host.worker_id}
        self._changed.set()


def _share(total: Resources, devices: tuple[int, ...], index: int, workers: int) -> _Host:
    def part(amount: int) -> int:
        return amount // workers + (1 if index < amount % workers else 0)

    gpus = tuple(devices[index::workers])
    share = Resources(cpu=part(total.cpu), memory_bytes=total.memory_bytes // workers, gpu=len(gpus))
    return _Host(f"local-{index}", share, gpus, share, list(gpus))


def _empty(host: _Host) -> Machine:
    return Machine(host.worker_id, host.total, host.total)


def _status(gang: _Gang) -> GangStatus:
    if not gang.hosts:
        return GangStatus(GangState.WAITING, reason="this machine has no room for it now")
    if gang.lost:
        return GangStatus(GangState.BROKEN, gang.slots, frozenset(gang.lost), "its worker process died")
    return GangStatus(GangState.HELD, gang.slots)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
