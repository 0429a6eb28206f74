"""`iris forward`."""

from __future__ import annotations

import contextlib
import re
import shlex
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target
from iris.cli.completion import JobName
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output
from iris.cluster.names import check_port_name
from iris.cluster.types import is_job_finished, state_name
from iris.errors import FailedPreconditionError, InvalidArgumentError, quoted
from iris.rpc.address import is_loopback_host

if TYPE_CHECKING:
    from iris.cli.cluster.connect import Connection
    from iris.client.forwarding.forward import Forward
    from iris.rpc import cluster_pb2

_MAX_PORT = 65535
_HELP = """\
Reach ports of a task from this machine, through the controller, until the task ends or Ctrl-C is pressed.

JOB is an id, the beginning of an id, or '@' for your latest job; without /task-N it is the job's first task. PORT is a
number on which the task listens, or the name of a port of 'iris run --port'. LOCAL is the local port: by default the
same number, or any free port for a name; 0 takes any free port. The port of the task comes first; in 'kubectl
port-forward' and 'docker run -p', the port of the container comes last.

\b
  iris forward train-1a2b3c4d 6006          http://127.0.0.1:6006 shows the task's TensorBoard
  iris forward serve-5e6f7a8b/task-2 8000:9000
  iris forward @ web:8080 debug             two ports that the job has requested by name
  iris forward @ 8000:0 --json              the local address, for a script
  iris forward @                            list the known ports of the job

HTTP, WebSocket and all other protocols over TCP work. 'iris forward' waits for a task that does not run yet, and
continues when the task is retried. Only the job's owner and admins may use this command. Without PORT, the error lists
the ports of 'iris run --port' and the endpoints of the job, each with the command that reaches it.
"""


class _PortPair(click.ParamType[Any]):
    """The type of an argument PORT[:LOCAL]: the port, and the local port or None."""

    name = "PORT[:LOCAL]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the port of the task, and the local port."""
        remote, colon, local = str(value).partition(":")
        try:
            port = _number("PORT", remote, 1) if remote.isdecimal() else _name(remote)
            if not colon:
                return port, port if isinstance(port, int) else 0
            if isinstance(port, int) and re.fullmatch("[A-Za-z_]+[A-Za-z0-9_]*", local, re.ASCII):
                raise InvalidArgumentError(
                    f"the port of the task must come before the local port: write {local}:{port}"
                )
            return port, _number("LOCAL", local, 0)
        except InvalidArgumentError as error:
            self.fail(f"{error}; expected PORT or PORT:LOCAL, for example 8000, 8000:9000 or web:8080", param, ctx)


def _number(what: str, text: str, least: int) -> int:
    if not re.fullmatch("[0-9]{1,5}", text, re.ASCII) or not least <= int(text) <= _MAX_PORT:
        raise InvalidArgumentError(f"{what} must be a number from {least} to {_MAX_PORT}, got {quoted(text)}")
    return int(text)


def _name(text: str) -> str:
    check_port_name(text)
    return text


