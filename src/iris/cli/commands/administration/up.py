"""`iris up`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from iris.cli.cluster.cluster_record import Record, exclusive, find_running, read_record
from iris.cli.cluster.start_cluster import is_free, start
from iris.cli.options import config_options, json_option
from iris.cli.output.context_texts import source_text
from iris.cli.output.printer import Output
from iris.cluster.client.contexts.choose_cluster import find_cluster
from iris.cluster.client.running_cluster import state_home
from iris.cluster.client.server_process import check_server_extra
from iris.config import ClusterConfig, read_config_file
from iris.counts import counted
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from iris.rpc.address import is_loopback_host

_TLS_FILES = ("tls_cert", "tls_key", "client_ca")
_HELP = """\
Start a cluster on this machine. The cluster runs until 'iris down', also after the terminal was closed.

\b
  iris up
  iris up --workers 4             four workers share the machine, as if it were four machines
  iris up --port 0                listen on any free port
  iris up --config cluster.toml   read options from a file
  iris up --engine ray            run tasks on the machines of a Ray cluster
  iris up --engine slurm          run tasks on the machines of a Slurm cluster

Other commands on this machine find the cluster by themselves. The state directory keeps the jobs and their logs, also
between 'iris down' and the next 'iris up'.

If the server is killed, running attempts continue for the length of the lease. The next 'iris up' starts the server
again with its earlier options, except for options that you give now. The new server continues with the attempts that
still run.

Every call needs a token. 'iris up' writes a token to a file that only you can read, and the commands on this machine
find the token there. 'iris token create' makes more tokens. Other machines can connect only with --host, for example
'--host 0.0.0.0', and should use TLS.

