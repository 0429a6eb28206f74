"""Prepares the port of a controller: its socket, its TLS certificate, and the address at which others reach it."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from iris.config import ClusterConfig
from iris.errors import IrisError
from iris.rpc.address import advertised, is_wildcard
from iris.rpc.http.tls import ServerTls, check_exposure
from iris.system.sockets import bind, own_host_towards, port_of

Socket = socket.socket
# The metrics port needs no token. Therefore only processes of this machine may reach it.
_METRICS_HOST = "127.0.0.1"
# Addresses that no machine has (RFC 5737, RFC 3849), for IPv4 and IPv6. The route to such an address leads through the
# interface at which other machines can reach this machine.
_OUTSIDE = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}


@dataclass(frozen=True, slots=True)
class Listening:
    """A bound port of a controller, with the address at which clients and workers reach the port.

    Attributes:
        socket: The bound socket. Connections wait in the socket until a server accepts them.
        address: The URL at which others reach the controller.
        advertise_host: The host of `address`.
        tls: The TLS settings of the server, or None without TLS.
        metrics_socket: The bound socket of `--metrics-port`, or None without this option.
    """

    socket: socket.socket
    address: str
    advertise_host: str
    tls: ServerTls | None
    metrics_socket: Socket | None = None

    @property
    def port(self) -> int:
        """The port on this machine."""
        return port_of(self.socket)


def listen(config: ClusterConfig, state_dir: Path) -> Listening:
    """Bind the port that the configuration of a cluster names.

    Raises:
        FailedPreconditionError: The port is taken, a certificate cannot be used, or other machines could connect
            without TLS.
        InvalidAddressError: The host of the configuration cannot be part of a URL.
    """
    tls = _tls(config, state_dir)
    metrics_socket = None if config.metrics_port is None else bind(_METRICS_HOST, config.metrics_port)
    listener = bind(config.host, config.port)
    address, advertise_host = advertised(_advertised_host(config), port_of(listener), tls=tls is not None)
    return Listening(listener, address, advertise_host, tls, metrics_socket)


def _tls(config: ClusterConfig, state_dir: Path) -> ServerTls | None:
    """Return the TLS settings of the server, or None without TLS. If clients must show a certificate, create a
    certificate for the cluster's own processes.
    """
    tls = ServerTls.of_files(config.tls_cert, config.tls_key, config.client_ca)
    check_exposure(config.host, tls=tls is not None, insecure=config.insecure_no_tls)
    if tls is None:
        return None
    if tls.client_ca:
        from iris.rpc.auth.client_cert import load_or_make

        tls = replace(tls, part=str(load_or_make(state_dir)))
    # `context` reads the certificate files, so that invalid files are refused before any port is bound.
    tls.context()
    return tls


def _advertised_host(config: ClusterConfig) -> str:
    if config.advertise or not is_wildcard(config.host):
        return config.advertise or config.host
    with contextlib.suppress(IrisError):
        return own_host_towards(_OUTSIDE.get(config.host, _OUTSIDE["0.0.0.0"]))
    return socket.gethostname()
