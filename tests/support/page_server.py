"""A server of pages for a browser. Like a reverse proxy, it can also forward requests to a cluster with a token."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_READ_BYTES = 4096


class PageServer:
    """Serves files from memory.

    Args:
        files: The contents by path, for example `/page.html`.
        forward_to: The address of a cluster that gets the requests with all other paths. None: no cluster.
        token: The token that forwarded requests get.

    Attributes:
        cuts: The number of forwarded answers to cut. Each one ends without warning after the first bytes of its body.
        forwarded: The headers of the forwarded requests, with names in lower case.
    """

    def __init__(self, files: Mapping[str, bytes], forward_to: str | None = None, token: str = "") -> None:
        self.cuts = 0
        self.forwarded: list[dict[str, str]] = []
        self._files = files
        self._forward_to = urlsplit(forward_to) if forward_to else None
        self._token = token
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        if path in self._files:
            data = self._files[path]
            handler.send_response(200)
            handler.send_header("content-type", _TYPES[path.rpartition(".")[2]])
            handler.send_header("content-length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        elif self._forward_to is None:
            handler.send_error(404)
        else:
            self._forward(handler)

    def _forward(self, handler: BaseHTTPRequestHandler) -> None:
        assert self._forward_to is not None
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.forwarded.append(headers)
        kept = {name: headers[name] for name in ("accept", "last-event-id") if name in headers}
        target = http.client.HTTPConnection(self._forward_to.hostname or "", self._forward_to.port, timeout=60)
        with closing(target):
            target.request("GET", handler.path, headers=kept | {"authorization": f"Bearer {self._token}"})
            answer = target.getresponse()
            handler.send_response(answer.status)
            handler.send_header("content-type", answer.headers["content-type"])
            handler.end_headers()
            while data := answer.read1(_READ_BYTES):
                handler.wfile.write(data)
                handler.wfile.flush()
                if self.cuts and b"data:" in data:
                    self.cuts -= 1
                    return
