"""Decides whether a call of a browser comes from the page of this cluster, judging by the headers of the call.

A browser sends the cookie of a session by itself, whichever page makes the call. Therefore a cookie proves only which
browser calls. These checks refuse the calls of all pages except the cluster's own page:
* The header `Origin` names the page's origin, and the browser sets it. The origin must be the address under which the
  server was called (`Host`), and must be the origin at which the browser has signed in.
* The content type must be a type that a plain HTML form cannot send. A page of another origin needs the permission of
  the server (CORS) to send such a type.
* The header `Sec-Fetch-Site`, if the browser sends it, must say that the page is of the same origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from iris.errors import PermissionDeniedError, quoted
from iris.reasons import ErrorReason

# The content types of the Connect protocol. A plain HTML form cannot send any of these types.
_CONTENT_TYPES = ("application/json", "application/proto", "application/connect+json", "application/connect+proto")
_PORTS = {"http": 80, "https": 443}
_ADVICE = "open the page of the cluster itself, with 'iris web'"


@dataclass(frozen=True, slots=True)
class WebRequest:
    """The parts of an HTTP request that show which page makes it.

    Attributes:
        method: The HTTP method of the request.
        host: The header `Host`.
        origin: The header `Origin`, or an empty string if the request has none.
        content_type: The content type without its parameters.
        fetch_site: The header `Sec-Fetch-Site`, or an empty string if the request has none.
        cookies: The values of all cookies with the session cookie's name.
    """

    method: str
    host: str = ""
    origin: str = ""
    content_type: str = ""
    fetch_site: str = ""
    cookies: tuple[str, ...] = ()

    @classmethod
    def of_headers(cls, method: str, headers: Iterable[tuple[bytes, bytes]], cookie_name: str) -> WebRequest:
        """Return the parts of a request with this method and these headers, whose names are in lower case."""
        found: dict[bytes, str] = {}
        cookies: list[str] = []
        for name, value in headers:
            text = value.decode("latin-1")
            if name == b"cookie":
                pairs = (pair.strip().partition("=") for pair in text.split(";"))
                cookies += [content for key, _, content in pairs if key == cookie_name]
            elif found.setdefault(name, text) != text:
                # If a header occurs twice with different values, it counts as missing. A browser sends each of these
                # headers only once.
                found[name] = ""
        return cls(
            method,
            host=found.get(b"host", ""),
            origin=found.get(b"origin", ""),
            content_type=found.get(b"content-type", "").partition(";")[0].strip().lower(),
            fetch_site=found.get(b"sec-fetch-site", ""),
            cookies=tuple(cookies),
        )


def own_origin(request: WebRequest) -> str:
    """Return the origin of the page that makes a call, after checking that the page is the cluster's own page.

    Raises:
        PermissionDeniedError: The call comes from another page, or not from a page.
    """
    if request.method != "POST" or request.content_type not in _CONTENT_TYPES:
        given = f"{request.method} and the content type {quoted(request.content_type)}"
        raise _foreign(
            f"a call from a page must use POST and a content type of {', '.join(_CONTENT_TYPES)}, got {given}"
        )
    if not request.origin or not _is_same_host(request.origin, request.host):
        page = f"a page of {quoted(request.origin)}" if request.origin else "a program that names no page (Origin)"
        raise _foreign(
            f"the call comes from {page}, and this server was called as {quoted(request.host)}: {_ADVICE}. A proxy must"
            " pass on the header Host as it is, with its port"
        )
    if request.fetch_site not in ("", "same-origin"):
        raise _foreign(f"the browser says that the call comes from another page ({request.fetch_site}): {_ADVICE}")
    return request.origin


def check_call(request: WebRequest, origin: str) -> None:
    """Check that a call in a session comes from the page at which the browser has signed in.

    Args:
        request: The HTTP request of the call.
        origin: The origin at which the browser has signed in.

    Raises:
        PermissionDeniedError: The call comes from another page, or not from a page.
    """
    found = own_origin(request)
    if found != origin:
        raise _foreign(f"the browser has signed in at {origin}, and the call comes from a page of {quoted(found)}")


def check_download(request: WebRequest, origin: str) -> None:
    """Check that a download in a session was started by the page, or by the user.

    A download is a request with GET or HEAD that changes nothing. A link starts it, so it has no `Origin`. Another page
    cannot read the answer, and does not know the path of the session.

    Args:
        request: The request of the client.
        origin: The origin at which the browser has signed in.

    Raises:
        PermissionDeniedError: The request comes from another page.
    """
    if request.method not in ("GET", "HEAD"):
        raise _foreign(f"a download is a request with GET or HEAD, not with {request.method}")
    if not _is_same_host(origin, request.host) or request.origin not in ("", origin):
        raise _foreign(
            f"the browser has signed in at {origin}, and this server was called as {quoted(request.host)} by a page of"
            f" {quoted(request.origin or 'no origin')}"
        )
    if request.fetch_site not in ("", "same-origin", "none"):
        raise _foreign(f"the browser says that another page starts the download ({request.fetch_site}): {_ADVICE}")


def _is_same_host(origin: str, host: str) -> bool:
    try:
        page, server = urlsplit(origin), urlsplit(f"//{host}")
        default = _PORTS.get(page.scheme)
        if default is None or not page.hostname or "@" in origin or origin != f"{page.scheme}://{page.netloc}":
            return False
        return (page.hostname, page.port or default) == (server.hostname, server.port or default)
    except ValueError:  # A port is not a number.
        return False


def _foreign(text: str) -> PermissionDeniedError:
    return PermissionDeniedError(text, reason=ErrorReason.FOREIGN_PAGE)
