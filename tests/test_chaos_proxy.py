"""The proxy of tests/support/chaos_proxy.py by itself, before a server that echoes."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
from support.chaos_proxy import ChaosProxy, Fault, Faults, Plan, always, gentle, rude
from support.waiting import wait_until

PATIENCE_S = 30.0
MEGABYTE = random.Random(1).randbytes(1_000_000)


class EchoServer:
    """Sends back what comes, on each connection, until the other side has ended."""

    def __init__(self, name: bytes = b"") -> None:
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place: tuple[str, int] = self._listener.getsockname()
        self.open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.open.add(connection)
                thread = threading.Thread(target=self._echo, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(self._name)
            while data := connection.recv(65536):
                connection.sendall(data)
        self.open.discard(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nothing_is_leaked() -> Iterator[None]:
    threads, files = set(threading.enumerate()), psutil.Process().num_fds()
    yield
    assert set(threading.enumerate()) <= threads
    assert psutil.Process().num_fds() <= files, "descriptors that the test has opened"


def connect(proxy: ChaosProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the end; an end by reset raises ConnectionResetError."""
    data = bytearray()
    while piece := connection.recv(65536):
        data += piece
    return bytes(data)


def exchange(proxy: ChaosProxy, data: bytes = MEGABYTE) -> bytes:
    """Sends data, says that this was all, and reads what comes back."""
    with connect(proxy) as connection:
        sender = threading.Thread(target=_send, args=(connection, data))
        sender.start()
        try:
            return read_all(connection)
        finally:
            connection.close()
            sender.join()


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def test_connection_without_faults_is_forwarded_unchanged(echo: EchoServer) -> None:
    with ChaosProxy(echo.place) as proxy:
        for n in range(1, 4):
            assert exchange(proxy) == MEGABYTE
            assert proxy.connections == n
        wait_until(lambda: proxy.open == 0, "the end of the connections")
        assert proxy.answer_bytes == 3 * len(MEGABYTE)
        assert not proxy.faults
    wait_until(lambda: not echo.open, "the end at the server")


@pytest.mark.parametrize("after_bytes", [0, 1, 999, 70_000])
def test_chaos_proxy_cuts_a_connection_after_exactly_the_given_bytes(echo: EchoServer, after_bytes: int) -> None:
    with ChaosProxy(echo.place, always(Faults("cut", after_bytes))) as proxy, connect(proxy) as connection:
        sender = threading.Thread(target=_send, args=(connection, MEGABYTE))
        sender.start()
        data = bytearray()
        with suppress(ConnectionResetError):  # what we still sent has no receiver any more
            while piece := connection.recv(65536):
                data += piece
        sender.join()
        assert bytes(data) == MEGABYTE[:after_bytes]
        assert proxy.faults == {"cut": 1}
        wait_until(lambda: not echo.open, "the end at the server")


def test_chaos_proxy_resets_a_connection(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults("reset", 999))) as proxy, pytest.raises(ConnectionResetError):
        exchange(proxy)
    assert proxy.faults == {"reset": 1}


def test_chaos_proxy_cuts_a_connection_after_a_time(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults("cut", after_s=0.05))) as proxy, connect(proxy) as connection:
        connection.sendall(b"hello")
        assert read_all(connection) == b"hello"
        assert proxy.faults == {"cut": 1}


def test_chaos_proxy_half_close_does_not_reach_the_server(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults("half-close", 5))) as proxy, connect(proxy) as connection:
        connection.sendall(b"hello, world")
        assert read_all(connection) == b"hello"
        connection.sendall(b"are you there?")
        assert proxy.open == 1
        assert len(echo.open) == 1
        connection.close()
        wait_until(lambda: proxy.open == 0 and not echo.open, "the end of both sides")


def test_chaos_proxy_stall_keeps_both_sides_connected(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults("stall", 5))) as proxy, connect(proxy) as connection:
        connection.sendall(b"hello, world")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        wait_until(lambda: proxy.faults["stall"], "the stall")
        connection.sendall(b"are you there?")
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        assert proxy.open == len(echo.open) == 1
    wait_until(lambda: not echo.open, "the end at the server, with the proxy's")


def test_chaos_proxy_stall_ends_with_a_reset(echo: EchoServer) -> None:
    plan = always(Faults("stall", 5, stall_s=0.05))
    with ChaosProxy(echo.place, plan) as proxy, connect(proxy) as connection:
        connection.sendall(b"hello, world")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def test_chaos_proxy_forwards_one_byte_at_a_time(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults(piece_bytes=1))) as proxy:
        assert exchange(proxy, MEGABYTE[:3000]) == MEGABYTE[:3000]
        assert proxy.paced["trickle"] == 1


