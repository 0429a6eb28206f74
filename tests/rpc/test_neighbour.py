"""Who listens on the loopback, as the kernel tells it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from connectrpc.errors import ConnectError
from support.ports import free_port

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.errors import ControllerUnreachableError
from iris.rpc.auth.peer_uid import PeerUidCheck, own

# Says its port, then what it is sent, as somebody who took the port of a server that is gone.
_LISTEN = """
import os, socket, sys
family, host, port = socket.AddressFamily(int(sys.argv[1])), sys.argv[2], int(sys.argv[3])
os.setuid(int(sys.argv[4]))
listener = socket.create_server((host, port), family=family)
print(listener.getsockname()[1], flush=True)
print(listener.accept()[0].recv(65536), flush=True)
"""
_NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of other users")
FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]


@contextmanager
def listening_as(user: int, family: int, host: str, port: int = 0) -> Iterator[int]:
    """A program of a user that listens; its port."""
    command = [sys.executable, "-S", "-c", _LISTEN, str(int(family)), host, str(port), str(user)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def url(host: str, port: int) -> str:
    """How clients call it."""
    shown = {"0.0.0.0": "127.0.0.1", "::1": "[::1]"}.get(host, host)
    return f"http://{shown}:{port}"


@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_uid_check_accepts_a_program_of_an_expected_user(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        uid_check = PeerUidCheck(url(host, listener.getsockname()[1]), among=own)
        uid_check.check()
        assert uid_check.user == os.geteuid()


@pytest.mark.skipif(os.geteuid() == 0, reason="root is let pass")
@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_uid_check_refuses_a_program_of_an_unexpected_user(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        uid_check = PeerUidCheck(url(host, listener.getsockname()[1]), among=lambda: [os.geteuid() + 1])
        with pytest.raises(ConnectError, match="another user"):
            uid_check.check()


def test_uid_check_accepts_a_port_on_which_no_program_listens() -> None:
    uid_check = PeerUidCheck(url("127.0.0.1", free_port()))
    uid_check.check()
    assert uid_check.user is None


@needs_root
@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_uid_check_refuses_a_program_that_another_user_starts_later(family: socket.AddressFamily, host: str) -> None:
    port = free_port()
    with socket.create_server((host, port), family=family):
        uid_check = PeerUidCheck(url(host, port))
    with listening_as(_NOBODY, family, host, port), pytest.raises(ConnectError, match=f"uid {_NOBODY}"):
        uid_check.check()


@needs_root
def test_uid_check_of_localhost_refuses_another_user_on_its_ipv6_address() -> None:
    with (
        socket.create_server(("127.0.0.1", free_port())) as listener,
        listening_as(_NOBODY, socket.AF_INET6, "::1", listener.getsockname()[1]) as port,
        pytest.raises(ConnectError, match=f"uid {_NOBODY}"),
    ):
        PeerUidCheck(f"http://localhost:{port}", among=own).check()


@needs_root
def test_client_sends_no_token_to_a_program_of_another_user() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        client = RemoteClusterClient(f"127.0.0.1:{port}", token="secret", timeout_s=5)
    with (
        client,
        listening_as(_NOBODY, socket.AF_INET, "127.0.0.1", port),
        pytest.raises(ControllerUnreachableError, match="no token was sent"),
    ):
        client.list_jobs()
