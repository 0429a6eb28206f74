"""A gang on Ray: from `run` until all of its tasks run, beside bare Ray actors in the same placement group.

Both on the same Ray cluster, of a head and two machines that are all this one, and in turn: a gang of N tasks of
`sleep`, and N actors of 1 core each that were asked for one method. The first of each size is not counted: it starts
the process from which workers are forked, which stays for ten minutes.

Then a worker is killed: until its task is known to be lost; and an actor: until Ray says so to who waits for it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import aim, p50, show

_SIZES = (1, 4, 8)
_REPEATS = 9
_KILLS = 5
_PAUSE_S = 2.0  # until what the one before has left has ended, which takes as much of the machine as the next one
_TESTS = Path(__file__).resolve().parent.parent / "tests"

# A driver of its own: what it imports, and what it connects, is not in the figures.
_BARE = """
import json, os, signal, sys, time
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Ray prints what it thinks of a worker that was killed
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=0, max_restarts=0)
class Bare:
    def pid(self):
        return os.getpid()
    def wait(self):
        time.sleep(600)

def start(size):
    group = placement_group([{"CPU": 1}] * size)
    actors = [
        Bare.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i)
        ).remote()
        for i in range(size)
    ]
    return group, actors, ray.get([actor.pid.remote() for actor in actors])

for line in sys.stdin:
    what, size = json.loads(line)
    begin = time.perf_counter()
    group, actors, pids = start(size)
    took = time.perf_counter() - begin
    if what == "kill":
        waiting = actors[0].wait.remote()
        os.kill(pids[0], signal.SIGKILL)
        begin = time.perf_counter()
        try:
            ray.get(waiting)
        except ray.exceptions.RayActorError:
            took = time.perf_counter() - begin
    remove_placement_group(group)
    time.sleep(float(sys.argv[2]))
    print(json.dumps(took), file=answers, flush=True)
"""


def run() -> None:
    """Prints the figures."""
    sys.path.insert(0, str(_TESTS))
    running_ray_cluster = importlib.import_module("support.ray_cluster").running_ray_cluster

    with tempfile.TemporaryDirectory(prefix="iris-bench-") as folder, running_ray_cluster() as cluster:
        os.environ.update(cluster.env)
        with _bare(cluster.address) as bare, _iris(Path(folder), cluster.address) as client:
            for size in _SIZES:
                _gang(client, size)
                bare("start", size)
                ours, theirs = [], []
                for _ in range(_REPEATS):
                    ours.append(_gang(client, size))
                    theirs.append(bare("start", size))
                ratio = p50(ours) / p50(theirs)
                both = f"{p50(ours):.2f} s until all of N={size} run, bare actors {p50(theirs):.2f} s"
                show("ray_gang", f"{both}: {ratio:.2f} times (p50 of {_REPEATS}; {aim(ratio, 1.2, 'times')})")
            known = p50([_kill(client) for _ in range(_KILLS)]) * 1000
            dead = p50([bare("kill", 1) for _ in range(_KILLS)]) * 1000
            show("ray_gang", f"{known:.0f} ms until a killed worker is known, a killed actor of Ray {dead:.0f} ms")


@contextmanager
def _bare(address: str) -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-c", _BARE, address, str(_PAUSE_S)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        stdin, stdout = program.stdin, program.stdout

        def call(what: str, size: int) -> float:
            stdin.write(json.dumps([what, size]) + "\n")
            stdin.flush()
            return float(json.loads(stdout.readline()))

        try:
            yield call
        finally:
            program.kill()


@contextmanager
def _iris(folder: Path, address: str) -> Iterator[Any]:
    from iris.client import IrisClient
    from iris.cluster.client.server_process import start_server
    from iris.config import ClusterConfig

    config = ClusterConfig(state_dir=folder / "state", port=0, engine="ray", ray_address=address)
    server = start_server(config, ends_with_us=True)
    try:
        with IrisClient.remote(server.address, token=server.token) as client:
            yield client
    finally:
        server.stop()


def _gang(client: Any, size: int) -> float:
    from iris.cluster.types import STATE_NAMES, ResourceSpec

    begin = time.perf_counter()
    job = client.run(["sleep", "600"], replicas=size, resources=ResourceSpec(cpu=1))
    states = dict.fromkeys(range(size), "")
    for status in client.cluster.watch_job(job.job_id, include_tasks=True):  # which is told, and need not look
        states.update({task.task_index: STATE_NAMES[task.state] for task in status.tasks})
        if set(states.values()) == {"RUNNING"}:
            break
    took = time.perf_counter() - begin
    job.terminate()
    job.wait(raise_on_failure=False)
    time.sleep(_PAUSE_S)
    return took


def _kill(client: Any) -> float:
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as folder:
        path = Path(folder) / "pid"
        script = f"echo $PPID > {path}.new && mv {path}.new {path}; exec sleep 600"
        job = client.run(["sh", "-c", script], max_retries_preemption=0)
        while not path.exists():
            time.sleep(0.02)
        os.kill(int(path.read_text()), signal.SIGKILL)
        begin = time.perf_counter()
        job.wait(raise_on_failure=False)
        return time.perf_counter() - begin


if __name__ == "__main__":
    run()
