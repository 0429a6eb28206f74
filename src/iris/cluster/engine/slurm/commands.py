"""Slurm's commands: what they are asked, and what their answers mean.

Whatever cannot be had from `squeue`, `scontrol`, `sbatch` and `scancel` is not used: there may be no database of
accounts (`sacct`), and Slurm's libraries change with each release.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources
from iris.cluster.engine.slurm.slot_process import is_slurms
from iris.cluster.types import TOKEN_VARIABLE
from iris.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from iris.rpc.address import is_loopback_host

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
# What Iris says of each job itself.
OWN_OPTIONS = (
    *("array", "batch", "chdir", "clusters", "comment", "constraint", "container", "cores-per-socket"),
    *("cpus-per-gpu", "cpus-per-task", "distribution", "exclude-user", "export", "export-file", "get-user-env"),
    *("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "help", "ignore-pbs", "input", "job-name"),
    *("kill-on-invalid-dep", "mem", "mem-per-cpu", "mem-per-gpu", "no-kill", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "overcommit", "parsable"),
    *("propagate", "quiet", "requeue", "test-only", "tres-per-task", "usage", "verbose", "version", "wait", "wrap"),
)
_OWN_LETTERS = "aDMCcmGhiJknNOQvVW"
# Those that take the next word where none is given with them.
_VALUED = (
    *("account", "begin", "cluster-constraint", "deadline", "dependency", "error", "exclude", "licenses", "mail-type"),
    *("mail-user", "nodelist", "output", "partition", "priority", "qos", "reservation", "signal", "time", "time-min"),
    "wckey",
)
_VALUED_LETTERS = "AbdeFLopqtwx"
_OPTION = re.compile(r"--(?P<name>[a-z][a-z-]*)(=.*)?|-(?P<letter>[A-Za-z])(?P<value>.*)", re.DOTALL)

# Its words for "not now": anything else that sbatch says is its last word.
_NOT_NOW = (
    "unable to contact",
    "connection refused",
    "connect failure",
    "communication",
    "timed out",
    "zero bytes were transmitted",
    "standby mode",
    "temporarily",
    "munge",
    "authentication",
    "unexpected message",
    "slurmctld",
    "job submit limit",
    "submission limit",
    "maximum job count",
    "try again",
)
_NO_SUCH_JOB = ("invalid job id", "already completing or completed", "already finished", "invalid job/step")
_DOWN = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "NO_RESPOND", "INVAL", "UNKNOWN", "FUTURE", "*")
# What `squeue` gives as the reason for waiting, in words; of others there are a hundred, and they speak for themselves.
_REASONS = {
    "None": "Slurm has not looked at it yet",
    "Resources": "no room is free",
    "Priority": "others have priority",
    "Dependency": "it depends on another job of Slurm",
    "BeginTime": "its time has not come, or it was requeued",
    "Licenses": "no license is free",
    "PartitionConfig": "the partition has not that much",
    "PartitionNodeLimit": "the partition has not so many machines",
    "PartitionTimeLimit": "the partition allows less time",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "ReqNodeNotAvail": "the machines that it needs are not available now",
    "JobHeldUser": "somebody holds it: scontrol release",
    "JobHeldAdmin": "an administrator holds it",
    "Reservation": "the reservation has not begun",
    "launch failed requeued held": "a machine could not start it",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Row:
    """A job as `squeue` shows it: its number and name, its state as one word, machines, reason and comment."""

    job_id: str
    name: str
    state: str
    nodes: str
    reason: str
    comment: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A machine, whether it answers, and where it is: a host name and an address, as Slurm has them."""

    machine: Machine
    answers: bool
    host: str
    address: str


def check_installed() -> None:
    """Raises FailedPreconditionError where Slurm's commands are missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise FailedPreconditionError(
            f"the Slurm engine needs Slurm's commands; not found on PATH: {', '.join(missing)}. Start the cluster on a"
            " machine from which you submit jobs to Slurm (its login node), or install them ('slurm-client' on Debian)"
        )


def check_options(options: Iterable[str]) -> None:
    """Raises InvalidArgumentError for what is no option of sbatch's, or one that Iris sets itself."""
    for option in options:
        match = _OPTION.fullmatch(option)
        if match is None:
            raise InvalidArgumentError(
                f"not an option of sbatch: {option!r} (expected one word as '--partition=gpu' or '-pgpu')"
            )
        name, letter = match["name"], match["letter"]
        # sbatch takes the beginning of a name for the whole.
        if (letter and letter in _OWN_LETTERS) or (name and any(own.startswith(name) for own in OWN_OPTIONS)):
            raise InvalidArgumentError(
                f"the option {option!r} of sbatch is set by Iris itself: resources, placement and constraints are"
                " a job's (iris run --cpu, --memory, --gpu, --spread, --together, --constraint)"
            )
        if option in [f"--{valued}" for valued in _VALUED] or option in [f"-{valued}" for valued in _VALUED_LETTERS]:
            raise InvalidArgumentError(
                f"the option {option!r} of sbatch needs a value, in one word with it, as '--partition=gpu' or '-pgpu'"
            )


