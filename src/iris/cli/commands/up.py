"""`iris up`."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iris.cli.options import json_option
from iris.cli.output import Output
from iris.cli.record import Record, exclusive, find_running, identify_process, state_home, write_record
from iris.errors import FailedPreconditionError, IrisError, LocalClusterError

if TYPE_CHECKING:
    from iris.cluster.client.local_server import LocalServer

DEFAULT_PORT = 50051
_WORKERS_READY_S = 60.0
_PAUSE_S = 0.02
_HELP = """\
Start a cluster on this machine. It stays, also when the terminal closes, until 'iris down'.

\b
  iris up
  iris up --workers 4             four workers share the machine, as if they were four hosts
  iris up --port 0                any free port

Other commands on this machine find it by themselves. Jobs are remembered in the state directory, and are there
again after 'iris down' and 'iris up'.

Whoever can reach the port can run programs as you: it is open to this machine only, unless --host says otherwise.
"""


@click.command(help=_HELP, short_help="Start a cluster on this machine.")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Default {DEFAULT_PORT}; 0 takes any free one.")
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, 64), help="How many workers share the machine; default 1."
)
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where jobs, logs and messages are kept; default ~/.local/state/iris.",
)
@click.option("--host", help="The address to bind to; default 127.0.0.1.")
@json_option()
def up(*, port: int | None, workers: int | None, state_dir: Path | None, host: str | None, as_json: bool) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    asked = {
        "port": port,
        "workers": workers,
        "state_dir": None if state_dir is None else str(state_dir.absolute()),
        "host": host,
    }
    with exclusive():
        record = find_running()
        started = record is None
        if record is None:
            record = _start(port, workers or 1, (state_dir or state_home()).absolute(), host or "127.0.0.1", output)
        else:
            _check_same(record, asked)
    document = {**asdict(record), "started": started}
    del document["process"]
    output.answer(document, lambda: _tell(record, started))
    if started and not as_json:
        output.note("next: iris run --detach -- COMMAND, iris ps, iris logs -f JOB; to end it: iris down")
    if not _is_loopback(record.host):
        output.note(f"whoever can reach {record.host}:{record.port} can run programs as you")


def _start(port: int | None, workers: int, state_dir: Path, host: str, output: Output) -> Record:
    """Starts the server, and returns when its workers are there. Undone when that fails, or is interrupted."""
    from iris.cluster.client.local_server import start_server

    wanted_port = DEFAULT_PORT if port is None else port
    _check_port(host, wanted_port)
    try:
        output.set_status("starting a cluster on this machine…")
        server = start_server(state_dir, workers=workers, host=host, port=wanted_port)
        try:
            _wait_for_workers(server, workers, state_dir, output)
            record = Record(
                address=server.address,
                pid=server.process.pid,
                process=identify_process(server.process.pid),
                state_dir=str(state_dir),
                host=host,
                port=int(server.address.rpartition(":")[2]),
                workers=workers,
            )
            write_record(record)
        except BaseException:
            server.stop()
            raise
    except OSError as error:
        raise LocalClusterError(f"cannot keep the cluster's state in {state_dir}: {error}") from error
    finally:
        output.set_status("")
    return record


def _wait_for_workers(server: LocalServer, workers: int, state_dir: Path, output: Output) -> None:
    from iris.cluster.client.remote_client import RemoteClusterClient

    end = time.monotonic() + _WORKERS_READY_S
    with RemoteClusterClient(server.address) as cluster:
        while (ready := sum(worker.healthy for worker in cluster.list_workers())) < workers:
            output.set_status(f"starting a cluster on this machine… {ready} of {workers} workers are there")
            if server.process.poll() is not None or time.monotonic() > end:
                raise LocalClusterError(
                    f"only {ready} of {workers} workers are there after {_WORKERS_READY_S:g} s;"
                    f" their messages are in {state_dir / 'workers'}"
                )
            time.sleep(_PAUSE_S)


def _check_port(host: str, port: int) -> None:
    """Tries the port: here the advice can name the option."""
    from iris.rpc.process import bind

    try:
        bind(host, port).close()
    except IrisError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
        raise FailedPreconditionError(
            f"cannot listen on {host}:{port}: {reason}; give another port with --port (0 takes any free one)"
        ) from error


def _check_same(record: Record, asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        has = getattr(record, name)
        if value is not None and value != has and not (name == "port" and value == 0):
            option = "--" + name.replace("_", "-")
            raise FailedPreconditionError(
                f"a cluster is up at {record.address} already, with {option} {has}; to change that: iris down, then"
                f" iris up {option} {value}"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell(record: Record, started: bool) -> str:
    shared = f", {record.workers} workers" if record.workers > 1 else ""
    return f"{'a cluster is up' if started else 'a cluster is up already'} at {record.address}{shared}"
