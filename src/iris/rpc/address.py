"""Addresses as people write them, and the base URLs that calls go to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from iris.errors import InvalidAddressError

ACCEPTED_FORMS = "'host:port', 'http://host:port' or 'https://host'"
_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]+)", re.ASCII)


def parse_address(address: str) -> str:
    """The base URL of an address: `"host:50051"` is `"http://host:50051"`.

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
    match = _HOST_PORT.fullmatch(text)
    if match:
        text = f"http://{text}"
    elif not text.startswith(("http://", "https://")):
        missing_port = re.fullmatch(r"[A-Za-z0-9._-]+", text) is not None
        raise _refused(address, "the port is missing" if missing_port else "it has none of these forms")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(address, str(error)) from None
    if not parts.hostname:
        raise _refused(address, "the host is missing")
    if port == 0:
        raise _refused(address, "port 0 is no port to connect to")
    if parts.username is not None:
        raise _refused(f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}", "user and password have no place in it")
    if parts.query or parts.fragment or re.search(r"\s", text):
        raise _refused(address, "it has parts that an address does not have")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(address: str) -> bool:
    """Whether a base URL leads to this machine, by name or by number."""
    return is_loopback_host(urlsplit(address).hostname or "")


def is_loopback_host(host: str) -> bool:
    """The same of a host alone, as it stands in no URL: an IPv6 address has no brackets."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(address: object, why: str) -> InvalidAddressError:
    return InvalidAddressError(f"not an address: {address!r}: {why} (expected {ACCEPTED_FORMS})")
