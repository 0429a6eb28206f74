"""The machines of the tests: what is done to them happens, and to them alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import is_alive
from support.machines import Lan, Machine, machines
from support.waiting import wait_until

# Answers each line with itself, from all addresses.
ECHO = """
import socket, sys, threading
listener = socket.create_server(("", 7000))
print("listening", flush=True)
def echo(connection):
    while data := connection.recv(100):
        connection.sendall(data)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],)).start()
"""
# Calls a name, once.
CALL = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=20) as connection:
    connection.sendall(b"hello")
    print(connection.recv(100).decode())
"""


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with machines(tmp_path / "lan", 2) as started:
        yield started


def start_echo(machine: Machine, directory: Path) -> None:
    path = directory / f"echo-{machine.name}"
    with path.open("wb") as log:
        machine.start([sys.executable, "-S", "-c", ECHO], log=log)
    wait_until(lambda: "listening" in path.read_text(), "the echo")


def test_simulated_machine_has_its_own_network_and_processes(lan: Lan) -> None:
    one, other = lan.machines
    for machine in lan.machines:
        assert machine.run(["hostname"]).strip() == machine.name
        machine.run(["sh", "-c", "echo $(hostname) > /tmp/file; echo $(hostname) > /dev/shm/file"])
    assert one.run(["cat", "/tmp/file", "/dev/shm/file"]).split() == ["m0", "m0"]
    assert other.run(["sh", "-c", "cd /proc; echo [0-9]*"]).split()[0] == "1"
    assert not Path("/tmp/file").exists()
    (lan.directory / "shared").write_text("seen by all")
    assert one.run(["cat", str(lan.directory / "shared")]) == "seen by all"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        one.run(["sh", "-c", "echo so; exit 3"])
    assert (caught.value.returncode, caught.value.output) == (3, "so\n")


def test_simulated_machines_reach_each_other_by_name_and_the_test_by_address(lan: Lan, tmp_path: Path) -> None:
    one, other = lan.machines
    start_echo(one, tmp_path)
    for caller in (one, other):
        for name in ("m0", one.address):
            assert caller.run([sys.executable, "-S", "-c", CALL, name]) == "hello\n"
    ours = subprocess.run([sys.executable, "-S", "-c", CALL, one.address], check=True, capture_output=True, text=True)
    assert ours.stdout == "hello\n"
    with pytest.raises(subprocess.CalledProcessError):  # nobody listens there: an address of its own
        one.run([sys.executable, "-S", "-c", CALL, "m1"])


def test_network_of_a_simulated_machine_can_be_cut_and_healed(lan: Lan, tmp_path: Path) -> None:
    one, other = lan.machines
    start_echo(one, tmp_path)
    start_echo(other, tmp_path)
    with (
        socket.create_connection((one.address, 7000), timeout=20) as cut,
        socket.create_connection((other.address, 7000), timeout=20) as intact,
    ):
        one.cut()
        assert (one.is_reachable, other.is_reachable) == (False, True)
        cut.sendall(b"lost?")
        for _ in range(3):
            intact.sendall(b"x")
            assert intact.recv(100) == b"x"
        cut.setblocking(False)
        with pytest.raises(BlockingIOError):  # neither an answer nor an end
            cut.recv(100)
        one.heal()
        cut.settimeout(30)
        assert cut.recv(100) == b"lost?", "what was on its way arrives"


def test_power_off_of_a_simulated_machine_ends_its_processes_without_a_message(lan: Lan, tmp_path: Path) -> None:
    one, other = lan.machines
    start_echo(one, tmp_path)
    one.start(["sh", "-c", "setsid sleep 600 & exec sleep 600"])
    other.start(["sleep", "600"])
    running = wait_until(lambda: len(found := one.processes()) == 3 and found, "what was started")
    with socket.create_connection((one.address, 7000), timeout=20) as connection:
        one.power_off()
        assert not [pid for pid in running if is_alive(pid)]
        assert one.processes() == {}
        wait_until(lambda: list(other.processes().values()) == ["sleep 600"], "the other's")
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(100)
    lan.boot(one)
    assert one.run(["ls", "-A", "/tmp/home"]) == ""
    start_echo(one, tmp_path)
    assert other.run([sys.executable, "-S", "-c", CALL, "m0"]) == "hello\n"


def test_process_of_a_simulated_machine_receives_signals(lan: Lan) -> None:
    process = lan.machines[0].start(["sleep", "600"])
    wait_until(lambda: lan.machines[0].processes() == {process.pid: "sleep 600"}, "it")
    process.signal(signal.SIGTERM)
    process.wait()
    assert lan.machines[0].processes() == {}


def test_orphaned_processes_of_a_simulated_machine_are_collected(lan: Lan) -> None:
    one = lan.machines[0]
    one.run(["sh", "-c", "setsid true & setsid true & true"])
    wait_until(lambda: "Z" not in one.run(["ps", "-A", "-o", "stat="]), "their end")


def test_several_sets_of_simulated_machines_can_exist_at_the_same_time(tmp_path: Path) -> None:
    seen: dict[int, tuple[str, str]] = {}
    both = threading.Barrier(2, timeout=60)

    def use(number: int) -> None:
        with machines(tmp_path / str(number), 2) as lan:
            both.wait()
            start_echo(lan.machines[0], tmp_path / str(number))
            seen[number] = (lan.range, lan.machines[1].run([sys.executable, "-S", "-c", CALL, "m0"]))
            both.wait()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer for _, answer in seen.values()] == ["hello\n"] * 2
    assert seen[0][0] != seen[1][0]


def test_killed_test_process_leaves_no_simulated_machine(tmp_path: Path) -> None:
    with machines(tmp_path / "skipped-without-root", 0):
        pass
    program = """
import sys
from pathlib import Path
from support.machines import machines
with machines(Path(sys.argv[1]), 2) as lan:
    print(lan.range, lan.machines[0].start(["sleep", "600"]).pid, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "lan")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout is not None
        beginning, pid = test.stdout.readline().split()
        assert f"{beginning}.1/24" in _addresses()
        test.kill()
    wait_until(lambda: not is_alive(int(pid)), "the end of what ran there")
    wait_until(lambda: f"{beginning}.1/24" not in _addresses(), "the end of the cable")


def _addresses() -> str:
    return subprocess.run(["ip", "-4", "address"], check=True, capture_output=True, text=True).stdout
