"""Decides what is wrong with the controller, its engine and its workers. This module makes no calls: its input is what
`examination.py` has measured."""

from __future__ import annotations

from collections.abc import Mapping

from iris import versions
from iris.cli.doctor.findings import Finding, Status
from iris.cli.doctor.server_checks import judge_worker_clock
from iris.rpc import cluster_pb2

_CONTROLLER = "controller"
_LEAST_DISK_SHARE = 0.1
_MOST_FILES_SHARE = 0.8
# Two values of the kernel's setting `kernel.yama.ptrace_scope`. From the value 2 on, only root can read the memory of
# other processes. With the value 3, not even root can, and only a reboot changes the value.
_YAMA_ADMIN, _YAMA_NO_ATTACH = 2, 3
_YAMA_ADVICE = "set it to 1: sysctl kernel.yama.ptrace_scope=1"


def judge_cluster(answer: cluster_pb2.Controller.CheckClusterResponse) -> list[Finding]:
    """Return the findings about the controller and its engine."""
    return [_judge_engine(answer), *_judge_disk(answer.status), _judge_files(answer), *_judge_number(answer)]


def _judge_engine(answer: cluster_pb2.Controller.CheckClusterResponse) -> Finding:
    engine = answer.status.engine
    if answer.engine_problem:
        text = f"the engine {engine} cannot be reached: {answer.engine_problem}"
        advice = f"check the {engine} cluster from the machine of the controller. Running tasks continue"
        return Finding("engine", "engine", Status.PROBLEM, text, advice)
    return Finding("engine", "engine", Status.OK, f"the engine {engine} answers the controller")


def _judge_disk(status: cluster_pb2.Controller.ClusterStatus) -> list[Finding]:
    if status.shortage:
        return [Finding("shortage", _CONTROLLER, Status.PROBLEM, status.shortage)]
    if not status.disk_total_bytes:
        return []
    text = (
        f"{_gigabytes(status.disk_free_bytes)} of {_gigabytes(status.disk_total_bytes)} are free on the disk with"
        " the state directory"
    )
    if status.disk_free_bytes < _LEAST_DISK_SHARE * status.disk_total_bytes:
        advice = "remove old jobs ('iris rm'), or keep less ('iris up --keep-jobs', '--keep-log-bytes')"
        return [Finding("disk", _CONTROLLER, Status.WARNING, text, advice)]
    return [Finding("disk", _CONTROLLER, Status.OK, text)]


def _judge_files(answer: cluster_pb2.Controller.CheckClusterResponse) -> Finding:
    text = f"uses {answer.open_files:,} of {answer.max_files:,} file descriptors"
    if answer.open_files > _MOST_FILES_SHARE * answer.max_files:
        advice = "close clients, or raise the hard limit (ulimit -Hn) and restart the controller"
        return Finding("descriptors", _CONTROLLER, Status.WARNING, text, advice)
    return Finding("descriptors", _CONTROLLER, Status.OK, text)


def _judge_number(answer: cluster_pb2.Controller.CheckClusterResponse) -> list[Finding]:
    if answer.num_workers == 0 and answer.status.engine == "local":
        advice = "the event logs in the folder workers of the state directory have the reason"
        return [Finding("workers", "workers", Status.PROBLEM, "no worker is registered, so no task can run", advice)]
    if answer.num_workers > len(answer.workers):
        text = f"only the first {len(answer.workers):,} of {answer.num_workers:,} workers were checked"
        return [Finding("workers", "workers", Status.UNKNOWN, text)]
    return []


