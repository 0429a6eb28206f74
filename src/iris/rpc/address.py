"""Converts addresses that people write into the base URLs of calls."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from iris.errors import InvalidAddressError, quoted

ACCEPTED_FORMS = "'host:port', 'http://host:port' or 'https://host'"
_ADVERTISED_FORMS = f"'host', {ACCEPTED_FORMS}"
_SCHEME = re.compile(r"https?://", re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]+)", re.ASCII)


def parse_address(address: str) -> str:
    """Return the base URL of an address. For example, `"host:50051"` becomes `"http://host:50051"`.

    The scheme and the host of the URL are in lower case, because both are case-insensitive. Therefore two spellings of
    an address give the same URL. A path keeps its case.

    Args:
        address: `host:port`, `http://host[:port]` or `https://host[:port]`, with brackets around an IPv6 address. A
            path is kept, because a proxy may serve the controller under a path.

    Raises:
        InvalidAddressError: The address has none of the accepted forms. The error's text lists these forms.
    """
    if not isinstance(address, str):
        raise _refused(address, "the address is not text")
    text = address.strip()
    if not text:
        raise _refused(address, "the address is empty")
    if _HOST_PORT.fullmatch(text):
        text = f"http://{text}"
    return _parse(address, text, ACCEPTED_FORMS)


def _parse(address: str, text: str, forms: str) -> str:
    """Check the URL `text` and return it as a base URL. Error messages quote `address`, which is what the user has
    typed."""
    if not _SCHEME.match(text):
        why = "the port is missing" if _HOST.fullmatch(text) else "the address has none of these forms"
        raise _refused(address, "the host is missing" if text.isdigit() else why, forms)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(address, str(error), forms) from None
    if not parts.hostname:
        raise _refused(address, "the host is missing", forms)
    if port == 0:
        raise _refused(address, "a client cannot connect to port 0", forms)
    if parts.username is not None:
        shown = f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}"
        raise _refused(shown, "the address must not contain a user or a password", forms)
    if parts.query or parts.fragment or re.search(r"\s", text):
        raise _refused(address, "the address contains a query, a fragment or white space", forms)
    return f"{parts.scheme}://{_lower_host(parts.netloc)}{parts.path.rstrip('/')}"


def _lower_host(netloc: str) -> str:
    """Return `host[:port]` in lower case. The zone of an IPv6 address keeps its case, because it names a network
    interface."""
    address, percent, zone = netloc.partition("%")
    return address.lower() + percent + zone


def advertised(text: str, port: int, *, tls: bool) -> tuple[str, str]:
    """Return the base URL that a server advertises, and the host in that URL.

    Args:
        text: One of three forms. With `HOST`, the server's own port is added. `HOST:PORT` names a forwarded port that
            leads to the server. A URL names a proxy or load balancer that leads to the server.
        port: The port on which the server listens.
        tls: Whether the server uses TLS. If `text` is a URL, its scheme decides instead.

    Raises:
        InvalidAddressError: `text` has none of the accepted forms, or its host stands for all addresses of a machine,
            for example 0.0.0.0.
    """
    host = text.strip()
    scheme = "https" if tls else "http"
    if _is_ip(host):
        address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    elif _HOST.fullmatch(host) and not host.isdigit():
        address = f"{scheme}://{host.lower()}:{port}"
    elif _HOST_PORT.fullmatch(host):
        address = _parse(text, f"{scheme}://{host}", _ADVERTISED_FORMS)
    else:
        address = _parse(text, host, _ADVERTISED_FORMS)
    bare = urlsplit(address).hostname or ""
    if _is_ip(bare) and ipaddress.ip_address(bare).is_unspecified:
        raise _refused(
            text, "the host stands for all addresses of a machine, and nobody can connect to it", _ADVERTISED_FORMS
        )
    return address, bare


def is_wildcard(host: str) -> bool:
    """Return whether a host stands for all addresses of a machine, for example 0.0.0.0."""
    return _is_ip(host) and ipaddress.ip_address(host).is_unspecified


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Return whether the host of a base URL is this machine's loopback."""
    return is_loopback_host(urlsplit(address).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine's loopback. An IPv6 address has no brackets here."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(address: object, why: str, forms: str = ACCEPTED_FORMS) -> InvalidAddressError:
    return InvalidAddressError(f"not an address: {address!r}: {why} (expected {forms})")


def parse_origin(text: str) -> str:
    """Return the origin of web pages, in the form in which browsers send it: in lower case, without a default port.

    Args:
        text: `https://host[:port]` or `http://host[:port]`. A slash at the end is ignored.

    Raises:
        InvalidAddressError: The text is not an origin.
    """
    address = parse_address(text)
    parts = urlsplit(address)
    host = parts.hostname or ""
    is_host = bool(_HOST.fullmatch(host)) or ":" in host
    if "://" not in text or parts.path not in ("", "/") or not is_host:
        raise InvalidAddressError(f"an origin must be a scheme, a host and a port without a path, got {quoted(text)}")
    is_default = parts.port == {"http": 80, "https": 443}[parts.scheme]
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if parts.port is None or is_default else f":{parts.port}")
