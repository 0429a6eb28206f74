"""Finds the proxy that a call goes through, as the environment configures it, and parses the proxy's URL.

The environment variables are `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, also in lower case. This module
matches `NO_PROXY` itself, because neither urllib nor httpx understands all forms that are in use, for example ranges of
addresses. If the environment names no proxy, the system's settings on macOS and Windows apply, and urllib reads them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from iris.errors import FailedPreconditionError, MissingExtraError
from iris.rpc.address import is_loopback

_SOCKS = ("socks5", "socks5h")
_SCHEMES = ("http", "https", *_SOCKS)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ACCEPTED = "'http://host:port', 'https://host:port' or 'socks5://host:port', with 'user:password@' before the host"


class ProxyFaultError(ConnectionError):
    """A proxy does not answer, or does not forward a call.

    Args:
        proxy: The proxy between this client and the server.
        reason: What went wrong at the proxy.
        refused: Whether the proxy answered and refused, so that a retry is useless.
        asks_for_login: Whether the proxy refused because it needs a user name and a password.
    """

    def __init__(self, proxy: Proxy, reason: str, *, refused: bool = False, asks_for_login: bool = False) -> None:
        super().__init__(f"{proxy}: {reason}")
        self.proxy = proxy
        self.reason = reason
        self.refused = refused
        self.asks_for_login = asks_for_login


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that calls go through. The text of an instance does not contain the proxy's password.

    Attributes:
        scheme: The scheme of the proxy's URL: http, https, socks5 or socks5h.
        host: The name or address of the proxy. An IPv6 address has no brackets.
        port: The port of the proxy.
        auth: The decoded user name and password for the proxy. None if the proxy gets no user name and no password.
        source: The environment variable that names the proxy, or "the system's settings".
    """

    scheme: str
    host: str
    port: int
    auth: tuple[bytes, bytes] | None = field(repr=False)
    source: str

    @property
    def is_socks(self) -> bool:
        return self.scheme in _SOCKS

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {self.scheme}://{host}:{self.port} (from {self.source})"


def find_proxy(address: str) -> Proxy | None:
    """Return the proxy that calls to a base URL go through, or None if the calls go directly to the server. Calls to
    this machine itself never go through a proxy.

    Raises:
        FailedPreconditionError: The configured URL of the proxy is not usable.
        MissingExtraError: The proxy is a SOCKS proxy, and the extra [socks] is not installed.
    """
    parts = urlsplit(address)
    if is_loopback(address):
        return None
    given = getproxies_environment()
    if any(given.get(name) for name in (parts.scheme, "all")):
        if bypasses_proxy(parts, given.get("no", "")):
            return None
        name = parts.scheme if given.get(parts.scheme) else "all"
        return _parse(given[name], _variable(name, given[name]))
    if proxy_bypass(parts.netloc):
        return None
    system = getproxies()
    text = system.get(parts.scheme) or system.get("all")
    return _parse(text, "the system's settings") if text else None


def bypasses_proxy(parts: SplitResult, no_proxy: str) -> bool:
    """Return whether a value of `NO_PROXY` excludes the host and port of a URL from proxies.

    The value of `NO_PROXY` is a list of entries, separated by commas or spaces. An entry is `*`, an IP address, a range
    of addresses such as `10.0.0.0/8`, or a domain. A domain may begin with `.` or `*.`, and always excludes its
    subdomains as well. Each entry may begin with a scheme, and each entry except a range may end with a port. Every
    other entry excludes nothing.
    """
    host = (parts.hostname or "").rstrip(".").lower()
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    return any(_excludes(entry, parts.scheme, host, port) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _excludes(entry: str, scheme: str, host: str, port: int) -> bool:
    only_scheme, separator, rest = entry.rpartition("://")
    if separator and only_scheme not in (scheme, "all"):
        return False
    if "/" in rest:
        address = _address(host)
        try:
            return address is not None and address in ipaddress.ip_network(rest, strict=False)
        except ValueError:
            return False
    name, only_port = _split_port(rest)
    if only_port not in ("", str(port)):
        return False
    if name == "*":
        return True
    listed = _address(name)
    if listed is not None:
        return listed == _address(host)
    domain = name.removeprefix("*").lstrip(".").rstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _split_port(text: str) -> tuple[str, str]:
    """Return the host and the port of `host:port`, `[v6]:port`, or a host alone. The host is returned without
    brackets.
    """
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        return name, rest.removeprefix(":")
    if text.count(":") == 1:
        name, _, port = text.partition(":")
        return name, port
    return text, ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _variable(name: str, value: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the name of a proxy variable as the environment spells it, so that an error message names the variable to
    change.
    """
    spellings = (f"{name}_proxy", f"{name.upper()}_PROXY")
    return next((spelling for spelling in spellings if environment.get(spelling) == value), spellings[-1])


def _parse(text: str, source: str) -> Proxy:
    text = text.strip()
    url = text if "://" in text else f"http://{text}"
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise FailedPreconditionError(
            f"{source} names a proxy with the unknown scheme {scheme!r} (expected {_ACCEPTED})"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        host, port, why = None, None, str(error)
    else:
        why = "the host is missing"
    if not host or port == 0 or re.search(r"\s", url):
        # The error does not quote the URL of the proxy, because the URL may contain a password.
        hint = "; a '/', '#', '?' or '@' in user or password is written as %2F, %23, %3F, %40" if "@" in text else ""
        why = "it cannot be read" if "@" in text else why
        raise FailedPreconditionError(f"{source} does not name a proxy: {why} (expected {_ACCEPTED}{hint})")
    if scheme in _SOCKS and find_spec("socksio") is None:
        what = f"the SOCKS proxy that {source} names"
        raise MissingExtraError(what, extra="socks")
    auth = None
    if parts.username is not None:
        auth = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
    return Proxy(scheme, host, port or _DEFAULT_PORTS.get(scheme, 1080), auth, source)
