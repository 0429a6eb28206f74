"""Streams that share one connection: slow readers, fair turns, early ends, trailers, and the end of the server."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator

import httpx
import pytest
from support.http2_client import Http2Client
from support.http2_frames import (
    CANCEL,
    DATA,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PREFACE,
    RST_STREAM,
    corrupted,
    frame,
    reset,
    settings,
    window_update,
)
from support.served_application import Served, served
from support.waiting import wait_until

WINDOW = 65_535  # The window of a stream and of the connection, if the client does not say otherwise.
READERS = 200


@pytest.fixture
def world() -> Iterator[Served]:
    with served() as running:
        yield running


def running_requests(world: Served) -> int:
    return int(world.call(lambda: world.limits.requests))


def unsent_bytes(world: Served) -> int:
    """Return how many bytes wait in the server for clients that do not read."""

    def count() -> int:
        return sum(
            one._framing.pending_bytes + one._transport.get_write_buffer_size()  # type: ignore[attr-defined]
            for one in world.limits.connections
        )

    return int(world.call(count))


def test_readers_that_stop_reading_occupy_one_message_each_and_delay_no_other_call(world: Served) -> None:
    with Http2Client(world.address) as client:
        client.send(window_update(0, 2**30))
        streams = [2 * number + 1 for number in range(READERS)]
        for stream_id in streams:
            client.ask(stream_id, path="/s/endless")
        while sum(map(len, client.bodies.values())) < READERS * WINDOW:
            assert client.read()
        assert world.endless_sent == 0  # The first message of each stream is not sent completely.
        assert unsent_bytes(world) == 0
        for stream_id in range(1001, 1101, 2):
            client.ask(stream_id, body=b"abc")
            client.read_until_ended(stream_id)
            assert client.bodies[stream_id] == b"3"
        assert {len(client.bodies[one]) for one in streams} == {WINDOW}
        # A stream whose reader continues goes on, and only that stream.
        client.send(window_update(streams[7], 1_000_000))
        while len(client.bodies[streams[7]]) < WINDOW + 1_000_000:
            assert client.read()
        assert {len(client.bodies[one]) for one in streams if one != streams[7]} == {WINDOW}
    wait_until(lambda: running_requests(world) == 0, "all applications to end with the connection")


def test_client_that_reads_nothing_makes_all_its_http2_streams_wait(world: Served) -> None:
    """The client opens all windows and never reads from its socket."""
    with Http2Client(world.address, (INITIAL_WINDOW_SIZE, 2**31 - 1)) as deaf:
        deaf.send(window_update(0, 2**30))
        for number in range(50):
            deaf.ask(2 * number + 1, path="/s/endless")
        wait_until(lambda: running_requests(world) == 50, "the applications to run")
        wait_until(lambda: world.call(is_paused(world)), "the connection to be full")
        sent = world.endless_sent
        assert unsent_bytes(world) < 512 * 1024
        # Others are served.
        with Http2Client(world.address) as other:
            other.ask(1, body=b"ab")
            other.read_until_ended(1)
        assert world.endless_sent == sent
    wait_until(lambda: running_requests(world) == 0, "all applications to end")


def is_paused(world: Served) -> object:
    def check() -> bool:
        return any(one._output.is_paused for one in world.limits.connections if hasattr(one, "_output"))

    return check


def test_http2_streams_of_one_connection_get_equal_shares(world: Served) -> None:
    with Http2Client(world.address, (INITIAL_WINDOW_SIZE, 2**24)) as client:
        for stream_id in (1, 3, 5):
            client.ask(stream_id, path="/s/endless")
        # The window of the connection is the only limit. Each stream gets its share.
        granted = WINDOW
        while granted < 3_000_000:
            while sum(map(len, client.bodies.values())) < granted:
                assert client.read()
            client.send(window_update(0, 300_000))
            granted += 300_000
        sizes = [len(client.bodies[stream_id]) for stream_id in (1, 3, 5)]
        assert max(sizes) < 1.5 * min(sizes), sizes


def test_stream_that_waits_for_the_window_of_its_connection_can_be_reset(world: Served) -> None:
    with Http2Client(world.address, (INITIAL_WINDOW_SIZE, 2**24)) as client:
        client.ask(1, path="/s/endless")
        while len(client.bodies.get(1, b"")) < WINDOW:
            assert client.read()
        client.ask(3, path="/s/endless")
        client.send(reset(1))
        wait_until(world.disconnected.is_set, "the application of the reset stream to end")
        client.send(window_update(0, 100_000))
        while len(client.bodies.get(3, b"")) < 100_000:
            assert client.read()
        assert len(client.bodies[1]) == WINDOW


def test_http2_window_that_the_client_makes_smaller_is_respected(world: Served) -> None:
    with Http2Client(world.address, (INITIAL_WINDOW_SIZE, 100)) as client:
        client.ask(1, path="/s/endless")
        while len(client.bodies.get(1, b"")) < 100:
            assert client.read()
        client.send(frame(4, payload=b"\0\4" + (40).to_bytes(4, "big")))  # The window shrinks to -60.
        client.send(window_update(1, 61))
        while len(client.bodies[1]) < 101:
            assert client.read()
        client.ask(3)
        client.read_until_ended(3)
        assert len(client.bodies[1]) == 101


def test_http2_request_larger_than_the_windows_of_the_server_arrives(world: Served) -> None:
    with httpx.Client(http1=False, http2=True, timeout=30) as client:
        assert client.post(f"{world.url}/s/count", content=bytes(4 * 1024**2)).text == str(4 * 1024**2)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_application_is_informed_at_once_when_its_http2_client_leaves(world: Served, how: str) -> None:
    with Http2Client(world.address) as client:
        client.ask(1, path="/s/endless")
        client.read()
        if how == "reset":
            client.send(reset(1))
            wait_until(world.disconnected.is_set, "the application to end")
    wait_until(world.disconnected.is_set, "the application to end")


def test_http2_trailers_are_sent_after_the_body(world: Served) -> None:
    with Http2Client(world.address) as client:
        client.ask(1, path="/s/trailers", body=b"abc")
        client.read_until_ended(1)
        kinds = [one.kind for one in client.frames if one.stream_id == 1]
        assert kinds == [HEADERS, DATA, HEADERS]
        assert client.answers[1][b"x-size"] == b"3"


def test_client_that_asks_before_it_sends_a_body_gets_the_status_100(world: Served) -> None:
    with Http2Client(world.address) as client:
        client.ask(1, ("expect", "100-continue"), body=None)
        while 1 not in client.answers:
            assert client.read()
        assert client.answers[1] == {b":status": b"100"}
        client.send(frame(DATA, 1, 1, b"abc"))
        client.read_until_ended(1)
        assert (client.answers[1][b":status"], client.bodies[1]) == (b"200", b"3")


def test_http2_server_that_shuts_down_finishes_its_requests() -> None:
    world = Served()
    with world.running(), Http2Client(world.address) as client:
        client.ask(1, path="/s/hang")
        client.read()
        wait_until(lambda: running_requests(world) == 1, "the request to run")
        world.call(world.stop.set)
        while client.goodbye is None:
            assert client.read()
        assert (client.goodbye.code, client.goodbye.text) == (NO_ERROR, "this server is closing")
        client.ask(3)
        world.call(world.go.set)
        client.read_to_end()
        assert client.bodies[1] == b"0"
        assert 3 not in client.answers


def test_http2_server_that_shuts_down_ends_endless_answers() -> None:
    world = Served()
    with world.running(), Http2Client(world.address) as client:
        client.send(window_update(0, 2**30))
        client.ask(1, path="/s/endless")
        client.read()
        world.call(world.stop.set)
        client.read_to_end()
        assert [one.kind for one in client.frames if one.kind in (GOAWAY, RST_STREAM)] == [GOAWAY, RST_STREAM]
        assert client.resets == {1: CANCEL}


def test_server_keeps_nothing_of_clients_that_have_disconnected(world: Served) -> None:
    for round_ in range(20):
        with Http2Client(world.address) as client:
            for stream_id in range(1, 20, 2):
                path = ("/s/endless", "/s/count", "/s/hang", "/s/early", "/s/trailers")[(stream_id // 2 + round_) % 5]
                client.ask(stream_id, path=path, body=(b"", b"abc", None)[stream_id % 3])
            if round_ % 2:
                client.read()
            if round_ % 3 == 0:
                client.send(b"".join(reset(stream_id) for stream_id in range(1, 20, 4)))
    world.call(world.go.set)
    wait_until(lambda: running_requests(world) == 0, "all requests to end")
    wait_until(lambda: world.call(lambda: not world.limits.connections), "all connections to end")
    assert world.call(lambda: (world.limits.held_bytes, len(world.limits.waiting))) == (0, 0)
    assert world.call(lambda: len(asyncio.all_tasks(world.loop))) < 10


@pytest.mark.parametrize("seed", range(3))
def test_corrupted_http2_connections_affect_no_other_client(world: Served, seed: int) -> None:
    rng = random.Random(seed)
    with Http2Client(world.address) as other:
        for number in range(40):
            with world.connect() as broken:
                broken.sendall(PREFACE + settings() + corrupted(rng))
                if rng.random() < 0.5:
                    broken.shutdown(socket.SHUT_WR)
            other.ask(2 * number + 1, body=b"abc")
            other.read_until_ended(2 * number + 1)
            assert other.bodies[2 * number + 1] == b"3"
    wait_until(lambda: running_requests(world) == 0, "all requests to end")
    wait_until(lambda: world.call(lambda: not world.limits.connections), "all connections to end")
    assert world.call(lambda: (world.limits.held_bytes, len(world.limits.waiting))) == (0, 0)