def test_chaos_proxy_forwards_at_a_limited_rate(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults(bytes_per_s=10_000_000))) as proxy:
        assert exchange(proxy) == MEGABYTE
        assert proxy.paced["slow"] == 1


def test_chaos_proxy_cuts_idle_connections_and_keeps_busy_ones(echo: EchoServer) -> None:
    with ChaosProxy(echo.place, always(Faults(idle_s=0.1))) as proxy, connect(proxy) as connection:
        for _ in range(300):
            connection.sendall(b"ping")
            assert connection.recv(4, socket.MSG_WAITALL) == b"ping"
        assert not proxy.faults
        assert read_all(connection) == b""
        assert proxy.faults == {"idle": 1}


def test_chaos_proxy_refuses_new_connections_for_a_while(echo: EchoServer) -> None:
    with ChaosProxy(echo.place) as proxy, connect(proxy) as before:
        before.sendall(b"before")
        assert before.recv(6, socket.MSG_WAITALL) == b"before"
        with proxy.refusing():
            with pytest.raises(ConnectionRefusedError):
                connect(proxy)
            before.sendall(b"during")
            assert before.recv(6, socket.MSG_WAITALL) == b"during"
        assert exchange(proxy) == MEGABYTE
        assert proxy.faults == {"refused": 1}


def test_chaos_proxy_target_may_change_and_may_be_missing(echo: EchoServer) -> None:
    other = EchoServer(b"other: ")
    with ChaosProxy(echo.place) as proxy:
        assert exchange(proxy, b"a") == b"a"
        proxy.target = other.place
        assert exchange(proxy, b"b") == b"other: b"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            proxy.target = taken.getsockname()
            with suppress(ConnectionResetError):
                assert exchange(proxy, b"c") == b""
        proxy.target = echo.place
        assert exchange(proxy, b"d") == b"d"
    other.close()


@pytest.mark.parametrize("fault", ["cut", "reset", "half-close", "stall"])
def test_chaos_proxy_strike_breaks_all_open_connections(echo: EchoServer, fault: Fault) -> None:
    with ChaosProxy(echo.place, always(Faults(stall_s=0.01))) as proxy:
        connections = [connect(proxy) for _ in range(5)]
        for connection in connections:
            connection.sendall(b"hello")
            assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        assert proxy.strike(fault) == 5
        for connection in connections:
            with connection, suppress(ConnectionResetError):
                assert read_all(connection) == b""
        assert proxy.faults == {fault: 5}
        assert exchange(proxy) == MEGABYTE


def test_chaos_proxy_seed_determines_the_faults() -> None:
    def drawn(plan: Plan, seed: int) -> list[Faults]:
        return [plan(random.Random(f"{seed}/{n}")) for n in range(200)]

    plan = rude(up_to_bytes=50_000, spared=0.2)
    assert drawn(plan, 1) == drawn(plan, 1) != drawn(plan, 2)
    assert {faults.fault for faults in drawn(plan, 1)} == {"cut", "reset", "half-close", "stall"}
    sizes = [faults.after_bytes for faults in drawn(plan, 1)]
    assert all(1 <= size <= 50_000 for size in sizes if size != float("inf"))
    assert min(sizes) < 10
    assert drawn(gentle, 1) == [Faults()] * 200


def test_chaos_proxy_serves_many_faulty_connections_at_once(echo: EchoServer) -> None:
    def talk() -> None:
        for _ in range(20):
            with suppress(ConnectionResetError):
                answer = exchange(proxy, MEGABYTE[:100_000])
                assert MEGABYTE.startswith(answer)

    with ChaosProxy(echo.place, rude(up_to_bytes=100_000, stall_s=0.01), seed=os.getpid()) as proxy:
        threads = [threading.Thread(target=talk) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.connections == proxy.faults.total() == 200
        wait_until(lambda: proxy.open == 0 and not echo.open, "the end of both sides")


def test_chaos_proxy_can_be_closed_while_connections_are_open(echo: EchoServer) -> None:
    proxy = ChaosProxy(echo.place)
    connections = [connect(proxy) for _ in range(10)]
    sender = threading.Thread(target=_send, args=(connections[0], MEGABYTE * 20))  # nobody reads what comes back
    sender.start()
    wait_until(lambda: len(echo.open) == 10, "all connections")
    proxy.close()
    proxy.close()
    sender.join()
    for connection in connections:
        connection.close()
    wait_until(lambda: not echo.open, "the end at the server")
