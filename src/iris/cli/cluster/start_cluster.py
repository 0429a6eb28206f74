"""Starts what `iris up` was asked for: reads what its options mean, and waits until the cluster can be used."""

from __future__ import annotations

import errno
import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.cluster_record import Record, write_record
from iris.cli.output.printer import Output
from iris.cluster.types import parse_bytes
from iris.durations import read_span
from iris.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    LocalClusterError,
    UnavailableError,
)
from iris.system.process_identity import identify_process, own_place

if TYPE_CHECKING:
    from iris.cluster.client.server_process import DoorOptions, LocalServer, LogOptions

DEFAULT_PORT = 50051
DEFAULT_HOST = "127.0.0.1"
DOOR_FILES = ("tls_cert", "tls_key", "client_ca")
_LOG_OPTIONS = ("keep_logs", "keep_log_bytes", "max_log_bytes", "log_location")
_PLACE_TEXTS = ("advertise", "labels", "engine", "ray_address", "slurm_options")
_WORKERS_READY_S = 60.0
_PAUSE_S = 0.02


def start(wanted: Mapping[str, object], output: Output, *, take_over: bool) -> tuple[Record, LocalServer]:
    """Starts the server, and returns when its standing workers are there, if its engine has such. Undone when that
    fails, or is interrupted."""
    from iris.cluster.client.server_process import DoorOptions, EnforceOptions, PlaceOptions, start_server
    from iris.rpc.http.tls import check_exposure

    port = DEFAULT_PORT if wanted["port"] is None else int(str(wanted["port"]))
    engine = str(wanted["engine"] or "local")
    host, workers = str(wanted["host"] or DEFAULT_HOST), int(str(wanted["workers"] or int(engine == "local")))
    state_dir = Path(str(wanted["state_dir"]))
    texts = {name: str(wanted[name] or "") for name in (*_LOG_OPTIONS, *_PLACE_TEXTS, "lease", "enforce")}
    texts["engine"] = engine
    max_processes = None if wanted["max_processes"] in (None, "") else int(str(wanted["max_processes"]))
    per_user = {what: int(str(wanted[f"max_{what}_per_user"] or 0)) for what in ("jobs", "tasks", "streams")}
    files = {name: str(wanted[name] or "") for name in DOOR_FILES}
    door = DoorOptions(**files, insecure_no_tls=bool(wanted["insecure_no_tls"]))
    check_exposure(host, tls=bool(door.tls_cert), insecure=door.insecure_no_tls)
    _check_port(host, port)
    try:
        output.set_status("starting a cluster on this machine…")
        server = start_server(
            state_dir,
            workers=workers or None,
            host=host,
            port=port,
            lease_s=read_lease(texts["lease"] or None),
            logs=read_log_options({name: texts[name] or None for name in _LOG_OPTIONS}),
            enforcement=EnforceOptions(texts["enforce"] or None, max_processes),
            limits={what: number for what, number in per_user.items() if number},
            door=door,
            place=PlaceOptions(
                texts["advertise"],
                tuple(texts["labels"].split()),
                engine,
                texts["ray_address"],
                tuple(shlex.split(texts["slurm_options"])),
            ),
            take_over=take_over,
        )
        try:
            if workers:  # others start workers when there is something to run
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
                place=own_place(),
                state_dir=str(state_dir),
                host=host,
                port=server.port,
                workers=workers,
                max_processes="" if max_processes is None else max_processes,
                **settings,
            )
            write_record(record)
        except BaseException:
            server.stop()
            raise
    except UnavailableError as error:
        advice = f"; --host has to be a name that {door.tls_cert} is for" if door.tls_cert else ""
        advice = "; --advertise has to lead to it from this machine, too" if texts["advertise"] else advice
        raise LocalClusterError(
            f"the cluster was started, but cannot be used and has ended: {error}{advice}"
        ) from error
    except IrisError:
        raise
    except OSError as error:
        raise LocalClusterError(f"cannot keep the cluster's state in {state_dir}: {error}") from error
    finally:
        output.set_status("")
    return record, server


def read_lease(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = read_span(text)
    except InvalidArgumentError as error:
        raise click.BadParameter(str(error), param_hint="--lease") from error
    if seconds < 1:
        raise click.BadParameter(f"{text!r} is too short: expected 1s or more", param_hint="--lease")
    return seconds


def read_log_options(given: Mapping[str, str | None]) -> LogOptions:
    from iris.cluster.client.server_process import LogOptions

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


def _wait_for_workers(server: LocalServer, workers: int, state_dir: Path, door: DoorOptions, output: Output) -> None:
    from iris.cluster.client.remote_client import RemoteClusterClient
    from iris.cluster.client.running_cluster import Here

    end = time.monotonic() + _WORKERS_READY_S
    tls = Here(state_dir, door.tls_cert, door.client_ca).tls()
    with RemoteClusterClient(server.address, token=server.token, ca=tls.ca or None, cert=tls.cert or None) as cluster:
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
    from iris.system.sockets import bind

    try:
        bind(host, port).close()
    except IrisError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
        advice = "give another port with --port (0 takes any free one)"
        if isinstance(error.__cause__, OSError) and error.__cause__.errno not in (errno.EADDRINUSE, errno.EACCES):
            advice = "--host has to be an address or a name of this machine"
        raise FailedPreconditionError(f"cannot listen on {host}:{port}: {reason}; {advice}") from error


def is_free(host: str, port: int) -> bool:
    try:
        _check_port(host, port)
    except FailedPreconditionError:
        return False
    return True
