"""How long until it is known that a worker process, a machine or a network is gone, beside what Ray itself knows.

Machines are made of namespaces, so this needs root. A machine that is gone, or cut off, says nothing: what the figures
show is the lease, which is a setting (`iris up --lease`), plus the margin in which no attempt may run twice. Ray is
asked with its default settings: what its own tables say of an actor, and of a machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import show
from iris.cluster.lease_terms import DEFAULT_LEASE_S, lost_after_s

_NAME = "detection"
_LEASE_S = 5.0
_REPEATS = 5
_TESTS = Path(__file__).resolve().parents[1] / "tests"

# Asks Ray, on its head, until it says that something is dead; prints when that was.
_PROBE = """
import sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
address = sys.argv[2]

@ray.remote(num_cpus=1, resources={"node:" + address: 0.001}, max_restarts=0)
class Actor:
    def pid(self):
        import os
        return int(os.readlink("/proc/self"))

if sys.argv[3] == "actor":
    actor = Actor.remote()
    ray.get(actor.pid.remote())
    print("ready", flush=True)
    try:
        while True:
            ray.get(actor.pid.remote())
            time.sleep(0.005)
    except ray.exceptions.ActorDiedError:
        pass
else:
    print("ready", flush=True)
    while any(node["Alive"] and node["NodeManagerAddress"] == address for node in ray.nodes()):
        time.sleep(0.02)
print("known", time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)
"""


def run() -> None:
    """Prints the figures."""
    sys.path.insert(0, str(_TESTS))
    machines = _support("machines")
    if machines.why_not():
        show(_NAME, f"not measured: {machines.why_not()}")
        return
    _support("tokens").prepare_environment()
    _worker_process()
    for what, happens in (("machine that lost its power", "power_off"), ("partition", "cut")):
        known_s = _known_by_lease(happens)
        show(_NAME, f"{known_s:.1f} s until a {what} is known, with a lease of {_LEASE_S:g} s")
    show(
        _NAME,
        f"{lost_after_s(DEFAULT_LEASE_S):.0f} s for both with the default lease of {DEFAULT_LEASE_S:g} s at the latest"
        " (computed)",
    )
    if importlib.util.find_spec("ray") is None:
        show(_NAME, "Ray is not installed: nothing to compare with")
        return
    _ray()


def _support(name: str) -> Any:
    """What the tests have for this; it is no part of the package."""
    return importlib.import_module(f"support.{name}")


def _worker_process() -> None:
    """On one machine: the engine sees the end of the process; what it ran is ended first."""
    standing = _support("standing_cluster")
    seconds = []
    with tempfile.TemporaryDirectory() as directory, standing.standing_cluster(Path(directory) / "state") as cluster:
        cluster.wait_for_workers()
        with cluster.client() as client:
            job_id = _support("cluster").launch(client, ["sleep", "600"])
            for number in range(1, _REPEATS + 1):
                _until(lambda: client.get_task_status(job_id, 0).state == 3)
                killed_s = time.monotonic()
                cluster.kill_worker()
                _until(lambda number=number: client.get_task_status(job_id, 0).preemption_count == number)  # type: ignore[misc]
                seconds.append(time.monotonic() - killed_s)
    worst = max(seconds)
    show(
        _NAME,
        f"{sorted(seconds)[_REPEATS // 2] * 1000:.0f} ms until a worker process that was killed is known, and all that"
        f" it ran is gone (p50 of {_REPEATS}, at most {worst * 1000:.0f} ms)",
    )


def _known_by_lease(happens: str) -> float:
    """From what happens to a machine until its attempt is given up."""
    machine_cluster = _support("machine_cluster")
    with (
        tempfile.TemporaryDirectory() as directory,
        machine_cluster.machine_cluster(Path(directory) / "lan", 2, _LEASE_S) as cluster,
        cluster.client() as client,
    ):
        job = client.run(["sleep", "600"])
        _until(lambda: job.tasks()[0].status().state == 3)
        machine = cluster.machine_of(job.tasks()[0].status().worker_address)
        began_s = time.monotonic()
        getattr(machine, happens)()
        _until(lambda: job.status().preemption_count)
        return time.monotonic() - began_s


def _ray() -> None:
    ray_machine = _support("ray_machine")
    with (
        tempfile.TemporaryDirectory() as directory,
        _support("machines").machines(Path(directory) / "lan", 3) as lan,
    ):
        head, first, second = lan.machines
        ray_machine.start_ray(head, first, second, health={})
        for what, machine, kind in (
            ("an actor's process that was killed", first, "actor"),
            ("a machine that lost its power", first, "node"),
            ("a partition", second, "node"),
        ):
            log = Path(directory) / "probe"
            with log.open("wb") as output:
                words = [f"{head.address}:{ray_machine.PORT}", machine.address, kind]
                head.start([sys.executable, "-c", _PROBE, *words], log=output, env=ray_machine.ENVIRONMENT)
            _until(lambda: b"ready" in log.read_bytes())  # noqa: B023 - it is asked in this turn
            began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            if kind == "actor":
                (pid,) = (pid for pid, command in machine.processes().items() if command.startswith("ray::Actor"))
                os.kill(pid, signal.SIGKILL)
            elif machine is first:
                machine.power_off()
            else:
                machine.cut()
            _until(lambda: b"known" in log.read_bytes())  # noqa: B023
            known_s = float(log.read_text().rpartition("known ")[2].split()[0])
            show(_NAME, f"{known_s - began_s:.2f} s until Ray itself knows of {what}, with its default settings")


def _until(condition: Callable[[], object]) -> None:
    _support("waiting").wait_until(condition, "what was measured", 600.0)
