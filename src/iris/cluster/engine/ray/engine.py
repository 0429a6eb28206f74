"""The engine for an existing Ray cluster. The engine creates one placement group for each gang, and one worker for each
slot.

The Ray engine has these parts:
* `engine.py` implements `Engine`. It remembers the last state reported by the driver, and provides credentials for
  workers.
* `driver_pipe.py` starts the driver process, restarts it when it dies, and exchanges messages with it.
* `driver.py` is the program of the driver process, the only process of the controller that imports Ray.
* `placement_groups.py` runs in the driver process. It represents gangs as placement groups and actors, and finds out
  which slots are certainly lost.
* `slot_actor.py` is an actor for each slot. It starts the slot's worker, and keeps the slot allocated.
* `worker/supervision/fork_server.py` is a process on each machine, from which workers are forked, because loading the
  worker's program is slow.

Only the driver process and the slot actors import Ray. Placement groups and actors are detached: they survive the
controller's process, and the next engine finds them by name. If no controller returns, workers end when their leases
expire, and afterwards the slot actors free their slots.
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
from iris.cluster.engine.placement import choose_machines
from iris.cluster.engine.ray.driver_pipe import Json, RayPipe, driver_environment
from iris.cluster.engine.ray.names import load_or_make_cluster_id, namespace_of, worker_of
from iris.cluster.types import TOKEN_VARIABLE
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import FailedPreconditionError, InvalidArgumentError, IrisError, MissingExtraError, UnavailableError
from iris.rpc.address import is_loopback_host
from iris.system.event_loop import happens
from iris.system.private_dir import make_private

_CLOSE_S = 60.0
_log = logging.getLogger(__name__)


class RayEngine:
    """An engine that runs gangs on an existing Ray cluster.

    Args:
        directory: The directory for the id of this cluster and the log of the driver process.
        ray_address: HOST:PORT of the Ray cluster's head, or `auto` for the Ray cluster of which this machine is a part.
            In both cases this machine must be a part of the Ray cluster.
        lease_s: The seconds after which a worker ends if it has not reached the controller.
        worker_options: Additional arguments of the worker's command line, see worker/arguments.py.
        credentials: A function that returns the credentials of a worker, given the worker's id: a token, and the
            controller's public key.

    Raises:
        InvalidArgumentError: `ray_address` has the wrong form.
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
                f"not the address of a Ray cluster: {ray_address!r}; expected 'auto', or HOST:PORT of the cluster's"
                " head, for example '10.0.0.5:6379'"
            )
        if importlib.util.find_spec("ray") is None:
            raise MissingExtraError(what="The engine ray", extra="ray")
        self._directory = directory
        self._ray_address = ray_address
        self._lease_s = lease_s
        self._worker_options = list(worker_options)
        self._credentials = credentials
        # The user's own token is removed from this environment, because it must not reach Ray or the tasks.
        self._env = driver_environment({k: v for k, v in os.environ.items() if k != TOKEN_VARIABLE})
        self._pipe: RayPipe | None = None
        self._gangs: dict[str, GangStatus] = {}
        self._machines: list[Machine] = []
        # For each machine in `_machines`: Ray's id of the machine, and the address of the machine.
        self._nodes: list[tuple[str, str]] = []
        # Gangs that need no resources and wait for a suitable machine. They have not been submitted to Ray.
        self._parked: dict[str, GangRequest] = {}
        # Gangs whose submission was not answered by Ray. Ray may have created such a gang, so the engine releases it.
        self._unwanted: set[str] = set()
        # Gangs whose workers were started, each with the number of the driver process (`RayPipe.life`) that started the
        # workers.
        self._started: set[tuple[str, int]] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.adopted = 0

    @property
    def driver_pid(self) -> int | None:
        """The process id of the driver, or None while it does not run."""
        return None if self._pipe is None else self._pipe.pid

    async def start(self, controller_address: str) -> None:
        """Connect to Ray and find the gangs that an earlier controller left there.

        Raises:
            UnavailableError: No Ray cluster answers at the address, or it refuses the connection.
            FailedPreconditionError: The machines of the Ray cluster could not reach the controller.
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
        self._pipe = RayPipe(self._directory / "ray-driver.log", self._env, setup, self._apply_state, self._retry_work)
        await self._pipe.start()
        self.adopted = sum(len(status.slots) for status in self._gangs.values())

    async def submit(self, gang: GangRequest) -> None:
        """Submit a gang, see `Engine.submit`."""
        self._reach().check()
        self._unwanted.discard(gang.gang_id)
        if gang.gang_id in self._gangs or gang.gang_id in self._parked:
            return
        if not any(gang.need.amounts()) or _has_contradicting_labels(gang):
            self._parked[gang.gang_id] = gang
            await self._submit_parked(gang)
        else:
            await self._submit(gang)

    async def release(self, gang_id: str) -> None:
        """Release a gang, see `Engine.release`."""
        self._parked.pop(gang_id, None)
        await self._reach().order("release", gang_id=gang_id)
        self._unwanted.discard(gang_id)

    async def snapshot(self) -> dict[str, GangStatus]:
        """Return all gangs, see `Engine.snapshot`. The result is Ray's latest report, which is about half a second old
        while Ray answers, and at most about five seconds old.

        Raises:
            UnavailableError: Ray does not answer.
        """
        self._reach().check()
        waiting = {gang_id: _parked_status(gang) for gang_id, gang in self._parked.items()}
        return waiting | {gang_id: known for gang_id, known in self._gangs.items() if gang_id not in self._unwanted}

    async def machines(self) -> Sequence[Machine]:
        """Return the machines of the Ray cluster that are alive and have cores."""
        self._reach().check()
        return self._machines

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until Ray has reported a change, but at most `timeout_s` seconds."""
        await happens(self._changed, timeout_s)
        self._changed.clear()

    async def close(self) -> None:
        """End all workers and release all gangs, see `Engine.close`. Workers have about 20 s to end their tasks and
        upload their logs.
        """
        if self._pipe is None:
            return
        try:
            await self._pipe.order("close", _CLOSE_S)
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """End the driver process and keep all gangs on Ray for the next controller."""
        for work in self._work:
            work.cancel()
        if self._pipe is not None:
            await self._pipe.end()

    def _reach(self) -> RayPipe:
        if self._pipe is None:
            raise UnavailableError("the engine has not been started")
        return self._pipe

    async def _submit(self, gang: GangRequest, on: Json | None = None) -> None:
        need = {
            "cpu_millicores": gang.need.cpu_millicores,
            "memory_bytes": gang.need.memory_bytes,
            "gpu": gang.need.gpu,
        }
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
            # The gang must be released on Ray, because the submission may still reach Ray after this failure.
            self._unwanted.add(gang.gang_id)
            raise

    async def _submit_parked(self, gang: GangRequest) -> None:
        """Submit a gang that needs no resources, on machines that the engine chooses itself.

        A placement group of Ray must hold some resource. Therefore a gang that needs no resources holds a tiny amount
        of the special resource by which Ray identifies each machine.
        """
        spots = None if _has_contradicting_labels(gang) else choose_machines(gang, self._machines)
        if spots is None or gang.gang_id not in self._parked:
            return
        on = {"nodes": [self._nodes[i][0] for i in spots], "addresses": [self._nodes[i][1] for i in spots]}
        await self._submit(gang, on)
        self._parked.pop(gang.gang_id, None)

    def _apply_state(self, state: Json) -> None:
        """Store the state of the Ray cluster that the driver has reported."""
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

    def _retry_work(self) -> None:
        """Release unwanted gangs, start workers, and submit waiting gangs, if an earlier try has failed or is still to
        come. This method is called whenever Ray has answered.
        """
        pipe = self._reach()
        self._started = {
            (gang_id, life) for gang_id, life in self._started if gang_id in self._gangs and life == pipe.life
        }
        for gang_id in self._gangs.keys() & self._unwanted:
            self._do(self.release(gang_id))
        for gang_id, status in self._gangs.items():
            if status.state is GangState.HELD and (gang_id, pipe.life) not in self._started:
                self._do(self._start_workers(gang_id, len(status.slots)))
        for gang in list(self._parked.values()):
            self._do(self._submit_parked(gang))

    async def _start_workers(self, gang_id: str, slots: int) -> None:
        """Start the workers of a gang. Workers that already run, for example from an earlier driver, are unaffected."""
        key = (gang_id, self._reach().life)
        self._started.add(key)
        secrets = [self._credentials(worker_of(gang_id, slot)).to_json() for slot in range(slots)]
        try:
            await self._reach().order("start", gang_id=gang_id, credentials=secrets)
        except UnavailableError:
            self._started.discard(key)
            raise

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background. If the coroutine fails, `_retry_work` starts the same work again later."""

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
                f"other machines of this Ray cluster ({', '.join(others[:3])}) cannot reach a controller at"
                f" {host}: set --host to an address of this machine that they can reach, or to 0.0.0.0. Add"
                " --tls-cert and --tls-key, or --insecure-no-tls on a network that you trust, and --advertise if the"
                " machines know this one by another name"
            )


async def end_gangs(directory: Path, ray_address: str) -> int:
    """End all workers and gangs that a killed server left on Ray, and return how many workers there were.

    Raises:
        UnavailableError: Ray cannot be reached.
    """
    engine = RayEngine(
        directory,
        ray_address=ray_address,
        lease_s=0.0,
        worker_options=(),
        credentials=lambda worker_id: WorkerCredentials(token="none"),
    )
    # The controller's address has no meaning here, because this engine starts no worker that would call it.
    await engine._connect("http://127.0.0.1")
    await engine.close()
    return engine.adopted


def _status(known: Json) -> GangStatus:
    slots = tuple(Slot(worker_id, machine) for worker_id, machine in known["slots"])
    return GangStatus(GangState[known["state"]], slots, frozenset(known["lost"]), known["reason"])


def _parked_status(gang: GangRequest) -> GangStatus:
    labels = ", ".join(f"{key}={value}" for key, value in gang.labels)
    count = gang.slots if gang.placement is Placement.SPREAD else 1
    machines = f"{count} machines" if count > 1 else "a machine"
    labelled = f" labelled {labels}" if labels else ""
    return GangStatus(GangState.WAITING, reason=f"this Ray cluster does not have {machines}{labelled}")


def _has_contradicting_labels(gang: GangRequest) -> bool:
    """Return whether the gang requires two values of one label, which no machine has and Ray cannot express."""
    return len({key for key, _ in gang.labels}) < len(gang.labels)


def _is_own(address: str) -> bool:
    """Return whether an address belongs to this machine."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
