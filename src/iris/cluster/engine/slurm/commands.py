"""Builds and runs Slurm's commands, and parses their answers.

Only `squeue`, `scontrol`, `sbatch`, and `scancel` are used, because the accounting database (`sacct`) is not available
everywhere and Slurm's libraries change with each release.
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
# The options of sbatch that Iris sets itself.
OWN_OPTIONS = (
    *("array", "batch", "chdir", "clusters", "comment", "constraint", "container", "cores-per-socket"),
    *("cpus-per-gpu", "cpus-per-task", "distribution", "exclude-user", "export", "export-file", "get-user-env"),
    *("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "help", "ignore-pbs", "input", "job-name"),
    *("kill-on-invalid-dep", "mem", "mem-per-cpu", "mem-per-gpu", "no-kill", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "overcommit", "parsable"),
    *("propagate", "quiet", "requeue", "test-only", "tres-per-task", "usage", "verbose", "version", "wait", "wrap"),
)
_OWN_LETTERS = "aDMCcmGhiJknNOQvVW"
# The options of sbatch that need a value. If no value is attached to the option, the next word is the value.
_VALUED = (
    *("account", "begin", "cluster-constraint", "deadline", "dependency", "error", "exclude", "licenses", "mail-type"),
    *("mail-user", "nodelist", "output", "partition", "priority", "qos", "reservation", "signal", "time", "time-min"),
    "wckey",
)
_VALUED_LETTERS = "AbdeFLopqtwx"
_OPTION = re.compile(r"--(?P<name>[a-z][a-z-]*)(=.*)?|-(?P<letter>[A-Za-z])(?P<value>.*)", re.DOTALL)

# Messages of sbatch about temporary conditions. Every other message is a final rejection.
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
# Common reasons that `squeue` gives for a waiting job, and their words for users. About a hundred other reasons are
# shown unchanged.
_REASONS = {
    "None": "Slurm has not considered the job yet",
    "Resources": "not enough resources are free",
    "Priority": "jobs with a higher priority come first",
    "Dependency": "the job depends on another Slurm job",
    "BeginTime": "the job's begin time has not come, or the job was requeued",
    "Licenses": "no license is free",
    "PartitionConfig": "the request exceeds the partition's limits",
    "PartitionNodeLimit": "the partition does not have enough machines",
    "PartitionTimeLimit": "the job's time limit exceeds the partition's",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "ReqNodeNotAvail": "the required machines are not available at present",
    "JobHeldUser": "a user holds the job; 'scontrol release' frees it",
    "JobHeldAdmin": "an administrator holds the job",
    "Reservation": "the reservation has not begun",
    "launch failed requeued held": "a machine could not start the job",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of `squeue` about one job: number, name, state, machine list, reason for waiting, and comment."""

    job_id: str
    name: str
    state: str
    nodes: str
    reason: str
    comment: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What Slurm knows about a machine: whether it answers, and its host name and address."""

    machine: Machine
    answers: bool
    host: str
    address: str


def check_installed() -> None:
    """Raise FailedPreconditionError if a command of Slurm is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise FailedPreconditionError(
            f"the Slurm engine needs Slurm's commands; not found on PATH: {', '.join(missing)}. Start the cluster on a"
            " machine from which you can submit jobs to Slurm, usually its login node, or install the commands"
            " (the package 'slurm-client' on Debian)"
        )


def check_options(options: Iterable[str]) -> None:
    """Raise InvalidArgumentError for words that are not options of sbatch, and for options that Iris sets itself."""
    for option in options:
        match = _OPTION.fullmatch(option)
        if match is None:
            raise InvalidArgumentError(
                f"not an option of sbatch: {option!r} (expected one word, for example '--partition=gpu' or '-pgpu')"
            )
        name, letter = match["name"], match["letter"]
        # An abbreviated option is checked too, because sbatch accepts abbreviations.
        if (letter and letter in _OWN_LETTERS) or (name and any(own.startswith(name) for own in OWN_OPTIONS)):
            raise InvalidArgumentError(
                f"Iris sets the sbatch option {option!r} itself. Request resources, placement, and constraints for each"
                " job instead: iris run --cpu, --memory, --gpu, --spread, --together, --constraint"
            )
        if option in [f"--{valued}" for valued in _VALUED] or option in [f"-{valued}" for valued in _VALUED_LETTERS]:
            raise InvalidArgumentError(
                f"the sbatch option {option!r} needs a value in the same word, for example '--partition=gpu' or '-pgpu'"
            )


