"""`iris up`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iris.cli.moments import read_span
from iris.cli.options import json_option
from iris.cli.output import Output
from iris.cli.record import Record, exclusive, find_running, read_record, write_record
from iris.cluster.client.here import state_home
from iris.cluster.types import parse_bytes
from iris.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    LocalClusterError,
    UnavailableError,
)
from iris.rpc.address import is_loopback_host
from iris.rpc.identity import identify_process

if TYPE_CHECKING:
    from iris.cluster.client.local_server import DoorOptions, LocalServer, LogOptions

DEFAULT_PORT = 50051
DEFAULT_HOST = "127.0.0.1"
_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
_WORKERS_READY_S = 60.0
_PAUSE_S = 0.02
_LOG_OPTIONS = ("keep_logs", "keep_log_bytes", "max_log_bytes", "log_location")
_DOOR_FILES = ("tls_cert", "tls_key", "client_ca")
_HELP = """\
Start a cluster on this machine. It stays, also when the terminal closes, until 'iris down'.

\b
  iris up
  iris up --workers 4             four workers share the machine, as if they were four hosts
  iris up --port 0                any free port

Other commands on this machine find it by themselves. Jobs and their logs are kept in the state directory, and are
there again after 'iris down' and 'iris up'.

When its server is killed, what runs goes on for as long as the lease. 'iris up' starts the server again, as it was
started before where you do not say otherwise: on its port, with all that it knew, and it hears what has happened
meanwhile. Of workers that are then more than --workers, those that run something end when that has ended. A worker
that is silent for longer than the lease ends its tasks, and they are tried again elsewhere.

Logs are kept for 30 days after their attempts have ended, and up to 50 GB of them: then the oldest are removed, of
attempts that have ended. Who reads a log that was removed is told so. With --log-location, complete logs are copied
there, and removed from this machine instead when there are too many; after --keep-logs they are removed from there too.

Who calls needs a token. One is made for you, in a file that only you can read, and is found there by itself;
'iris token create' makes more. The port is open to this machine only, unless --host says otherwise; other machines
should come by TLS.
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
@click.option(
    "--lease",
    metavar="TIME",
    help="How long a worker, or the server, may be away before tasks are ended and tried again, as '5m'; default 5m.",
)
@click.option(
    "--keep-logs", metavar="TIME", help="How long logs are kept, as '12h' or '30d', or 'forever'; default 30d."
)
@click.option(
    "--keep-log-bytes",
    metavar="SIZE",
    help="How much of all logs is kept on this machine, as '50GB', or 'unlimited'; default 50GB.",
)
@click.option(
    "--max-log-bytes",
    metavar="SIZE",
    help="How much of one attempt's log is kept, its end, where the job does not say it; default 10GiB.",
)
@click.option(
    "--log-location",
    metavar="URL",
    help="Where complete logs are copied to, as 's3://bucket/logs' or 'file:///mnt/logs'; needs the extra [storage].",
)
@click.option(
    "--enforce",
    type=click.Choice(["auto", "watch", "none"]),
    help="What keeps tasks to their limits: cgroups where possible and else workers that watch (auto, the default),"
    " only the latter, or nothing.",
)
@click.option(
    "--max-processes",
    metavar="N",
    type=click.IntRange(min=0),
    help="How many processes and threads a task may have; 0: any number; default: half of what its worker may.",
)
@click.option(
    "--max-jobs-per-user",
    metavar="N",
    type=click.IntRange(1),
    help="How many jobs of a user may be under way or waiting; default 10000.",
)
@click.option(
    "--max-tasks-per-user", metavar="N", type=click.IntRange(1), help="How many tasks these may have; default 100000."
)
@click.option(
    "--max-streams-per-user",
    metavar="N",
    type=click.IntRange(1),
    help="How many logs a user may follow, and jobs watch, at once; default 2000.",
)
@click.option(
    "--tls-cert", metavar="FILE", type=_FILE, help="Serve TLS with this certificate (chain), in PEM; needs --tls-key."
)
@click.option("--tls-key", metavar="FILE", type=_FILE, help="Its key.")
@click.option(
    "--client-ca", metavar="FILE", type=_FILE, help="Let nobody in without a certificate that one of these has signed."
)
@click.option(
    "--insecure-no-tls",
    is_flag=True,
    default=None,
    help="Serve other machines without TLS: whoever sees the traffic can read all of it, tokens included, and then run"
    " programs as you. For networks where nobody else listens.",
)
@json_option()
def up(
    *,
    port: int | None,
    workers: int | None,
    state_dir: Path | None,
    host: str | None,
    lease: str | None,
    keep_logs: str | None,
    keep_log_bytes: str | None,
    max_log_bytes: str | None,
    log_location: str | None,
    enforce: str | None,
    max_processes: int | None,
    max_jobs_per_user: int | None,
    max_tasks_per_user: int | None,
    max_streams_per_user: int | None,
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str | None,
    insecure_no_tls: bool | None,
    as_json: bool,
) -> None:
    """See `_HELP`."""

    output = Output(as_json=as_json)
    given = {
        "keep_logs": keep_logs,
        "keep_log_bytes": keep_log_bytes,
        "max_log_bytes": max_log_bytes,
        "log_location": log_location,
    }
    _read_log_options(given)  # also where a cluster is up: what cannot be meant is said first
    _read_lease(lease)
    doors = {"tls_cert": tls_cert, "tls_key": tls_key, "client_ca": client_ca, "insecure_no_tls": insecure_no_tls}
    _read_door_options(doors)
    asked: dict[str, object] = {
        "port": port,
        "workers": workers,
        "state_dir": None if state_dir is None else str(state_dir.absolute()),
        "host": host,
        "lease": lease,
        **given,
        "enforce": enforce,
        "max_processes": max_processes,
        "max_jobs_per_user": max_jobs_per_user,
        "max_tasks_per_user": max_tasks_per_user,
        "max_streams_per_user": max_streams_per_user,
        **doors,
    }
    found: dict[str, int] = {}
    with exclusive():
        record = find_running()
        started = record is None
        if record is None:
            record, found = _start(_with_what_was_before(asked), output)
        else:
            _check_same(record, asked)
    document = {**asdict(record), "started": started, "found": found if any(found.values()) else None}
    del document["process"]
    output.answer(document, lambda: _tell(record, started))
    if any(found.values()) and not as_json:
        output.note(_tell_found(found))
    if started and not as_json:
        output.note("next: iris run --detach -- COMMAND, iris ps, iris logs -f JOB; to end it: iris down")
    if not is_loopback_host(record.host):
        output.note("clients on other machines need the address, and a token: iris token create NAME")


