"""A TCP proxy for tests that cuts, resets, stalls and slows connections between a client and a server. A seed
determines the faults.

    plan = rude(up_to_bytes=20_000)                    # draws what happens to a connection
    with ChaosProxy(("127.0.0.1", port), plan, seed=7) as proxy:
        client = IrisClient.remote(proxy.address)
        …
        proxy.plan = gentle                            # knobs may be turned while it runs
        assert proxy.faults.total() > 100

One event loop in one thread owns all sockets. The proxy does not parse the bytes that it forwards, so it works for
every protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import psutil

T = TypeVar("T")
Fault = Literal["cut", "reset", "half-close", "stall"]
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to one connection; by default nothing does.

    Attributes:
        fault: What strikes. `cut`: an orderly end in mid-answer. `reset`: RST to both sides. `half-close`: the client
            gets an end and nothing more, but can go on sending, and the server learns nothing. `stall`: both sides stay
            connected and nothing is forwarded any more.
        after_bytes: … once so many bytes of answers went to the client, which is exact unless the fault is a reset
            (that takes bytes along which are on their way); 0 strikes before the server is connected to.
        after_s: … or after so many seconds, whichever comes first.
        stall_s: A stalled connection is reset after so many seconds.
        piece_bytes: Answers are sent on in pieces of at most so many bytes, each in a packet of its own.
        bytes_per_s: Answers are sent on no faster than this.
        idle_s: The connection is cut (recorded as `idle`) when neither side has sent anything for so long.
    """

    fault: Fault = "cut"
    after_bytes: float = math.inf
    after_s: float = math.inf
    stall_s: float = math.inf
    piece_bytes: int = _READ_BYTES
    bytes_per_s: float = math.inf
    idle_s: float = math.inf


Plan = Callable[[random.Random], Faults]


def gentle(chance: random.Random) -> Faults:
    """Return a plan without faults."""
    return Faults()


def always(faults: Faults) -> Plan:
    """Return a plan that gives each connection the same faults."""
    return lambda chance: faults


def rude(up_to_bytes: int, *, spared: float = 0.0, stall_s: float = 0.05) -> Plan:
    """Return a plan that gives each connection a random fault after at most `up_to_bytes` bytes.

    Args:
        up_to_bytes: The largest number of bytes of answers; small numbers are as likely as large ones of the same
            number of digits, so that heads of answers are struck as well as their middles.
        spared: The share of connections that nothing strikes.
        stall_s: How long a stalled connection stays open.
    """

    def plan(chance: random.Random) -> Faults:
        if chance.random() < spared:
            return Faults()
        fault: Fault = chance.choice(("cut", "reset", "half-close", "stall"))
        after_bytes = int(math.exp(chance.uniform(0, math.log(up_to_bytes))))
        small = (1, 7) if after_bytes < 5_000 else ()  # a packet for each byte costs too much for long answers
        piece_bytes = chance.choice((*small, 1000, _READ_BYTES))
        return Faults(fault, after_bytes, stall_s=stall_s, piece_bytes=piece_bytes)

    return plan


class ChaosProxy:
    """A proxy that forwards TCP connections, and applies the faults of its plan to them.

    Args:
        target: Host and port of the server, as numbers; may be changed while it runs, for connections that come later.
        plan: Draws what happens to a connection. What it draws for the n-th connection depends on the seed and n alone.
        seed: For the plan.
        host: Where it listens.
        port: 0 takes any free one.

    Attributes:
        connections: How many were accepted.
        faults: How often each fault has struck, `idle` and `refused` among them.
        diverted: Processes that get somebody else when they connect, by pid; None: nobody, their connections stall.
        diversions: How many connections were.
        paced: How many connections were sent on in small pieces (`trickle`) or at a limited rate (`slow`).
        answer_bytes: How much went to clients.
    """

    def __init__(
        self,
        target: tuple[str, int],
        plan: Plan = gentle,
        *,
        seed: object = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.target = target
        self.plan = plan
        self.seed = seed
        self.connections = 0
        self.faults: Counter[str] = Counter()
        self.diverted: dict[int, tuple[str, int] | None] = {}
        self.diversions = 0
        self.paced: Counter[str] = Counter()
        self.answer_bytes = 0
        # Holds the port while nothing listens on it: two sockets with this option may be bound to one port as long as
        # only one of them listens, and nobody else is given it.
        self._place = _socket(host, port)
        self._host, self._port = self._place.getsockname()[:2]
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"chaos-proxy-{self._port}")
        self._thread.start()
        self._call(self._listen())

    @property
    def address(self) -> str:
        """The base URL of the proxy."""
        return f"http://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._port)

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._open)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse new connections inside the `with` block. Existing connections continue."""
        self._call(self._stop_listening())
        self.faults["refused"] += 1
        try:
            yield
        finally:
            self._call(self._listen())

    def strike(self, fault: Fault = "reset") -> int:
        """Apply a fault to all open connections, and return their number."""

        async def on_loop() -> int:
            struck = list(self._open.values())
            for connection in struck:
                connection.strike(fault)
            return len(struck)

        return self._call(on_loop())

    def close(self) -> None:
        """Closes all connections and ends the thread; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._listener = _socket(self._host, self._port)
        self._listener.setblocking(False)
        self._listener.listen(1024)
        self._accepting = asyncio.create_task(self._accept(self._listener))

    async def _stop_listening(self) -> None:
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._listener.close()

    async def _stop(self) -> None:
        await self._stop_listening()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await _cancel(*tasks)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, place = await loop.sock_accept(listener)
            chance = random.Random(f"{self.seed}/{self.connections}")
            self.connections += 1
            target, faults = self.target, self.plan(chance)
            if self.diverted and (pid := _process_at(place, (self._host, self._port))) in self.diverted:
                self.diversions += 1
                elsewhere = self.diverted[pid]
                target, faults = elsewhere or target, faults if elsewhere else Faults("stall", after_bytes=0)
            connection = _Connection(self, client, target, faults)
            task = asyncio.create_task(connection.run())
            self._open[task] = connection
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Here and not at the end of the task: one that is cancelled early never gets there.
        self._open.pop(task).close()


