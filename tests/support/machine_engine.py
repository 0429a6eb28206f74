"""An engine on simulated machines, and a program that runs a real controller with it: `python -m
support.machine_engine`.

The engine starts real workers: one on each machine, or one for each slot. It knows at once which machines are
reachable, and places new slots only there. It never reports existing slots as lost, so that only the heartbeats of
workers count. If a gang on an unreachable machine is released, its processes continue to run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from support.cluster import has_socket
from support.tokens import keep_credentials, shared_key

from iris.cluster.controller.api.service import ControllerService
from iris.cluster.controller.controller import Controller
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import GangRequest, GangState, GangStatus, Machine, Resources, Slot
from iris.cluster.engine.placement import choose_machines
from iris.cluster.logs.directories import LogDirectories
from iris.rpc.http.server.asgi_server import HttpServer
from iris.server.application import controller_application
from iris.system.event_loop import use_no_proxy
from iris.system.sockets import address_of, bind

_LOOK_S = 0.05


@dataclass(frozen=True)
class Place:
    """The machines on which workers are started, with the options of the workers.

    Attributes:
        directory: Of the machines' set, see `Lan`.
        names: Which machines.
        controller: Whom the workers call.
        lease_s: How long they live that nobody answers.
    """

    directory: Path
    names: tuple[str, ...]
    controller: str
    lease_s: float

    def init_of(self, name: str) -> int | None:
        """Return the process id of a machine's init. None if the machine cannot be reached."""
        try:
            return int((self.directory / f"{name}.state").read_text())
        except (OSError, ValueError):
            return None

    def start_worker(self, worker_id: str, name: str) -> None:
        """Start a worker on a machine, with files on the machine's own disk. Do nothing if the machine cannot be
        reached."""
        init = self.init_of(name)
        if init is None:
            return
        credentials = self.directory / f"{worker_id}.credentials"
        if not credentials.exists():
            keep_credentials(credentials, worker_id)
        command = [
            *("nsenter", "--target", str(init), "--net", "--pid", "--mount", "--uts", "--ipc", "--wd=/tmp"),
            *("setsid", "--fork"),  # it is a child of the machine's init, and of nobody outside
            *(sys.executable, "-P", "-m", "iris.cluster.worker"),
            *("--worker-id", worker_id),
            *("--controller", self.controller),
            *("--credentials", str(credentials)),
            *("--directory", f"/tmp/workers/{worker_id}"),
            *("--host", "auto"),
            *("--lease", str(self.lease_s)),
            # Not cgroups: they belong to the box, and are not cut off by a power-off.
            *("--config", '{"enforce": "watch", "insecure_no_tls": true}'),
        ]
        with (self.directory / f"{worker_id}.log").open("ab") as log:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)

    def end_worker(self, worker_id: str, name: str) -> None:
        """Kill a worker with SIGKILL, if its machine can be reached."""
        init = self.init_of(name)
        if init is None:
            return
        space = os.readlink(f"/proc/{init}/ns/pid")
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if worker_id in words and os.readlink(f"/proc/{pid}/ns/pid") == space and has_socket(pid):
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # gone


class MachineEngine:
    """An engine whose gangs are stored in a file, so that the next controller finds them.

    Args:
        where: Where workers are started.
        books: The file.
        cpu: Of each machine.
        shared_workers: Each machine has one worker, of its name; else each slot has one.
    """

    name = "machines"
    elastic = True
    adopted = 0

    def __init__(self, where: Place, books: Path, cpu: int, *, shared_workers: bool) -> None:
        self.shared_workers = shared_workers
        self._where = where
        self._books = books
        self._total = Resources.of(cpu=cpu, memory_bytes=2**30)
        self._gangs: dict[str, tuple[GangRequest, GangStatus]] = {}
        if books.exists():
            self._gangs = pickle.loads(books.read_bytes())
        elif shared_workers:
            for name in where.names:
                where.start_worker(name, name)

    async def start(self, controller_address: str) -> None:
        """Do nothing, because `submit` starts the workers."""

    async def submit(self, gang: GangRequest) -> None:
        if gang.gang_id not in self._gangs:
            self._gangs[gang.gang_id] = (gang, GangStatus(GangState.WAITING, reason="no room on these machines"))
            self._grant()

    async def release(self, gang_id: str) -> None:
        _, status = self._gangs.pop(gang_id, (None, GangStatus(GangState.WAITING)))
        self._save()
        for slot in () if self.shared_workers else status.slots:
            self._where.end_worker(slot.worker_id, slot.machine)

    async def snapshot(self) -> dict[str, GangStatus]:
        self._grant()
        return {gang_id: status for gang_id, (_, status) in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        return self._machines()

    async def wait_for_change(self, timeout_s: float) -> None:
        await asyncio.sleep(min(timeout_s, _LOOK_S))

    async def close(self) -> None:
        """Release all gangs."""
        for gang_id in list(self._gangs):
            await self.release(gang_id)

    async def abandon(self) -> None:
        """Do nothing, because the engine has no process."""

    def _machines(self) -> list[Machine]:
        found = {
            name: Machine(name, self._total, self._total, alive=self._where.init_of(name) is not None)
            for name in self._where.names
        }
        for gang, status in self._gangs.values():
            for slot in status.slots:
                machine = found[slot.machine]
                found[slot.machine] = replace(machine, free=machine.free - gang.need, tasks=machine.tasks + 1)
        return list(found.values())

    def _grant(self) -> None:
        for gang_id, (gang, status) in self._gangs.items():
            spots = choose_machines(gang, machines := self._machines()) if status.state is GangState.WAITING else None
            if spots is None:
                continue
            slots = tuple(self._slot(machines[spot].name) for spot in spots)
            self._gangs[gang_id] = (gang, GangStatus(GangState.HELD, slots))
            self._save()
            for slot in () if self.shared_workers else slots:
                self._where.start_worker(slot.worker_id, slot.machine)

    def _slot(self, name: str) -> Slot:
        return Slot(name if self.shared_workers else f"{name}-{secrets.token_hex(4)}", name)

    def _save(self) -> None:
        beside = self._books.with_suffix(".new")
        beside.write_bytes(pickle.dumps(self._gangs))
        beside.rename(self._books)


async def _serve(arguments: argparse.Namespace) -> None:
    use_no_proxy()
    directory = arguments.directory
    listener = bind(arguments.host, arguments.port)
    address = address_of(listener)
    where = Place(arguments.lan, tuple(arguments.machines), address, arguments.lease)
    engine = MachineEngine(where, directory / "books", arguments.cpu, shared_workers=not arguments.worker_per_slot)
    store = Store(directory / "controller.db")
    controller = Controller(
        engine,
        store,
        address,
        Keeping(LogDirectories(directory / "logs")),
        arguments.lease,
        key=shared_key(),
    )
    application = controller_application(ControllerService(controller))
    server = HttpServer({application.path: application}, listener)
    await controller.start()
    server.start()
    (directory / "said").write_text(json.dumps({"address": address}) + "\n")
    await asyncio.Event().wait()  # until it is killed


def main() -> None:
    """Run the controller until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True, type=Path, help="the state directory")
    parser.add_argument("--lan", required=True, type=Path, help="the directory of the machines")
    parser.add_argument("--machines", required=True, nargs="+", help="which of them run workers")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", default=0, type=int)
    parser.add_argument("--lease", required=True, type=float)
    parser.add_argument("--cpu", default=4, type=int)
    parser.add_argument("--worker-per-slot", action="store_true")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