def _with_what_was_before(asked: Mapping[str, object]) -> dict[str, object]:
    """What is asked for; for the rest, what the cluster had that was here and was killed: it is to be as it was."""
    before = read_record()
    directory = str(asked["state_dir"] or (before.state_dir if before is not None else state_home().absolute()))
    if before is None or before.state_dir != directory:
        return {**asked, "state_dir": directory}
    _check_doors(before, asked)
    wanted = {name: getattr(before, name) if value is None else value for name, value in asked.items()}
    if asked["port"] == 0 and _is_free(str(wanted["host"]), before.port):
        wanted["port"] = before.port  # any free one: best the one that its tasks know
    return wanted


def _check_doors(before: Record, asked: Mapping[str, object]) -> None:
    """Whether the workers that a killed server has left could still talk with the one that is asked for: they know it
    by the certificate that they were started with."""
    from iris.cluster.engine.worker_process import find_standing

    changed = [name for name in _DOOR_FILES if asked[name] is not None and asked[name] != getattr(before, name)]
    if changed and find_standing(Path(before.state_dir) / "workers"):
        option = "--" + changed[0].replace("_", "-")
        raise FailedPreconditionError(
            f"what the cluster that was killed has started goes on, and could not be reached with another {option}:"
            " 'iris up' without it takes it up again, 'iris down' ends it"
        )


def _start(wanted: Mapping[str, object], output: Output) -> tuple[Record, dict[str, int]]:
    """Starts the server, and returns when its workers are there, also with what was found of an earlier life. Undone
    when that fails, or is interrupted."""
    from iris.cluster.client.local_server import DoorOptions, EnforceOptions, start_server
    from iris.rpc.tls import check_exposure

    port = DEFAULT_PORT if wanted["port"] is None else int(str(wanted["port"]))
    host, workers = str(wanted["host"] or DEFAULT_HOST), int(str(wanted["workers"] or 1))
    state_dir = Path(str(wanted["state_dir"]))
    texts = {name: str(wanted[name] or "") for name in (*_LOG_OPTIONS, "lease", "enforce")}
    max_processes = "" if wanted["max_processes"] is None else wanted["max_processes"]
    per_user = {what: int(str(wanted[f"max_{what}_per_user"] or 0)) for what in ("jobs", "tasks", "streams")}
    files = {name: str(wanted[name] or "") for name in _DOOR_FILES}
    door = DoorOptions(**files, insecure_no_tls=bool(wanted["insecure_no_tls"]))
    check_exposure(host, tls=bool(door.tls_cert), insecure=door.insecure_no_tls)
    _check_port(host, port)
    try:
        output.set_status("starting a cluster on this machine…")
        enforcement = EnforceOptions(texts["enforce"] or None, None if max_processes == "" else int(str(max_processes)))
        server = start_server(
            state_dir,
            workers=workers,
            host=host,
            port=port,
            lease_s=_read_lease(texts["lease"] or None),
            logs=_read_log_options({name: texts[name] or None for name in _LOG_OPTIONS}),
            enforcement=enforcement,
            limits={what: number for what, number in per_user.items() if number},
            door=door,
        )
        try:
            _wait_for_workers(server, workers, state_dir, door, output)
            settings: dict[str, Any] = {
                **texts,
                **asdict(door),
                **{f"max_{what}_per_user": number for what, number in per_user.items()},
            }
            record = Record(
                address=server.address,
                pid=server.process.pid,
                process=identify_process(server.process.pid),
                state_dir=str(state_dir),
                host=host,
                port=int(server.address.rpartition(":")[2]),
                workers=workers,
                max_processes="" if enforcement.max_processes is None else enforcement.max_processes,
                **settings,
            )
            write_record(record)
        except BaseException:
            server.stop()
            raise
    except UnavailableError as error:
        advice = f"; --host has to be a name that {door.tls_cert} is for" if door.tls_cert else ""
        raise LocalClusterError(
            f"the cluster was started, but cannot be used and has ended: {error}{advice}"
        ) from error
    except IrisError:
        raise
    except OSError as error:
        raise LocalClusterError(f"cannot keep the cluster's state in {state_dir}: {error}") from error
    finally:
        output.set_status("")
    return record, server.found


