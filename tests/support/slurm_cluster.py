"""Runs a real Slurm on this machine: munged, slurmctld and one slurmd for each node, in a separate directory.

This needs root, because slurmd starts jobs as the users who submit them. Debian's build of Slurm allows several slurmd
on one machine, each of which acts as another node.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest
from support.ports import free_port
from support.waiting import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "setpriv")
_QUERY_PAUSE_S = 0.2  # Each query of Slurm is a process.
_MARKER = "saved-"  # Names that begin with this text show what slurmctld has saved.

# proctrack/linuxproc and no task plugin: what works also where there are no cgroups to write to. Nothing enforces
# memory then, and nothing shuts devices away: the variables that name them are set all the same.
_CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={sockets}/munge.socket
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={sockets}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
SlurmdParameters=config_overrides
SlurmctldParameters=idle_on_node_suspend
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=16
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1,sched_interval=1
PriorityType=priority/basic
ReturnToService=2
SlurmdTimeout={slurmd_timeout_s}
SlurmctldTimeout=10
MessageTimeout=5
KillWait=5
UnkillableStepTimeout=30
MinJobAge={keep_ended_s}
InactiveLimit=0
Waittime=0
GresTypes=gpu
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster, with the resources in Slurm's configuration."""

    name: str
    features: tuple[str, ...] = ()
    cpu: int = 4
    memory_mib: int = 1024
    gpu: int = 2