def partitions_in(options: Iterable[str]) -> frozenset[str]:
    """Return the partitions that options of sbatch name. An empty result means the default partition."""
    named = ""
    for option in options:
        match = _OPTION.fullmatch(option)
        if match is not None and (match["letter"] == "p" or (match["name"] and "partition".startswith(match["name"]))):
            named = (match["value"] or option.partition("=")[2]).lstrip("=")
    return frozenset(filter(None, named.split(",")))


async def run(words: Sequence[str], env: Mapping[str, str], timeout_s: float, stdin: str = "") -> Answer:
    """Run one of Slurm's commands.

    Raises:
        UnavailableError: The command cannot be started or does not end in time. The command may or may not have had an
            effect.
    """
    # Files in memory are used instead of pipes for two reasons. First, a command that ends at once would break the pipe
    # of its stdin. Second, if a command does not end in time, its stderr can still be read from the file.
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
                start_new_session=True,  # In a new session, the command does not receive Ctrl-C from a terminal.
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
        messages_so_far = f"; its output until then: {said(answer)}" if answer.err.strip() else ""
        raise UnavailableError(
            f"Slurm cannot be reached: {words[0]} did not return within {timeout_s:g} s{messages_so_far}"
        )
    return answer


def is_not_now(answer: Answer) -> bool:
    """Return whether a command has failed because of a temporary condition, so that a later try may succeed."""
    text = answer.err.lower()
    return any(words in text for words in _NOT_NOW)


def is_no_such_job(answer: Answer) -> bool:
    """Return whether a command has failed because the job or step does not exist."""
    text = answer.err.lower()
    return any(words in text for words in _NO_SUCH_JOB)


def unavailable(program: str, answer: Answer) -> UnavailableError:
    """Return the UnavailableError for a command that has failed because of a temporary condition."""
    return UnavailableError(f"Slurm cannot be reached: {program} says: {said(answer)}")


def said(answer: Answer) -> str:
    """Return the error messages of a command in one line, without the program's name before each message."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line.strip()) for line in answer.err.splitlines()]
    return "; ".join(dict.fromkeys(filter(None, lines))) or f"nothing, and exit code {answer.code}"


def submission(gang: GangRequest, job_name: str, options: Sequence[str]) -> list[str]:
    """Return the command line of sbatch for a gang.

    Iris's options follow the user's options, because sbatch uses the last of several equal options. Slurm gives each
    slot at least one CPU, and only whole CPUs. Therefore a fraction of a CPU is rounded up. Slurm gives each slot the
    configured default of memory if the gang requests no memory. If the number of slots on a machine is known, Iris
    requests memory for each machine, and otherwise for each CPU. The memory is rounded up to mebibytes.
    """
    need, slots = gang.need, gang.slots
    cpus = _cpus(need)
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
        # The working directory is the root directory, because another directory may not exist on all machines.
        words += ["--output=/dev/null"]
    return words


def steps(gang: GangRequest) -> list[str]:
    """Return the options of srun inside the job: one step with one process for each slot.

    Slots are numbered in the order of the machines. The end of one slot must not end other slots, because the
    controller itself releases a broken gang.
    """
    words = [f"--ntasks={gang.slots}", f"--cpus-per-task={_cpus(gang.need)}", "--distribution=block", "--mpi=none"]
    words += ["--kill-on-bad-exit=0", "--wait=0", "--input=all"]
    return words + ([f"--gpus-per-task={gang.need.gpu}"] if gang.need.gpu else [])


def _cpus(need: Resources) -> int:
    return max(math.ceil(need.cpu), 1)


def _mebibytes(size: float) -> int:
    return math.ceil(size / 2**20)


QUEUE = ("squeue", "--me", "--states=all", "--noheader", "--format=%i|%j|%T|%N|%r|%k")


def read_queue(text: str, prefix: str) -> list[Row]:
    """Return the jobs in the output of `squeue` whose names have a prefix."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|", 5)
        if len(parts) == 6 and parts[1].startswith(prefix):
            rows.append(Row(*(part.strip() for part in parts)))
    return rows


