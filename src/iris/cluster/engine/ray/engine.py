"""A Ray cluster that exists as an engine: one placement group for each gang, one worker for each slot.

Who does what:

    here            asks, remembers what it was told last, and hands out credentials
    driver_pipe.py     the pipes to the process that talks with Ray, which is started again when it dies
    driver.py   that process: orders in, what there is out
    placement_groups.py    in it: gangs as placement groups and actors, and what is known to be dead
    slot_actor.py   the actor of a slot, on its machine: has the worker started, and lives as long as the slot is held
    worker/supervision/fork_server.py
                    a process on each machine from which workers are forked, because loading their program is slow

Nothing but the process that talks with Ray, and its actors, imports Ray. What a gang holds on Ray is detached: it lives
on when this process is killed, and the next one finds it by its names. When no controller comes back workers end with
their leases, and their holders give the room back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iris.cluster.engine.base import GangRequest, GangState, GangStatus, Machine, Placement, Resources, Slot
from iris.cluster.engine.engine_options import RAY_ADDRESS
from iris.cluster.engine.placement import choose_machines
from iris.cluster.engine.ray.driver_pipe import Json, RayPipe, driver_environment
from iris.cluster.engine.ray.names import load_or_make_cluster_id, namespace_of, worker_of
from iris.cluster.types import TOKEN_VARIABLE
from iris.cluster.worker.controller_link.trust import WorkerCredentials
from iris.errors import FailedPreconditionError, InvalidArgumentError, IrisError, MissingExtraError, UnavailableError
from iris.rpc.address import is_loopback_host
from iris.system.private_dir import make_private
from iris.system.processes import happens

_CLOSE_S = 60.0
_log = logging.getLogger(__name__)


class RayEngine:
    """Places gangs on a Ray cluster.

    Args:
        directory: Where the id of this cluster is kept, and messages of the process that talks with Ray.
        ray_address: `auto`: the Ray that runs on this machine; or HOST:PORT of its head. This machine has to be one of
            its own.
        lease_s: For how long a worker lives that has not heard from the controller yet.
        worker_options: More of the worker's command line, see worker/wiring.py.
        credentials: What a worker of that id is to show, and whom it is to trust.

    Raises:
        InvalidArgumentError: That is no such address.
        MissingExtraError: Ray is not installed.
    """

    name = "ray"
    elastic = True
    shared_workers = False

    def __init__(
        self,
        directory: Path,
        *,
        ray_address: str,
        lease_s: float,
        worker_options: Sequence[str],
        credentials: Callable[[str], WorkerCredentials],
    ) -> None:
        if ray_address != "auto" and not re.fullmatch(r"[^\s/:]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}", ray_address):
            raise InvalidArgumentError(
                f"not the address of a Ray cluster: {ray_address!r}; expected 'auto', or HOST:PORT of its head, as"
                " '10.0.0.5:6379'"
            )
        if importlib.util.find_spec("ray") is None:
            raise MissingExtraError("The engine ray", "ray")
        self._directory = directory
        self._ray_address = ray_address
        self._lease_s = lease_s
        self._worker_options = list(worker_options)
        self._credentials = credentials
        # As it is now: our user's token is for nobody else.
        self._env = driver_environment({k: v for k, v in os.environ.items() if k != TOKEN_VARIABLE})
        self._pipe: RayPipe | None = None
        self._gangs: dict[str, GangStatus] = {}
        self._machines: list[Machine] = []
        self._nodes: list[tuple[str, str]] = []  # Ray's id and the address of each machine
        self._parked: dict[str, GangRequest] = {}  # need nothing, and there is no machine for them now: not on Ray
        self._unwanted: set[str] = set()  # it is not known whether Ray has them, and nobody wants them
        self._given: set[tuple[str, int]] = set()  # gangs whose workers were started, by a life of who talks with Ray
        self._work: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.adopted = 0

    @property
    def driver_pid(self) -> int | None:
        """The process that talks with Ray, while it runs."""
        return None if self._pipe is None else self._pipe.pid

    async def start(self, controller_address: str) -> None:
        """Connects.

        Raises:
            UnavailableError: There is no Ray at its address, or it does not take us.
            FailedPreconditionError: Its machines could not reach the controller.
        """
        await self._connect(controller_address)
        try:
            self._check_reachable(controller_address)
        except IrisError:
            await self.abandon()
            raise

    async def _connect(self, controller_address: str) -> None:
        make_private(self._directory)
        cluster_id = load_or_make_cluster_id(self._directory)
        arguments = ["--controller", controller_address, "--host", "auto", "--lease", str(self._lease_s)]
        setup = {
            "ray_address": self._ray_address,
            "namespace": namespace_of(cluster_id),
            "cluster_id": cluster_id,
            "arguments": arguments + self._worker_options,
            "lease_s": self._lease_s,
        }
        self._pipe = RayPipe(self._directory / "ray-driver.log", self._env, setup, self._take_state, self._tend)
        await self._pipe.start()
        self.adopted = sum(len(status.slots) for status in self._gangs.values())

    async def submit(self, gang: GangRequest) -> None:
        """See `Engine.submit`."""
        self._reach().check()
        self._unwanted.discard(gang.gang_id)
        if gang.gang_id in self._gangs or gang.gang_id in self._parked:
            return
        if not any(gang.need.amounts()) or _labelled_twice(gang):
            self._parked[gang.gang_id] = gang
            await self._submit_parked(gang)
        else:
            await self._submit(gang)

    async def release(self, gang_id: str) -> None:
        """See `Engine.release`."""
        self._parked.pop(gang_id, None)
        await self._reach().order("release", gang_id=gang_id)
        self._unwanted.discard(gang_id)

    async def snapshot(self) -> dict[str, GangStatus]:
        """See `Engine.snapshot`. What Ray has told last, which is a second ago at most."""
        self._reach().check()
        waiting = {gang_id: _parked_status(gang) for gang_id, gang in self._parked.items()}
        return waiting | {gang_id: known for gang_id, known in self._gangs.items() if gang_id not in self._unwanted}

    async def machines(self) -> Sequence[Machine]:
        """The machines of the Ray cluster that are alive and have cores."""
        self._reach().check()
        return self._machines

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when Ray has told something else, or after the time."""
        await happens(self._changed, timeout_s)
        self._changed.clear()

    async def close(self) -> None:
        """See `Engine.close`: workers end their tasks and hand over their logs, for some 20 s at most."""
        if self._pipe is None:
            return
        try:
            await self._pipe.order("close", _CLOSE_S)
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Lets go: what is on Ray lives on."""
        for work in self._work:
            work.cancel()
        if self._pipe is not None:
            await self._pipe.end()

    def _reach(self) -> RayPipe:
        if self._pipe is None:
            raise UnavailableError("the engine has not been started")
        return self._pipe

    async def _submit(self, gang: GangRequest, on: Json | None = None) -> None:
        need = {"cpu": gang.need.cpu, "memory_bytes": gang.need.memory_bytes, "gpu": gang.need.gpu}
        try:
            await self._reach().order(
                "submit",
                gang_id=gang.gang_id,
                slots=gang.slots,
                need=need,
                placement=gang.placement.value,
                labels=dict(gang.labels),
                on=on or {},
            )
        except UnavailableError:
            self._unwanted.add(gang.gang_id)  # it may still be done
            raise

    async def _submit_parked(self, gang: GangRequest) -> None:
        """Who needs nothing has a place wherever it may be: Ray's groups have to hold something, so we choose where."""
        spots = None if _labelled_twice(gang) else choose_machines(gang, self._machines)
        if spots is None or gang.gang_id not in self._parked:
            return
        on = {"nodes": [self._nodes[i][0] for i in spots], "addresses": [self._nodes[i][1] for i in spots]}
        await self._submit(gang, on)
        self._parked.pop(gang.gang_id, None)

    def _take_state(self, state: Json) -> None:
        """What there is now, from Ray."""
        self._machines = [
            Machine(
                known["name"],
                Resources(*known["total"]),
                Resources(*known["free"]),
                known["tasks"],
                tuple((key, value) for key, value in known["labels"]),
            )
            for known in state["machines"]
        ]
        self._nodes = [(known["node"], known["address"]) for known in state["machines"]]
        self._gangs = {gang_id: _status(known) for gang_id, known in state["gangs"].items()}
        self._changed.set()

    def _tend(self) -> None:
        """What is left to do, whenever Ray has answered: what failed is tried again."""
        pipe = self._reach()
        self._given = {(gang_id, life) for gang_id, life in self._given if gang_id in self._gangs and life == pipe.life}
        for gang_id in self._gangs.keys() & self._unwanted:
            self._do(self.release(gang_id))
        for gang_id, status in self._gangs.items():
            if status.state is GangState.HELD and (gang_id, pipe.life) not in self._given:
                self._do(self._give_credentials(gang_id, len(status.slots)))
        for gang in list(self._parked.values()):
            self._do(self._submit_parked(gang))

    async def _give_credentials(self, gang_id: str, slots: int) -> None:
        """Has workers started. Those that run already, as of an earlier life, do not mind."""
        key = (gang_id, self._reach().life)
        self._given.add(key)
        secrets = [self._credentials(worker_of(gang_id, slot)).to_json() for slot in range(slots)]
        try:
            await self._reach().order("start", gang_id=gang_id, credentials=secrets)
        except UnavailableError:
            self._given.discard(key)
            raise

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """On the side; what cannot be done now is tried again when there is news."""

        async def do() -> None:
            try:
                await work
            except IrisError as error:
                _log.warning("%s; trying again", error)

        task = asyncio.create_task(do())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _check_reachable(self, controller_address: str) -> None:
        host = urlsplit(controller_address).hostname or ""
        others = [address for address in self._reach().addresses if not _is_own(address)]
        if is_loopback_host(host) and others:
            raise FailedPreconditionError(
                f"this Ray cluster has other machines ({', '.join(others[:3])}), which cannot reach a controller at"
                f" {host}: give --host an address of this machine that they reach, or 0.0.0.0, with --tls-cert and"
                " --tls-key, or --insecure-no-tls where nobody else listens; and --advertise, if they reach it by"
                " another name"
            )


