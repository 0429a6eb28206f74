"""Tunnels at a worker: who resumes them, and what ends them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.tunnels.connector import OpenedTunnel
from iris.cluster.worker.tunnels.task_ports import FindProcesses, TaskPorts
from iris.cluster.worker.tunnels.tunnels import MAX_CHANNELS, Tunnels, TunnelTimes
from iris.errors import InvalidArgumentError, NotFoundError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2 as pb

ID = "tunnel-1"


class RecordingPorts(TaskPorts):
    """Connects to ports, and records the closed tunnels.

    Attributes:
        closed: The ids of the closed tunnels.
    """

    def __init__(self, find_processes: FindProcesses, hosts: Sequence[str]) -> None:
        super().__init__(find_processes, hosts)
        self.closed: list[str] = []

    def tunnel_closed(self, tunnel: OpenedTunnel) -> None:
        self.closed.append(tunnel.key[2])


class World:
    """The tunnels of one running attempt, whose port `web` is a listening socket of the test.

    Attributes:
        received: The parts that the client has received.
    """

    def __init__(self, directory: Path, times: TunnelTimes) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(60)
        worker = WorkerDir(directory)
        registry = AttemptRegistry("w", worker)
        request = pb.Worker.RunTaskRequest(task_id="job/task-0", job_id="job")
        self.attempt = Attempt(request, 1, worker.attempt("job/task-0", 0), LogWriter(directory / "log"))
        self.attempt.ports["web"] = self.server.getsockname()[1]
        registry.add(self.attempt)

        async def no_processes(attempt: Attempt) -> list[Process]:
            return []

        self._registry, self._times = registry, times
        self.ports = RecordingPorts(no_processes, ())
        self.use_ports(self.ports)
        self.received: list[pb.ChannelPart] = []

    def use_ports(self, ports: TaskPorts) -> None:
        """Make the tunnels, which connect to ports in this way."""
        self.tunnels = Tunnels(self._registry, ports, self._times)

    @asynccontextmanager
    async def stream(self, *, resume: bool = False) -> AsyncIterator[Callable[[], Awaitable[pb.TunnelMessage]]]:
        """Open a stream of the tunnel, and yield a function that returns the next message with content."""
        request = pb.Worker.OpenTunnelRequest(task_id="job/task-0", tunnel_id=ID, resume=resume)
        messages = self.tunnels.serve(request)

        async def next_message() -> pb.TunnelMessage:
            while not (message := await anext(messages)).ByteSize():
                pass  # a beat
            self.received += message.parts
            return message

        try:
            yield next_message
        finally:
            await messages.aclose()

    def write(self, *parts: pb.ChannelPart, close: bool = False) -> list[int]:
        request = pb.Worker.WriteTunnelRequest(task_id="job/task-0", tunnel_id=ID, parts=parts, close=close)
        return list(self.tunnels.write(request).again)

    async def accept(self) -> socket.socket:
        return (await asyncio.to_thread(self.server.accept))[0]


def opening(number: int = 1, **fields: object) -> pb.ChannelPart:
    return pb.ChannelPart(channel=number, target=pb.ChannelTarget(name="Web"), **fields)  # type: ignore[arg-type]


def in_world(directory: Path, scenario: Callable[[World], Awaitable[None]], **times: float) -> None:
    async def run() -> None:
        world = World(directory, TunnelTimes(**times))
        with world.server:
            await scenario(world)

    asyncio.run(run())


def test_bytes_that_a_broken_tunnel_stream_lost_are_sent_again(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            assert (await next_message()).opened == pb.TunnelMessage.Opened(attempt_id=0, ports=world.attempt.ports)
            world.write(opening(data=b"hello"))
            world.write(opening(data=b"hello"))  # A repeated call.
            task = await world.accept()
            task.sendall(b"answer")
            while not (part := (await next_message()).parts[0]).data:
                pass
            assert (part.position, part.data) == (0, b"answer")
        async with world.stream(resume=True) as next_message:
            assert list((await next_message()).opened.channels) == [1]
            part = (await next_message()).parts[0]
            assert (part.position, part.data, part.received) == (0, b"answer", 5)
        assert task.recv(100) == b"hello"
        task.close()

    in_world(tmp_path, scenario)


def test_tunnel_whose_client_stays_away_is_closed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            world.write(opening(data=b"hello"))
            task = await world.accept()
            task.settimeout(60)
            assert await asyncio.to_thread(task.recv, 100) == b"hello"
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(task.recv, 100)
        with pytest.raises(NotFoundError) as caught:
            world.write(opening(2))
        assert caught.value.reason == ErrorReason.TUNNEL_NOT_FOUND
        with pytest.raises(NotFoundError):
            async with world.stream(resume=True) as next_message:
                await next_message()
        assert world.write(close=True) == []
        assert world.ports.closed == [ID]
        task.close()

    in_world(tmp_path, scenario, abandoned_s=0.01)


def test_silent_channel_of_a_tunnel_is_reset_as_idle(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            world.write(opening(data=b"hello"))
            task = await world.accept()
            while not (part := (await next_message()).parts[0]).reset:
                pass
            assert part.reset == pb.CHANNEL_RESET_IDLE
        task.close()

    in_world(tmp_path, scenario, beat_s=0.01, idle_s=0.02)


def test_new_stream_of_a_tunnel_replaces_the_earlier_stream(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as first:
            await first()
            async with world.stream(resume=True) as second:
                await second()
                with pytest.raises(StopAsyncIteration):
                    await first()

    in_world(tmp_path, scenario)


def test_tunnel_ends_after_the_attempt_and_resets_foreign_connections(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            world.write(opening())
            task = await world.accept()  # Its other end does not belong to the attempt's processes, and stays open.
            world.attempt.state = pb.TASK_STATE_FAILED
            world.tunnels.attempt_ended("job/task-0", 0)
            while not (message := await next_message()).HasField("closed"):
                pass
            assert message.closed.text == "attempt 0 of task job/task-0 has ended: FAILED"
            assert world.received[-1].reset == pb.CHANNEL_RESET_ATTEMPT_ENDED
        task.close()

    in_world(tmp_path, scenario, linger_s=0.01)


def test_half_closed_connection_of_an_ended_attempt_is_reset_when_its_client_has_received_all_bytes(
    tmp_path: Path,
) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            world.write(opening())
            task = await world.accept()
            task.sendall(b"bye")
            task.shutdown(socket.SHUT_WR)  # The client does not end its own direction.
            while not (world.received and world.received[-1].end):
                await next_message()
            world.attempt.state = pb.TASK_STATE_SUCCEEDED
            world.tunnels.attempt_ended("job/task-0", 0)
            world.write(pb.ChannelPart(channel=1, received=len(b"bye") + 1))
            while not (message := await next_message()).HasField("closed"):
                pass
            assert message.closed.text == "attempt 0 of task job/task-0 has ended: SUCCEEDED"
            assert world.received[-1].reset == pb.CHANNEL_RESET_ATTEMPT_ENDED
        task.close()

    in_world(tmp_path, scenario, linger_s=0.01)


def test_tunnel_channel_is_reset_if_the_processes_of_its_attempt_cannot_be_found(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async def broken(attempt: Attempt) -> list[Process]:
            raise RuntimeError("no table of processes")

        world.use_ports(TaskPorts(broken, ()))
        async with world.stream() as next_message:
            await next_message()
            world.write(opening())
            while not world.received:
                await next_message()
            assert world.received[-1].reset == pb.CHANNEL_RESET_BROKEN
            assert "no table of processes" in world.received[-1].reset_text

    in_world(tmp_path, scenario)


def test_port_of_an_ended_attempt_is_not_reached(tmp_path: Path) -> None:
    """Another attempt may already have the port, for example an attempt of another user."""

    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            world.attempt.state = pb.TASK_STATE_FAILED
            world.tunnels.attempt_ended("job/task-0", 0)
            world.write(opening())
            while not (await next_message()).HasField("closed"):
                pass
            assert [part.reset for part in world.received] == [pb.CHANNEL_RESET_ATTEMPT_ENDED]
            world.server.setblocking(False)
            with pytest.raises(BlockingIOError):
                world.server.accept()

    in_world(tmp_path, scenario, linger_s=0.5)


def test_tunnel_channels_over_the_limit_are_reset(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            # The target of the first channels does not exist, so that they wait without a connection.
            world.server.close()
            world.write(*(opening(number) for number in range(1, MAX_CHANNELS + 2)))
            while not world.received:
                await next_message()
            assert {(part.reset, part.reset_text) for part in world.received} == {
                (
                    pb.CHANNEL_RESET_LIMIT,
                    "this tunnel has 1,000 connections, which is the limit: close some connections first",
                )
            }
            world.write(close=True)

    in_world(tmp_path, scenario)


def test_tunnel_part_that_contradicts_an_earlier_part_is_refused(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.stream() as next_message:
            await next_message()
            world.write(opening(data=b"hello", end=True))
            with pytest.raises(InvalidArgumentError, match="has ended after 5 bytes"):
                world.write(pb.ChannelPart(channel=1, position=5, data=b"more"))
            with pytest.raises(InvalidArgumentError, match="received must be at most 0"):
                world.write(pb.ChannelPart(channel=1, received=7))
            assert world.write(pb.ChannelPart(channel=99, data=b"nothing")) == []  # An unknown channel is over.

    in_world(tmp_path, scenario)
