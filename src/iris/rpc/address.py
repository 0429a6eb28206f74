"""Addresses as people write them, and the base URLs that calls go to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from iris.errors import InvalidAddressError

ACCEPTED_FORMS = "'host:port', 'http://host:port' or 'https://host'"
_ADVERTISED_FORMS = f"'host', {ACCEPTED_FORMS}"
_SCHEME = re.compile(r"https?://", re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]+)", re.ASCII)


def parse_address(address: str) -> str:
    """Return the base URL of an address: `"host:50051"` becomes `"http://host:50051"`.

    The scheme and the host of the URL are in lower case, because both are case-insensitive: two spellings of an
    address give the same URL. A path keeps its case.

    Args:
        address: `host:port`, `http://host[:port]` or `https://host[:port]`; an IPv6 address stands in brackets. A
            path is kept, for a controller that a proxy serves below one.

    Raises:
        InvalidAddressError: Anything else; the text shows the accepted forms.
    """
    if not isinstance(address, str):
        raise _refused(address, "no text")
    text = address.strip()
    if not text:
        raise _refused(address, "it is empty")
    if _HOST_PORT.fullmatch(text):
        text = f"http://{text}"
    return _parse(address, text, ACCEPTED_FORMS)


def _parse(address: str, text: str, forms: str) -> str:
    """A URL, as it stands in `address` or was made of it."""
    if not _SCHEME.match(text):
        why = "the port is missing" if _HOST.fullmatch(text) else "it has none of these forms"
        raise _refused(address, "the host is missing" if text.isdigit() else why, forms)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(address, str(error), forms) from None
    if not parts.hostname:
        raise _refused(address, "the host is missing", forms)
    if port == 0:
        raise _refused(address, "port 0 is no port to connect to", forms)
    if parts.username is not None:
        shown = f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}"
        raise _refused(shown, "user and password have no place in it", forms)
    if parts.query or parts.fragment or re.search(r"\s", text):
        raise _refused(address, "it has parts that an address does not have", forms)
    return f"{parts.scheme}://{_lower_host(parts.netloc)}{parts.path.rstrip('/')}"


def _lower_host(netloc: str) -> str:
    """Return `host[:port]` in lower case, except for the zone of an IPv6 address, which names a network interface."""
    address, percent, zone = netloc.partition("%")
    return address.lower() + percent + zone


def advertised(text: str, port: int, *, tls: bool) -> tuple[str, str]:
    """The base URL that others are told of a server that listens on a port here, and the bare host in it.

    Args:
        text: `HOST`, which is completed by the port; `HOST:PORT`, where something passes on to it; or a URL, for a
            proxy or a load balancer that may end TLS.
        port: Where it listens.
        tls: Whether it speaks TLS: what a URL says itself.

    Raises:
        InvalidAddressError: It is none of them, or nothing that others could call.
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
        raise _refused(text, "that is every address of a machine, and none that others can call", _ADVERTISED_FORMS)
    return address, bare


def is_wildcard(host: str) -> bool:
    """Whether a server that is bound to it listens on all addresses of its machine."""
    return _is_ip(host) and ipaddress.ip_address(host).is_unspecified


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a base URL leads to this machine, by name or by number."""
    return is_loopback_host(urlsplit(address).hostname or "")


def is_loopback_host(host: str) -> bool:
    """The same of a host alone, as it stands in no URL: an IPv6 address has no brackets."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(address: object, why: str, forms: str = ACCEPTED_FORMS) -> InvalidAddressError:
    return InvalidAddressError(f"not an address: {address!r}: {why} (expected {forms})")
