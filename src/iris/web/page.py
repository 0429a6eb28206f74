"""Serves the files of the page, with one ASGI application for each file.

The names of the files never change. Therefore a browser asks for each file again, and gets the answer 304 if the file
is the same. A file is read and compressed when it is first requested, so that the start of a server is not delayed.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from iris.errors import quoted

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]

INDEX = "index.html"
_ASSETS = Path(__file__).parent / "assets"
_CONTENT_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",  # A text file with the licences of the page's JavaScript packages.
    ".woff2": b"font/woff2",
}
# The page loads only its own files, calls only its own server, and contains no inline code or style. Therefore text of
# a task could not run as code, even if a bug made the page treat the text as markup.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self';"
    b" worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_COMMON: Headers = [
    (b"cache-control", b"no-cache"),  # A browser keeps the file, and asks before each use whether it has changed.
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"accept-encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # Old browsers ignore `frame-ancestors`, but know this header.
]
_METHODS = b"GET, HEAD"


@dataclass(frozen=True)
class Asset:
    """A file of the page.

    Attributes:
        path: The path of the file on this machine.
        content_type: The value of the header `content-type`.
    """

    path: Path
    content_type: bytes

    @cached_property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()

    @cached_property
    def etag(self) -> bytes:
        """The value of the header `etag`. The tag is weak, because it is the same with and without compression."""
        return f'W/"{hashlib.sha256(self.data).hexdigest()[:32]}"'.encode()

    @cached_property
    def compressed(self) -> bytes:
        """The file, compressed with gzip."""
        return gzip.compress(self.data, 9, mtime=0)


def page_applications() -> dict[str, Any]:
    """Return an ASGI application for each file of the page, by path. The path `/` is `index.html`."""
    found: dict[str, Any] = {}
    for path in sorted(_ASSETS.iterdir()):
        content_type = _CONTENT_TYPES.get(path.suffix)
        if content_type is not None:
            found[f"/{path.name}"] = AssetApplication(Asset(path, content_type))
    return found | {"/": found[f"/{INDEX}"]}


class AssetApplication:
    """An ASGI application that answers with one file of the page. The file is public, and contains no data of jobs.

    Args:
        asset: The file to send.
    """

    def __init__(self, asset: Asset) -> None:
        self._asset = asset

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["method"] not in ("GET", "HEAD"):
            text = f"{quoted(scope['method'])} is not accepted here: use GET or HEAD"
            await _send_text(send, 405, text, [(b"allow", _METHODS)])
            return
        request = dict(scope["headers"])
        etag = self._asset.etag
        if etag in (tag.strip() for tag in request.get(b"if-none-match", b"").split(b",")):
            await _send(send, 304, [*_COMMON, (b"etag", etag)], b"")
            return
        body, encoding = self._asset.data, Headers()
        if _accepts_gzip(request.get(b"accept-encoding", b"")):
            body, encoding = self._asset.compressed, [(b"content-encoding", b"gzip")]
        headers = [
            *_COMMON,
            *encoding,
            (b"content-type", self._asset.content_type),
            (b"content-length", b"%d" % len(body)),
            (b"etag", etag),
        ]
        await _send(send, 200, headers, b"" if scope["method"] == "HEAD" else body)


def _accepts_gzip(accepted: bytes) -> bool:
    """Return whether a client accepts gzip, judging by the value of its header `accept-encoding`."""
    for part in accepted.lower().split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() in (b"gzip", b"*"):
            return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False


async def _send_text(send: Any, status: int, text: str, headers: Headers | None = None) -> None:
    body = f"iris: {text}\n".encode(errors="replace")
    kind = (b"content-type", b"text/plain; charset=utf-8")
    length = (b"content-length", b"%d" % len(body))
    await _send(send, status, [*_COMMON, *(headers or ()), kind, length], body)


async def _send(send: Any, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
