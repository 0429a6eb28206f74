"""The engine for this machine. The engine has long-lived worker processes, and a ledger of the slots that gangs hold on
the workers.

Starting a worker costs tenths of a second of CPU, but starting a task should cost milliseconds. Therefore workers are
long-lived, and each worker serves the slots of many gangs. `workers=N` splits the machine into N workers, so that one
machine can stand in for several hosts.

A *standing* worker survives its engine. If the engine is killed, the next engine in the same directory finds the worker
by the lock that the worker holds (worker/supervision/worker_identity.py), and finds the worker's slots in the ledger.
If the next engine is configured with fewer workers, the surplus workers finish their tasks and receive no new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
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
    GpuId,
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
from iris.cluster.worker.supervision.prepared_worker import PreparedWorker
from iris.cluster.worker.supervision.worker_identity import identity_file
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.cores import MILLICORES
from iris.errors import IrisError
from iris.failpoints import failpoint
from iris.reasons import NO_SHORTAGE, Shortage
from iris.system.backoff import RestartPauses
from iris.system.event_loop import happens, open_file_limit
from iris.system.files import write_file
from iris.system.private_dir import make_private

# The pauses in seconds before the first, second, third and each later restart of a worker that dies again within
# `_LIVED_LONG_S` seconds.
_RESTART_PAUSE_S = (0.0, 0.2, 1.0, 5.0)
_LIVED_LONG_S = 10.0
_log = logging.getLogger(__name__)


def _new_incarnation() -> str:
    return secrets.token_hex(8)


@dataclass(slots=True)
class _Host:
    """One worker of the engine. The worker serves a share of the machine."""

    worker_id: str
    total: Resources
    gpus: tuple[GpuId, ...]
    free: Resources
    free_gpus: list[GpuId]
    tasks: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    keeper: asyncio.Task[None] | None = None
    # The incarnation of the worker's process. If no process runs, the next process gets this incarnation.
    incarnation: str = field(default_factory=_new_incarnation)


_WAITS = GangStatus(GangState.WAITING, reason="this machine has not enough free capacity")


@dataclass(slots=True)
class _Gang:
    request: GangRequest
    # For each slot of the gang, the index of its worker in `_hosts`. The list is empty while the gang waits.
    hosts: list[int] = field(default_factory=list)
    status: GangStatus = _WAITS


class LocalEngine:
    """An engine that runs gangs on this machine.

    Args:
        directory: The directory in which each worker gets a folder for its attempts and a file for its own messages.
        workers: The number of worker processes that share the machine, 1 to 64.
        machine: The capacity to share. Defaults to what this process may use (see `this_machine`).
        labels: The machine labels of the workers: one mapping for all workers, or one for each.
        host: The address of this machine to which workers bind.
        advertise_host: The address at which others reach the workers. Defaults to `host`.
        standing: Whether workers survive this process. If False, workers end when this process ends for any reason.
        lease_s: The seconds after which a worker ends if it has not reached the controller. With 0, a worker never ends
            for this reason.
        log_directory: The directory in which workers write logs that survive them. By default, workers upload their
            logs to the controller instead.
        worker_options: Additional arguments of the worker's command line, see worker/arguments.py.
        credentials: A function that returns the credentials of a worker, given the worker's id: a token, and the
            controller's public key. The engine calls the function once for each worker process. With None, workers get
            a token that no controller accepts.
        prepared: Forked processes that become the first workers. Processes that the engine does not need when it starts
            are ended.
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
        prepared: Sequence[PreparedWorker] = (),
    ) -> None:
        check_whole_number("workers", workers, least=1, most=MAX_LOCAL_WORKERS)
        total = this_machine() if machine is None else machine
        devices: tuple[GpuId, ...] = gpu_ids() if machine is None else tuple(range(machine.gpu))
        self._directory = directory
        self._bind_host = host
        self._advertise_host = advertise_host or host
        self._worker_options = list(worker_options)
        self._prepared = list(prepared)
        if log_directory is not None:
            self._worker_options += ["--log-directory", str(log_directory)]
        self._standing = standing
        self._lease_s = lease_s
        # Only the first `_open` workers of this list receive new slots. The others are surplus workers of an earlier
        # engine.
        self._hosts = [_share(total, devices, i, workers, labels) for i in range(workers)]
        self._open = workers
        self._gangs: dict[str, _Gang] = {}
        self._waiting: dict[str, _Gang] = {}  # The gangs that wait for an allocation, by id.
        self._ledger = Ledger(directory / "ledger" if standing else None)
        self._avoided: Mapping[str, Shortage] = {}
        self._abandoned = False
        self.adopted = 0
        self._changed = asyncio.Event()
        self._controller_address = ""
        # The limit of open files that tasks get. The limit is read before the server raises its own limit.
        self._file_limit = open_file_limit()
        self._credentials = credentials or (lambda worker_id: WorkerCredentials(token="none"))
        # Workers and tasks inherit this copy of the environment. Later changes of this program's environment do not
        # affect workers and tasks. The copy does not contain the user's own token.
        self._env = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}

    async def start(self, controller_address: str) -> None:
        """Start the workers or adopt running ones. Workers register with the controller by themselves."""
        self._controller_address = controller_address
        make_private(self._directory)
        if self._standing:
            if self._changes_scheme(controller_address):
                await end_standing(self._directory)
            # Standing workers read the controller's address from this file. When the file is replaced, they register
            # again.
            write_file(self._controller_file, f"{controller_address}\n")
        for worker_id in find_standing(self._directory):
            if all(host.worker_id != worker_id for host in self._hosts):
                self._hosts.append(_without_room(worker_id))
        try:
            processes = await asyncio.gather(*(self._find_or_start(host) for host in self._hosts))
        finally:
            while self._prepared:
                self._prepared.pop().discard()
        for entry in self._ledger.load():
            self._restore(entry)
        for i, (host, process) in enumerate(zip(self._hosts, processes, strict=False)):
            if process is not None or i < self._open:
                host.keeper = asyncio.create_task(self._keep_worker(host, process))
        # Each worker has an asyncio task that ends the worker when the task is cancelled. This pause lets these tasks
        # begin, because a task that is cancelled before it begins would not end its worker.
        await asyncio.sleep(0)
        for i in range(len(self._hosts)):
            self._end_if_idle(i)

    @property
    def _controller_file(self) -> Path:
        return self._directory / "controller"

    def _changes_scheme(self, controller_address: str) -> bool:
        """Return whether the standing workers and the new controller differ in the use of TLS.

        If only one side uses TLS, the workers and the controller cannot call each other. The controller then waits
        forever for the workers' attempts.
        """
        try:
            before = self._controller_file.read_text()
        except OSError:
            return False
        return before.partition(":")[0] != controller_address.partition(":")[0]

    async def _find_or_start(self, host: _Host) -> WorkerProcess | None:
        process = await adopt(self._directory, host.worker_id)
        if process is not None and not process.reads(self._controller_file):
            # The worker's directory was renamed. Therefore the worker reads another controller file, and will never
            # find this controller.
            await process.stop()
            process.close()
            process = None
        if process is not None:
            host.incarnation = process.incarnation
            self.adopted += 1
        elif self._hosts.index(host) < self._open:
            # The error is ignored here, because the asyncio task that keeps the worker running tries again and logs the
            # error.
            with contextlib.suppress(OSError, IrisError):
                process = self._start_worker(host)
        return process

    def _restore(self, entry: Entry) -> None:
        """Restore a gang that an earlier engine allocated. Slots whose worker process has ended are lost."""
        gang = _Gang(entry.gang, status=GangStatus(GangState.HELD, entry.slots))
        for position, (slot, incarnation) in enumerate(zip(entry.slots, entry.incarnations, strict=True)):
            i = next((i for i, host in enumerate(self._hosts) if host.worker_id == slot.worker_id), len(self._hosts))
            if i == len(self._hosts):
                self._hosts.append(_without_room(slot.worker_id))
            gang.hosts.append(i)
            self._allocate(i, entry.gang.need, slot.gpu_ids)
            if self._hosts[i].incarnation != incarnation:
                gang.status = _broken(entry.slots, gang.status.lost | {position})
        self._gangs[entry.gang.gang_id] = gang

    async def submit(self, gang: GangRequest) -> None:
        """Submit a gang, see `Engine.submit`. If the gang's slots are free, the slots are allocated before this method
        returns.
        """
        if gang.gang_id in self._gangs:
            return
        empty = [replace(machine, free=machine.total, tasks=0, alive=True) for machine in self._machines()]
        if choose_machines(gang, empty) is None:
            raise GangRejectedError(f"this machine can never hold the gang: it needs {gang.describe()}")
        self._gangs[gang.gang_id] = self._waiting[gang.gang_id] = _Gang(gang)
        self._allocate_waiting()

    async def release(self, gang_id: str) -> None:
        """Release a gang, see `Engine.release`. The method changes only the ledger, because the workers are shared and
        the controller has already ended the gang's attempts.
        """
        gang = self._gangs.pop(gang_id, None)
        self._waiting.pop(gang_id, None)
        if gang is None:
            return
        self._ledger.release(gang_id)
        for i, slot in zip(gang.hosts, gang.status.slots, strict=True):
            self._free(i, gang.request.need, slot.gpu_ids)
            self._end_if_idle(i)
        self._allocate_waiting()

    async def snapshot(self) -> dict[str, GangStatus]:
        """Return all gangs, see `Engine.snapshot`. All gangs are written to the ledger first, because the controller
        acts on the snapshot.
        """
        self._ledger.flush()
        return {gang_id: gang.status for gang_id, gang in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        """Return one `Machine` for each worker: the worker's share of this machine."""
        return self._machines()

    def avoid(self, workers: Mapping[str, Shortage]) -> None:
        """Allocate no new slots on these workers, see `AvoidsWorkers.avoid`."""
        is_any_back = any(worker_id not in workers for worker_id in self._avoided)
        self._avoided = dict(workers)
        if is_any_back:
            self._allocate_waiting()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until a gang was allocated or has lost a worker, but at most `timeout_s` seconds."""
        await happens(self._changed, timeout_s)
        self._changed.clear()

    async def close(self) -> None:
        """End the workers, which end their tasks."""
        for host in self._hosts:
            # The asyncio task that keeps a worker running ends the worker when it is cancelled.
            if host.keeper is not None and not host.keeper.cancelling():
                host.keeper.cancel()
        await asyncio.gather(*(h.keeper for h in self._hosts if h.keeper is not None), return_exceptions=True)
        if self._standing and not self._abandoned:
            self._ledger.remove()
            self._controller_file.unlink(missing_ok=True)

    async def abandon(self) -> None:
        """End the workers that this engine started, and keep the workers that it adopted. The server calls this method
        if its start fails.
        """
        self._abandoned = True
        await self.close()

    def _allocate_waiting(self) -> None:
        for gang_id, gang in list(self._waiting.items()):
            spots = choose_machines(gang.request, self._machines())
            if spots is None:
                continue
            slots = []
            for i in spots:
                gpu_ids = tuple(self._hosts[i].free_gpus[: gang.request.need.gpu])
                self._allocate(i, gang.request.need, gpu_ids)
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
                why_avoided=self._avoided.get(host.worker_id, NO_SHORTAGE),
            )
            for host in self._hosts[: self._open]
        ]

    def _allocate(self, index: int, need: Resources, gpu_ids: Iterable[GpuId]) -> None:
        host = self._hosts[index]
        host.tasks += 1
        host.free -= replace(need, gpu=0)
        self._move_gpus(gpu_ids, list.remove)

    def _free(self, index: int, need: Resources, gpu_ids: Iterable[GpuId]) -> None:
        host = self._hosts[index]
        host.tasks -= 1
        host.free += replace(need, gpu=0)
        self._move_gpus(gpu_ids, list.append)

    def _move_gpus(self, gpu_ids: Iterable[GpuId], move: Callable[[list[GpuId], GpuId], None]) -> None:
        """Add GPUs to the free GPUs of their worker, or remove them. The method finds the worker by the id of the GPU,
        because an earlier engine may have divided the GPUs differently among the workers.
        """
        for gpu in gpu_ids:
            for host in self._hosts[: self._open]:
                if gpu in host.gpus:
                    move(host.free_gpus, gpu)
                    host.free_gpus.sort(key=host.gpus.index)
                    host.free = replace(host.free, gpu=len(host.free_gpus))

    def _end_if_idle(self, index: int) -> None:
        """End a surplus worker that has no tasks left."""
        host = self._hosts[index]
        if index >= self._open and not host.tasks and host.keeper is not None:
            host.keeper.cancel()

    async def _keep_worker(self, host: _Host, process: WorkerProcess | None) -> None:
        """Keep one worker running. Restart its process whenever the process dies, and end the process when this asyncio
        task is cancelled.

        Args:
            host: The worker and its part of this machine.
            process: The worker's process, or None if it has to be started.
        """
        running = process

        async def live() -> bool:
            nonlocal running
            try:
                current, running = running or self._start_worker(host), None
            except (OSError, IrisError) as error:
                # The start is tried again, because memory or disk may be full only for a while.
                _log.warning("cannot start worker %s: %s; trying again", host.worker_id, error)
                return True
            try:
                await current.wait()
            except asyncio.CancelledError:
                if not (self._abandoned and current.is_adopted):
                    await current.stop()
                raise
            finally:
                current.close()
            self._worker_died(host)
            return self._hosts.index(host) < self._open

        await RestartPauses(_RESTART_PAUSE_S, _LIVED_LONG_S).keep_alive(live)

    def _start_worker(self, host: _Host) -> WorkerProcess:
        worker_id = host.worker_id
        arguments = [
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
            arguments += ["--controller-file", str(self._controller_file)]
        else:
            arguments += ["--parent-pid", str(os.getpid())]
        failpoint("engine.spawn.before")
        arguments += self._worker_options
        # The credentials are passed as a function, because signing a token takes time. The token is signed while the
        # worker process loads its program.
        secret = partial(_secret_of, self._credentials, worker_id)
        prepared = self._prepared.pop() if self._prepared else None
        process = start_worker(self._directory, worker_id, host.incarnation, arguments, self._env, secret, prepared)
        failpoint("engine.spawn.after")
        return process

    def _worker_died(self, host: _Host) -> None:
        for gang in self._gangs.values():
            slots = gang.status.slots
            lost = {i for i, slot in enumerate(slots) if slot.worker_id == host.worker_id}
            if lost:
                gang.status = _broken(slots, gang.status.lost | lost)
        # The process has ended. Slots that are allocated from now on belong to the next process of the worker.
        host.incarnation = _new_incarnation()
        self._changed.set()


def _share(
    total: Resources, devices: tuple[GpuId, ...], index: int, workers: int, labels: Sequence[Mapping[str, str]]
) -> _Host:
    def part(amount: int) -> int:
        return amount // workers + (1 if index < amount % workers else 0)

    gpus = tuple(devices[index::workers])
    # Only whole cores are divided among the workers. Equal shares could leave each worker with less than one core, so
    # that a job of one core would fit on none of them. If the machine has a fraction of a core besides its whole cores,
    # the first worker also gets this fraction.
    whole, fraction = divmod(total.cpu_millicores, MILLICORES)
    cpu_millicores = part(whole) * MILLICORES + (0 if index else fraction)
    share = Resources(cpu_millicores, memory_bytes=total.memory_bytes // workers, gpu=len(gpus))
    own = tuple(sorted(labels[index % len(labels)].items()))
    return _Host(f"local-{index}", share, gpus, share, list(gpus), labels=own)


def _without_room(worker_id: str) -> _Host:
    return _Host(worker_id, Resources(), (), Resources(), [])


def _secret_of(credentials: Callable[[str], WorkerCredentials], worker_id: str) -> str:
    return credentials(worker_id).to_json()


def _broken(slots: tuple[Slot, ...], lost: frozenset[int]) -> GangStatus:
    return GangStatus(GangState.BROKEN, slots, lost, "its worker process died")
