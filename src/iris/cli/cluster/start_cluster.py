"""Starts the cluster of `iris up`, and waits until the cluster can be used."""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from iris.cli.cluster.cluster_record import Record, write_record
from iris.cli.output.printer import Output
from iris.config import ClusterConfig
from iris.errors import FailedPreconditionError, IrisError, LocalClusterError, UnavailableError
from iris.system.process_identity import identify_process, own_place

if TYPE_CHECKING:
    from iris.cluster.client.server_process import LocalServer

_WORKERS_READY_S = 60.0
_PAUSE_S = 0.02


def start(config: ClusterConfig, output: Output, *, take_over: bool) -> tuple[Record, LocalServer]:
    """Start a cluster, and return once its permanent workers have registered. Some engines have no permanent workers.

    If the start fails or is interrupted, the server and the workers of the cluster are stopped.

    Raises:
        IrisError: The cluster did not start. The message contains the reason.
    """
    from iris.cluster.client.server_process import start_server
    from iris.rpc.http.tls import check_exposure

    check_exposure(config.host, tls=bool(config.tls_cert), insecure=config.insecure_no_tls)
    _check_port(config.host, config.port)
    try:
        output.set_status("starting a cluster on this machine…")
        server = start_server(
            config,
            take_over=take_over,
            on_progress=lambda text: output.set_status(f"starting a cluster on this machine… {text}"),
        )
        try:
            if config.num_workers:
                _wait_for_workers(server, config, output)
            record = Record(
                address=server.address,
                pid=server.process.pid,
                process=identify_process(server.process.pid),
                config=replace(config, port=server.port, workers=config.num_workers or None),
                place=own_place(),
            )
            write_record(record)
        except BaseException:
            server.stop()
            raise
    except UnavailableError as error:
        raise LocalClusterError(
            f"the cluster was started and then stopped, because this machine cannot reach it: {error}{_advice(config)}"
        ) from error
    except IrisError:
        raise
    except OSError as error:
        raise LocalClusterError(f"cannot keep the cluster's state in {config.state_dir}: {error}") from error
    finally:
        output.set_status("")
    return record, server


def _advice(config: ClusterConfig) -> str:
    """Return advice for an error message. The advice names the option that may be the reason why this machine cannot
    reach its cluster."""
    if config.advertise:
        return "; the address of --advertise must reach the cluster from this machine, too"
    return f"; --host must be a name in the certificate {config.tls_cert}" if config.tls_cert else ""


def _wait_for_workers(server: LocalServer, config: ClusterConfig, output: Output) -> None:
    from iris.cluster.client.remote_client import RemoteClusterClient
    from iris.cluster.client.running_cluster import Here

    assert config.state_dir is not None, "a cluster has a state directory"
    end = time.monotonic() + _WORKERS_READY_S
    tls = Here(config.state_dir, config.tls_cert, config.client_ca).tls()
    with RemoteClusterClient(server.address, token=server.token, ca=tls.ca or None, cert=tls.cert or None) as cluster:
        while (ready := sum(worker.healthy for worker in cluster.list_workers())) < config.num_workers:
            output.set_status(f"starting a cluster on this machine… {ready} of {config.num_workers} workers are ready")
            if server.process.poll() is not None or time.monotonic() > end:
                raise LocalClusterError(
                    f"only {ready} of {config.num_workers} workers registered within {_WORKERS_READY_S:g} s;"
                    f" their event logs are in {config.state_dir / 'workers'}"
                )
            time.sleep(_PAUSE_S)


def _check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be bound. The error names the option to change, `--port` or `--host`.

    Raises:
        FailedPreconditionError: The port cannot be bound.
    """
    from iris.system.sockets import bind

    try:
        bind(host, port).close()
    except IrisError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
        advice = "give another port with --port (0 takes any free one)"
        if isinstance(error.__cause__, OSError) and error.__cause__.errno not in (errno.EADDRINUSE, errno.EACCES):
            advice = "--host must be an address or a name of this machine"
        raise FailedPreconditionError(f"cannot listen on {host}:{port}: {reason}; {advice}") from error


def is_free(host: str, port: int) -> bool:
    """Return whether a port can be bound."""
    try:
        _check_port(host, port)
    except FailedPreconditionError:
        return False
    return True
