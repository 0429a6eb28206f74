"""This machine as an engine: standing worker processes, and a ledger of what their tasks hold.

A worker costs some tenths of a second of CPU to start and a task must cost milliseconds, so workers stand and slots
share them. `workers=N` splits the machine into N of them, so that several "hosts" can be had on one.

Workers that are *standing* outlive their engine: when it is killed they go on, and the next one in the same directory
finds them by the locks that they hold (worker/standing.py), and in a ledger on disk what was placed on them. Of workers
of which it has fewer than the one before, those that run something do so to its end, and get nothing new.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from iris.arguments import check_whole_number
from iris.cluster.engine.base import (
    GangRejectedError,
    GangRequest,
    GangState,
    GangStatus,
    Machine,
    Resources,
    Slot,
)
from iris.cluster.engine.local.ledger import Entry, Ledger
from iris.cluster.engine.machine import gpu_ids, this_machine
from iris.cluster.engine.placement import choose_machines
from iris.cluster.engine.worker_process import WorkerProcess, adopt, end_standing, find_standing
from iris.cluster.engine.worker_process import start as start_worker
from iris.cluster.types import MAX_LOCAL_WORKERS, TOKEN_VARIABLE
from iris.cluster.worker.controller_link.trust import WorkerCredentials
from iris.cluster.worker.supervision.worker_identity import identity_file
from iris.errors import IrisError
from iris.failpoints import failpoint
from iris.system.private_dir import make_private
from iris.system.processes import descriptors, happens

_RESTART_PAUSE_S = (0.0, 0.2, 1.0, 5.0)  # between the deaths of a worker that never lived for long
_LIVED_LONG_S = 10.0
_log = logging.getLogger(__name__)


def _new_incarnation() -> str:
    return secrets.token_hex(8)


@dataclass(slots=True)
class _Host:
    """One of the standing workers, and the share of the machine that it serves."""

    worker_id: str
    total: Resources
    gpus: tuple[int, ...]
    free: Resources
    free_gpus: list[int]
    tasks: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    keeper: asyncio.Task[None] | None = None
    incarnation: str = field(default_factory=_new_incarnation)  # of its process, or of the next one while it has none


_WAITS = GangStatus(GangState.WAITING, reason="this machine has no room for it now")


@dataclass(slots=True)
class _Gang:
    request: GangRequest
    hosts: list[int] = field(default_factory=list)  # empty while it waits
    status: GangStatus = _WAITS


class LocalEngine:
    """Places gangs on this machine.

    Args:
        directory: Where each worker gets a folder for its attempts and a file for its own messages.
        workers: How many worker processes share the machine, 1 to 64.
        machine: What there is to give away; default what this process may use (see `this_machine`).
        labels: What its workers are labelled with, as machines: each of them, or one mapping for all.
        host: The address that workers bind to.
        advertise_host: Where others reach them; default `host`.
        standing: Workers go on when this process is killed; False: they end with it, however that ends.
        lease_s: For how long a worker lives that nobody has called yet; 0: for ever.
        log_directory: Where workers write logs, so that these outlive them; default: they hand them over.
        worker_options: More of the worker's command line, see worker/wiring.py.
        credentials: What a worker of that id is to show, and whom it is to trust; asked for each process. None: nothing
            that any controller takes.
    """

    name = "local"
    elastic = False
    shared_workers = True

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 1,
        machine: Resources | None = None,
        labels: Sequence[Mapping[str, str]] = ({},),
        host: str = "127.0.0.1",
        advertise_host: str = "",
        standing: bool = False,
        lease_s: float = 0.0,
        log_directory: Path | None = None,
        worker_options: Sequence[str] = (),
        credentials: Callable[[str], WorkerCredentials] | None = None,
    ) -> None:
        check_whole_number("workers", workers, least=1, most=MAX_LOCAL_WORKERS)
        total = this_machine() if machine is None else machine
        devices = gpu_ids() if machine is None else tuple(range(machine.gpu))
        self._directory = directory
        self._bind_host = host
        self._advertise_host = advertise_host or host
        self._worker_options = list(worker_options)
        if log_directory is not None:
            self._worker_options += ["--log-directory", str(log_directory)]
        self._standing = standing
        self._lease_s = lease_s
        self._hosts = [
            _share(total, devices, i, workers, labels) for i in range(workers)
        ]  # then those that are too many
        self._open = workers  # how many of them are given something new
        self._gangs: dict[str, _Gang] = {}
        self._waiting: dict[str, _Gang] = {}  # of them, those that hold nothing
        self._ledger = Ledger(directory / "ledger" if standing else None)
        self._avoided: Mapping[str, str] = {}
        self._abandoned = False
        self.adopted = 0  # workers that were there already
        self._changed = asyncio.Event()
        self._controller_address = ""
        self._file_limit = descriptors()  # for tasks; we may raise our own
        self._credentials = credentials or (lambda worker_id: WorkerCredentials(token="none"))
        # As it is now: what this program changes later is not for workers and tasks, and our user's token never is.
        self._env = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}

    async def start(self, controller_address: str) -> None:
        """Starts the workers, or finds them; they register by themselves."""
        self._controller_address = controller_address
        make_private(self._directory)
        if self._standing:
            if self._speaks_otherwise(controller_address):
                await end_standing(self._directory)
            beside = self._controller_file.with_name(f"{self._controller_file.name}.new")
            beside.write_text(f"{controller_address}\n")
            beside.rename(self._controller_file)  # which also tells standing workers to call again
        for worker_id in find_standing(self._directory):
            if all(host.worker_id != worker_id for host in self._hosts):
                self._hosts.append(_without_room(worker_id))
        processes = await asyncio.gather(*(self._find_or_start(host) for host in self._hosts))
        for entry in self._ledger.load():
            self._take_over(entry)
        for i, (host, process) in enumerate(zip(self._hosts, processes, strict=False)):
            if process is not None or i < self._open:
                host.keeper = asyncio.create_task(self._keep_worker(host, process))
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would end no worker
        for i in range(len(self._hosts)):
            self._end_if_idle(i)

    @property
    def _controller_file(self) -> Path:
        return self._directory / "controller"

    def _speaks_otherwise(self, controller_address: str) -> bool:
        """Whether workers that stand were started with TLS and the controller is without now, or the other way round:
        one of the two could not call the other, and what they run would neither go on nor be given up."""
        try:
            before = self._controller_file.read_text()
        except OSError:
            return False
        return before.partition(":")[0] != controller_address.partition(":")[0]

    async def _find_or_start(self, host: _Host) -> WorkerProcess | None:
        process = await adopt(self._directory, host.worker_id)
        if process is not None and not process.reads(self._controller_file):
            # It will never hear of us, and writes to where its directory was.
            await process.stop()
            process.close()
            process = None
        if process is not None:
            host.incarnation = process.incarnation
            self.adopted += 1
        elif self._hosts.index(host) < self._open:
            with contextlib.suppress(OSError, IrisError):  # its keeper tries again, and says so
                process = self._start_worker(host)
        return process

    def _take_over(self, entry: Entry) -> None:
        """A gang that an earlier engine has placed; slots of workers that are gone are lost."""
        gang = _Gang(entry.gang, status=GangStatus(GangState.HELD, entry.slots))
        for position, (slot, incarnation) in enumerate(zip(entry.slots, entry.incarnations, strict=True)):
            i = next((i for i, host in enumerate(self._hosts) if host.worker_id == slot.worker_id), len(self._hosts))
            if i == len(self._hosts):
                self._hosts.append(_without_room(slot.worker_id))
            gang.hosts.append(i)
            self._take(i, entry.gang.need, slot.gpu_ids)
            if self._hosts[i].incarnation != incarnation:
                gang.status = _broken(entry.slots, gang.status.lost | {position})
        self._gangs[entry.gang.gang_id] = gang

    async def submit(self, gang: GangRequest) -> None:
        """See `Engine.submit`. Room that is free is held when this returns."""
        if gang.gang_id in self._gangs:
            return
        empty = [replace(machine, free=machine.total, tasks=0, alive=True) for machine in self._machines()]
        if choose_machines(gang, empty) is None:
            raise GangRejectedError(f"{gang.slots} x {gang.need} do not fit on this machine even when it is empty")
        self._gangs[gang.gang_id] = self._waiting[gang.gang_id] = _Gang(gang)
        self._hold_what_fits()

    async def release(self, gang_id: str) -> None:
        """See `Engine.release`. The controller has ended what ran there: workers stand, only the ledger changes."""
        gang = self._gangs.pop(gang_id, None)
        self._waiting.pop(gang_id, None)
        if gang is None:
            return
        self._ledger.release(gang_id)
        for i, slot in zip(gang.hosts, gang.status.slots, strict=True):
            self._give_back(i, gang.request.need, slot.gpu_ids)
            self._end_if_idle(i)
        self._hold_what_fits()

    async def snapshot(self) -> dict[str, GangStatus]:
        """See `Engine.snapshot`. What it tells is in the ledger: the controller acts on it."""
        self._ledger.flush()
        return {gang_id: gang.status for gang_id, gang in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        """One for each worker: its share of the machine."""
        return self._machines()

    def avoid(self, workers: Mapping[str, str]) -> None:
        """See `AvoidsWorkers.avoid`."""
        has_room_again = any(worker_id not in workers for worker_id in self._avoided)
        self._avoided = dict(workers)
        if has_room_again:
            self._hold_what_fits()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a gang got room or lost a worker, or after the time."""
        await happens(self._changed, timeout_s)
        self._changed.clear()

    async def close(self) -> None:
        """Ends the workers, which end their tasks."""
        for host in self._hosts:
            if host.keeper is not None and not host.keeper.cancelling():  # else it is ending its worker already
                host.keeper.cancel()
        await asyncio.gather(*(h.keeper for h in self._hosts if h.keeper is not None), return_exceptions=True)
        if self._standing and not self._abandoned:
            self._ledger.remove()
            self._controller_file.unlink(missing_ok=True)

    async def abandon(self) -> None:
        """Ends what this engine has started, and leaves what it has found: for a start that fails."""
        self._abandoned = True
        await self.close()

    def _hold_what_fits(self) -> None:
        for gang_id, gang in list(self._waiting.items()):
            spots = choose_machines(gang.request, self._machines())
            if spots is None:
                continue
            slots = []
            for i in spots:
                gpu_ids = tuple(self._hosts[i].free_gpus[: gang.request.need.gpu])
                self._take(i, gang.request.need, gpu_ids)
                slots.append(Slot(self._hosts[i].worker_id, self._hosts[i].worker_id, gpu_ids))
            gang.hosts, gang.status = spots, GangStatus(GangState.HELD, tuple(slots))
            del self._waiting[gang_id]
            self._ledger.hold(Entry(gang.request, tuple(slots), tuple(self._hosts[i].incarnation for i in spots)))
            self._changed.set()

    def _machines(self) -> list[Machine]:
        return [
            Machine(
                host.worker_id,
                host.total,
                host.free,
                host.tasks,
                host.labels,
                alive=host.worker_id not in self._avoided,
                why_avoided=self._avoided.get(host.worker_id, ""),
            )
            for host in self._hosts[: self._open]
        ]

    def _take(self, index: int, need: Resources, gpu_ids: Iterable[int]) -> None:
        host = self._hosts[index]
        host.tasks += 1
        host.free -= replace(need, gpu=0)
        self._move_gpus(gpu_ids, list.remove)

    def _give_back(self, index: int, need: Resources, gpu_ids: Iterable[int]) -> None:
        host = self._hosts[index]
        host.tasks -= 1
        host.free += replace(need, gpu=0)
        self._move_gpus(gpu_ids, list.append)

    def _move_gpus(self, gpu_ids: Iterable[int], move: Callable[[list[int], int], None]) -> None:
        """To or from whose share they are now: an earlier engine may have shared them out in another way."""
        for number in gpu_ids:
            for host in self._hosts[: self._open]:
                if number in host.gpus:
                    move(host.free_gpus, number)
                    host.free_gpus.sort()
                    host.free = replace(host.free, gpu=len(host.free_gpus))

    def _end_if_idle(self, index: int) -> None:
        """A worker that is one too many ends with the last that it ran."""
        host = self._hosts[index]
        if index >= self._open and not host.tasks and host.keeper is not None:
            host.keeper.cancel()

    async def _keep_worker(self, host: _Host, process: WorkerProcess | None) -> None:
        """Watches the worker's process, and starts another when it has died, or could not be started; ends it when this
        is cancelled."""
        deaths = 0
        loop = asyncio.get_running_loop()
        process = process or await self._start_again(host, 1)
        while True:
            started = loop.time()
            try:
                await process.wait()
            except asyncio.CancelledError:
                if not (self._abandoned and process.is_adopted):
                    await process.stop()
                raise
            finally:
                process.close()
            self._worker_died(host)
            if self._hosts.index(host) >= self._open:
                return
            deaths = 0 if loop.time() - started > _LIVED_LONG_S else deaths + 1
            process = await self._start_again(host, deaths)

    async def _start_again(self, host: _Host, deaths: int) -> WorkerProcess:
        """After so many deaths in a row; until it succeeds: there may be no room for a process, or on the disk."""
        while True:
            await asyncio.sleep(_RESTART_PAUSE_S[min(max(deaths - 1, 0), len(_RESTART_PAUSE_S) - 1)])
            try:
                return self._start_worker(host)
            except (OSError, IrisError) as error:
                _log.warning("cannot start worker %s: %s; trying again", host.worker_id, error)
                deaths += 1

    def _start_worker(self, host: _Host) -> WorkerProcess:
        worker_id = host.worker_id
        command = [
            sys.executable,
            *("-P", "-m", "iris.cluster.worker"),  # -P: nothing of the current folder takes our modules' places
            *("--worker-id", worker_id),
            *("--incarnation", host.incarnation),
            *("--identity-file", str(identity_file(self._directory, worker_id))),
            *("--controller", self._controller_address),
            *("--directory", str(self._directory / worker_id)),
            *("--host", self._bind_host),
            *("--advertise", self._advertise_host),
            *("--task-file-limit", str(self._file_limit)),
            *("--lease", str(self._lease_s)),
        ]
        if self._standing:
            command += ["--controller-file", str(self._controller_file)]
        else:
            command += ["--parent-pid", str(os.getpid())]
        failpoint("engine.spawn.before")
        command += self._worker_options
        # It loads its program meanwhile: the time that signing takes is not added to that.
        secret = partial(_secret_of, self._credentials, worker_id)
        process = start_worker(self._directory, worker_id, host.incarnation, command, self._env, secret)
        failpoint("engine.spawn.after")
        return process

    def _worker_died(self, host: _Host) -> None:
        for gang in self._gangs.values():
            slots = gang.status.slots
            lost = {i for i, slot in enumerate(slots) if slot.worker_id == host.worker_id}
            if lost:
                gang.status = _broken(slots, gang.status.lost | lost)
        host.incarnation = _new_incarnation()  # what is placed there from now on is for the next process
        self._changed.set()


def _share(
    total: Resources, devices: tuple[int, ...], index: int, workers: int, labels: Sequence[Mapping[str, str]]
) -> _Host:
    def part(amount: int) -> int:
        return amount // workers + (1 if index < amount % workers else 0)

    gpus = tuple(devices[index::workers])
    share = Resources(cpu=part(total.cpu), memory_bytes=total.memory_bytes // workers, gpu=len(gpus))
    own = tuple(sorted(labels[index % len(labels)].items()))
    return _Host(f"local-{index}", share, gpus, share, list(gpus), labels=own)


def _without_room(worker_id: str) -> _Host:
    return _Host(worker_id, Resources(), (), Resources(), [])


def _secret_of(credentials: Callable[[str], WorkerCredentials], worker_id: str) -> str:
    return credentials(worker_id).to_json()


def _broken(slots: tuple[Slot, ...], lost: frozenset[int]) -> GangStatus:
    return GangStatus(GangState.BROKEN, slots, lost, "its worker process died")
