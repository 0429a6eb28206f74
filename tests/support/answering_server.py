"""A small HTTP server with answers from a test. Each request gets the next answer. The last answer is repeated."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence


class Connection:
    """An accepted connection of the server."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock

    def read_request(self) -> bytes | None:
        """Return one HTTP request with its body. None if the client has disconnected."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.sock.recv(65536)
            if not part or part[:1] == b"\x16":  # the start of TLS, which we do not speak
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0)
        while len(body) < length:
            body += self.sock.recv(65536)
        return head


Answer = Callable[[Connection], bool]  # whether the connection stays open


class Server:
    """A server on the loopback interface. Each connection has a thread."""

    def __init__(self, answers: Sequence[Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.closing = threading.Event()
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            connection = Connection(self, sock)
            while not self.closing.is_set():
                request = connection.read_request()
                if request is None:
                    return
                with self._lock:
                    self.requests.append(request)
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not answer(connection):
                    return
        except OSError:
            pass  # the client has left
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()


def http(
    status: str,
    body: bytes = b"",
    content_type: str = "text/html",
    *,
    close: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return a complete HTTP response."""

    def answer(connection: Connection) -> bool:
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status}\r\n{more}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sock.sendall(head.encode() + body)
        return not close

    return answer
