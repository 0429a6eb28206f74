"""The pauses of a client's tunnel between broken streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from iris.client.tunnels.task_tunnel import TaskTunnel, TunnelEvents
from iris.client.tunnels.tunnel_calls import OpenTunnelRequest, WriteTunnelRequest
from iris.errors import UnavailableError
from iris.rpc.cluster_pb2 import TunnelMessage, WriteTunnelResponse
from iris.system.backoff import Backoff

pytestmark = pytest.mark.anyio
OPENED = TunnelMessage(opened=TunnelMessage.Opened(attempt_id=0))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class BrokenStreams:
    """Calls whose streams break after some messages. The last stream says that the tunnel is closed."""

    def __init__(self, messages: int, streams: int) -> None:
        self._messages = messages
        self._left = streams

    async def messages(self, request: OpenTunnelRequest) -> AsyncIterator[TunnelMessage]:
        self._left -= 1
        if not self._left:
            yield TunnelMessage(closed=TunnelMessage.Closed(text="the end"))
        for _ in range(self._messages):
            yield OPENED
        raise UnavailableError("the connection was cut")

    async def write(self, request: WriteTunnelRequest, timeout_s: float) -> WriteTunnelResponse:
        return WriteTunnelResponse()


@pytest.mark.parametrize(
    ("lasts_s", "pauses_s"),
    [pytest.param(1, [1, 2, 4, 8, 8], id="breaks-soon"), pytest.param(5, [1, 1, 1, 1, 1], id="works-for-a-while")],
)
async def test_pauses_between_streams_grow_while_each_stream_breaks_soon_after_its_messages(
    lasts_s: int, pauses_s: list[float]
) -> None:
    seen: list[float] = []
    now_s = 0

    def pass_time() -> float:
        nonlocal now_s
        now_s += lasts_s
        return now_s

    pauses = Backoff(
        1,
        8,
        factor=lambda *bounds: seen.append(pauses.expected_s) or 0,  # type: ignore[func-returns-value]
        clock_s=pass_time,
    )
    calls = BrokenStreams(messages=2, streams=len(pauses_s) + 1)
    tunnel = TaskTunnel(calls, "job", 0, TunnelEvents(print), when_running="", pauses=pauses)  # type: ignore[arg-type]
    assert (await tunnel.run()).text == "the end"
    assert seen == pauses_s
