"""The limits of connections over HTTP/2, on real sockets: floods, slow clients, large requests and too many of them.

A test lets time pass with `Served.pass_time`. After each attack, another client must be served as before.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest
from support.http2_client import Http2Client
from support.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PING,
    PRIORITY,
    REFUSED_STREAM,
    REQUEST,
    block,
    frame,
    headers,
    reset,
    settings,
    window_update,
)
from support.served_application import Served, served
from support.sockets import undelivered_bytes, unread_bytes
from support.waiting import wait_until

from iris.rpc.http.server.connection_limits import (
    BODY_BYTES_PER_S,
    BODY_S,
    HEAD_S,
    KEEPALIVE_S,
    LEAVE_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_REQUEST_BYTES,
    ConnectionLimits,
)
from iris.rpc.http.server.http2_limits import MAX_STREAMS

FULL = END_HEADERS | END_STREAM
GRPC = ("content-type", "application/grpc")


@pytest.fixture
def world() -> Iterator[Served]:
    with served(counts_seconds=False) as running:
        yield running


def wait_until_read(world: Served, client: Http2Client) -> None:
    """Wait until the server has read all that the only client has sent."""

    def unread() -> int:
        (connection,) = world.limits.connections
        return unread_bytes(connection._transport.get_extra_info("socket"))

    wait_until(lambda: undelivered_bytes(client.socket) == 0, "the arrival of the sent bytes")
    wait_until(lambda: world.call(unread) == 0, "the server to read the sent bytes")


def assert_unhurt(world: Served) -> None:
    """Check that another client is answered, and that nothing is left of the refused requests."""
    with Http2Client(world.address) as other:
        other.ask(1, body=b"abc")
        other.read_until_ended(1)
        assert other.bodies[1] == b"3"
    wait_until(lambda: world.call(lambda: world.limits.held_bytes) == 0, "bytes to be given back")
    wait_until(lambda: world.call(lambda: world.limits.requests) == 0, "requests to end")


FLOODS = {
    "pings": frame(PING, payload=bytes(8)),
    "settings": settings((INITIAL_WINDOW_SIZE, 65535)),
    "window updates": window_update(0, 1),
    "window updates of a stream": window_update(1, 1),
    "priorities": frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 1)),
    "empty data": frame(DATA, 0, 1),
    "small data": frame(DATA, 0, 1, b"x"),
    "unknown frames": frame(0x50, 0, 1),
    "acknowledged settings": frame(4, 1),
    "acknowledged pings": frame(PING, 1, 0, bytes(8)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_of_frames_closes_the_connection(world: Served, name: str) -> None:
    with Http2Client(world.address) as flooding:
        flooding.ask(1, path="/s/count", body=None)
        flooding.send(FLOODS[name] * 5000)
        flooding.read_to_end()
        assert flooding.goodbye is not None
        assert flooding.goodbye.code == ENHANCE_YOUR_CALM
        assert "too many" in flooding.goodbye.text
    assert_unhurt(world)


def test_client_that_resets_its_requests_at_once_is_disconnected(world: Served) -> None:
    with Http2Client(world.address) as flooding:
        for start in range(0, 4000, 500):
            flooding.send(b"".join(headers(2 * n + 1) + reset(2 * n + 1) for n in range(start, start + 500)))
        flooding.read_to_end()
        assert flooding.goodbye is not None
        assert (flooding.goodbye.code, flooding.goodbye.text) == (ENHANCE_YOUR_CALM, "too many requests were reset")
    assert_unhurt(world)
    assert world.calls < 2 * MAX_STREAMS  # Most requests were reset before their application began.


def test_client_that_makes_the_server_reset_many_streams_is_disconnected(world: Served) -> None:
    with Http2Client(world.address) as flooding:
        ended = b"".join(headers(n) + frame(DATA, END_STREAM, n, bytes(300)) for n in range(1, 3000, 2))
        flooding.send(ended)
        flooding.read_to_end()
        assert flooding.goodbye is not None
        assert flooding.goodbye.code == ENHANCE_YOUR_CALM
    assert_unhurt(world)


@pytest.mark.parametrize(
    "parts",
    [
        frame(HEADERS, END_STREAM, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 10_000,
        frame(HEADERS, END_STREAM, 1, b"") + frame(CONTINUATION, 0, 1, b"x" * 1000) * 10_000,
        # A kilobyte in the table of the compression, and then many references to it of one byte each.
        frame(HEADERS, FULL, 1, block(REQUEST) + b"\x40\x01a\x7f\x81\x17" + b"x" * 3000 + b"\xbe" * 9999),
    ],
    ids=["empty frames", "large frames", "references to one header"],
)
def test_endless_head_closes_the_connection(world: Served, parts: bytes) -> None:
    with Http2Client(world.address) as flooding:
        flooding.send(parts)
        flooding.read_to_end()
        assert flooding.goodbye is not None
        assert flooding.goodbye.code == ENHANCE_YOUR_CALM
    assert_unhurt(world)


def test_unread_answers_to_a_flood_of_pings_occupy_at_most_a_megabyte_of_the_server(world: Served) -> None:
    """The pings are within the budget, but the client does not read the answers."""
    with Http2Client(world.address) as deaf:
        deaf.ask(1, path="/s/hang")
        wait_until(lambda: world.calls, "the request to begin")
        for _ in range(100):
            deaf.send(frame(PING, payload=bytes(8)) * 90)
            wait_until_read(world, deaf)
            world.pass_time(1)
        buffered = world.call(lambda: max(c._transport.get_write_buffer_size() for c in world.limits.connections))
        assert buffered <= 1024**2
        world.call(world.go.set)


def test_window_updates_of_a_reader_do_not_count_as_a_flood(world: Served) -> None:
    with Http2Client(world.address, (INITIAL_WINDOW_SIZE, 1000)) as slow:
        slow.ask(1, path="/s/endless")
        for _ in range(3000):
            slow.read()
            if len(slow.bodies.get(1, b"")) > 1_000_000:
                break
            slow.send(window_update(1, 1000) + window_update(0, 1000))
        assert slow.goodbye is None
        assert not slow.is_closed
    wait_until(world.disconnected.is_set, "the application to end")


REFUSED = {
    "many headers": ([(f"x{n}", "y") for n in range(MAX_HEADERS + 1)], "431", "8", "100 headers"),
    "large headers": ([("x", "y" * (MAX_HEAD_BYTES // 8))] * 8, "431", "8", "65,536 bytes"),
    "header of no text": ([("x", b"\xff\xfe")], "400", "3", "UTF-8"),
    "announced too large": ([("content-length", str(MAX_REQUEST_BYTES + 1))], "429", "8", "4,194,304"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("is_grpc", [False, True])
def test_refused_request_gets_an_error_of_its_protocol(world: Served, name: str, is_grpc: bool) -> None:
    extra, status, number, words = REFUSED[name]
    with Http2Client(world.address) as client:
        parts = block([*REQUEST, *extra, *([GRPC] if is_grpc else [])])
        first, *others = [parts[at : at + 16_000] for at in range(0, len(parts), 16_000)]
        data = frame(HEADERS, 0 if others else END_HEADERS, 1, first)
        for index, part in enumerate(others):
            data += frame(CONTINUATION, END_HEADERS if index == len(others) - 1 else 0, 1, part)
        client.send(data)
        client.read_until_ended(1)
        answer = client.answers[1]
        if is_grpc:
            assert (answer[b":status"], answer[b"content-type"]) == (b"200", b"application/grpc")
            assert answer[b"grpc-status"] == number.encode()
            assert 1 not in client.bodies
        else:
            assert answer[b":status"] == status.encode()
            assert words in json.loads(client.bodies[1])["message"]
        # The connection lives on.
        client.ask(3, body=b"abc")
        client.read_until_ended(3)
        assert client.bodies[3] == b"3"
        assert client.resets.get(1, NO_ERROR) == NO_ERROR
    assert_unhurt(world)


def test_http2_request_body_above_its_limit_is_refused() -> None:
    with served(ConnectionLimits({"/s/count": 1000})) as world, Http2Client(world.address) as client:
        client.ask(1, body=None)
        client.send(frame(DATA, 0, 1, bytes(1001)))
        client.read_until_ended(1)
        assert client.answers[1][b":status"] == b"429"
        assert "limit of 1,000 for '/s/count'" in json.loads(client.bodies[1])["message"]
        client.ask(3, body=bytes(1000))
        client.read_until_ended(3)
        assert client.bodies[3] == b"1000"
        assert_unhurt(world)


def test_requests_that_are_received_at_once_have_a_total_size_limit() -> None:
    with served(ConnectionLimits(max_held_bytes=20_000)) as world, Http2Client(world.address) as client:
        client.ask(1, body=None)
        client.send(frame(DATA, 0, 1, bytes(15_000)))
        client.ask(3, GRPC, body=bytes(10_000))
        client.read_until_ended(3)
        assert client.answers[3][b"grpc-status"] == b"14"
        client.send(frame(DATA, END_STREAM, 1))
        client.read_until_ended(1)
        assert client.bodies[1] == b"15000"
        assert_unhurt(world)


def test_request_beyond_the_limit_of_all_connections_is_refused() -> None:
    with served(ConnectionLimits(max_requests=3)) as world, Http2Client(world.address) as client:
        for stream_id in (1, 3, 5):
            client.ask(stream_id, path="/s/hang")
        client.ask(7, GRPC)
        client.read_until_ended(7)
        assert client.answers[7][b"grpc-status"] == b"14"
        world.call(world.go.set)
        client.read_until_ended(1, 3, 5)
        assert_unhurt(world)


def test_stream_beyond_the_limit_of_a_connection_may_be_repeated(world: Served) -> None:
    with Http2Client(world.address) as client:
        for number in range(MAX_STREAMS + 1):
            client.ask(2 * number + 1, path="/s/hang")
        last = 2 * MAX_STREAMS + 1
        client.read_until_ended(last)
        assert client.resets == {last: REFUSED_STREAM}
        world.call(world.go.set)
        client.read_until_ended(*range(1, last, 2))
        client.ask(last + 2)
        client.read_until_ended(last + 2)
    assert_unhurt(world)


def test_connection_beyond_the_limit_is_refused_with_a_reason() -> None:
    with served(ConnectionLimits(max_connections=2)) as world:
        with Http2Client(world.address) as busy, Http2Client(world.address) as busy_too:
            for client in (busy, busy_too):
                client.ask(1, path="/s/hang")
                client.read()
            wait_until(lambda: world.call(lambda: world.limits.requests) == 2, "both requests to run")
            for extra, name, value in (([], b":status", b"503"), ([GRPC], b"grpc-status", b"14")):
                with Http2Client(world.address) as refused:
                    refused.ask(1, *extra)
                    refused.read_to_end()
                    assert refused.answers[1][name] == value
                    assert refused.goodbye is not None
                    assert "all 2 connections" in refused.goodbye.text
            world.call(world.go.set)
            busy.read_until_ended(1)
        wait_until(lambda: world.call(lambda: not world.limits.connections), "all connections to end")
        assert_unhurt(world)


def test_idle_connection_gives_way_to_a_new_one() -> None:
    limits = ConnectionLimits(max_connections=2)
    with served(limits) as world, Http2Client(world.address) as idle, Http2Client(world.address) as second:
        for client in (idle, second):
            client.ask(1)
            client.read_until_ended(1)
        with Http2Client(world.address) as new:
            new.ask(1, body=b"ab")
            new.read_until_ended(1)
            assert new.bodies[1] == b"2"
        idle.read_to_end()
        assert idle.goodbye is not None
        assert idle.goodbye.code == NO_ERROR


def test_silent_connection_is_closed(world: Served) -> None:
    with Http2Client(world.address) as idle:
        idle.ask(1)
        idle.read_until_ended(1)
        world.pass_time(KEEPALIVE_S)
        idle.ask(3)
        idle.read_until_ended(3)
        for _ in range(KEEPALIVE_S + 1):  # Pings do not keep a connection open that has no requests.
            idle.send(frame(PING, payload=bytes(8)))
            world.pass_time(1)
        idle.read_to_end()
        assert idle.goodbye is not None


@pytest.mark.parametrize(
    "beginning",
    [
        b"PRI * HT",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings()[:5],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings() + frame(HEADERS, END_STREAM, 1, block(REQUEST)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings() + headers(1)[:20],
    ],
    ids=[
        "part of the preface",
        "only the preface",
        "part of the settings",
        "headers without settings",
        "part of the headers",
    ],
)
def test_connection_whose_beginning_arrives_too_slowly_is_closed(world: Served, beginning: bytes) -> None:
    with world.connect() as slow:
        slow.sendall(beginning)
        wait_until(lambda: world.call(lambda: len(world.limits.connections)) == 1, "the connection")
        world.pass_time(1)
        world.pass_time(HEAD_S)
        while slow.recv(65536):
            pass
    assert_unhurt(world)


def test_request_whose_body_arrives_too_slowly_is_refused(world: Served) -> None:
    with Http2Client(world.address) as slow:
        slow.ask(1, path="/s/count", body=None)
        slow.ask(3, path="/s/hang")
        slow.send(frame(DATA, 0, 1, bytes(10)))
        wait_until(lambda: world.call(lambda: world.limits.held_bytes) == 10, "the body to begin")
        world.pass_time(BODY_S + 1)
        slow.read_until_ended(1)
        assert slow.answers[1][b":status"] == b"408"
        wait_until(world.disconnected.is_set, "the application to hear that its request is over")
        world.call(world.go.set)
        slow.read_until_ended(3)  # The other request of the connection is not hurt.
    assert_unhurt(world)


def test_body_at_the_minimum_rate_is_read_to_its_end(world: Served) -> None:
    with Http2Client(world.address) as steady:
        steady.ask(1, body=None)
        seconds = 2 * BODY_S
        for second in range(seconds):
            steady.send(frame(DATA, 0, 1, bytes(BODY_BYTES_PER_S)))
            wanted = BODY_BYTES_PER_S * (second + 1)
            wait_until(lambda: world.call(lambda: world.limits.held_bytes) == wanted, "this part")  # noqa: B023
            world.pass_time(1)
        steady.send(frame(DATA, END_STREAM, 1))
        steady.read_until_ended(1)
        assert steady.bodies[1] == str(seconds * BODY_BYTES_PER_S).encode()


def test_application_that_reads_slowly_does_not_count_against_its_client(world: Served) -> None:
    with Http2Client(world.address) as client:
        client.ask(1, path="/s/unread", body=None)
        client.send(frame(DATA, 0, 1, bytes(1000)))
        wait_until(lambda: world.call(lambda: world.limits.held_bytes) == 1000, "the body to arrive")
        world.pass_time(10 * BODY_S)
        world.call(world.go.set)
        client.send(frame(DATA, END_STREAM, 1))
        client.read_until_ended(1)
        assert client.bodies[1] == b"1000"


def test_request_answered_early_is_not_read_to_its_end(world: Served) -> None:
    with Http2Client(world.address) as client:
        client.ask(1, path="/s/early", body=None)
        client.read_until_ended(1)
        world.pass_time(2)
        while 1 not in client.resets:
            client.read()
        assert client.resets == {1: NO_ERROR}
        client.send(frame(DATA, 0, 1, bytes(10_000)))  # This part was already on its way.
        client.ask(3, body=b"abc")
        client.read_until_ended(3)
        assert client.bodies[3] == b"3"
    assert_unhurt(world)


def test_refused_client_that_does_not_disconnect_is_disconnected(world: Served) -> None:
    with Http2Client(world.address) as stubborn:
        stubborn.send(frame(PING, 0, 1, bytes(8)))
        while stubborn.goodbye is None:
            stubborn.read()
        world.pass_time(LEAVE_S + 1)
        wait_until(lambda: world.call(lambda: not world.limits.connections), "the connection to be gone")
