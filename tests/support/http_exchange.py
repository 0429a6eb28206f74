"""One HTTP request and its answer, with HTTP/1.1 or with HTTP/2 (prior knowledge), including trailers."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

_TIMEOUT_S = 30


@dataclass
class Exchange:
    """The answer to a request.

    Attributes:
        status: The HTTP status.
        headers: The headers, with names in lower case.
        body: The body.
        trailers: The headers after the body, with names in lower case.
        was_reset: Whether the server reset the stream.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    was_reset: bool = False


def exchange(
    address: str, version: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> Exchange:
    """Send a request with HTTP version 1.1 or 2 on a connection of its own, and read the whole answer.

    If the headers have a `content-length`, which may be wrong, the rest of the body is never sent.
    """
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or 80
    if version == "1.1":
        with closing(http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)) as connection:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Exchange(answer.status, names, answer.read())
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as stream:
        return _exchange_http2(stream, f"{host}:{port}", method, path, headers, body)


def _exchange_http2(
    stream: socket.socket, authority: str, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> Exchange:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    pseudo = {":method": method, ":scheme": "http", ":authority": authority, ":path": path}
    connection.send_headers(1, [*pseudo.items(), *headers.items()], end_stream=not body)
    if body:
        connection.send_data(1, body, end_stream=int(headers.get("content-length", len(body))) == len(body))
    answer = Exchange()
    while True:
        stream.sendall(connection.data_to_send())
        data = stream.recv(65536)
        assert data, f"the server has closed the connection after {answer}"
        for event in connection.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    answer.headers = dict(event.headers)
                    answer.status = int(answer.headers.pop(":status"))
                case h2.events.DataReceived():
                    answer.body += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                case h2.events.TrailersReceived():
                    answer.trailers = dict(event.headers)
                case h2.events.StreamEnded() | h2.events.StreamReset():
                    answer.was_reset = isinstance(event, h2.events.StreamReset)
                    return answer
                case h2.events.ConnectionTerminated():
                    raise AssertionError(f"the server has ended the connection with error {event.error_code}")