def in_words(reason: str) -> str:
    """Return a phrase that explains Slurm's word for the reason why a job waits."""
    known = _REASONS.get(reason.partition(",")[0])
    return f"Slurm says: {known} ({reason})" if known and reason != "None" else known or f"Slurm says: {reason}"


NODES = ("scontrol", "--details", "--oneliner", "show", "node")
PARTITIONS = ("scontrol", "--oneliner", "show", "partition")


def default_partitions(text: str) -> frozenset[str]:
    """Return the partition that Slurm uses by default."""
    shown = [_fields(line) for line in text.splitlines()]
    return frozenset(fields["PartitionName"] for fields in shown if fields.get("Default") == "YES")


def read_nodes(text: str, partitions: frozenset[str]) -> list[NodeInfo]:
    """Return the machines of some partitions, or all machines if `partitions` is empty."""
    found = []
    for line in text.splitlines():
        fields = _fields(line)
        if "NodeName" not in fields or (partitions and not partitions & set(fields.get("Partitions", "").split(","))):
            continue
        features = [feature for feature in fields.get("ActiveFeatures", "").split(",") if "=" in feature]
        cpu = int(fields.get("CPUEfctv", fields.get("CPUTot", "0")))
        memory = int(fields.get("RealMemory", "0")) - int(fields.get("MemSpecLimit", "0"))
        total = Resources.of(cpu, memory * 2**20, _gpus(fields.get("Gres", "")))
        used = Resources.of(
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
    """Parse a line such as `Name=value Other=value`. A value may contain `=` and spaces. The value ends at a space that
    is followed by another name and `=`.
    """
    return dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", line))


def _gpus(gres: str) -> int:
    """Return the number of GPUs in a list such as `gpu:2` or `gpu:a100:4(S:0-1),gpu:t4:1(IDX:0),shard:8`."""
    bare = re.sub(r"\([^)]*\)", "", gres)
    counts = (entry.split(":") for entry in bare.split(","))
    return sum(int(parts[-1]) for parts in counts if parts[0] == "gpu" and parts[-1].isdigit())


def check_reachable(controller_address: str, nodes: Iterable[NodeInfo]) -> None:
    """Raise FailedPreconditionError if the controller listens on loopback only and Slurm has other machines."""
    host = urlsplit(controller_address).hostname or ""
    if not is_loopback_host(host):
        return
    elsewhere = next((node for node in nodes if not _is_here(node)), None)
    if elsewhere is not None:
        raise FailedPreconditionError(
            f"workers on machine {elsewhere.machine.name} cannot reach the controller at {controller_address}:"
            " set --host to this machine's address in the network, or to 0.0.0.0 and --advertise to the name by"
            " which the others reach this machine. Add --tls-cert and --tls-key, or --insecure-no-tls on a"
            " network that you trust"
        )


def _is_here(node: NodeInfo) -> bool:
    """Return whether a Slurm machine is this machine. The result is True if this machine can bind the Slurm machine's
    address.
    """
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
    """Return the environment for Slurm's commands and for the jobs that they submit.

    The environment contains no variables of a Slurm job in which this program may itself be running, no variables that
    set options of Slurm's commands, and no token.
    """
    return {name: value for name, value in os.environ.items() if not is_slurms(name) and name != TOKEN_VARIABLE}
