"""Ports of attempts are free, distinct, and reserved until the attempt has ended."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iris.cluster.worker.attempt.ports import FIRST_PORT, PortReservations

HOST = "127.0.0.1"

# Another worker: reserves as many ports as it is told to, says which, and holds them until its input ends.
OTHER_WORKER = """
import random, sys
from iris.cluster.worker.attempt.ports import PortReservations
random.seed(int(sys.argv[1]))
reservations = PortReservations("127.0.0.1")
print(*[reservations.reserve() for _ in range(int(sys.argv[2]))], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a lock directory of the test's own, so that real workers of this machine do not interfere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def worker() -> Iterator[Callable[[], PortReservations]]:
    """Return a function that creates workers of this process and releases their ports at the end."""
    made: list[PortReservations] = []

    def make() -> PortReservations:
        made.append(PortReservations(HOST))
        return made[-1]

    yield make
    for reservations in made:
        for port in range(FIRST_PORT, 65536):
            reservations.release(port)


@contextmanager
def other_worker(seed: int, count: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    command = [sys.executable, "-c", OTHER_WORKER, str(seed), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        yield worker, [int(port) for port in worker.stdout.readline().split()]


def reserve(reservations: PortReservations, seed: int) -> int:
    """Try the ports in the order of a seed: the same seed reserves the same port, if that port is free."""
    random.seed(seed)
    return reservations.reserve()


def bind(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    sock.listen()
    return sock


def test_reserved_ports_are_distinct_free_and_below_the_ephemeral_range(worker: Callable[[], PortReservations]) -> None:
    reservations = worker()
    given = [reservations.reserve() for _ in range(200)]
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert len(set(given)) == 200
    for port in given:
        assert FIRST_PORT <= port < 65536
        assert first <= FIRST_PORT + 1000 or not first <= port <= last
        bind(port).close()
        reservations.release(port)


@pytest.mark.parametrize("seed", range(5))
def test_a_port_stays_reserved_until_it_is_released(worker: Callable[[], PortReservations], seed: int) -> None:
    first, second = worker(), worker()
    port = reserve(first, seed)
    others = [reserve(reservations, seed) for reservations in (first, second, second)]
    assert len({port, *others}) == 4
    second.release(port)  # not its own: that changes nothing
    others.append(reserve(second, seed))
    assert port not in others
    first.release(port)
    first.release(port)  # again: that is fine
    assert reserve(second, seed) == port


def test_many_ports_of_two_workers_of_one_process_are_distinct(worker: Callable[[], PortReservations]) -> None:
    workers = worker(), worker()
    given = [reservations.reserve() for _ in range(200) for reservations in workers]
    assert len(set(given)) == 400


def test_a_port_in_use_is_not_reserved(worker: Callable[[], PortReservations]) -> None:
    reservations = worker()
    port = reserve(reservations, 1)
    reservations.release(port)
    with bind(port):
        other = reserve(reservations, 1)
        assert other != port
    assert reserve(reservations, 1) == port


def test_a_port_for_all_addresses_is_free_at_all_addresses(
    worker: Callable[[], PortReservations],
) -> None:
    reservations = worker()
    port = reserve(reservations, 1)
    reservations.release(port)
    with socket.create_server(("127.0.0.2", port)):
        assert reserve(reservations, 1) == port, "at its own host it is free"
        reservations.release(port)
        random.seed(1)
        other = reservations.reserve(everywhere=True)
        assert other != port
        socket.create_server(("", other)).close()


def test_a_port_stays_reserved_when_its_server_stops_before_the_attempt(worker: Callable[[], PortReservations]) -> None:
    first, second = worker(), worker()
    port = reserve(first, 1)
    with bind(port) as server, socket.create_connection((HOST, port)) as client:
        accepted, _ = server.accept()
        accepted.close()  # first: so that the port is in TIME_WAIT afterwards
        assert client.recv(1) == b""
    assert reserve(second, 1) != port
    first.release(port)
    assert reserve(second, 1) == port  # in TIME_WAIT it can be bound as well
    bind(port).close()


@pytest.mark.parametrize("end", [None, signal.SIGKILL], ids=["by itself", "killed"])
def test_ports_reserved_by_another_process_stay_reserved_until_the_process_ends(
    worker: Callable[[], PortReservations], end: signal.Signals | None
) -> None:
    reservations = worker()
    with other_worker(1, 3) as (process, theirs):
        assert len(set(theirs)) == 3
        mine = reserve(reservations, 1)
        assert mine not in theirs
        reservations.release(mine)
        if end is not None:
            process.send_signal(end)
        else:
            assert process.stdin is not None
            process.stdin.close()
        process.wait()
        assert reserve(reservations, 1) == theirs[0]


def test_many_ports_of_two_processes_are_distinct() -> None:
    with other_worker(1, 200) as (_, first), other_worker(1, 200) as (_, second):
        assert len({*first, *second}) == 400


def test_child_process_of_the_worker_does_not_inherit_its_port_reservations(
    worker: Callable[[], PortReservations],
) -> None:
    """Locks are not inherited, so a process that a task has left behind reserves nothing."""
    first, second = worker(), worker()
    port = reserve(first, 1)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        first.release(port)
        assert reserve(second, 1) == port
        assert child.poll() is None


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="has no IPv6")
def test_ports_are_reserved_at_an_ipv6_address() -> None:
    if not Path("/proc/net/if_inet6").read_text():
        pytest.skip("has no IPv6 address")
    reservations = PortReservations("::1")
    port = reservations.reserve()
    assert port >= FIRST_PORT
    reservations.release(port)


def test_reserving_a_port_at_a_foreign_host_raises_an_error() -> None:
    with pytest.raises(OSError, match=r"(?i)assign"):
        PortReservations("192.0.2.1").reserve()


def test_directory_of_port_locks_is_private(worker: Callable[[], PortReservations]) -> None:
    worker().reserve()
    (folder,) = Path(tempfile.gettempdir()).iterdir()
    assert folder.name == f"iris-ports-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["file", "dangling link"])
def test_port_lock_directory_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    taken = tmp_path / f"iris-ports-{os.getuid()}"
    taken.touch() if how == "file" else taken.symlink_to("nowhere")
    reservations = PortReservations("127.0.0.1")
    port = reservations.reserve()
    reservations.release(port)


def test_port_of_an_earlier_attempt_is_reserved_again_if_it_is_free() -> None:
    reservations = PortReservations("127.0.0.1")
    port = reservations.reserve()
    assert reservations.reserve_again(port) == 0  # The port is reserved.
    reservations.release(port)
    with socket.create_server(("127.0.0.1", port)):
        assert reservations.reserve_again(port) == 0
    assert reservations.reserve_again(port) == port
    assert [reservations.reserve_again(other) for other in (0, 80, 65536)] == [0, 0, 0]
    reservations.release(port)


def test_port_whose_last_connection_is_being_closed_is_not_reserved_again() -> None:
    reservations = PortReservations("127.0.0.1")
    port = reservations.reserve()
    reservations.release(port)
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = server.accept()
        accepted.close()  # The side that closes first keeps the port in the state TIME_WAIT.
        assert client.recv(1) == b""
    assert reservations.reserve_again(port) == 0
