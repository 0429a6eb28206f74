"""Simulates machines with namespaces, so that a test on one computer can switch off the power or the network of a
machine within a second.

Each machine has separate network, process ids, mounts, host name and IPC, and a separate `/tmp`, `/dev/shm` and
`/proc`. A cable connects each machine, and this process, to a switch. All machines share one clock and the CPUs.

The switch is a network namespace, too. All processes that hold namespaces die together with this process. Therefore a
killed test leaves nothing behind, not even a network interface. Machines need root, see `why_not`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from support.waiting import wait_until

# For benchmarks of devices (RFC 2544): not routed anywhere, and nobody's own network.
_RANGES = [f"198.{second}.{third}" for second in (18, 19) for third in range(256)]
_FIRST = 10  # the last number of the first machine's address; that of this process is 1
_REPOSITORY = Path(__file__).parents[2]
_TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")

# Process 1 of a machine. What is shared and lies below a directory that the machine has for itself is put there again.
# `wait` also collects the orphans of the machine, as an init has to.
_INIT = """
set -e
staging=$1 hosts=$2 name=$3; shift 3
memory=$staging-memory
mount -t tmpfs -o mode=1777 tmpfs "$staging"
mount -t tmpfs -o mode=1777 tmpfs "$memory"
for path; do
  case $path in
    /tmp/*) place=$staging${path#/tmp};;
    /dev/shm/*) place=$memory${path#/dev/shm};;
    *) continue;;
  esac
  mkdir -p "$place"
  mount --rbind "$path" "$place"
done
mkdir -p "$staging/home"
: > "$staging/nothing"
mount --bind "$hosts" /etc/hosts
if [ -e /etc/resolv.conf ]; then mount --bind "$staging/nothing" /etc/resolv.conf; fi
mount --move "$staging" /tmp
mount --move "$memory" /dev/shm
echo "$name" > /proc/sys/kernel/hostname
echo up
sleep infinity &
wait
"""


@functools.cache
def why_not() -> str:
    """Return why machines cannot be made on this computer. Empty if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "machines made of namespaces need root on Linux"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"machines made of namespaces need {', '.join(missing)} (packages iproute2, util-linux)"
    attempt = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc"]
    attempt += ["ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b"]
    made = subprocess.run(attempt, capture_output=True, text=True, check=False)
    return f"this root may not make namespaces: {made.stderr.strip()}" if made.returncode else ""


class Machine:
    """One simulated machine.

    Attributes:
        name: Its host name, which resolves on all machines.
        address: Where the others and this process reach it.
        is_on: Whether it has power.
        is_cut: Whether its cable is pulled.
        state: A file with the process id of its init, as we see it, for as long as it is reachable.
    """

    def __init__(self, lan: Lan, number: int) -> None:
        self._lan = lan
        self._port = f"m{number}"  # the switch's end of its cable
        self._staging = lan.directory / f"m{number}"
        self.name = f"m{number}"
        self.address = f"{lan.range}.{_FIRST + number}"
        self.is_on = False
        self.is_cut = False
        self.state = lan.directory / f"{self.name}.state"
        self._power: subprocess.Popen[str] | None = None
        self._init = 0
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def is_reachable(self) -> bool:
        """Whether the machine has power and network."""
        return self.is_on and not self.is_cut

    def power_on(self) -> None:
        """Begin to boot the machine. The former content of its disks is lost."""
        self._staging.mkdir(exist_ok=True)
        self._staging.with_name(f"{self._staging.name}-memory").mkdir(exist_ok=True)
        command = [*ENDS_WITH_US, "unshare", "--net", "--pid", "--mount", "--uts", "--ipc"]
        command += ["--fork", "--kill-child", "--mount-proc", "sh", str(self._lan.init)]
        command += [str(self._staging), str(self._lan.hosts), self.name, *map(str, self._lan.shared)]
        with self._staging.with_suffix(".console").open("ab") as console:
            self._power = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=console, text=True
            )
        self.is_on = True

    def plug_in(self) -> None:
        """Wait until the machine has booted, and connect it to the switch."""
        assert self._power is not None
        assert self._power.stdout is not None
        assert self._power.stdout.readline() == "up\n", self._staging.with_suffix(".console").read_text()
        (self._init,) = _children(self._power.pid)
        self._lan.switch_ip(
            f"link add name {self._port} type veth peer name eth0 netns {self._init}",
            f"link set {self._port} master lan up",
        )
        _ip(
            self._init,
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {self._lan.host_address}",
        )
        self._set_cut(False)

    def start(
        self, command: Sequence[str], *, log: IO[bytes] | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program on the machine.

        Args:
            command: It, and its arguments.
            log: Where its output goes; None: to ours.
            env: More of its environment, which else is ours, with a home of the machine's own.
        """
        environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        environment |= {"HOME": "/tmp/home"} | dict(env or {})
        flags = ["--net", "--pid", "--mount", "--uts", "--ipc"]
        popen = subprocess.Popen(
            ["nsenter", "--target", str(self._init), *flags, "--wd=/tmp", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._started.append(popen)
        return Process(popen)

    def run(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
        """Run a program on the machine, and return its output. Raise CalledProcessError if the program fails."""
        with tempfile.TemporaryFile() as output:
            process = self.start(command, log=output, env=env)
            code = process.wait()
            output.seek(0)
            text = output.read().decode(errors="replace")
        if code:
            raise subprocess.CalledProcessError(code, list(command), text)
        return text

    def processes(self) -> dict[int, str]:
        """Return the commands of the machine's processes, without its init, by their process ids outside of the
        machine."""
        found = {}
        own = _namespace(self._init) if self.is_on else None
        waiting = {self._init, *_children(self._init)[:1]}  # its `sleep`
        for pid in _all_pids():
            if own is not None and pid not in waiting and _namespace(pid) == own:
                command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
                if command and not command.startswith("nsenter "):  # else it has just ended, or is not there yet
                    found[pid] = command
        return found

    def cut(self) -> None:
        """Cut the network of the machine. Packets are lost silently from now on."""
        self._lan.switch_ip(f"link set {self._port} down")
        self._set_cut(True)

    def heal(self) -> None:
        """Restore the network of the machine."""
        self._lan.switch_ip(f"link set {self._port} up")
        self._set_cut(False)

    def _set_cut(self, is_cut: bool) -> None:
        self.is_cut = is_cut
        if is_cut:
            self.state.unlink(missing_ok=True)
        else:
            self.state.write_text(str(self._init))

    def power_off(self) -> None:
        """Kill all processes of the machine at once. The network is cut first, so that no dying process can close a
        connection."""
        if self._power is None:
            return
        with contextlib.suppress(subprocess.CalledProcessError):
            self.cut()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init or self._power.pid, signal.SIGKILL)
        for popen in self._started:
            popen.send_signal(signal.SIGCONT)  # it stops with what it has started, which is gone once it has seen that
        self._power.wait()  # the kernel has ended all of its processes before it ends the first one
        assert self._power.stdout is not None
        self._power.stdout.close()
        for popen in self._started:
            popen.wait()
        self._started.clear()
        with contextlib.suppress(subprocess.CalledProcessError):  # the kernel takes its time to clear a network away
            self._lan.switch_ip(f"link del {self._port}")
        self._power, self._init, self.is_on = None, 0, False


class Process:
    """A program that was started on a machine or beside the machines.

    Args:
        popen: What has entered the machine for it, and ends with it; or the program itself.
        pid: The program's process id, as we see it, where it is known.
    """

    def __init__(self, popen: subprocess.Popen[bytes], pid: int | None = None) -> None:
        self._popen = popen
        self._pid = pid

    @property
    def pid(self) -> int:
        """The process id of the program outside of the machine."""

        def entered() -> list[int]:
            pids = _children(self._popen.pid)
            return [pid for pid in pids if not _read(f"/proc/{pid}/cmdline").startswith("nsenter\0")]

        return self._pid or wait_until(entered, "a program to have entered its machine")[0]

    def signal(self, number: int) -> None:
        """Send a signal to the program, unless it has ended."""
        for pid in [self._pid] if self._pid else _children(self._popen.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def poll(self) -> int | None:
        """Return the exit code of the program. None while it runs."""
        return self._popen.poll()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for the end of the program, and return its exit code."""
        return self._popen.wait(timeout_s)


class Lan:
    """Several machines and the switch that connects them. This process is connected to the switch, too.

    Args:
        directory: For what the machines need; they all see it.
        count: How many.
        shared: What else they see, of what lies below `/tmp`.

    Attributes:
        range: The beginning of the addresses of all of them.
        host_address: The address of this process.
        hosts: The file by which names resolve there.
        init: The program of their process 1.
    """

    def __init__(self, directory: Path, count: int, shared: Sequence[Path] = ()) -> None:
        self.directory = directory
        own = (directory, _REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
        self.shared = [path for path in dict.fromkeys((*own, *shared)) if path.exists()]
        self._switch = subprocess.Popen([*ENDS_WITH_US, "unshare", "--net", "sleep", "infinity"])
        try:
            self.range = self._plug_ourselves_in()
            self.host_address = f"{self.range}.1"
            self.hosts, self.init = directory / "hosts", directory / "init"
            self.init.write_text(_INIT)
            self.machines = [Machine(self, number) for number in range(count)]
            names = [f"{machine.address} {machine.name}\n" for machine in self.machines]
            self.hosts.write_text(f"127.0.0.1 localhost\n::1 localhost\n{''.join(names)}")
        except BaseException:
            self.close()
            raise

    def switch_ip(self, *commands: str) -> None:
        """Run commands of the program `ip` in the network namespace of the switch."""
        _ip(self._switch.pid, *commands)

    def boot(self, *machines: Machine) -> None:
        """Boot the given machines, or all machines, and wait until they have booted."""
        booting = machines or tuple(self.machines)
        for machine in booting:
            machine.power_on()
        for machine in booting:
            machine.plug_in()

    def close(self) -> None:
        """End all machines and the switch."""
        for machine in getattr(self, "machines", ()):
            machine.power_off()
        self._switch.kill()  # with its network all cables go
        self._switch.wait()

    def _plug_ourselves_in(self) -> str:
        """Connect this process to the switch, and return the range of addresses. The name of the cable's end reserves
        the range, because a name can exist only once."""
        own = _namespace(os.getpid(), "net")
        wait_until(lambda: _namespace(self._switch.pid, "net") not in (None, own), "the switch")
        self.switch_ip("link add name lan type bridge", "link set lan up")
        for beginning in itertools.chain(random.sample(_RANGES, len(_RANGES))):
            if re.search(rf"\b{re.escape(beginning)}\.", _output("ip", "-4", "route", "show", "table", "all")):
                continue
            cable = f"iris{beginning.replace('.', '-')[3:]}"
            with contextlib.suppress(subprocess.CalledProcessError):
                self.switch_ip(f"link add name host type veth peer name {cable} netns {os.getpid()}")
                self.switch_ip("link set host master lan up")
                _ip(os.getpid(), f"addr add {beginning}.1/24 dev {cable}", f"link set {cable} up")
                return beginning
        raise AssertionError(f"all {len(_RANGES)} ranges are in use")


@contextmanager
def machines(directory: Path, count: int, shared: Sequence[Path] = ()) -> Iterator[Lan]:
    """Boot machines for a test. The test is skipped if machines cannot be made on this computer, see `Lan`."""
    if why_not():
        pytest.skip(why_not())
    directory.mkdir(parents=True, exist_ok=True)
    lan = Lan(directory, count, shared)
    try:
        lan.boot()
        yield lan
    finally:
        lan.close()


def _ip(pid: int, *commands: str) -> None:
    """Run commands of the program `ip` in the network namespace of a process."""
    command = ["ip", "-batch", "-"]
    if pid != os.getpid():
        command = ["nsenter", "--target", str(pid), "--net", *command]
    subprocess.run(command, input="\n".join(commands), check=True, capture_output=True, text=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _namespace(pid: int, kind: str = "pid") -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
