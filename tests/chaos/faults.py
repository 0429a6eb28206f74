"""Runs the cluster of chaos, and kills, stops and restarts its processes at times that a seed determines."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

import psutil
from support.cluster import has_socket, iris_processes, is_alive, parent_of, reapers
from support.tokens import keep_key

from chaos.surroundings import FILLING, STEPS_S, Clock, Disk
from iris.cluster.client.server_process import LocalServer, start_server
from iris.cluster.worker.supervision.worker_identity import is_prepared_worker
from iris.config import ClusterConfig
from iris.errors import LocalClusterError
from iris.failpoints import VARIABLE
from iris.system.clock import VARIABLE as CLOCK

P = ParamSpec("P")
WORKERS = 3
LEASE_S = 4.0  # of workers, short enough that some stops are longer
# Below where the system deals out ports for outgoing connections: while nobody listens there, a client could be given
# the very port that it connects to, and keep it. Below where tasks get theirs, too.
_PORTS = range(10_000, 19_000)


@dataclass(frozen=True, slots=True)
class Event:
    """A fault that chaos has caused in the cluster.

    Attributes:
        at: Monotonic, in seconds.
        what: In words.
        pid: To whom.
        until: When a stopped process went on.
    """

    at: float
    what: str
    pid: int = 0
    until: float = 0.0


class Cluster:
    """A server with its workers, in a state directory and on a port that stay the same.

    Attributes:
        events: What was done to it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.events: list[Event] = []
        self._server: LocalServer | None = None
        self._copies = 0
        self.state = directory / "state"
        self.disk = Disk(self.state)
        self.clock = Clock(directory / "clock")
        self._room = threading.Lock()  # held by who fills the disk, and by a start, which needs room on it

    def start(self, failpoints: str = "") -> None:
        """Start the server. Repeat the start if a failpoint ends the server before it is ready."""
        while True:
            self._note(f"start {failpoints}")
            os.environ[VARIABLE], os.environ[CLOCK] = failpoints, str(self.clock.path)
            try:
                with self._room:
                    keep_key(self.state)
                    self._server = start_server(
                        ClusterConfig(state_dir=self.state, workers=WORKERS, port=self.port, lease=LEASE_S)
                    )
                return
            except LocalClusterError as error:
                if "iris failpoint" not in str(error):
                    raise
                failpoints = ""
            finally:
                del os.environ[VARIABLE], os.environ[CLOCK]

    def set_clock(self, seconds: int) -> None:
        """Set the wall clock of all processes of the cluster to a time that is the given number of seconds after the
        right time."""
        self._note("set clock")
        self.clock.set(seconds)

    def fill_disk(self, seconds: float, end: threading.Event) -> None:
        """Fill the disk of the state directory for some time."""
        if not self.disk.is_mounted:
            return
        with self._room:
            began = time.monotonic()
            self.disk.fill()
            end.wait(seconds)
            self.disk.make_room()
            self.events.append(Event(began, "fill disk", until=time.monotonic()))

    @property
    def is_running(self) -> bool:
        """Whether the process of the server exists."""
        return self._server is not None and self._server.process.poll() is None

    @property
    def pid(self) -> int:
        """The server's."""
        assert self._server is not None
        return self._server.process.pid

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._note("kill controller", self.pid)
        self._signal(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait for the end of the server's process, and collect the process."""
        assert self._server is not None
        self._server.process.wait()

    def kill_worker(self, which: float) -> None:
        """Kill one of the workers with SIGKILL. A number from 0 to 1 selects the worker."""
        for pid in _pick(workers(), which):
            self._note("kill worker", pid)
            self._signal(pid, signal.SIGKILL)

    def kill_reaper(self, which: float, *, worker_too: bool) -> None:
        """Kill the reaper of one of the workers with SIGKILL, and the worker directly afterwards."""
        for pid in _pick(workers(), which):
            for reaper in reapers(pid):
                self._note("kill reaper", reaper)
                self._signal(reaper, signal.SIGKILL)
            if worker_too:
                self._note("kill worker", pid)
                self._signal(pid, signal.SIGKILL)

    def stop_for(self, pid: int, who: str, seconds: float, end: threading.Event) -> None:
        """Stop a process with SIGSTOP, and continue it with SIGCONT after some time."""
        began = time.monotonic()
        self._signal(pid, signal.SIGSTOP)
        end.wait(seconds)
        self._signal(pid, signal.SIGCONT)
        self.events.append(Event(began, f"stop {who}", pid, time.monotonic()))

    def start_copy(self) -> None:
        """Copy the state directory, start a server in the copy beside the original, and end this server. The server in
        the copy must not affect the original. If the database was copied during a write, the server refuses the
        copy."""
        self._copies += 1
        copy = self.directory / f"copy-{self._copies}"
        self._note("copy")
        # Files that vanish meanwhile are no reason to fail.
        subprocess.run(["cp", "-a", str(self.state), str(copy)], check=False, stderr=subprocess.DEVNULL)
        (copy / FILLING).unlink(missing_ok=True)
        try:
            server = start_server(ClusterConfig(state_dir=copy, port=0, workers=1, lease=LEASE_S))
        except LocalClusterError as error:
            if "controller.db" not in str(error):
                raise
            return
        try:
            if server.copied is None:
                raise AssertionError(f"{copy} was taken for the original")
        finally:
            server.stop()

    def close(self) -> None:
        """End the server and its workers with SIGTERM, as a user would."""
        assert self._server is not None
        self._server.stop()
        self.disk.close()

    def kills(self) -> Counter[str]:
        """How often each kind of process was killed or stopped, by chaos or by failpoints."""
        counted = Counter(event.what for event in self.events if not event.what.startswith("start"))
        for path in self.state.rglob("*.log"):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("iris failpoint") and line.endswith(": kill"):
                    who = "controller" if path.name == "server.log" else "worker"
                    counted[f"kill {who} by failpoint"] += 1
        return counted

    def _note(self, what: str, pid: int = 0) -> None:
        self.events.append(Event(time.monotonic(), what, pid))

    def _signal(self, pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it has ended just now


class Faults:
    """Causes the faults of a run, in a separate thread.

    Args:
        cluster: To whom.
        seed: Decides what, to whom, and when.
    """

    def __init__(self, cluster: Cluster, seed: str) -> None:
        self._cluster = cluster
        self._draws = random.Random(f"{seed}/faults")
        self._lives = random.Random(f"{seed}/failpoints")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="faults", daemon=True)
        self._under_way: list[threading.Thread] = []
        self.broken = ""

    def start(self) -> None:
        """Begin to cause faults. The server must run."""
        self._thread.start()

    def stop(self) -> None:
        """End all faults: continue the stopped processes, and restart the server without failpoints."""
        self._end.set()
        self._thread.join()
        for thread in self._under_way:
            thread.join()
        self._cluster.clock.set(0)
        if self._cluster.is_running:
            self._cluster.kill()
        self._cluster.start()

    def failpoints(self) -> str:
        """The failpoints for the next process of the server, and for the workers that it starts."""
        return draw_failpoints(self._lives)

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - it is reported
            self.broken = f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        draws = self._draws
        while True:
            # All is drawn before it is known what there is, so that the same seed draws the same.
            pause_s, which, length_s = draws.uniform(0.1, 1.5), draws.random(), draws.choice([0.2, 1.0, 3.0, 8.0])
            (what,) = draws.choices(
                [
                    "kill worker",
                    "stop worker",
                    "kill controller",
                    "stop controller",
                    "kill reaper",
                    "kill both",
                    "copy",
                    "set clock",
                    "fill disk",
                ],
                [8, 6, 4, 2, 1, 1, 1, 3, 3],
            )
            away_s, step_s = draws.choice([0.0, 0.0, 0.5, 2.0]), draws.choice(STEPS_S)
            due = time.monotonic() + pause_s
            while time.monotonic() < due:
                if self._end.wait(0.05):
                    return
                if not self._cluster.is_running:  # of a failpoint
                    self._cluster.wait()
                    self._cluster.start(self.failpoints())
            if what == "kill worker":
                self._cluster.kill_worker(which)
            elif what in ("kill reaper", "kill both"):
                self._cluster.kill_reaper(which, worker_too=what == "kill both")
            elif what == "copy":
                self._cluster.start_copy()
            elif what == "set clock":
                self._cluster.set_clock(step_s)
            elif what == "fill disk":
                self._meanwhile(self._cluster.fill_disk, min(length_s, 3.0), self._end)
            elif what == "stop worker":
                for pid in _pick(workers(), which):
                    self._stop_for(pid, "worker", length_s)
            elif what == "stop controller" and self._cluster.is_running:
                self._stop_for(self._cluster.pid, "controller", length_s)
            elif what == "kill controller" and self._cluster.is_running:
                self._cluster.kill()
                self._end.wait(away_s)
                self._cluster.start(self.failpoints())

    def _stop_for(self, pid: int, who: str, seconds: float) -> None:
        self._meanwhile(self._cluster.stop_for, pid, who, seconds, self._end)

    def _meanwhile(self, what: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function in a separate thread."""

        def guarded() -> None:
            try:
                what(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - it is reported
                self.broken = f"{type(error).__name__}: {error}"

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self._under_way.append(thread)


def draw_failpoints(draws: random.Random) -> str:
    """Return failpoints chosen at random: kills, and sometimes slow disks and lost messages."""
    parts = []
    if draws.random() < 0.5:
        name = draws.choice(
            [
                *("store.commit.before", "store.commit.after", "placement.before", "placement.after"),
                *("start.before", "start.after", "stop.before", "stop.after", "keep.before", "keep.after"),
                *("controller.request", "controller.reply.before", "controller.reply.after", "engine.spawn.before"),
            ]
        )
        parts.append(f"{name}=kill@{draws.randint(4, 80)}")
    if draws.random() < 0.6:
        name = draws.choice(
            [
                *("attempt.before", "attempt.after", "spawn.before", "spawn.after", "reap.before", "reap.after"),
                *("finish.before", "finish.after", "report.before", "report.after", "register.after"),
                *("worker.request", "worker.reply.before", "worker.reply.after"),
            ]
        )
        parts.append(f"{name}=kill@{1 if name == 'register.after' else draws.randint(3, 25)}")
    if draws.random() < 0.5:
        seed = draws.randint(0, 999_999)
        parts += [f"{one}=drop:0.02/{seed}" for one in ("controller.request", "controller.reply.before")]
        parts += [f"{one}=drop:0.02/{seed}" for one in ("worker.request", "worker.reply.before")]
    if draws.random() < 0.3:
        seed = draws.randint(0, 999_999)
        parts += [f"store.commit.before=delay:40:0.05/{seed}", f"report.before=delay:100:0.1/{seed}"]
        parts += [f"spawn.after=delay:30:0.2/{seed}", f"placement.before=error:0.1/{seed}"]
    return ";".join(parts)


def workers() -> list[int]:
    """Return the workers of this run, in the order in which they were started. Two kinds of processes with the same
    command line are left out: reapers, which have no sockets, and processes of tasks before `exec`, which are children
    of a worker."""
    found = []
    processes = {
        pid
        for pid, command in iris_processes().items()
        if "-m iris.cluster.worker" in command or is_prepared_worker(pid)
    }
    for pid in processes:
        if parent_of(pid) not in processes and has_socket(pid):
            try:
                found.append((psutil.Process(pid).create_time(), pid))
            except psutil.NoSuchProcess:
                continue
    return [pid for _, pid in sorted(found)]


def sweep() -> list[int]:
    """Kill all processes of this run, and return them."""
    left = [pid for pid in iris_processes() if is_alive(pid)]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return left


def _pick(pids: list[int], which: float) -> list[int]:
    return [pids[int(which * len(pids))]] if pids else []


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port")