class _Connection:
    """A connection from a client, and the connection to the server that the proxy has opened for it."""

    def __init__(self, proxy: ChaosProxy, client: socket.socket, target: tuple[str, int], faults: Faults) -> None:
        self._proxy = proxy
        self._client = client
        self._target = target
        self._server = _socket()
        self._faults = faults
        self._left = faults.after_bytes
        self._loop = asyncio.get_running_loop()
        self._active_s = self._loop.time()
        self._struck: asyncio.Future[Fault | Literal["idle"]] = self._loop.create_future()

    def strike(self, fault: Fault | Literal["idle"]) -> None:
        """Apply the fault now, unless the connection already has another fault."""
        if not self._struck.done():
            self._struck.set_result(fault)

    async def run(self) -> None:
        """Serve the connection from its beginning to its end:

        1. Forward in both directions until both sides have ended, an error shows that one is gone, or a fault strikes.
        2. Stop forwarding: from here on no byte is let through.
        3. Do what the fault asks for; the proxy closes both.
        """
        for end in (self._client, self._server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        forwarding = asyncio.create_task(self._forward())
        timers = [asyncio.create_task(self._strike_later()), asyncio.create_task(self._strike_when_idle())]
        try:
            either: set[asyncio.Future[Any]] = {forwarding, self._struck}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(forwarding, *timers)
            if self._struck.done():
                fault = self._struck.result()
                self._proxy.faults[fault] += 1
                await self._suffer(fault)
        finally:
            await _cancel(forwarding, *timers)

    def close(self) -> None:
        """Close both connections. No more bytes are forwarded."""
        self._client.close()
        self._server.close()

    async def _suffer(self, fault: Fault | Literal["idle"]) -> None:
        if fault == "half-close":
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(self._client, _READ_BYTES):
                    pass  # it may send what it likes
        elif fault in ("cut", "idle"):
            for end in (self._client, self._server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_WR)
        else:
            if fault == "stall":
                await asyncio.sleep(self._faults.stall_s)
            for end in (self._client, self._server):
                _reset_on_close(end)

    async def _forward(self) -> None:
        if self._left <= 0:
            self.strike(self._faults.fault)
            return
        # Either side may vanish at any time: that is no fault of ours, and ends the connection.
        with contextlib.suppress(OSError):
            await self._loop.sock_connect(self._server, self._target)
            requests = asyncio.create_task(self._send_requests())
            answers = asyncio.create_task(self._send_answers())
            try:
                await asyncio.wait([requests, answers], return_when=asyncio.FIRST_EXCEPTION)
            finally:
                await _cancel(requests, answers)

    async def _send_requests(self) -> None:
        while data := await self._loop.sock_recv(self._client, _READ_BYTES):
            self._active_s = self._loop.time()
            await self._loop.sock_sendall(self._server, data)
        self._server.shutdown(socket.SHUT_WR)

    async def _send_answers(self) -> None:
        faults = self._faults
        small, slow = faults.piece_bytes < _READ_BYTES, faults.bytes_per_s < math.inf
        self._proxy.paced.update({"trickle": int(small), "slow": int(slow)})
        while data := await self._loop.sock_recv(self._server, _READ_BYTES):
            self._active_s = self._loop.time()
            for start in range(0, len(data), faults.piece_bytes):
                piece = data[start : start + faults.piece_bytes]
                if len(piece) > self._left:
                    piece = piece[: int(self._left)]
                await self._loop.sock_sendall(self._client, piece)
                self._proxy.answer_bytes += len(piece)
                self._left -= len(piece)
                if self._left <= 0:
                    self.strike(faults.fault)
                    return
                if small or slow:
                    await asyncio.sleep(len(piece) / faults.bytes_per_s)  # at least others get their turn
        self._client.shutdown(socket.SHUT_WR)

    async def _strike_later(self) -> None:
        if self._faults.after_s < math.inf:
            await asyncio.sleep(self._faults.after_s)
            self.strike(self._faults.fault)

    async def _strike_when_idle(self) -> None:
        if self._faults.idle_s < math.inf:
            # What is waited for is the moment, which each piece of data puts off.
            while (left_s := self._active_s + self._faults.idle_s - self._loop.time()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(left_s)
            self.strike("idle")


def _process_at(place: tuple[str, int], other: tuple[str, int]) -> int:
    """Return the id of the process at one end of a connection. 0 if the process has closed it. Both ends are needed,
    because the system may use the same port for connections to other servers."""
    connections = psutil.net_connections("tcp")
    return next((one.pid or 0 for one in connections if (one.laddr, one.raddr) == (place, other)), 0)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and ignore their errors."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _socket(host: str | None = None, port: int = 0) -> socket.socket:
    """Return an IPv4 socket. If a host is given, bind the socket to the host."""
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host is not None:
            made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


def _reset_on_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