def _read_lease(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = read_span(text)
    except InvalidArgumentError as error:
        raise click.BadParameter(str(error), param_hint="--lease") from error
    if seconds < 1:
        raise click.BadParameter(f"{text!r} is too short: expected 1s or more", param_hint="--lease")
    return seconds


def _read_log_options(given: Mapping[str, str | None]) -> LogOptions:
    from iris.cluster.client.local_server import LogOptions

    def read(name: str, number: Callable[[str], float], endless: str = "") -> float | None:
        text = given[name]
        if text is None or (endless and text == endless):
            return None if text is None else math.inf
        option = "--" + name.replace("_", "-")
        try:
            value = number(text)
        except InvalidArgumentError as error:
            raise click.BadParameter(f"{error}{f', or {endless!r}' if endless else ''}", param_hint=option) from error
        if value <= 0:
            raise click.BadParameter(
                f"{text!r} would keep nothing{f'; to keep all of it: {endless}' if endless else ''}", param_hint=option
            )
        return value

    location = given["log_location"]
    if location is not None and not location.strip():
        raise click.BadParameter("expected a URL, as 'file:///mnt/logs'", param_hint="--log-location")
    max_bytes = read("max_log_bytes", parse_bytes)
    return LogOptions(
        location=location,
        keep_s=read("keep_logs", read_span, "forever"),
        keep_bytes=read("keep_log_bytes", parse_bytes, "unlimited"),
        max_bytes=None if max_bytes is None else round(max_bytes),
    )


def _read_door_options(given: Mapping[str, Any]) -> DoorOptions:
    from iris.cluster.client.local_server import DoorOptions
    from iris.rpc.tls import check_tls_options

    check_tls_options(given)
    return DoorOptions(**{name: value for name, value in given.items() if value is not None})


def _wait_for_workers(server: LocalServer, workers: int, state_dir: Path, door: DoorOptions, output: Output) -> None:
    from iris.cluster.client.here import Here
    from iris.cluster.client.remote_client import RemoteClusterClient

    end = time.monotonic() + _WORKERS_READY_S
    tls = Here(state_dir, door.tls_cert, door.client_ca).tls()
    with RemoteClusterClient(server.address, token=server.token, ca=tls.ca, cert=tls.cert) as cluster:
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


def _is_free(host: str, port: int) -> bool:
    try:
        _check_port(host, port)
    except FailedPreconditionError:
        return False
    return True


def _check_same(record: Record, asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        has = getattr(record, name)
        if value is not None and value != has and not (name == "port" and value == 0):
            option = "--" + name.replace("_", "-")
            kept = f"the default of {option}" if has in ("", 0) else f"{option} {has}"
            raise FailedPreconditionError(
                f"a cluster is up at {record.address} already, with {kept}; to change that: iris down, then"
                f" iris up {option}{'' if value is True else f' {value}'}"
            )


def _tell_found(found: Mapping[str, int]) -> str:
    jobs, workers = found["jobs_going_on"], found["workers_running"]
    return (
        f"found the state of an earlier cluster: {jobs} job{'s' * (jobs != 1)} going on,"
        f" {workers} worker{'s' * (workers != 1)} still running, {found['jobs_ended']} ended"
    )


def _tell(record: Record, started: bool) -> str:
    shared = f", {record.workers} workers" if record.workers > 1 else ""
    return f"{'a cluster is up' if started else 'a cluster is up already'} at {record.address}{shared}"
