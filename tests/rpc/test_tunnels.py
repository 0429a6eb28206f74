"""Channels of a tunnel: their pure state, and two ends that are joined by calls that get lost."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.seeds import for_each_seed

from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelTarget
from iris.rpc.tunnels.budget import LEAST_WINDOW_BYTES, WINDOW_BYTES, Budget
from iris.rpc.tunnels.channel import Channel
from iris.rpc.tunnels.directions import Incoming, Outgoing
from iris.rpc.tunnels.tunnel import Tunnel, check_tunnel_id

# The pure state of one direction.


def test_outgoing_bytes_of_a_channel_are_taken_in_order_and_their_end_counts_as_one_byte() -> None:
    outgoing = Outgoing()
    outgoing.add(b"abcdef")
    outgoing.finish()
    assert outgoing.take(4) == (0, b"abcd", False)
    assert outgoing.take(4) == (4, b"ef", True)
    assert outgoing.take(4) is None
    assert outgoing.acknowledge(6) == 6
    assert not outgoing.is_done
    outgoing.acknowledge(7)
    assert outgoing.is_done


def test_bytes_of_a_channel_are_sent_again_from_the_acknowledged_position_after_a_rewind() -> None:
    outgoing = Outgoing()
    outgoing.add(b"abcdef")
    outgoing.take(6)
    outgoing.acknowledge(2)
    outgoing.rewind()
    assert outgoing.take(10) == (2, b"cdef", False)


def test_lost_end_of_a_channel_is_sent_again() -> None:
    outgoing = Outgoing()
    outgoing.add(b"ab")
    outgoing.take(2)
    outgoing.finish()
    assert outgoing.take(2) == (2, b"", True)
    outgoing.acknowledge(2)
    outgoing.rewind()
    assert outgoing.take(2) == (2, b"", True)


def test_acknowledgement_of_more_bytes_than_a_channel_has_is_refused() -> None:
    outgoing = Outgoing()
    outgoing.add(b"ab")
    with pytest.raises(InvalidArgumentError, match=r"received must be at most 2, .*got 3"):
        outgoing.acknowledge(3)


def test_repeated_incoming_bytes_of_a_channel_are_dropped() -> None:
    incoming = Incoming()
    assert incoming.accept(0, b"abc", end=False) == b"abc"
    assert incoming.accept(1, b"bcde", end=True) == b"de"
    assert incoming.accept(0, b"abc", end=False) == b""
    assert incoming.has_end


def test_incoming_bytes_of_a_channel_after_missing_bytes_are_not_accepted() -> None:
    assert Incoming().accept(1, b"b", end=False) is None


def test_incoming_bytes_after_the_end_of_a_channel_are_refused() -> None:
    incoming = Incoming()
    incoming.accept(0, b"abc", end=True)
    with pytest.raises(InvalidArgumentError, match="has ended after 3 bytes, got bytes up to 4"):
        incoming.accept(3, b"d", end=False)
    with pytest.raises(InvalidArgumentError, match="has ended after 3 bytes, got bytes up to 2"):
        incoming.accept(0, b"ab", end=True)


def test_window_of_a_channel_shrinks_when_all_channels_hold_many_bytes() -> None:
    budget = Budget()
    assert budget.window == WINDOW_BYTES
    budget.add(10**9)
    assert budget.window == LEAST_WINDOW_BYTES


@pytest.mark.parametrize("tunnel_id", ["", "short", "a" * 65, "with space", "ünïcödë-id"])
def test_tunnel_id_of_an_invalid_form_is_refused(tunnel_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match="tunnel_id must have 8 to 64"):
        check_tunnel_id(tunnel_id)


# Two ends of a tunnel. Nothing but `_carry` connects them, so that a test decides which calls are lost.


class _Ends:
    """A client's and a worker's end of a tunnel. The worker's end connects each channel to an echo server."""

    def __init__(self, echo_port: int) -> None:
        self.client = Tunnel(Budget())
        self.worker = Tunnel(Budget(), on_open=self._connect)
        self.client_budget, self.worker_budget = self.client._budget, self.worker._budget
        self._echo_port = echo_port
        self._connecting: list[asyncio.Task[None]] = []

    def _connect(self, channel: Channel, target: ChannelTarget) -> None:
        async def connect() -> None:
            channel.attach(*await asyncio.open_connection("127.0.0.1", self._echo_port))

        self._connecting.append(asyncio.create_task(connect()))

    def to_worker(self, chance: random.Random, loss: float) -> None:
        """Make a call with parts. The call, or its answer, may be lost."""
        parts = self.client.take(chance.choice((100, 10_000, 200_000)))
        if not parts:
            return
        is_lost = chance.random() < loss
        if not is_lost or chance.random() < 0.5:
            again = self.worker.apply(parts)
            if chance.random() < 0.2:
                self.worker.apply(parts)  # A repeated call.
        if is_lost:
            self.client.rewind()
        else:
            self.client.confirm(parts)
            self.client.send_again(again)

    def to_client(self, chance: random.Random, loss: float) -> None:
        """Send a message of the stream. If it is lost, the client opens the stream again."""
        parts = self.worker.take(chance.choice((100, 10_000, 200_000)))
        if parts:
            self.worker.confirm(parts)
        if chance.random() < loss:
            self.client.drop_missing(set(self.worker.channels))
            self.worker.rewind()
        else:
            self.client.apply(parts)


