"""Describes an answer that does not come from Iris, but for example from a proxy, a login page or another program.

A proxy answers with an HTTP status, a name in the `Server` header, and a page for people. This module explains what
such an answer most likely means, and which setting solves the problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

# A proxy must allow requests of this size. The largest request contains a workspace of 100 MiB, a callable, and little
# else.
_LARGEST_REQUEST = "200m"
_BODY_LIMITS = {
    "nginx": f"client_max_body_size {_LARGEST_REQUEST};",
    "openresty": f"client_max_body_size {_LARGEST_REQUEST};",
    "apache": "LimitRequestBody 209715200",
    "caddy": "request_body { max_size 200MB }",
    "envoy": "max_request_bytes: 209715200",
    "traefik": "buffering.maxRequestBodyBytes: 209715200",
    "cloudflare": "none: its limit is part of the plan, so let the controller's name bypass it",
}
_TIME_LIMITS = {
    "nginx": "proxy_read_timeout 1h;",
    "haproxy": "timeout server 1h",
    "envoy": "timeout: 0s (in the route)",
    "apache": "ProxyTimeout 3600",
    "caddy": "response_header_timeout 1h",
}
PROXY_LOGIN = "the proxy wants a login: put it into the proxy's URL, as http://user:password@host:port"
_REDIRECTS = (301, 302, 303, 307, 308)
_CAUSES = {
    400: "it did not understand the request; a server that speaks TLS has an address that begins with https://",
    401: "it wants a login of its own; a token of Iris is no such login",
    403: "it refuses the request: a firewall, or a rule of a proxy, is before the controller",
    404: "it knows no Iris below this address: check host, port and path",
    405: "another program listens there: check host and port",
    407: PROXY_LOGIN,
    429: "it limits how often it is called",
    431: "the head of the request is longer than it allows (nginx: large_client_header_buffers 8 32k;)",
    500: "another program, or a proxy, failed",
    502: "it is a proxy that does not reach the controller: is the controller running?",
    503: "it is a proxy that has no controller to pass the call to: is the controller running?",
    511: "this network wants a login first: open a web page in a browser",
}
_ASK = "is the address right?"


def describe_answer(status: int, headers: Mapping[str, str], address: str) -> str:
    """Return a description of an answer that does not come from Iris, with its sender and the most likely solution.

    Args:
        status: The HTTP status of the answer.
        headers: The headers of the answer, with names in any case.
        address: The base URL that was called.
    """
    known = {name.lower(): value for name, value in headers.items()}
    server = known.get("server", "").strip()
    who = f"a server that calls itself {server!r}" if server else "a server that gives no name"
    via = f", through {known['via']!r}," if known.get("via") else ""
    return f"{who}{via} answered {_status(status)}: {_cause(status, known, server.lower(), address)}"


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _cause(status: int, headers: Mapping[str, str], server: str, address: str) -> str:
    if status in _REDIRECTS:
        return _redirect(headers.get("location", ""), address)
    if status == 413:
        return f"the request is larger than it lets through; {_cure(_BODY_LIMITS, server)}"
    if status in (408, 504):
        return f"it is a proxy that did not wait for the controller's answer; {_cure(_TIME_LIMITS, server)}"
    if status in _CAUSES:
        return f"{_CAUSES[status]}; {_ASK}" if status in (400, 404, 405, 500) else _CAUSES[status]
    if headers.get("content-type", "").startswith("text/html"):
        return f"a web page: another program listens there, or a login page is in the way; {_ASK}"
    return f"no answer of Iris ({headers.get('content-type') or 'without a content type'}); {_ASK}"


def _cure(settings: Mapping[str, str], server: str) -> str:
    """Return advice that names the setting of the proxy to change. If the kind of proxy is unknown, name the settings
    of common proxies."""
    named = next((name for name in settings if name in server), None)
    if named is not None:
        return f"the setting of {named} for that: {settings[named]}"
    return "the setting for that: " + ", ".join(f"{name}: {setting}" for name, setting in list(settings.items())[:3])


def _redirect(location: str, address: str) -> str:
    if not location:
        return f"it redirects to nowhere; {_ASK}"
    target, called = urlsplit(location), urlsplit(address)
    shown = f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else target.path
    if target.hostname == called.hostname and (target.scheme, called.scheme) == ("https", "http"):
        return f"it wants TLS: the address to give begins with {shown}"
    if target.path.startswith(called.path + "/iris.cluster.") and target.netloc:
        return f"it redirects to {shown}: give that as the address"
    return f"it redirects to {shown}, which may be a login page: log in there, or give the controller's own address"
