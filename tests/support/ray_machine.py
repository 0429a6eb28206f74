"""Runs Ray on simulated machines. `python -m support.ray_machine` starts the processes of Ray on one machine, and ends.

The processes of Ray become children of the machine's init, and end with the machine. Some parts of Ray are left out,
because tests do not need them and each start would cost seconds of CPU: the API server, the monitor of the autoscaler,
and the two agents of each raylet for metrics and runtime environments. A raylet only needs the files that contain the
ports of the agents.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from support.machine_cluster import MachineCluster
from support.machines import Lan, Machine, Process, machines
from support.tokens import keep_key

from iris.config import ClusterConfig

PORT = 6379
_AGENT = """
for word; do
  case $word in --node-id=*) node=${word#*=};; --session-dir=*) session=${word#*=};; esac
done
for name in metrics_agent_port metrics_export_port dashboard_agent_listen_port runtime_env_agent_port; do
  printf -- %s -1 > "$session/${name}_$node.$$" && mv "$session/${name}_$node.$$" "$session/${name}_$node"
done
exec sleep infinity
"""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    "RAY_raylet_start_wait_time_s": "20",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}
# How soon Ray takes a machine for dead that does not answer: these make it seconds, not a minute.
HEALTH = {
    "health_check_initial_delay_ms": 10000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 4,
}


def start_ray(head: Machine, *nodes: Machine, cpu: int = 4, health: Mapping[str, int] = HEALTH) -> None:
    """Start a Ray cluster. Each machine, including the machine of the head, has 1 GiB and the given number of cores."""
    _wait(_start(head, head, cpu, health))
    add_nodes(head, *nodes, cpu=cpu)


def add_nodes(head: Machine, *nodes: Machine, cpu: int = 4) -> None:
    """Let machines join a Ray cluster at the same time."""
    for process in [_start(machine, head, cpu) for machine in nodes]:
        _wait(process)


def end_ray(machine: Machine) -> None:
    """Kill the processes of Ray on a machine with SIGKILL. Processes that Ray has started, such as workers, are not
    killed."""
    for pid, command in machine.processes().items():
        if "/ray/core/" in command or command.startswith(("ray::", "sleep infinity")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class RayMachineCluster(MachineCluster):
    """A cluster of Iris on a Ray cluster of simulated machines. All machines have cores, and the controller runs on the
    machine of the head."""

    def __init__(self, lan: Lan, lease_s: float) -> None:
        self.head, *others = lan.machines
        start_ray(self.head, *others)
        keep_key(lan.directory / "controller" / "state")
        super().__init__(lan, lease_s)

    def command(self, port: int) -> list[str]:
        config = ClusterConfig(
            state_dir=self.directory / "state",
            host=self.head.address,
            port=port,
            lease=self.lease_s,
            insecure_no_tls=True,
            enforce="watch",
            engine="ray",
            ray_address=f"{self.head.address}:{PORT}",
        )
        options = ["--config", config.to_json(), "--ready-fd", "3"]
        said = ["sh", "-c", 'exec "$@" 3> "$0"', str(self.said)]
        return [*said, sys.executable, "-P", "-m", "iris.server", *options]

    def spawn(self, command: list[str], log: IO[bytes]) -> Process:
        return self.head.start(command, log=log, env=ENVIRONMENT)


@contextmanager
def ray_machine_cluster(directory: Path, count: int, lease_s: float) -> Iterator[RayMachineCluster]:
    """Run a `RayMachineCluster` during a test. `machines` says when the test is skipped."""
    pytest.importorskip("ray")
    with machines(directory, count) as lan:
        cluster = RayMachineCluster(lan, lease_s)
        try:
            yield cluster
        finally:
            cluster.kill()


def _start(machine: Machine, head: Machine, cpu: int, health: Mapping[str, int] = HEALTH) -> Any:
    what = {"name": machine.name, "address": machine.address, "head": head.address, "cpu": cpu, "health": dict(health)}
    with machine.state.with_suffix(".ray").open("ab") as log:
        command = [sys.executable, "-m", "support.ray_machine", json.dumps(what)]
        return machine, machine.start(command, log=log, env=ENVIRONMENT)


def _wait(started: Any) -> None:
    machine, process = started
    assert process.wait(120) == 0, machine.state.with_suffix(".ray").read_text()[-3000:]


def _main(arguments: Sequence[str]) -> None:
    from ray._private import services
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.utils import write_ray_address

    agent = Path("/tmp/ray-agent")
    agent.write_text(_AGENT)
    services._build_python_executable_command_memory_profileable = lambda *_, **__: ["sh", str(agent)]

    class BareNode(Node):  # type: ignore[misc]
        def start_api_server(self, **_: object) -> None:
            """Do nothing, because tests do not need the API server."""

    what = json.loads(arguments[0])
    is_head = what["address"] == what["head"]
    params = RayParams(
        node_ip_address=what["address"],
        node_name=what["name"],
        num_cpus=what["cpu"],
        memory=2**30 if what["cpu"] else 0,
        object_store_memory=80 * 2**20,
        min_worker_port=0,
        max_worker_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        temp_dir="/tmp/ray" if is_head else None,
        **(
            {"gcs_server_port": PORT, "_system_config": what["health"]}
            if is_head
            else {"gcs_address": f"{what['head']}:{PORT}"}
        ),
    )
    node = BareNode(params, head=is_head, shutdown_at_exit=False, spawn_reaper=False)
    write_ray_address(node.gcs_address)


if __name__ == "__main__":
    _main(sys.argv[1:])