@asynccontextmanager
async def _echo_server() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _echoed(ends: _Ends, data: bytes) -> bytes:
    """Send bytes through a new channel, end the direction, and return what comes back."""
    ours, theirs = socket.socketpair()
    channel = ends.client.open(ChannelTarget(port=1))
    channel.attach(*await asyncio.open_connection(sock=theirs))
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(data)
    writer.write_eof()
    back = await reader.read(-1)
    writer.close()
    return back


@for_each_seed(8)
def test_bytes_of_all_channels_arrive_once_and_in_order_though_calls_are_lost(seed: int) -> None:
    chance = random.Random(seed)
    loss = chance.choice((0.0, 0.05, 0.4))

    async def run() -> None:
        async with _echo_server() as port:
            ends = _Ends(port)
            sent = [chance.randbytes(chance.choice((0, 1, 1000, 150_000))) for _ in range(chance.choice((1, 3, 30)))]
            echoes = asyncio.gather(*(_echoed(ends, data) for data in sent))
            while not echoes.done():
                await asyncio.sleep(0)
                ends.to_worker(chance, loss)
                ends.to_client(chance, loss)
            assert await echoes == sent
            while ends.client.channels or ends.worker.channels:
                await asyncio.sleep(0.001)
                ends.to_worker(chance, 0)
                ends.to_client(chance, 0)
            assert (ends.client_budget.held, ends.worker_budget.held) == (0, 0)

    asyncio.run(run())


def test_sender_of_a_tunnel_stops_reading_when_its_window_is_full() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        budget = Budget()
        tunnel = Tunnel(budget)
        tunnel.open(ChannelTarget(port=1)).attach(*await asyncio.open_connection(sock=theirs))
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(ours, bytes(3 * WINDOW_BYTES)))
        while budget.held < WINDOW_BYTES:  # noqa: ASYNC110 - Nothing announces the change.
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert budget.held < 2 * WINDOW_BYTES
        assert not sending.done()
        sending.cancel()
        tunnel.drop_all()
        assert budget.held == 0

    asyncio.run(run())