async def end_gangs(directory: Path, ray_address: str) -> int:
    """Ends what a cluster whose server was killed has left on Ray; answers with how many workers that were.

    Raises:
        UnavailableError: Ray cannot be reached.
    """
    engine = RayEngine(
        directory,
        ray_address=ray_address or RAY_ADDRESS,
        lease_s=0.0,
        worker_options=(),
        credentials=lambda worker_id: WorkerCredentials(token="none"),
    )
    await engine._connect("http://127.0.0.1")  # nobody is started who would call it
    await engine.close()
    return engine.adopted


def _status(known: Json) -> GangStatus:
    slots = tuple(Slot(worker_id, machine) for worker_id, machine in known["slots"])
    return GangStatus(GangState[known["state"]], slots, frozenset(known["lost"]), known["reason"])


def _parked_status(gang: GangRequest) -> GangStatus:
    labels = ", ".join(f"{key}={value}" for key, value in gang.labels)
    why = f"there are no {gang.slots} slots" if gang.slots > 1 else "there is no machine"
    if gang.placement is Placement.SPREAD:
        why = f"there are no {gang.slots} machines"
    return GangStatus(GangState.WAITING, reason=f"{why} labelled {labels}" if labels else f"{why} on this Ray cluster")


def _labelled_twice(gang: GangRequest) -> bool:
    """Whether it wants a label to have two values: no machine has, and Ray could not be told."""
    return len({key for key, _ in gang.labels}) < len(gang.labels)


def _is_own(address: str) -> bool:
    """Whether it is an address of this machine."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