def partitions_in(options: Iterable[str]) -> frozenset[str]:
    """The partitions that options of sbatch name; empty: the default one."""
    named = ""
    for option in options:
        match = _OPTION.fullmatch(option)
        if match is not None and (match["letter"] == "p" or (match["name"] and "partition".startswith(match["name"]))):
            named = (match["value"] or option.partition("=")[2]).lstrip("=")
    return frozenset(filter(None, named.split(",")))


async def run(words: Sequence[str], env: Mapping[str, str], timeout_s: float, stdin: str = "") -> Answer:
    """Runs one of Slurm's commands.

    Raises:
        UnavailableError: It cannot be started, or does not end in time: what it was to do may have been done, or not.
    """
    # Not pipes: a command that ends at once would break the first, and of one that does not end the second is what it
    # has said until then. These files are in memory only, and nobody else's.
    with os.fdopen(os.memfd_create("stdin"), "w+b") as file, os.fdopen(os.memfd_create("stderr"), "w+b") as messages:
        file.write(stdin.encode())
        file.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                env=dict(env),
                stdin=file,
                stdout=asyncio.subprocess.PIPE,
                stderr=messages,
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        except OSError as error:
            raise UnavailableError(f"cannot run {words[0]}: {error.strerror or error}") from error
        timed_out = False
        out = b""
        try:
            async with asyncio.timeout(timeout_s):
                out, _ = await process.communicate()
        except TimeoutError:
            timed_out = True
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        messages.seek(0)
        answer = Answer(process.returncode or 0, out.decode(errors="replace"), messages.read().decode(errors="replace"))
    if timed_out:
        so_far = f"; until then it said: {said(answer)}" if answer.err.strip() else ""
        raise UnavailableError(f"Slurm cannot be reached: {words[0]} has not answered within {timeout_s:g} s{so_far}")
    return answer


def is_not_now(answer: Answer) -> bool:
    """Whether a command has failed for a reason that passes."""
    text = answer.err.lower()
    return any(words in text for words in _NOT_NOW)


def is_no_such_job(answer: Answer) -> bool:
    """Whether a command has failed since there is no such job, or no such step, any more or yet."""
    text = answer.err.lower()
    return any(words in text for words in _NO_SUCH_JOB)


def unavailable(program: str, answer: Answer) -> UnavailableError:
    """What a command that failed has to say."""
    return UnavailableError(f"Slurm cannot be reached: {program} says: {said(answer)}")


def said(answer: Answer) -> str:
    """What is wrong, in a command's own words, without the name of the program before each line."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line.strip()) for line in answer.err.splitlines()]
    return "; ".join(dict.fromkeys(filter(None, lines))) or f"nothing, and exit code {answer.code}"


def submission(gang: GangRequest, job_name: str, options: Sequence[str]) -> list[str]:
    """The command line of sbatch: ours after the user's, since the last one counts.

    What Slurm gives at least is one CPU to each slot, and the memory that its configuration gives to one that asks for
    none. Memory goes by the machine where it is known how many slots a machine gets, and else by the CPU, rounded up.
    """
    need, slots = gang.need, gang.slots
    cpus = max(need.cpu, 1)
    words = ["sbatch", *options, "--parsable", "--no-requeue", "--export=ALL", "--propagate=NONE", "--chdir=/"]
    words += [f"--job-name={job_name}", f"--ntasks={slots}", f"--cpus-per-task={cpus}", "--distribution=block"]
    if gang.placement is Placement.SPREAD:
        words += [f"--nodes={slots}", "--ntasks-per-node=1"]
    elif gang.placement is Placement.TOGETHER or slots == 1:
        words += ["--nodes=1"]
    if need.memory_bytes:
        if gang.placement is Placement.SPREAD or slots == 1:
            words += [f"--mem={_mebibytes(need.memory_bytes)}M"]
        elif gang.placement is Placement.TOGETHER:
            words += [f"--mem={_mebibytes(need.memory_bytes * slots)}M"]
        else:
            words += [f"--mem-per-cpu={_mebibytes(need.memory_bytes / cpus)}M"]
    if need.gpu:
        words += [f"--gpus-per-task={need.gpu}"]
    if gang.labels:
        words += ["--constraint=" + "&".join(f"{key}={value}" for key, value in gang.labels)]
    if not any(option.startswith(("-o", "--o")) for option in options):
        words += ["--output=/dev/null"]  # there may be no directory that all machines have
    return words


def steps(gang: GangRequest) -> list[str]:
    """The options of srun in that job: a step of one task for each slot, the one with the lowest number on the first
    machine. A task that ends, ends no other: whose gang is broken is told, and releases it."""
    words = [f"--ntasks={gang.slots}", f"--cpus-per-task={max(gang.need.cpu, 1)}", "--distribution=block", "--mpi=none"]
    words += ["--kill-on-bad-exit=0", "--wait=0", "--input=all"]
    return words + ([f"--gpus-per-task={gang.need.gpu}"] if gang.need.gpu else [])


def _mebibytes(size: float) -> int:
    return math.ceil(size / 2**20)


QUEUE = ("squeue", "--me", "--states=all", "--noheader", "--format=%i|%j|%T|%N|%r|%k")


def read_queue(text: str, prefix: str) -> list[Row]:
    """The jobs whose names have a prefix; what others call theirs, and say of them, is not looked at."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|", 5)
        if len(parts) == 6 and parts[1].startswith(prefix):
            rows.append(Row(*(part.strip() for part in parts)))
    return rows