@click.command(help=_HELP, short_help="Reach ports of a task from this machine.")
@click.option(
    "--listen",
    metavar="HOST",
    default="127.0.0.1",
    help="The local address to listen on. Every program that reaches it reaches the task. Default: 127.0.0.1.",
)
@json_option("Print one line of JSON with the local addresses on stdout.")
@address_option
@click.argument("job", type=JobName(with_tasks=True), metavar="JOB[/task-N]")
@click.argument("ports", type=_PortPair(), nargs=-1, metavar="PORT[:LOCAL]...")
def forward(
    *, job: str, ports: tuple[tuple[int | str, int], ...], listen: str, as_json: bool, address: str | None
) -> None:
    """See `_HELP`."""
    from iris.client.forwarding.forward import Forward
    from iris.client.forwarding.port_pairs import PortPair

    output = Output(as_json=as_json)
    with connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        if is_job_finished(target.job.state):
            raise FailedPreconditionError(
                f"job {target.job.job_id!r} has ended ({state_name(target.job.state)}): its ports cannot be reached"
            )
        if not ports:
            raise click.UsageError(_words_of_missing_port(connection, target, job))
        if not is_loopback_host(listen):
            output.note(f"every machine that reaches {listen} reaches the task, without a token")
        opened = Forward(
            connection.client.cluster.connection,
            target.job.job_id,
            target.task_index or 0,
            [PortPair(remote, local) for remote, local in ports],
            host=listen,
            on_notice=output.note,
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(opened)
            except FailedPreconditionError as error:
                raise _with_command(error, job, ports, listen, connection.options) from None
            _print_addresses(output, target, opened, [remote for remote, _ in ports])
            output.note(f"{opened.wait()}; the ports are closed")


def _words_of_missing_port(connection: Connection, target: Target, name: str) -> str:
    """Return the error about a command line without PORT. It lists the ports that the user can give, with the commands.

    Args:
        connection: The connection to the cluster.
        target: The job or task whose ports are forwarded.
        name: The job or task, as the user has typed it.
    """
    job_id, client, index = target.job.job_id, connection.client, target.task_index or 0
    command = ["iris", "forward", *shlex.split(connection.options)]
    numbers = client.task_status(job_id, index).ports
    lines = []
    for port in sorted(requested.lower() for requested in client.submission(job_id).submission.ports):
        number = f"port {numbers[port]}" if port in numbers else "its number is not known yet"
        lines.append(f"{port} ({number}): {shlex.join([*command, name, port])}")
    for endpoint in client.list_endpoints():
        if endpoint.job_id != job_id or target.task_index not in (None, _task_of(endpoint)):
            continue
        number = endpoint.address.rpartition(":")[2].partition("/")[0]
        if re.fullmatch("[0-9]{1,5}", number, re.ASCII):
            task = name if target.task_index is not None else f"{name}/task-{_task_of(endpoint)}"
            about = f"endpoint {quoted(endpoint.name)} ({quoted(endpoint.address)})"
            lines.append(f"{about}: {shlex.join([*command, task, number])}")
    if not lines:
        return (
            f"missing PORT: job {job_id!r} has no endpoints, and has requested no ports with 'iris run --port'. Give"
            f" the number of a port on which the task listens, for example '{shlex.join([*command, name, '8000'])}'"
        )
    return "\n  ".join([f"missing PORT: the known ports of job {job_id!r} are:", *lines])


def _task_of(endpoint: cluster_pb2.Controller.Endpoint) -> int:
    """Return the index of the task whose port an endpoint names. An endpoint of a whole job is taken to be one of the
    job's first task.
    """
    return endpoint.task_index if endpoint.HasField("task_index") else 0


def _with_command(
    error: FailedPreconditionError, job: str, ports: tuple[tuple[int | str, int], ...], listen: str, options: str
) -> FailedPreconditionError:
    """If another program uses one of the local ports, return an error that shows the same command with a free port."""
    taken = error.metadata.get("local_port_in_use")
    if taken is None:
        return error
    pairs = [f"{remote}:{0 if str(local) == taken else local}" for remote, local in ports]
    host = [] if is_loopback_host(listen) else ["--listen", listen]
    command = shlex.join(["iris", "forward", *shlex.split(options), *host, job, *pairs])
    return FailedPreconditionError(
        f"another program uses local port {taken} at {listen}: choose another local port, or let the system choose"
        f" one with '{command}'",
        metadata=error.metadata,
    )


def _print_addresses(output: Output, target: Target, opened: Forward, ports: list[int | str]) -> None:
    index = target.task_index or 0
    addresses = [opened.address_of(number) for number in range(len(ports))]
    output.event(
        {
            "job_id": target.job.job_id,
            "task_index": index,
            "forwards": [
                {"port": port, "address": address, "url": f"http://{address}"}
                for port, address in zip(ports, addresses, strict=True)
            ],
        }
    )
    if not output.as_json:
        lines = [
            f"{address} -> {target.job.job_id}/task-{index}, port {port}"
            for port, address in zip(ports, addresses, strict=True)
        ]
        output.answer({}, lambda: "\n".join(lines))
