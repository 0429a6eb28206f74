"""A real Ray cluster for tests: a head without cores, and two machines with 4 cores, 1 GiB and 2 GPUs each.

A separate process starts the cluster (`python -m support.ray_cluster DIRECTORY`) and exchanges lines with the tests,
because Ray changes the process that loads it. All processes of the cluster have a variable in their environment, by
which they are found at the end. `ray stop` is not used, because it would end every Ray on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ZONES = {"machine-a": "a", "machine-b": "b"}
# How soon Ray takes a machine for dead: these make it seconds, not a minute, and leave time for a busy machine.
_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}
# Ray starts a process for each core when the first driver connects, because a first task may come soon. Each of these
# processes loads Ray for a second of CPU time, and slot actors start processes of their own.
_FEWER_PROCESSES = {"prestart_worker_first_driver": False}
# The autoscaler and the reader of log files: programs of Ray that poll, and that the tests do not need.
_NO_MONITORS = {"no_monitor": True, "include_log_monitor": False}


class RayCluster:
    """A running Ray cluster, for tests.

    Attributes:
        address: Of its head, HOST:PORT.
        env: What a driver of it needs in its environment.
    """

    def __init__(self, directory: Path, env: dict[str, str], program: subprocess.Popen[str]) -> None:
        self.directory = directory
        self.env = env
        self._program = program
        self.address = self._answer()

    def pids(self, word: str = "") -> list[int]:
        """Return the ids of the cluster's processes whose command line contains a word."""
        own = f"RAY_TMPDIR={self.directory}".encode()
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if path.name.isdigit() and own in (path / "environ").read_bytes().split(b"\0"):
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if word in command and int(path.name) != os.getpid():
                        found.append(int(path.name))
        return found

    def signal_head(self, number: int) -> None:
        """Send a signal to the GCS of the head, which all other processes of Ray need."""
        for pid in self.pids("/gcs_server "):
            os.kill(pid, number)

    def call(self, verb: str, *words: str) -> Any:
        """Call a method of `_Commands` in the process that has started the cluster."""
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps([verb, *words]) + "\n")
        self._program.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        assert line, f"the Ray cluster has ended: {(self.directory / 'messages').read_text()[-3000:]}"
        return json.loads(line)


@contextmanager
def running_ray_cluster() -> Iterator[RayCluster]:
    """Run a Ray cluster during the tests. Its directory has a short path, because Ray creates sockets there."""
    directory = Path(tempfile.mkdtemp(prefix="ir-"))
    (directory / "home").mkdir()
    (directory / "ray").mkdir()
    ray_env = {
        "RAY_TMPDIR": str(directory),
        "HOME": str(directory / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-these-tests-only-0123456789abcdef",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # below `uv run` it would send the current folder around
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    }
    program = None
    try:
        with (directory / "messages").open("wb") as messages:
            program = subprocess.Popen(
                [sys.executable, "-m", "support.ray_cluster", str(directory)],
                cwd=Path(__file__).parents[1],
                env=os.environ | ray_env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                start_new_session=True,
            )
        yield RayCluster(directory, ray_env, program)
    finally:
        if program is not None:
            program.kill()
            program.communicate()
            _end_all(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _end_all(directory: Path) -> None:
    while True:
        left = 0
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                state = (path / "stat").read_text().rpartition(")")[2].split()[0] if path.name.isdigit() else "Z"
                if state != "Z" and int(path.name) != os.getpid() and _belongs_to(path, directory):
                    os.kill(int(path.name), signal.SIGKILL)
                    left += 1
        if not left:
            return


def _belongs_to(process: Path, directory: Path) -> bool:
    """Return whether a process belongs to the cluster, judging by its environment or by the files that it writes. Some
    processes of Ray overwrite their environment with their title, and survive if their raylet is killed early."""
    if f"RAY_TMPDIR={directory}".encode() in (process / "environ").read_bytes().split(b"\0"):
        return True
    return any(os.readlink(opened).startswith(f"{directory}/") for opened in (process / "fd").iterdir())


class _Commands:
    """The commands that the process accepts that has started the cluster."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def devices(self, namespace: str, actor: str) -> str | None:
        """Return the CUDA_VISIBLE_DEVICES that a slot actor passes to its worker."""
        import ray

        self._connect()

        def look(holder: object) -> str | None:
            from iris.cluster.engine.ray.slot_actor import worker_environment

            return worker_environment().get("CUDA_VISIBLE_DEVICES")

        return ray.get(ray.get_actor(actor, namespace).__ray_call__.remote(look))

    def actors(self, namespace: str) -> dict[str, int]:
        """Return the process ids of the live actors in a namespace, by name."""
        import ray
        from ray._private.state import state

        self._connect()
        alive = [actor for actor in state.actor_table(None).values() if actor["State"] == "ALIVE"]
        names = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == namespace}
        return {actor["Name"]: actor["Pid"] for actor in alive if actor["Name"] in names}

    def groups(self) -> list[str]:
        """Return the names of the existing placement groups."""
        from ray.util.placement_group import placement_group_table

        self._connect()
        return [group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"]

    def make_group(self, name: str, namespace: str, cpu: str) -> None:
        """Create a placement group without slot actors, as a driver leaves it that is killed before it creates the
        actors."""
        from ray.util.placement_group import placement_group

        self._connect(namespace)
        placement_group([{"CPU": float(cpu)}], name=name, lifetime="detached")

    def replace_machines(self) -> None:
        """Remove both machines from the cluster, and add new ones of the same names."""
        for node in list(self._cluster.worker_nodes):
            self._cluster.remove_node(node)
        add_machines(self._cluster)

    def _connect(self, namespace: str = "tests") -> None:
        import ray

        if ray.is_initialized() and ray.get_runtime_context().namespace != namespace:
            ray.shutdown()
        if not ray.is_initialized():
            ray.init(address=self._cluster.address, namespace=namespace, log_to_driver=False)


def add_machines(cluster: Any) -> None:
    """Add the machines of `ZONES` to a cluster of Ray that has none, and wait until Ray knows them."""
    for name, zone in ZONES.items():
        cluster.add_node(wait=False, num_cpus=4, num_gpus=2, memory=2**30, labels={"zone": zone}, node_name=name)
    cluster.wait_for_nodes()


def _main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ray.cluster_utils import Cluster

    head = {"node_name": "head", "num_cpus": 0, "memory": 0, "include_dashboard": False}
    head |= {"temp_dir": os.environ["RAY_TMPDIR"], "_system_config": _HEALTH | _FEWER_PROCESSES}
    cluster = Cluster(initialize_head=True, head_node_args=head | _NO_MONITORS)
    add_machines(cluster)
    commands = _Commands(cluster)
    print(json.dumps(cluster.address), file=out, flush=True)
    for line in sys.stdin:
        verb, *words = json.loads(line)
        print(json.dumps(getattr(commands, verb)(*words)), file=out, flush=True)


if __name__ == "__main__":
    _main()
