"""Carries out the checks of `iris doctor`, from the address of the cluster to its workers. A check is left out only if
it needs something that has failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from iris.cli.cluster.cluster_record import Record, is_running, read_record
from iris.cli.doctor.cluster_checks import judge_cluster, judge_worker
from iris.cli.doctor.findings import Finding, Status, has_problem
from iris.cli.doctor.probing import errors_of, probe_server
from iris.cli.doctor.server_checks import judge_server, judge_token, judge_versions
from iris.cluster.client.access import ClusterAccess
from iris.cluster.client.contexts.choose_cluster import Access, ChosenCluster, find_cluster
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import EVENT_LOG
from iris.cluster.client.task_token import holder_of_token
from iris.errors import IrisError, UnauthenticatedError, UnimplementedError
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

_CALL_S = 10.0
_MAX_TRIED = 100  # At most this many workers are called from this machine.
_LEAST_DISK_BYTES = 1 << 30
_SOURCES = {
    "address": "the given address",
    "context": "the given context",
    "address-variable": "IRIS_CONTROLLER_ADDRESS",
    "context-variable": "IRIS_CONTEXT",
    "current-context": "the current context",
    "running": "the cluster of 'iris up' on this machine",
}


def examine(address: str | None, context: str | None) -> Iterator[Finding]:
    """Yield the findings about a cluster, each as soon as it is known.

    Args:
        address: The address that the user has given, or None if none was given.
        context: The name of the context that the user has given, or None if none was given.
    """
    try:
        chosen = find_cluster(address, context)
        if chosen is None:
            advice = "start one with 'iris up', name one with --address HOST:PORT, or run 'iris login ADDRESS'"
            yield Finding("cluster", "client", Status.PROBLEM, "no cluster is known on this machine", advice)
            return
        access = _access_to(chosen)
    except IrisError as error:
        yield Finding("cluster", "client", Status.PROBLEM, str(error))
        yield from _examine_state_directory(read_record())
        return
    yield Finding("cluster", "client", Status.OK, f"calls {access.address} ({_SOURCES[chosen.source]})")
    found = list(_examine_controller(chosen, access))
    yield from found
    record = read_record()
    if has_problem(found) and record is not None and record.address == access.address:
        yield from _examine_state_directory(record)


def _access_to(chosen: ChosenCluster) -> ClusterAccess:
    given = chosen.access(Access())
    return ClusterAccess(chosen.address, given.token, given.ca, given.cert, None, None, _CALL_S)


def _examine_controller(chosen: ChosenCluster, access: ClusterAccess) -> Iterator[Finding]:
    reached = judge_server(probe_server(access.address, access.tls), access.address)
    given = chosen.access(Access())
    with RemoteClusterClient(
        chosen.address, token=given.token, ca=given.ca, cert=given.cert, timeout_s=_CALL_S
    ) as client:
        token = client.token()
        token_finding = judge_token(holder_of_token(token or ""), now_ms(), is_given=token is not None)
        try:
            described = client.describe_cluster()
        except UnauthenticatedError as error:
            yield from reached
            yield _refused_token(token_finding, error)
            return
        except IrisError as error:
            yield from reached
            yield token_finding
            if not has_problem(reached):
                text = f"does not answer calls: {error}"
                advice = "the event log of the controller has the reason ('iris debug bundle' collects it)"
                yield Finding("calls", "controller", Status.PROBLEM, text, advice)
            return
        # A failed plain request is not a problem here, because the calls have reached the controller. They may go
        # through a proxy that the plain request does not use.
        yield from (_without_problem(finding) for finding in reached)
        yield token_finding
        yield judge_versions(described)
        yield from _examine_cluster(client, access, described)


def _refused_token(finding: Finding, error: UnauthenticatedError) -> Finding:
    if finding.status is Status.PROBLEM:
        return finding
    text = f"{finding.text}, but the cluster does not accept it: {error}"
    return replace(finding, status=Status.PROBLEM, text=text, advice="run 'iris login ADDRESS', or set IRIS_TOKEN")


def _without_problem(finding: Finding) -> Finding:
    if finding.check != "reachability" or finding.status is not Status.PROBLEM:
        return finding
    text = f"{finding.text}. Calls of this client do reach it, for example through a proxy"
    return replace(finding, status=Status.UNKNOWN, text=text, advice="")


def _examine_cluster(
    client: RemoteClusterClient, access: ClusterAccess, described: cluster_pb2.Controller.DescribeClusterResponse
) -> Iterator[Finding]:
    try:
        answer = client.check_cluster()
    except UnimplementedError:
        text = "has a release that cannot check itself and its workers"
        advice = "upgrade the cluster, see docs/how-to/upgrade-a-cluster.md"
        yield Finding("workers", "controller", Status.UNKNOWN, text, advice)
        return
    except IrisError as error:
        yield Finding("workers", "controller", Status.UNKNOWN, f"the workers cannot be checked: {error}")
        return
    yield from judge_cluster(answer)
    tried = [(check.worker.worker_id, check.worker.address) for check in answer.workers if not check.problem]
    errors_here = errors_of(tried[:_MAX_TRIED], access.tls)
    for check in answer.workers:
        yield from judge_worker(check, described.version, errors_here)


def _examine_state_directory(record: Record | None) -> Iterator[Finding]:
    """Yield findings about a controller of `iris up` that does not answer, from its process and its state directory on
    this machine.
    """
    if record is None:
        return
    subject = "server of 'iris up'"
    if is_running(record):
        text = f"its process {record.pid} runs"
        yield Finding("process", subject, Status.UNKNOWN, text, f"its event log is {record.state_dir / EVENT_LOG}")
    else:
        text = f"its process {record.pid} has ended. The event log {record.state_dir / EVENT_LOG} has the reason"
        advice = "'iris up' starts it again with all its jobs"
        yield Finding("process", subject, Status.PROBLEM, text, advice)
    try:
        disk = os.statvfs(record.state_dir)
    except OSError as error:
        text = f"the state directory {record.state_dir} cannot be read: {error.strerror}"
        yield Finding("disk", subject, Status.PROBLEM, text, "mount its disk, or restore it from a backup")
        return
    free = disk.f_bavail * disk.f_frsize
    text = f"{free / 1e9:.1f} GB are free on the disk with its state directory {record.state_dir}"
    if free < _LEAST_DISK_BYTES:
        yield Finding("disk", subject, Status.PROBLEM, text, "free some space there, and run 'iris up'")
    else:
        yield Finding("disk", subject, Status.OK, text)