def judge_worker(
    check: cluster_pb2.Controller.WorkerCheck, controller_version: str, errors_here: Mapping[str, str]
) -> list[Finding]:
    """Return the findings about a worker.

    Args:
        check: The controller's message about the state of the worker.
        controller_version: The release of the controller.
        errors_here: Why this machine cannot reach a worker, by worker id. Reachable workers have an empty text.
            Workers that were not tried are missing.
    """
    worker = check.worker
    subject = f"worker {worker.worker_id}"
    found = [*_judge_reachability(check, subject, errors_here.get(worker.worker_id))]
    if worker.short_of:
        text = f"accepts no new attempts: {worker.short_of}"
        found.append(Finding("shortage", subject, Status.WARNING, text))
    if check.HasField("clock_offset_ms"):
        found.append(judge_worker_clock(subject, check.clock_offset_ms))
    if worker.metadata.HasField("version"):
        found.append(_judge_version(subject, worker.metadata.version, controller_version))
    return [*found, *_judge_machine(subject, worker.metadata)]


def _judge_reachability(
    check: cluster_pb2.Controller.WorkerCheck, subject: str, error_here: str | None
) -> list[Finding]:
    found = []
    address = check.worker.address
    if check.problem:
        text = f"the controller cannot call it at {address}: {check.problem}"
        advice = "check that its machine runs, and that the controller's machine may connect to this address"
        found.append(Finding("reachability", subject, Status.PROBLEM, text, advice))
    elif not check.worker.healthy:
        text = f"has missed {check.worker.consecutive_failures} heartbeats, although it answers the controller"
        advice = "check that its machine can connect to the controller, and how busy the machine is"
        found.append(Finding("heartbeat", subject, Status.PROBLEM, text, advice))
    else:
        text = f"answers the controller within {check.latency_ms} ms"
        found.append(Finding("reachability", subject, Status.OK, text))
    if error_here:
        text = f"cannot be reached from this machine: {error_here}"
        advice = "nothing needs to be done: logs and files travel through the controller instead"
        found.append(Finding("reachability-here", subject, Status.UNKNOWN, text, advice))
    elif error_here is not None:
        found.append(Finding("reachability-here", subject, Status.OK, "can be reached from this machine"))
    return found


def _judge_version(subject: str, version: str, controller_version: str) -> Finding:
    why_not = versions.why_not_together(version, "it", controller_version, "the controller")
    if why_not:
        return Finding("version", subject, Status.PROBLEM, why_not, "see docs/how-to/upgrade-a-cluster.md")
    return Finding("version", subject, Status.OK, f"has Iris {version}")


def _judge_machine(subject: str, metadata: cluster_pb2.WorkerMetadata) -> list[Finding]:
    """Return the findings about cgroups, and about the tool that reads stacks. An older worker reports neither."""
    found = []
    if metadata.enforcement == "cgroup":
        found.append(Finding("cgroups", subject, Status.OK, "limits of tasks are enforced with cgroups"))
    elif metadata.enforcement == "none":
        advice = "the option 'iris up --enforce' turns the enforcement on"
        found.append(Finding("cgroups", subject, Status.UNKNOWN, "limits of tasks are not enforced", advice))
    elif metadata.enforcement:
        text = "limits of tasks are enforced by measuring, not with cgroups. A task can exceed its memory for a moment"
        advice = "run the cluster as a service of systemd with Delegate=yes, see docs/how-to/run-as-a-service.md"
        found.append(Finding("cgroups", subject, Status.UNKNOWN, text, advice))
    if metadata.HasField("has_py_spy") and not metadata.has_py_spy:
        text = "'iris stack' and 'iris profile' cannot read Python processes there"
        found.append(Finding("stacks", subject, Status.UNKNOWN, text, "install the extra [inspect] for the worker"))
    elif metadata.HasField("ptrace_scope") and metadata.ptrace_scope >= _YAMA_ADMIN:
        is_locked = metadata.ptrace_scope >= _YAMA_NO_ATTACH
        why = "'iris stack' cannot work there" if is_locked else "'iris stack' needs root there"
        text = f"kernel.yama.ptrace_scope is {metadata.ptrace_scope}, so {why}"
        advice = "set kernel.yama.ptrace_scope to 1 in /etc/sysctl.d, and reboot" if is_locked else _YAMA_ADVICE
        found.append(Finding("stacks", subject, Status.UNKNOWN, text, advice))
    return found


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