def test_reset_of_a_tunnel_channel_reaches_the_other_side_after_the_earlier_bytes() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        seen: list[tuple[int, str]] = []
        client = Tunnel(Budget(), on_reset=lambda channel, code, text: seen.append((code, text)))
        worker = Tunnel(Budget(), on_open=lambda channel, target: None)
        client.open(ChannelTarget(port=1)).attach(*await asyncio.open_connection(sock=theirs))
        parts = client.take(1000)
        worker.apply(parts)
        client.confirm(parts)
        channel = worker.channels[1]
        channel.reset(cluster_pb2.CHANNEL_RESET_REFUSED, "nothing listens")
        parts = worker.take(1000)
        worker.confirm(parts)
        assert not worker.channels
        client.apply(parts)
        reader, _ = await asyncio.open_connection(sock=ours)
        assert await reader.read() == b""  # A socket pair has no resets. `tests/cluster/test_forward.py` tests them.
        assert seen == [(cluster_pb2.CHANNEL_RESET_REFUSED, "nothing listens")]
        assert not client.channels

    asyncio.run(run())


def test_reset_of_a_tunnel_channel_is_sent_though_its_connection_never_pauses() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        budget = Budget()
        budget.add(10**9)  # Each direction gets the smallest window.
        tunnel = Tunnel(budget)
        channel = tunnel.open(ChannelTarget(port=1))
        channel.attach(*await asyncio.open_connection(sock=theirs))
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(ours, bytes(64 * WINDOW_BYTES)))
        while budget.held < 10**9 + LEAST_WINDOW_BYTES:  # noqa: ASYNC110 - Nothing announces the change.
            await asyncio.sleep(0)
        channel.reset(cluster_pb2.CHANNEL_RESET_ATTEMPT_ENDED, "the attempt has ended")
        received = 0
        while not (part := tunnel.take(1000)[0]).reset:
            received += len(part.data)
            assert received < WINDOW_BYTES
            tunnel.apply([cluster_pb2.ChannelPart(channel=1, received=received)])
            await asyncio.sleep(0)
        sending.cancel()
        tunnel.drop_all()

    asyncio.run(run())


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
def test_bytes_for_a_connection_that_its_program_has_closed_reset_the_channel(library: str) -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        connection = await asyncio.open_connection(*listener.getsockname())
        program, _ = listener.accept()
        tunnel = Tunnel(Budget())
        tunnel.open(ChannelTarget(port=1)).attach(*connection)
        program.close()
        listener.close()
        parts = tunnel.take(1000)
        while not any(part.end for part in parts):
            await tunnel.wait_for_work(60)
            parts = tunnel.take(1000)
        position = 0
        while not any(part.reset for part in parts):
            tunnel.apply([cluster_pb2.ChannelPart(channel=1, position=position, data=b"x")])
            position += 1
            assert position < 1000
            for _ in range(10):
                await asyncio.sleep(0)
            parts = tunnel.take(1000)
        tunnel.drop_all()

    pytest.importorskip(library).run(run())


def test_channel_that_the_other_side_lost_is_dropped_and_reported() -> None:
    async def run() -> None:
        client, worker = Tunnel(Budget()), Tunnel(Budget(), on_open=lambda channel, target: None)
        first, second = client.open(ChannelTarget(port=1)), client.open(ChannelTarget(port=2))
        parts = client.take(100)
        worker.apply(parts)
        client.confirm(parts)
        third = client.open(ChannelTarget(port=3))  # The worker has not heard of this channel yet.
        assert client.drop_missing({2}) == [first]
        assert list(client.channels) == [second.number, third.number]

    asyncio.run(run())


def test_part_larger_than_the_window_of_its_channel_is_accepted_in_pieces() -> None:
    async def run() -> None:
        budget = Budget()
        budget.add(64 * 1024**2)  # The other channels hold so much that the window is small.
        before = budget.held
        channel = Channel(1, budget, lambda channel: None)
        part = cluster_pb2.ChannelPart(channel=1, data=b"x" * 1024**2, end=True)
        assert not channel.accept(part, may_refuse=True)
        assert budget.held - before == LEAST_WINDOW_BYTES
        assert not channel.accept(part, may_refuse=True), "nothing was passed on meanwhile"
        assert budget.held - before == LEAST_WINDOW_BYTES

    asyncio.run(run())
