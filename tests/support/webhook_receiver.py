"""A receiver of webhooks: a real HTTP server that keeps what it gets, and answers with statuses that a test chooses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """The receiver.

    Attributes:
        requests: The headers and the body of each request, also of refused ones.
        statuses: The statuses of the next answers. Afterwards every answer has the status `status`.
        status: The status of an answer when `statuses` is empty.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.status = 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status = receiver.statuses.pop(0) if receiver.statuses else receiver.status
                self.send_response(status)
                self.send_header("content-length", "0")
                if 300 <= status < 400:
                    self.send_header("location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore a killed sender."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?key=hidden"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def documents(self) -> list[dict[str, Any]]:
        """Return the events in the requests so far."""
        return [json.loads(body) for _, body in list(self.requests)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver(port)
    try:
        yield receiver
    finally:
        receiver.close()