An option on the command line overrides the same option in the file of --config. The file has more options than the
command line, see docs/reference/configuration.md.
"""


@click.command(help=_HELP, short_help="Start a cluster on this machine.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read options from this TOML file. Its keys are the options' names with '_', such as 'keep_logs = \"12h\"'.",
)
@config_options
@click.option(
    "--take-over",
    is_flag=True,
    help="Continue the jobs, and accept the tokens, of a state directory that was moved or restored from a backup. The"
    " original cluster must not run again. Without this option, a copy of a state directory begins as a new cluster.",
)
@click.option(
    "--verbose",
    is_flag=True,
    help='Also write each call to the event logs. The entry log_level = "debug" in the file of --config does the same.',
)
@json_option()
def up(*, config_file: Path | None, take_over: bool, verbose: bool, as_json: bool, **flags: Any) -> None:
    """See `_HELP`."""
    check_server_extra()
    output = Output(as_json=as_json)
    given = _read_file(config_file)
    given |= {name: value for name, value in flags.items() if value not in (None, ())}
    if verbose:
        given["log_level"] = "debug"
    found: dict[str, int] = {}
    copied: dict[str, Any] | None = None
    metrics_port: int | None = None
    with exclusive():
        record = find_running()
        started = record is None
        if record is None:
            record, server = start(_complete(given), output, take_over=take_over)
            found, copied, metrics_port = server.found, server.copied, server.metrics_port
        else:
            _check_same(record, given)
    document = {**record.to_document(), "workers": record.config.num_workers, "started": started}
    document |= {"found": found if any(found.values()) else None, "copied": copied}
    if started:
        document["metrics_port"] = metrics_port
    del document["process"], document["home"], document["place"]
    output.answer(document, lambda: _describe(record, started))
    if copied is not None:
        output.note(_describe_copied(record, copied))
    if metrics_port is not None and not as_json:
        output.note(f"metrics for Prometheus, without a token: http://127.0.0.1:{metrics_port}/metrics")
    if any(found.values()) and not as_json:
        output.note(_describe_found(found))
    if started and not as_json:
        _note_next(record, output)
    if not as_json:
        _note_other_cluster(record, output)
    if not is_loopback_host(record.config.host):
        output.note("clients on other machines need the address, and a token: iris token create NAME")


def _read_file(path: Path | None) -> dict[str, Any]:
    try:
        return {} if path is None else read_config_file(path)
    except InvalidArgumentError as error:
        raise click.BadParameter(str(error), param_hint="--config") from error


def _note_next(record: Record, output: Output) -> None:
    """Print which commands use the new cluster, and which file contains the secret of its webhooks."""
    output.note("next: iris run --detach -- COMMAND, iris ps, iris logs -f JOB, iris web; to end it: iris down")
    if record.config.webhooks:
        secret = record.config.webhook_secret_file or record.state_dir / "webhook.secret"
        output.note(f"requests to webhooks are signed with the secret in {secret}; their state: iris webhooks")


def _note_other_cluster(record: Record, output: Output) -> None:
    """Print a note if a context or an environment variable makes commands call another cluster than the cluster of
    `record`.
    """
    try:
        chosen = find_cluster()
    except (FailedPreconditionError, NotFoundError) as error:
        output.note(f"other commands do not find this cluster: {error}")
        return
    if chosen is not None and chosen.source != "running" and chosen.address != record.address:
        why = source_text(chosen.source)
        output.note(
            f"other commands call {chosen.address} ({why}), not this cluster: use --context local, or 'iris context use"
            " local'" + (f", and unset {why}" if chosen.source != "current-context" else "")
        )


def _complete(given: Mapping[str, Any]) -> ClusterConfig:
    """Return the configuration of a cluster that is about to start.

    If the server of an earlier cluster with the same state directory was killed, options that were not given come from
    the earlier cluster.

    Raises:
        UsageError: Two options contradict each other.
    """
    try:
        return _with_options_of_killed_server(given)
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from error


def _with_options_of_killed_server(given: Mapping[str, Any]) -> ClusterConfig:
    before = read_record()
    directory = given.get("state_dir") or (state_home() if before is None else before.state_dir)
    if before is None or before.state_dir != directory:
        return ClusterConfig(**{**given, "state_dir": directory})
    _check_engine(before, given)
    _check_tls(before, given)
    config = ClusterConfig(**{**vars(before.config), **given})
    if config.port == 0 and is_free(config.host, before.config.port):
        # The new server gets the old port, because running tasks use the old port to reach the controller.
        config = ClusterConfig(**{**vars(config), "port": before.config.port})
    return config


def _check_engine(before: Record, given: Mapping[str, Any]) -> None:
    """Refuse to replace the engine of a killed server, because attempts may still run on the old engine."""
    if given.get("engine", before.config.engine) != before.config.engine:
        raise FailedPreconditionError(
            f"cannot change --engine: attempts of the killed server may still run on its engine {before.config.engine}:"
            " 'iris up' without --engine continues these attempts, 'iris down' ends them"
        )


def _check_tls(before: Record, given: Mapping[str, Any]) -> None:
    """Refuse to change the certificate while workers of a killed server run, because these workers trust only the old
    certificate."""
    from iris.cluster.engine.engines import has_left_workers

    known = vars(before.config)
    changed = [name for name in _TLS_FILES if given.get(name, known[name]) != known[name]]
    if changed and has_left_workers(before.state_dir):
        flag = ClusterConfig.options[changed[0]].flag
        raise FailedPreconditionError(
            f"cannot change {flag}: workers of the killed server still run, and trust only its certificates:"
            f" 'iris up' without {flag} continues their tasks, 'iris down' ends the tasks"
        )


def _check_same(record: Record, given: Mapping[str, Any]) -> None:
    """Refuse an option if the running cluster has another value for the option."""
    for name, value in given.items():
        option, current = ClusterConfig.options[name], getattr(record.config, name)
        if value == current or (name in ("port", "metrics_port") and value == 0):
            continue
        shown = f"the default of {option.label}"
        if current != option.default:
            shown = f"{option.label} {_words(option.write(current))}"
        again = f"{option.flag} {_words(option.write(value))}" if option.flag else "--config FILE"
        raise FailedPreconditionError(
            f"a cluster is up at {record.address} already, with {shown}; to change this option, run: iris down, then"
            f" iris up {again.rstrip()}"
        )


def _words(value: object) -> str:
    """Return the value of an option, quoted for a shell. Return an empty string for a flag, because a flag has no
    value.
    """
    if isinstance(value, list):
        return shlex.join(word if isinstance(word, str) else json.dumps(word) for word in value)
    return "" if value is True else shlex.quote(str(value))


def _describe_copied(record: Record, copied: Mapping[str, Any]) -> str:
    count = copied["jobs_not_taken_over"]
    jobs = counted(count, "job that had not ended was", "jobs that had not ended were")
    return (
        f"{record.state_dir} is a copy of {copied['original']}: this is a new cluster, with a key of its own, that"
        f" leaves the original alone. {jobs} not taken over (KILLED here), and tokens that were made there are not"
        " valid here"
    )


def _describe_found(found: Mapping[str, int]) -> str:
    jobs, workers = found["jobs_going_on"], found["workers_running"]
    return (
        f"found the state of an earlier cluster: {counted(jobs, 'job')} going on,"
        f" {counted(workers, 'worker')} still running, {found['jobs_ended']} ended"
    )


def _describe(record: Record, started: bool) -> str:
    workers = record.config.num_workers
    shared = f", {workers} workers" if workers > 1 else ""
    return f"{'a cluster is up' if started else 'a cluster is up already'} at {record.address}{shared}"
