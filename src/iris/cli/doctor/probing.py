"""Calls the health probes of the controller and the workers from this machine, by plain HTTP and without a token."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from iris.cli.doctor.server_checks import ServerProbe
from iris.errors import IrisError
from iris.rpc.http.tls import ClientTls
from iris.system.clock import wall_s

_TIMEOUT_S = 5.0
# The time limit for each worker is short, because a laptop often reaches none of the workers.
_WORKER_TIMEOUT_S = 2.0
_AT_ONCE = 32
_OK = (200, b"ok")
# At most this many bytes of an answer are read. An answer of Iris is shorter, but the address may belong to another
# server, which may send bytes without an end.
_MAX_ANSWER_BYTES = 64 * 1024
_HTTP_ADVICE = "check the port, and whether the address needs https:// instead of http://, or the other way round"
_PORTS = {"http": 80, "https": 443}


def probe_server(address: str, tls: ClientTls, timeout_s: float = _TIMEOUT_S) -> ServerProbe:
    """Return what the health probes of a server show.

    Args:
        address: The URL of the server, as `parse_address` returns it.
        tls: The certificates that this client trusts and shows.
        timeout_s: For how many seconds to wait for a connection, and for an answer.
    """
    try:
        connection = _connect(address, tls, timeout_s)
    except (OSError, UnicodeError, IrisError) as error:
        text, advice = _explain(error, address, timeout_s)
        return ServerProbe(text, advice)
    try:
        left_s = _certificate_left_s(connection)
        began_s = wall_s()
        is_iris, date = _get(connection, address, "/healthz")
        middle_s = (began_s + wall_s()) / 2
        is_ready = is_iris and _get(connection, address, "/readyz")[0]
    except TimeoutError:
        text = f"it accepts connections, but has not answered within {timeout_s:g} s"
        return ServerProbe(text, "the server may hang, or its machine may be overloaded. Its event log has the reason")
    except (OSError, http.client.HTTPException) as error:
        return ServerProbe(f"it accepts connections, but does not answer HTTP: {error}", _HTTP_ADVICE)
    finally:
        connection.close()
    return ServerProbe(
        is_iris=is_iris,
        is_ready=is_ready,
        clock_offset_s=None if date is None else _offset_s(date, middle_s),
        certificate_left_s=left_s,
    )


def errors_of(addresses: Iterable[tuple[str, str]], tls: ClientTls) -> dict[str, str]:
    """Return why this machine cannot connect to each of some servers, by id. The reason is an empty string if the
    machine can connect to the server.

    Args:
        addresses: The workers to call, as pairs of id and URL.
        tls: The certificates that this client trusts and shows.
    """

    def try_one(pair: tuple[str, str]) -> tuple[str, str]:
        probe = probe_server(pair[1], tls, _WORKER_TIMEOUT_S)
        return pair[0], probe.error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(pool.map(try_one, addresses))


def _connect(address: str, tls: ClientTls, timeout_s: float) -> http.client.HTTPConnection:
    url = urlsplit(address)
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls.context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    connection.connect()
    return connection


def _get(connection: http.client.HTTPConnection, address: str, path: str) -> tuple[bool, str | None]:
    """Call a health probe of a server. Return two values: whether a server of Iris answered that all is well, and the
    header `Date` of the answer.
    """
    connection.request("GET", urlsplit(address).path.rstrip("/") + path)
    answer = connection.getresponse()
    body = answer.read(_MAX_ANSWER_BYTES)
    return (answer.status, body.strip()) == _OK, answer.getheader("date")


def _certificate_left_s(connection: http.client.HTTPConnection) -> float | None:
    if not isinstance(connection.sock, ssl.SSLSocket):
        return None
    certificate = connection.sock.getpeercert() or {}
    ends = certificate.get("notAfter")
    return None if not isinstance(ends, str) else ssl.cert_time_to_seconds(ends) - wall_s()


def _offset_s(date: str, now_s: float) -> float | None:
    """Return by how many seconds a `Date` header is ahead of this machine's clock. An offset below two seconds counts
    as 0, because the header contains whole seconds and may be a second old.
    """
    try:
        offset_s = parsedate_to_datetime(date).timestamp() + 0.5 - now_s
    except ValueError:
        return None
    return 0.0 if abs(offset_s) < 2.0 else offset_s


def _explain(error: OSError | UnicodeError | IrisError, address: str, timeout_s: float) -> tuple[str, str]:
    """Return why a connection failed, and what the user can do about it."""
    host = urlsplit(address).hostname
    if isinstance(error, socket.gaierror | UnicodeError):  # The lookup of a malformed host name raises UnicodeError.
        return f"the name {host!r} is unknown here", "check the address, and the DNS settings of this machine"
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = (
            "if the certificate is expired, renew it. If a private authority has signed it, give the authority's"
            " certificate with IRIS_CA, or 'iris login --ca FILE'"
        )
        return f"its certificate is not accepted: {error.verify_message}", advice
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}", _HTTP_ADVICE
    if isinstance(error, TimeoutError):
        advice = "check that the machine runs, and that no firewall blocks the port. An SSH tunnel is an alternative"
        return f"no answer within {timeout_s:g} s", advice
    if isinstance(error, ConnectionRefusedError):
        return "the machine answers, but nothing listens at this port", "start the cluster there with 'iris up'"
    return str(error), "check the address, and the network of this machine"
