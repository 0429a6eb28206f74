"""Which sockets listen on a port, and which processes own them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from iris.cluster.worker.tunnels.listeners import find_listeners, own_sockets


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
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        port = listening.getsockname()[1]
        assert find_listeners(port) == []  # A bound socket does not listen yet.
        listening.listen()
        (found,) = find_listeners(port)
        assert found.hosts == hosts
        assert own_sockets([os.getpid()], [found.inode]) == {found.inode}
        with socket.create_connection((found.hosts[0], port)):
            assert len(find_listeners(port)) == 1  # The connection itself does not count.


def test_listening_socket_of_another_process_does_not_count_as_own() -> None:
    program = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        (found,) = find_listeners(int(other.stdout.readline()))
        assert own_sockets([os.getpid()], [found.inode]) == set()
        assert own_sockets([os.getpid(), other.pid], [found.inode]) == {found.inode}
        other.communicate()
    assert own_sockets([other.pid], [found.inode]) == set()