def skip_where_there_is_none() -> None:
    """Skip the test or the module if Slurm cannot run on this machine."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root", allow_module_level=True)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"Slurm is not installed ({', '.join(missing)}): apt-get install --no-install-recommends slurm-wlm munge",
            allow_module_level=True,
        )


class SlurmCluster:
    """The daemons of Slurm. As a context manager it ends the daemons and all jobs, also after a failure.

    Args:
        directory: Where all is kept; what the daemons wrote stays as evidence.
        nodes: What there is.
        slurmd_timeout_s: After what silence slurmctld calls a node down.
        keep_ended_s: For how long slurmctld knows of jobs that have ended.

    Attributes:
        environment: What Slurm's commands need to find this cluster.
    """

    def __init__(
        self, directory: Path, nodes: Sequence[Node], *, slurmd_timeout_s: int = 20, keep_ended_s: int = 300
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        # The path of a Unix socket has at most 107 bytes, and directories of tests have long names.
        self._sockets = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.nodes = tuple(nodes)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._mark = f"IRIS_TEST_SLURM={secrets.token_hex(8)}"
        self.environment = {"SLURM_CONF": str(directory / "slurm.conf")}
        self._write_files(slurmd_timeout_s, keep_ended_s)

    def _write_files(self, slurmd_timeout_s: int, keep_ended_s: int) -> None:
        directory = self._directory
        for name in ("state", "devices"):
            (directory / name).mkdir(exist_ok=True)
        for node in self.nodes:
            (self._sockets / node.name).mkdir()
        key = directory / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = _free_ports(1 + len(self.nodes))
        lines = _CONFIG.format(
            directory=directory,
            sockets=self._sockets,
            controller_port=ports[0],
            slurmd_timeout_s=slurmd_timeout_s,
            keep_ended_s=keep_ended_s,
        )
        gres = ""
        for node, port in zip(self.nodes, ports[1:], strict=True):
            lines += (
                f"NodeName={node.name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={node.cpu}"
                f" Sockets=1 CoresPerSocket={node.cpu} ThreadsPerCore=1 RealMemory={node.memory_mib}"
                + (f" Gres=gpu:{node.gpu}" if node.gpu else "")
                + (f" Feature={','.join(node.features)}" if node.features else "")
                + "\n"
            )
            for number in range(node.gpu):  # a device is a device file whose name ends with its number
                (directory / "devices" / f"{node.name}-gpu{number}").symlink_to("/dev/null")
            if node.gpu:
                gres += f"NodeName={node.name} Name=gpu File={directory}/devices/{node.name}-gpu[0-{node.gpu - 1}]\n"
        names = ",".join(node.name for node in self.nodes)
        lines += f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP\n"
        lines += f"PartitionName=other Nodes={self.nodes[-1].name} MaxTime=INFINITE State=UP\n"
        (directory / "slurm.conf").write_text(lines)
        (directory / "gres.conf").write_text(gres)
        (directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def __enter__(self) -> SlurmCluster:
        try:
            self._start_munge()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node.name)
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _start_munge(self) -> None:
        where = self._directory
        self._start(
            "munged",
            "munged",
            "--foreground",
            "--force",  # also where the directories above belong to others
            f"--socket={self._sockets}/munge.socket",
            f"--key-file={where}/munge.key",
            f"--pid-file={where}/munged.pid",
            f"--log-file={where}/munged.log",
            f"--seed-file={where}/munge.seed",
            "--num-threads=4",
        )
        wait_until(lambda: (self._sockets / "munge.socket").exists(), "munged")

    def start_controller(self) -> None:
        """Start slurmctld, which loads its saved state."""
        self._start("slurmctld", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])

    def kill_controller(self) -> None:
        """Kill slurmctld with SIGKILL, after waiting until it has saved the latest changes. Without the wait, it would
        forget the last seconds."""
        # The marker of one job proves that everything before it is saved, because slurmctld saves all jobs at once.
        job = next(iter(self.jobs()), None)
        if job is not None:
            marker = f"{_MARKER}{uuid.uuid4().hex}"
            self.command("scontrol", "update", f"jobid={job}", f"admincomment={marker}")
            wait_until(lambda: self._has_saved(marker), f"slurmctld to save {marker} of job {job}")
        self._kill("slurmctld")

    def kill_forgetful_controller(self) -> None:
        """Kill slurmctld with SIGKILL at once, so that it forgets the last seconds."""
        self._kill("slurmctld")

    def wait_until_saved(self) -> None:
        """Wait until slurmctld has saved everything that has happened until now, for example the ends of earlier jobs.

        Otherwise a killed slurmctld might believe for minutes that an ended job still runs.
        """
        marker = f"{_MARKER}{uuid.uuid4().hex}"
        job = self.command("sbatch", "--hold", "--parsable", f"--job-name={marker}", "--wrap=true").strip()
        wait_until(lambda: self._has_saved(marker), f"slurmctld to save the job {marker}")
        self.command("scancel", job)

    def _has_saved(self, marker: str) -> bool:
        try:
            return marker.encode() in (self._directory / "state" / "job_state").read_bytes()
        except FileNotFoundError:
            return False

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._start(name, "slurmd", "-D", "-N", name, "-f", self.environment["SLURM_CONF"])

    def kill_node(self, name: str) -> None:
        """Kill the slurmd of a node with SIGKILL. Processes of jobs on the node continue, as on a node without
        network."""
        self._kill(name)

    def command(self, *words: str) -> str:
        """Run a command of Slurm, and return its output."""
        return subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    def jobs(self) -> dict[str, str]:
        """Return the states of the unfinished jobs, by job number."""
        lines = self.command("squeue", "--noheader", "--format=%i %T %j").splitlines()
        jobs = [line.split(maxsplit=2) for line in lines]
        return {number: state for number, state, name in jobs if not name.startswith(_MARKER)}

    def wait_until_up(self) -> None:
        """Wait until all nodes are up and run no job."""
        wait_until(self._is_up, f"all nodes to be idle; see {self._directory}", pause_s=_QUERY_PAUSE_S)

    def wait_until_empty(self) -> None:
        """Wait until no process of any job is left."""
        # A killed slurmctld may also have forgotten that a job of `wait_until_saved` was cancelled.
        for line in self.command("squeue", "--noheader", "--format=%i %j").splitlines():
            number, name = line.split(maxsplit=1)
            if name.startswith(_MARKER):
                self.command("scancel", number)
        wait_until(
            lambda: not self.jobs(), f"the end of all jobs of Slurm; see {self._directory}", pause_s=_QUERY_PAUSE_S
        )

    def resume_drained(self) -> None:
        """Let Slurm use nodes again that it has drained.

        A slurmctld that is killed with -9 again and again gives out a job number twice. Slurm then drains the node on
        which both jobs were, and nothing starts there any more.
        """
        for line in self.command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines():
            name, state = line.split()
            if state.startswith("drain"):
                self.command("scontrol", "update", f"nodename={name}", "state=resume")

    def _is_up(self) -> bool:
        try:
            states = self.command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return states == ["idle"] * len(self.nodes)

    def _start(self, what: str, *words: str) -> None:
        name, _, value = self._mark.partition("=")
        with (self._directory / f"{what}.out").open("ab") as messages:
            self._daemons[what] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],  # also when the tests are killed
                env={**os.environ, **self.environment, name: value},
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
            )

    def _kill(self, what: str) -> None:
        self._daemons[what].kill()
        self._daemons.pop(what).wait()

    def stop(self) -> None:
        """End the daemons, and then all processes that the daemons have started. These processes carry a mark."""
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        wait_until(lambda: not self._kill_marked(), "the end of what slurmd has started")

    def _kill_marked(self) -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            conf = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
            if self._mark.encode() in variables or conf in variables:
                found.append(int(name))
                try:
                    os.kill(int(name), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        return found


def _free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def worker_pid(worker_id: str) -> int | None:
    """Return the process id of a worker. Its reaper has the same command line, but is a child of the worker."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"iris.cluster.worker" in words and worker_id.encode() in words:
            found.append(int(path.name))
    return min(found, default=None)
