"""`iris up`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from iris.cli.cluster.cluster_record import Record, exclusive, find_running, read_record
from iris.cli.cluster.start_cluster import DEFAULT_PORT, DOOR_FILES, is_free, read_lease, read_log_options, start
from iris.cli.options import LABEL, json_option
from iris.cli.output.printer import Output
from iris.cluster.client.running_cluster import state_home
from iris.cluster.client.server_process import check_server_extra
from iris.cluster.engine.engine_options import ENGINES, check_engine_options
from iris.errors import FailedPreconditionError
from iris.rpc.address import is_loopback_host
from iris.rpc.http.tls import check_tls_options

_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
_HELP = """\
Start a cluster on this machine. It stays, also when the terminal closes, until 'iris down'.

\b
  iris up
  iris up --workers 4             four workers share the machine, as if they were four hosts
  iris up --port 0                any free port
  iris up --engine ray            on the machines of a Ray cluster, see docs/how-to/run-on-ray.md
  iris up --engine slurm          on those of a Slurm cluster

Other commands on this machine find it by themselves. Jobs and their logs are kept in the state directory, and are
there again after 'iris down' and 'iris up'.

A copy of a state directory, say a restored backup, begins as a new cluster: see --take-over.

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
@click.option(
    "--take-over",
    is_flag=True,
    help="The state directory was moved to another disk or restored from a backup, and its original will not run again:"
    " go on with its jobs and tokens. Without this a copy begins as a new cluster.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    help="What gives places to run: this machine (local, the default), a Ray cluster that it belongs to (ray), or a"
    " Slurm cluster to which it may submit (slurm).",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Where the head of the Ray cluster is; default 'auto': the one that runs on this machine.",
)
@click.option("--host", help="The address to bind to; default 127.0.0.1.")
@click.option(
    "--advertise",
    metavar="ADDRESS",
    help="Where workers, tasks and clients reach it: HOST; HOST:PORT, where a port is forwarded; or the URL of a proxy"
    " or load balancer; default: --host.",
)
@click.option(
    "--slurm-option",
    "slurm_options",
    metavar="OPTION",
    multiple=True,
    help="What Slurm's sbatch is given, as '--slurm-option=--partition=gpu'; may be given several times.",
)
@click.option(
    "--label",
    "labels",
    type=LABEL,
    multiple=True,
    help="What this machine is labelled with, for 'iris run --constraint'; may be given several times.",
)
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
    take_over: bool,
    engine: str | None,
    ray_address: str | None,
    host: str | None,
    advertise: str | None,
    slurm_options: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
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
    check_server_extra()
    output = Output(as_json=as_json)
    given = {
        "keep_logs": keep_logs,
        "keep_log_bytes": keep_log_bytes,
        "max_log_bytes": max_log_bytes,
        "log_location": log_location,
    }
    read_log_options(given)  # also where a cluster is up: what cannot be meant is said first
    read_lease(lease)
    doors = {"tls_cert": tls_cert, "tls_key": tls_key, "client_ca": client_ca, "insecure_no_tls": insecure_no_tls}
    check_tls_options(doors)
    asked: dict[str, object] = {
        "port": port,
        "workers": workers,
        "state_dir": None if state_dir is None else str(state_dir.absolute()),
        "engine": engine,
        "ray_address": ray_address,
        "host": None if host is None else host.removeprefix("[").removesuffix("]"),  # as in a URL
        "advertise": advertise,
        "labels": " ".join(f"{key}={value}" for key, value in labels) or None,
        "slurm_options": shlex.join(slurm_options) or None,
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
    copied: dict[str, Any] | None = None
    with exclusive():
        record = find_running()
        started = record is None
        if record is None:
            wanted = _with_what_was_before(asked)
            check_engine_options({**wanted, "label": wanted["labels"], "slurm_option": wanted["slurm_options"]})
            record, server = start(wanted, output, take_over=take_over)
            found, copied = server.found, server.copied
        else:
            _check_same(record, asked)
    document = {**asdict(record), "started": started, "found": found if any(found.values()) else None}
    document["copied"] = copied
    del document["process"], document["home"], document["place"]
    output.answer(document, lambda: _tell(record, started))
    if copied is not None:
        output.note(_tell_copied(record, copied))
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
    _check_engine(before, asked)
    _check_doors(before, asked)
    wanted = {name: getattr(before, name) if value is None else value for name, value in asked.items()}
    if asked["port"] == 0 and is_free(str(wanted["host"]), before.port):
        wanted["port"] = before.port  # any free one: best the one that its tasks know
    return wanted


def _check_engine(before: Record, asked: Mapping[str, object]) -> None:
    """What a killed server has left with its engine, the server of another one would never hear of."""
    if asked["engine"] not in (None, before.engine):
        raise FailedPreconditionError(
            f"what the cluster that was killed has started may go on, on its engine {before.engine}: 'iris up' without"
            " --engine takes it up again, 'iris down' ends it"
        )


def _check_doors(before: Record, asked: Mapping[str, object]) -> None:
    """Whether the workers that a killed server has left could still talk with the one that is asked for: they know it
    by the certificate that they were started with."""
    from iris.cluster.engine.worker_process import find_standing

    changed = [name for name in DOOR_FILES if asked[name] is not None and asked[name] != getattr(before, name)]
    if changed and find_standing(Path(before.state_dir) / "workers"):
        option = "--" + changed[0].replace("_", "-")
        raise FailedPreconditionError(
            f"what the cluster that was killed has started goes on, and could not be reached with another {option}:"
            " 'iris up' without it takes it up again, 'iris down' ends it"
        )


def _check_same(record: Record, asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        has = getattr(record, name)
        if value is not None and value != has and not (name == "port" and value == 0):
            option = "--" + name.removesuffix("s" if name in ("labels", "slurm_options") else "").replace("_", "-")
            kept = f"the default of {option}" if has in ("", 0) else f"{option} {has}"
            raise FailedPreconditionError(
                f"a cluster is up at {record.address} already, with {kept}; to change that: iris down, then"
                f" iris up {option}{'' if value is True else f' {value}'}"
            )


def _tell_copied(record: Record, copied: Mapping[str, Any]) -> str:
    count = copied["jobs_not_taken_over"]
    jobs = f"{count} jobs that had not ended were" if count != 1 else "1 job that had not ended was"
    return (
        f"{record.state_dir} is a copy of {copied['original']}: this is a new cluster, with a key of its own, that"
        f" leaves the original alone. {jobs} not taken over (KILLED here), and tokens that were made there are no good"
        " here"
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