def in_words(reason: str) -> str:
    """Why a job waits."""
    known = _REASONS.get(reason.partition(",")[0])
    return f"Slurm says: {known} ({reason})" if known and reason != "None" else known or f"Slurm says: {reason}"


NODES = ("scontrol", "--details", "--oneliner", "show", "node")
PARTITIONS = ("scontrol", "--oneliner", "show", "partition")


def default_partitions(text: str) -> frozenset[str]:
    """The one that Slurm takes where none is named."""
    shown = [_fields(line) for line in text.splitlines()]
    return frozenset(fields["PartitionName"] for fields in shown if fields.get("Default") == "YES")


def read_nodes(text: str, partitions: frozenset[str]) -> list[NodeInfo]:
    """The machines of some partitions, of all where there are none."""
    found = []
    for line in text.splitlines():
        fields = _fields(line)
        if "NodeName" not in fields or (partitions and not partitions & set(fields.get("Partitions", "").split(","))):
            continue
        features = [feature for feature in fields.get("ActiveFeatures", "").split(",") if "=" in feature]
        cpu = int(fields.get("CPUEfctv", fields.get("CPUTot", "0")))
        memory = int(fields.get("RealMemory", "0")) - int(fields.get("MemSpecLimit", "0"))
        total = Resources(cpu, memory * 2**20, _gpus(fields.get("Gres", "")))
        used = Resources(
            int(fields.get("CPUAlloc", "0")),
            int(fields.get("AllocMem", "0")) * 2**20,
            _gpus(fields.get("GresUsed", "")),
        )
        state = fields.get("State", "UNKNOWN")
        machine = Machine(
            name=fields["NodeName"],
            total=total,
            free=total - used,
            labels=tuple(sorted((key, value) for key, _, value in (feature.partition("=") for feature in features))),
            alive=not any(word in state for word in _DOWN),
        )
        answers = not any(word in state for word in ("DOWN", "*", "NOT_RESPONDING", "NO_RESPOND"))
        address = fields.get("NodeAddr", machine.name)
        found.append(NodeInfo(machine, answers, fields.get("NodeHostName", address), address))
    return found


def _fields(line: str) -> dict[str, str]:
    """`Name=value Other=value`: values may contain `=`, and some spaces, but none that is followed by a name."""
    return dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", line))


def _gpus(gres: str) -> int:
    """`gpu:2`, `gpu:a100:4(S:0-1),gpu:t4:1(IDX:0),shard:8`: how many GPUs."""
    bare = re.sub(r"\([^)]*\)", "", gres)
    counts = (entry.split(":") for entry in bare.split(","))
    return sum(int(parts[-1]) for parts in counts if parts[0] == "gpu" and parts[-1].isdigit())


def check_reachable(controller_address: str, nodes: Iterable[NodeInfo]) -> None:
    """Raises FailedPreconditionError where workers could not call the controller, which is on this machine only."""
    host = urlsplit(controller_address).hostname or ""
    if not is_loopback_host(host):
        return
    elsewhere = next((node for node in nodes if not _is_here(node)), None)
    if elsewhere is not None:
        raise FailedPreconditionError(
            f"workers on {elsewhere.machine.name}, which is another machine, could not call the controller at"
            f" {controller_address}: give --host, the address of this machine in the network (or 0.0.0.0, and"
            " --advertise with the name by which the others reach it), and --tls-cert with --tls-key, or"
            " --insecure-no-tls"
        )


def _is_here(node: NodeInfo) -> bool:
    """Whether a machine of Slurm's is this one: we can bind to its address."""
    if node.host in (socket.gethostname(), socket.gethostname().partition(".")[0]):
        return True
    try:
        family, kind, _, _, address = socket.getaddrinfo(node.address, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
        return True
    except OSError:
        return False


def own_environment() -> dict[str, str]:
    """What Slurm's commands, and the jobs that they submit, are given of ours: nothing that Slurm has said to a job
    that this program may run in, no options of ours to its commands, and no token."""
    return {name: value for name, value in os.environ.items() if not is_slurms(name) and name != TOKEN_VARIABLE}
