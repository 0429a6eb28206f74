"""An engine that starts one worker process for each slot, and kills the workers with their gang, as the engines for Ray
and Slurm do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.fake_engine import FakeEngine
from support.forked_servers import load_servers
from support.tokens import keep_credentials

from iris.cluster.engine.base import GangState, GangStatus, Resources


@dataclass
class Slots:
    """The worker processes of an engine. The next engine can take them over.

    Attributes:
        directory: Where each has a folder, and its messages beside it.
        program: What is run, before the worker's own options.
        options: More of them.
        environment: Of the workers.
        address: Of the controller; set before something is submitted.
        processes: By worker id.
        hosts: Where the workers of a machine are, by its name; default: 127.0.0.1.
        ends_gang: A worker that has ended breaks its gang, as engines notice it at once, or later.
        ended: The ids of those that were ended with their gang, in that order.
    """

    directory: Path
    program: tuple[str, ...] = (sys.executable, "-m", "iris.cluster.worker")
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    address: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    ends_gang: bool = False
    ended: list[str] = field(default_factory=list)

    def start(self, worker_id: str, machine: str = "") -> None:
        directory = self.directory / worker_id
        with (self.directory / f"{worker_id}.log").open("ab") as messages:
            self.processes[worker_id] = subprocess.Popen(
                [
                    *self.program,
                    *("--worker-id", worker_id),
                    *("--controller", self.address),
                    *("--credentials", str(keep_credentials(self.directory / f"{worker_id}.json", worker_id))),
                    *("--directory", str(directory)),
                    *("--host", self.hosts.get(machine, "127.0.0.1")),
                    *self.options,
                ],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
            )

    def kill(self, worker_id: str) -> None:
        """Kill a worker process at once."""
        process = self.processes.pop(worker_id, None)
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        for worker_id in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[worker_id].pid, signal.SIGCONT)
            self.kill(worker_id)


class ProcessEngine(FakeEngine):
    """A `FakeEngine` with real worker processes.

    Attributes:
        slots: The processes.
        starting: Asked before a worker is started; False: it never comes.
    """

    shared_workers = False

    def __init__(self, slots: Slots, machines: dict[str, Resources] | None = None) -> None:
        super().__init__(machines or {"m": Resources.of(cpu=4, memory_bytes=2**30)})
        self.slots = slots
        self.starting: Callable[[str], bool] = lambda worker_id: True

    async def release(self, gang_id: str) -> None:
        self._check_reachable()
        _, status = self._gangs.get(gang_id, (None, None))
        for slot in () if status is None else status.slots:
            self.slots.kill(slot.worker_id)
            self.slots.ended.append(slot.worker_id)
        await super().release(gang_id)

    async def snapshot(self) -> dict[str, GangStatus]:
        if self.slots.ends_gang:
            for worker_id, process in self.slots.processes.items():
                if process.poll() is not None:
                    self.end_worker(worker_id)
        return await super().snapshot()

    def for_next_controller(self) -> ProcessEngine:
        engine = ProcessEngine(self.slots)
        engine._machines, engine._gangs, engine._free_gpus = self._machines, self._gangs, self._free_gpus
        return engine

    def _grant(self) -> None:
        held = {gang_id for gang_id, (_, status) in self._gangs.items() if status.slots}
        super()._grant()
        for gang_id, (gang, status) in list(self._gangs.items()):
            if status.state is not GangState.HELD or gang_id in held:
                continue
            name = gang_id.replace("/", ".")
            slots = tuple(replace(slot, worker_id=f"{name}.{i}") for i, slot in enumerate(status.slots))
            self._gangs[gang_id] = (gang, GangStatus(GangState.HELD, slots))
            for slot in slots:
                if self.starting(slot.worker_id):
                    self.slots.start(slot.worker_id, slot.machine)


@contextlib.contextmanager
def slot_processes(directory: Path, *options: str) -> Iterator[Slots]:
    """Provide worker processes during a test, and kill them at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    load_servers()  # The engine starts the workers on the controller's event loop.
    slots = Slots(directory, options=options)
    try:
        yield slots
    finally:
        slots.close()
