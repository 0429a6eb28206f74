"""Which sockets listen on a port, and which processes own them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest
from support.ports import free_port

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits.process_table import Process, read_process
from iris.cluster.worker.tunnels.connector import NotConnectedError, OpenedTunnel
from iris.cluster.worker.tunnels.listeners import find_listeners, listening_ports, own_sockets
from iris.cluster.worker.tunnels.task_ports import TaskPorts
from iris.rpc import cluster_pb2


def unused_port() -> int:
    """Return a port on which no program listens, at any address."""
    return next(port for port in iter(free_port, 0) if not find_listeners(port))


@pytest.mark.parametrize(
    ("family", "host", "hosts"),
    [
        (socket.AF_INET, "127.0.0.1", ("127.0.0.1",)),
        (socket.AF_INET, "127.0.0.5", ("127.0.0.5",)),
        (socket.AF_INET, "0.0.0.0", ("127.0.0.1",)),
        (socket.AF_INET6, "::1", ("::1",)),
        (socket.AF_INET6, "::", ("::1", "127.0.0.1")),
        (socket.AF_INET6, "::ffff:127.0.0.1", ("127.0.0.1",)),
    ],
)
def test_listener_is_found_with_the_hosts_at_which_it_answers(
    family: socket.AddressFamily, host: str, hosts: tuple[str, ...]
) -> None:
    port = unused_port()
    with socket.socket(family) as listening:
        listening.bind((host, port))
        assert find_listeners(port) == []  # A bound socket does not listen yet.
        listening.listen()
        (found,) = find_listeners(port)
        assert found.hosts == hosts
        assert own_sockets([os.getpid()], [found.inode]) == {found.inode}
        with socket.create_connection((found.hosts[0], port)):
            assert len(find_listeners(port)) == 1  # The connection itself does not count.


@pytest.mark.parametrize("listens", [False, True])
def test_connection_to_a_port_without_a_listener_is_refused_and_names_the_ports_of_the_task(listens: bool) -> None:
    request = cluster_pb2.Worker.RunTaskRequest(task_id="train/task-0", job_id="train")
    attempt = cast(Attempt, SimpleNamespace(request=request, ports={"web": free_port()}, number=1, is_final=False))

    async def find_processes(attempt: Attempt) -> list[Process]:
        own = read_process(os.getpid())
        return [own] if own is not None and listens else []

    async def refused() -> str:
        ports = TaskPorts(find_processes, ["127.0.0.1"], wait_s=0.0)
        opened = OpenedTunnel(("train/task-0", 0, "a1"), attempt, cluster_pb2.Worker.OpenTunnelRequest())
        with pytest.raises(NotConnectedError) as caught:
            await ports.connect(opened, cluster_pb2.ChannelTarget(name="web"))
        assert caught.value.code == cluster_pb2.CHANNEL_RESET_REFUSED
        return caught.value.text

    with socket.create_server(("127.0.0.1", 0)) as listening:
        text, port = asyncio.run(refused()), listening.getsockname()[1]
    assert text.startswith(
        f"no process of task train/task-0 listens on port {attempt.ports['web']} ('web'); it listens"
    )
    assert text.endswith(f"on {port}" if listens else "on no port")


def test_own_sockets_contains_only_sockets_of_the_given_processes() -> None:
    program = (
        f"import socket, sys; s = socket.create_server(('127.0.0.1', {unused_port()})); print(s.getsockname()[1]);"
        " sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        (found,) = find_listeners(int(other.stdout.readline()))
        assert own_sockets([os.getpid()], [found.inode]) == set()
        assert own_sockets([os.getpid(), other.pid], [found.inode]) == {found.inode}
        assert len(listening_ports([other.pid])) == 1
        other.communicate()
    assert own_sockets([other.pid], [found.inode]) == set()
