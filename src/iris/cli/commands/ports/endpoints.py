"""`iris endpoints`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target
from iris.cli.completion import JobName
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output
from iris.cluster.types import make_task_id
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.client import IrisClient

    Endpoint = cluster_pb2.Controller.Endpoint

_HELP = """\
Show the endpoints that jobs have registered, and the ports that running tasks have requested with 'iris run --port'.

JOB is an id of a job or task, the beginning of an id, or '@' for your latest job. Without JOB, all endpoints and ports
are shown.

\b
  iris endpoints
  iris endpoints serve-1a2b3c4d
  iris endpoints --json | jq -r '.endpoints[] | [.name, .address] | @tsv'
  iris endpoints @ --json | jq '.ports[] | select(.name == "web") | .port'

Only ports that were requested with --port are shown. 'iris forward JOB PORT' reaches these ports from this machine,
and also all other ports on which a task listens.
"""


@dataclass(frozen=True)
class _Port:
    """A port of a running task. `host` is the address of the task's machine."""

    job_id: str
    task_index: int
    name: str
    port: int
    host: str


@click.command(help=_HELP, short_help="Show endpoints, and ports of tasks.")
@json_option()
@address_option
@click.argument("job", type=JobName(with_tasks=True), metavar="[JOB]", required=False)
def endpoints(*, job: str | None, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        client = connection.client
        target = None if job is None else Lookup(client).one(job)
        registered = [one for one in client.list_endpoints() if target is None or _belongs(one, target)]
        ports = _all_ports(client) if target is None else _ports_of(target.job, target.task_index)
    output.answer(_document(registered, ports), lambda: _view(registered, ports))


def _belongs(endpoint: Endpoint, target: Target) -> bool:
    if endpoint.job_id != target.job.job_id:
        return False
    is_of_task = endpoint.HasField("task_index") and endpoint.task_index == target.task_index
    return target.task_index is None or is_of_task


def _all_ports(client: IrisClient) -> list[_Port]:
    ports = []
    for job in client.list_jobs(states=["RUNNING"]):
        if job.ports:  # Only jobs with ports are requested from the controller.
            ports += _ports_of(client.status(job.job_id), None)
    return ports


def _ports_of(job: cluster_pb2.JobStatus, task_index: int | None) -> list[_Port]:
    return [
        _Port(job.job_id, task.task_index, name, port, urlsplit(task.worker_address).hostname or "")
        for task in job.tasks
        if task.state == cluster_pb2.TASK_STATE_RUNNING and task_index in (None, task.task_index)
        for name, port in sorted(task.ports.items())
    ]


def _document(registered: list[Endpoint], ports: list[_Port]) -> dict[str, Any]:
    return {
        "endpoints": [
            {
                "name": one.name,
                "address": one.address,
                "job_id": one.job_id or None,
                "task_index": one.task_index if one.HasField("task_index") else None,
                "attempt_id": one.attempt_id if one.HasField("attempt_id") else None,
                "metadata": dict(one.metadata),
                "endpoint_id": one.endpoint_id,
            }
            for one in registered
        ],
        "ports": [
            {"job_id": one.job_id, "task_index": one.task_index, "name": one.name, "port": one.port, "host": one.host}
            for one in ports
        ],
    }


def _view(registered: list[Endpoint], ports: list[_Port]) -> str | RenderableType:
    if not registered and not ports:
        return "no endpoints, and no running task has requested a port with 'iris run --port'"
    from rich.console import Group

    from iris.cli.output.columns import Columns
    from iris.cli.output.tables import plain

    parts: list[RenderableType] = []
    if registered:
        table = Columns("ENDPOINT", "JOB", "ADDRESS", "METADATA", last="wrap")
        for one in registered:
            of_task = one.HasField("task_index")
            owner = make_task_id(one.job_id, one.task_index) if of_task else one.job_id or "-"
            metadata = " ".join(f"{key}={value}" for key, value in sorted(one.metadata.items()))
            table.add_row(*map(plain, (one.name, owner, one.address, metadata or "-")))
        parts.append(table)
    if ports:
        table = Columns("PORT", "TASK", "ADDRESS", last="wrap")
        for port in ports:
            table.add_row(port.name, plain(make_task_id(port.job_id, port.task_index)), f"{port.host}:{port.port}")
        parts += [""] * bool(registered) + [table]
    return Group(*parts)
