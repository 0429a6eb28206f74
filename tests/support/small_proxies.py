"""Small proxies for tests: SOCKS5, and HTTP with CONNECT. Each proxy connects every requested host to one port of this
machine."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from typing import ClassVar


class SmallProxy:
    """A proxy on the loopback interface, which forwards all bytes after its handshake.

    Args:
        port: The port of this machine that it connects to; 0: it finds none.
        login: The user and password that it wants; None: it wants none.

    Attributes:
        asked_for: The hosts and ports that it was asked to connect to.
        logins: The logins that it was given.
    """

    scheme: ClassVar[str]

    def __init__(self, port: int = 0, login: tuple[str, str] | None = None) -> None:
        self._target = port
        self._login = login
        self.wants_login = login is not None
        self.asked_for: list[tuple[str, int]] = []
        self.logins: list[tuple[str, str]] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, login: str = "") -> str:
        """Return the URL of the proxy, with the given `user:password@`."""
        return f"{self.scheme}://{login}127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
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
            self._start(self._serve, sock)

    def _start(self, function: object, *args: object) -> None:
        self._threads.append(threading.Thread(target=function, args=args))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.append(sock)
        try:
            if self._greet(sock):
                beyond = socket.create_connection(("127.0.0.1", self._target))
                self._open.append(beyond)
                self._start(self._pass_on, beyond, sock)
                self._pass_on(sock, beyond)
        except OSError:
            pass  # one of them has left
        finally:
            sock.close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _greet(self, sock: socket.socket) -> bool:
        """Do the handshake. Return whether the connection continues to the target."""
        raise NotImplementedError


class SocksProxy(SmallProxy):
    """A SOCKS5 proxy: the parts of RFC 1928 and RFC 1929 that clients need for host names."""

    scheme = "socks5"

    def _greet(self, sock: socket.socket) -> bool:
        _, count = sock.recv(2, socket.MSG_WAITALL)
        offered = sock.recv(count, socket.MSG_WAITALL)
        method = 0 if self._login is None else 2
        sock.sendall(bytes([5, method if method in offered else 0xFF]))
        if method not in offered:
            return False
        if method == 2:
            _, size = sock.recv(2, socket.MSG_WAITALL)
            user = sock.recv(size, socket.MSG_WAITALL).decode()
            password = sock.recv(sock.recv(1)[0], socket.MSG_WAITALL).decode()
            self.logins.append((user, password))
            sock.sendall(bytes([1, int((user, password) != self._login)]))
            if (user, password) != self._login:
                return False
        sock.recv(4, socket.MSG_WAITALL)
        host = sock.recv(sock.recv(1)[0], socket.MSG_WAITALL).decode()
        self.asked_for.append((host, int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")))
        sock.sendall(bytes([5, 0 if self._target else 5, 0, 1, 0, 0, 0, 0, 0, 0]))
        return bool(self._target)


class ConnectProxy(SmallProxy):
    """An HTTP proxy with the method CONNECT of RFC 9110."""

    scheme = "http"

    def _greet(self, sock: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        first, *lines = head.decode().split("\r\n")
        host, _, port = first.split()[1].rpartition(":")
        self.asked_for.append((host, int(port)))
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        given = next((line.split(" ")[-1] for line in lines if line.lower().startswith("proxy-authorization:")), "")
        if given:
            user, _, password = base64.b64decode(given).decode().partition(":")
            self.logins.append((user, password))
        if self._login is not None and self.logins[-1:] != [self._login]:
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return False
        if not self._target:
            sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return False
        assert "host" in headers, head
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True
