"""Checks a request to run an attempt, before the worker creates anything for the attempt. The controller has checked
the job already. The worker checks the request again, because other programs may also call a worker.
"""

from __future__ import annotations

import re

from iris.cluster.names import check_port_name
from iris.cluster.types import parse_task_id
from iris.errors import InvalidArgumentError, quoted
from iris.rpc import cluster_pb2

_HASH = re.compile(r"[0-9a-f]{64}")


def split_off_hosts(request: cluster_pb2.Worker.RunTaskRequest) -> str:
    """Remove the hosts of a gang from a request, except the first host. Return all hosts as text, one host per line.
    The hosts are removed because a large gang has many hosts, and the record of an attempt keeps the request for a long
    time.

    Raises:
        InvalidArgumentError: A host contains spaces.
    """
    for host in request.hosts:
        if host and host.split() != [host]:
            raise InvalidArgumentError(f"hosts must be names or addresses without spaces, got {quoted(host)}")
    text = "".join(f"{host}\n" for host in request.hosts)
    del request.hosts[1:]
    return text


def split_off_entrypoint(request: cluster_pb2.Worker.RunTaskRequest) -> bytes:
    """Remove the pickled callable from a request, and return the callable. Return empty bytes if the task runs a
    command instead. If the task has inputs, its command arrives in the field `input_command`. Move such a command to
    the field `command`, where the rest of the worker looks for the command.
    """
    entrypoint = request.serialized_entrypoint or request.input_entrypoint
    request.ClearField("serialized_entrypoint")
    request.ClearField("input_entrypoint")
    if request.input_command:
        request.command[:] = request.input_command
        request.ClearField("input_command")
    return entrypoint


def check_request(request: cluster_pb2.Worker.RunTaskRequest) -> None:
    """Raise InvalidArgumentError if a request contains values with which no process can be started."""
    job_id, task_index = parse_task_id(request.task_id)
    if (job_id, task_index) != (request.job_id, request.task_index):
        raise InvalidArgumentError(
            f"task_id {quoted(request.task_id)} does not belong to job {quoted(request.job_id)}, index"
            f" {request.task_index}"
        )
    variables = request.environment.env_vars
    texts = [request.job_id, request.working_directory, request.pickled_by, *request.command]
    texts += [*request.hosts, *request.visible_devices]
    for text in (*texts, *variables.keys(), *variables.values()):
        if "\0" in text:
            raise InvalidArgumentError(f"a request must not contain the character NUL, got {quoted(text)}")
    for name in variables:
        if not name or "=" in name:
            raise InvalidArgumentError(
                f"the name of an environment variable must not be empty or contain '=', got {quoted(name)}"
            )
    for port in request.ports:
        check_port_name(port)
    if request.rendezvous and not request.hosts:
        raise InvalidArgumentError("a rendezvous needs the hosts of its tasks, or at least the host of task 0")
    if request.inputs_hash and not _HASH.fullmatch(request.inputs_hash):
        raise InvalidArgumentError(
            f"inputs_hash must have 64 hexadecimal digits in lower case, got {quoted(request.inputs_hash)}"
        )
    if request.bundle_hash and not _HASH.fullmatch(request.bundle_hash):
        raise InvalidArgumentError(
            f"bundle_hash must have 64 hexadecimal digits in lower case, got {quoted(request.bundle_hash)}"
        )
