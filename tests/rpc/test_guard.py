"""The limits of connections, on real sockets. A test lets time pass by calling `ConnectionLimits.tick`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from support.served_application import Served, served
from support.waiting import wait_until

from iris.rpc.http.server.connection_limits import (
    BODY_BYTES_PER_S,
    BODY_S,
    HEAD_S,
    KEEPALIVE_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_REQUEST_BYTES,
    ConnectionLimits,
)

Answer = tuple[int, bytes]


@pytest.fixture
def world() -> Iterator[Served]:
    with served(counts_seconds=False) as running:
        yield running


def request(path: str = "/s/count", body: bytes = b"", headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def send(connection: socket.socket, data: bytes) -> None:
    """Sends all of it, or as much as the other side takes before it has had enough."""
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def read_answer(connection: socket.socket) -> Answer:
    """One answer, that with its length or in chunks."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = dict(line.rstrip().lower().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
    if b"content-length" in headers:
        return status, file.read(int(headers[b"content-length"]))
    body = b""
    while size := int(file.readline(), 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return status, body


def read_to_end(connection: socket.socket) -> bytes:
    """All that still comes, until the other side closes."""
    data = b""
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def ask(world: Served, data: bytes) -> Answer:
    with world.connect() as connection:
        send(connection, data)
        return read_answer(connection)


def assert_refused(answer: Answer, status: int, code: str, words: str) -> None:
    assert answer[0] == status
    error = json.loads(answer[1])
    assert error["code"] == code
    assert words in error["message"]


def assert_unhurt(world: Served) -> None:
    """Others are answered, and nothing is left of what was refused."""
    assert ask(world, request(body=b"abc")) == (200, b"3")
    wait_until(lambda: world.call(lambda: world.limits.held_bytes) == 0, "bytes to be given back")


NO_REQUESTS = {
    "long header": (request(headers="x: " + "a" * MAX_HEAD_BYTES + "\r\n"), 431, "resource_exhausted", "65,536 bytes"),
    "very long header": (request(headers="x: " + "a" * 10_000_000 + "\r\n"), 431, "resource_exhausted", "65,536 bytes"),
    "many headers": (request(headers="a: b\r\n" * (MAX_HEADERS + 1)), 431, "resource_exhausted", "100 headers"),
    "long path": (request(path="/s/" + "a" * MAX_HEAD_BYTES), 431, "resource_exhausted", "65,536 bytes"),
    "path without end": (b"POST /" + b"a" * 10_000_000, 431, "resource_exhausted", "65,536 bytes"),
    "header without end": (b"POST / HTTP/1.1\r\nx: " + b"a" * 10_000_000, 431, "resource_exhausted", "65,536 bytes"),
    "header of no text": (
        request(headers="x: \u20ac\r\n".encode().decode("latin-1")).replace(b"\xc2", b"\xff"),
        400,
        "invalid_argument",
        "UTF-8",
    ),
    "gRPC": (request(headers="content-type: application/grpc+proto\r\n"), 415, "invalid_argument", "needs HTTP/2"),
    "upgrade": (request(headers="connection: upgrade\r\nupgrade: websocket\r\n"), 400, "invalid_argument", "upgrade"),
    "CONNECT": (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "invalid_argument", "CONNECT"),
    "half a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400, "invalid_argument", "not a valid HTTP"),
    "TLS": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "length of letters": (
        b"POST / HTTP/1.1\r\ncontent-length: abc\r\n\r\n",
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "negative length": (
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "length and chunks": (
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "chunk of letters": (
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "huge chunk": (
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
        400,
        "invalid_argument",
        "not a valid HTTP",
    ),
    "chunk extension without end": (
        b"POST /s/count HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 10_000_000,
        400,
        "invalid_argument",
        "nearly all framing",
    ),
    "trailer without end": (
        b"POST /s/count HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: " + b"a" * 10_000_000,
        400,
        "invalid_argument",
        "nearly all framing",
    ),
    "declared too long": (
        f"POST /s/count HTTP/1.1\r\ncontent-length: {MAX_REQUEST_BYTES + 1}\r\n\r\n".encode(),
        429,
        "resource_exhausted",
        "4,194,304",
    ),
    "too long": (
        b"POST /s/count HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n500000\r\n" + bytes(0x500000),
        429,
        "resource_exhausted",
        "over the limit of 4,194,304 for '/s/count'",
    ),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_malformed_request_is_refused(world: Served, name: str) -> None:
    data, status, code, words = NO_REQUESTS[name]
    assert_refused(ask(world, data), status, code, words)
    assert_unhurt(world)


def test_trailers_of_a_request_are_ignored(world: Served) -> None:
    trailers = "".join(f"x{i}: y\r\n" for i in range(2 * MAX_HEADERS))
    chunked = f"POST /s/count HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailers}\r\n"
    assert ask(world, chunked.encode()) == (200, b"3")


def test_request_limit_of_one_path_replaces_the_general_limit() -> None:
    with served(ConnectionLimits({"/s/count": 10})) as world:
        assert ask(world, request(body=b"0123456789")) == (200, b"10")
        assert_refused(ask(world, request(body=b"01234567890")), 429, "resource_exhausted", "limit of 10 ")


def test_requests_that_are_received_at_once_have_a_total_size_limit() -> None:
    with served(ConnectionLimits(max_held_bytes=100_000)) as world, world.connect() as first:
        first.sendall(request(body=bytes(90_000))[:-1])
        wait_until(lambda: world.call(lambda: world.limits.held_bytes) > 80_000, "most of it to be held")
        assert_refused(ask(world, request(body=bytes(30_000))), 503, "unavailable", "receiving too much")
        assert ask(world, request(body=bytes(5000))) == (200, b"5000")
        first.sendall(b"\0")
        assert read_answer(first) == (200, b"90000")
        assert_unhurt(world)


def test_request_whose_head_arrives_too_slowly_is_refused(world: Served) -> None:
    with world.connect() as slow:
        slow.sendall(b"POST /s/count HTTP/1.1\r\nhost: x\r\n")
        wait_until(
            lambda: world.call(lambda: any(getattr(c, "_head_bytes", 0) for c in world.limits.connections)),
            "it to be read",
        )
        for _ in range(HEAD_S):
            slow.sendall(b"x: y\r\n")
            world.pass_time(1)
        world.pass_time(1)
        assert_refused(read_answer(slow), 408, "deadline_exceeded", f"within {HEAD_S} s")
        assert read_to_end(slow) == b""
    assert_unhurt(world)


def test_silent_connection_is_closed(world: Served) -> None:
    with world.connect() as silent:
        wait_until(lambda: world.call(lambda: len(world.limits.connections)) == 1, "the connection")
        world.pass_time(HEAD_S + 1)
        assert read_to_end(silent) == b""


def test_connection_that_sends_only_empty_lines_is_closed(world: Served) -> None:
    with world.connect() as dripping:
        dripping.sendall(request(body=b"x"))
        assert read_answer(dripping) == (200, b"1")
        for _ in range(HEAD_S + 2):
            send(dripping, b"\r\n")
            world.pass_time(1)
        assert b"200" not in read_to_end(dripping)


def test_request_whose_body_arrives_too_slowly_is_refused(world: Served) -> None:
    with world.connect() as slow:
        slow.sendall(request(body=bytes(1000))[:-500])
        wait_until(lambda: world.call(lambda: world.limits.held_bytes), "the body to begin")
        world.pass_time(BODY_S)
        slow.sendall(b"\0")
        world.pass_time(1)
        assert_refused(read_answer(slow), 408, "deadline_exceeded", "too slowly")
        assert world.disconnected.wait(30)  # its application has heard that nobody listens
    assert_unhurt(world)


def test_body_at_the_minimum_rate_is_read_to_its_end(world: Served) -> None:
    with world.connect() as steady:
        seconds = 3 * BODY_S
        body = bytes(BODY_BYTES_PER_S * seconds)
        steady.sendall(request(body=body)[: -len(body)])
        for second in range(seconds):
            steady.sendall(bytes(BODY_BYTES_PER_S))
            wanted = BODY_BYTES_PER_S * (second + 1) if second + 1 < seconds else 0  # it is given back at the end
            wait_until(lambda: world.call(lambda: world.limits.held_bytes) == wanted, "this part")  # noqa: B023
            world.pass_time(1)
        assert read_answer(steady) == (200, str(len(body)).encode())


def test_request_that_was_answered_early_gets_no_extra_time(world: Served) -> None:
    with world.connect() as slow:
        slow.sendall(request("/s/early", bytes(1000))[:-500])
        assert read_answer(slow) == (200, b"0")
        world.pass_time(BODY_S + 1)
        assert b" 408 " in read_to_end(slow)
    assert_unhurt(world)


def test_server_may_take_any_time_to_answer_a_complete_request(world: Served) -> None:
    with world.connect() as patient, world.connect() as following:
        patient.sendall(request("/s/hang", b"abc"))
        following.sendall(request("/s/stream"))
        assert following.recv(10)
        assert patient.recv(1)  # the beginning of the answer's head: its request is complete
        world.pass_time(10_000)
        world.call(world.go.set)
        assert read_to_end_of_answer(patient).endswith(b"3\r\n0\r\n\r\n")
        assert read_to_end_of_answer(following).endswith(b"0\r\n\r\n")


def test_idle_connection_stays_open_for_a_while(world: Served) -> None:
    with world.connect() as idle:
        for _ in range(3):
            idle.sendall(request(body=b"x"))
            assert read_answer(idle) == (200, b"1")
            wait_until(lambda: world.call(lambda: len(world.limits.waiting)) == 1, "it to wait")
            world.pass_time(KEEPALIVE_S)
        world.pass_time(1)
        assert read_to_end(idle) == b""


def test_pipelined_requests_are_answered_in_order(world: Served) -> None:
    with world.connect() as connection:
        connection.sendall(b"".join(request(body=b"x" * size) for size in range(50)))
        file_order = [read_one(connection) for _ in range(50)]
        assert file_order == [str(size).encode() for size in range(50)]


def test_client_that_closes_its_sending_half_gets_its_answer(world: Served) -> None:
    with world.connect() as connection:
        connection.sendall(request(body=b"abc"))
        connection.shutdown(socket.SHUT_WR)
        assert read_answer(connection) == (200, b"3")
    with world.connect() as connection:
        connection.sendall(request(body=b"abc")[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""
    assert_unhurt(world)


def test_client_can_connect_despite_two_thousand_idle_connections() -> None:
    with served(ConnectionLimits(max_connections=200)) as world, world.connect() as busy:
        busy.sendall(request("/s/hang"))
        assert busy.recv(1)
        idle = []
        try:
            for number in range(2000):
                idle.append(world.connect())
                if number % 3 == 0:
                    send(idle[-1], b"POST /s/count HTTP/1.1\r\n")  # some have begun
                if number % 500 == 0:
                    assert ask(world, request(body=b"abc")) == (200, b"3")
            assert_unhurt(world)
            assert world.call(lambda: len(world.limits.connections)) <= 201
            world.call(world.go.set)
            assert read_to_end_of_answer(busy).endswith(b"0\r\n\r\n")
        finally:
            for connection in idle:
                connection.close()


def test_connection_beyond_the_limit_is_refused_with_a_reason() -> None:
    with served(ConnectionLimits(max_connections=3)) as world:
        busy = [world.connect() for _ in range(3)]
        for connection in busy:
            connection.sendall(request("/s/hang"))
            assert connection.recv(1)
        assert_refused(ask(world, request()), 503, "unavailable", "all 3 connections")
        world.call(world.go.set)
        for connection in busy:
            assert read_to_end_of_answer(connection).endswith(b"0\r\n\r\n")
            connection.close()
        assert_unhurt(world)


def test_running_server_enforces_its_time_limits() -> None:
    """That the server counts its seconds."""
    with served(ConnectionLimits(head_s=0)) as world, world.connect() as silent:
        assert read_to_end(silent) == b""


def test_refused_client_that_does_not_disconnect_is_disconnected(world: Served) -> None:
    with world.connect() as stubborn:
        stubborn.sendall(b"nonsense\r\n\r\n")
        assert read_answer(stubborn)[0] == 400
        wait_until(lambda: world.call(lambda: len(world.limits.connections)) == 1, "it to be there")
        world.pass_time(3)
        wait_until(lambda: world.call(lambda: len(world.limits.connections)) == 0, "it to be gone")


def read_one(connection: socket.socket) -> bytes:
    """The body of one answer in one chunk, read byte by byte so that nothing of the next is taken."""
    data = b""
    while not data.endswith(b"0\r\n\r\n") or b"\r\n\r\n" not in data[:-5]:
        data += connection.recv(1)
    return data.split(b"\r\n\r\n", 1)[1].split(b"\r\n")[1]


def read_to_end_of_answer(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        data += connection.recv(65536)
    return data
