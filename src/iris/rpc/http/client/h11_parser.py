"""Parses HTTP answers with h11, behind the interface of httptools' parser. The base install has h11 because httpcore
needs it. httptools, which is faster, is installed only with the server.
"""

from __future__ import annotations

from typing import Any, Protocol

import h11


class HttpParserError(Exception):
    """The data is not an HTTP answer."""


class AnswerProtocol(Protocol):
    """The receiver of the parts of an answer."""

    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class HttpResponseParser:
    """Parses one answer.

    Args:
        protocol: The object whose `on_…` methods are called with the parts of the answer.
    """

    def __init__(self, protocol: AnswerProtocol) -> None:
        self._protocol = protocol
        self._status = 0
        self._keeps_alive = False
        self._connection = h11.Connection(h11.CLIENT)
        # h11 refuses to parse an answer before it has written a request. Therefore a request is written here, but never
        # sent.
        self._connection.send(h11.Request(method="GET", target="/", headers=[("host", "iris")]))
        self._connection.send(h11.EndOfMessage())

    def get_status_code(self) -> int:
        """Return the status of the answer."""
        return self._status

    def should_keep_alive(self) -> bool:
        """Return whether the connection can be used for another request."""
        return self._keeps_alive

    def feed_data(self, data: bytes) -> None:
        """Parse the next bytes from the server.

        Raises:
            HttpParserError: The bytes are not an HTTP answer.
        """
        try:
            self._connection.receive_data(data)
            while self._handle(self._connection.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            raise HttpParserError(str(error)) from error

    def _handle(self, event: Any) -> bool:
        """Report an event of h11. Return whether another event may follow."""
        match event:
            case h11.Response():
                self._status = event.status_code
                for name, value in event.headers:
                    self._protocol.on_header(name, value)
                self._protocol.on_headers_complete()
            case h11.Data():
                self._protocol.on_body(bytes(event.data))
            case h11.EndOfMessage():
                self._keeps_alive = self._connection.their_state is h11.DONE
                self._protocol.on_message_complete()
                return False
            case h11.NEED_DATA | h11.PAUSED:
                return False
        return True
