"""The event log contains one event for the beginning of a tunnel's use, and one for its end."""

from __future__ import annotations

import asyncio
import math

import pytest

from iris.cluster.controller.forwarding.tunnel_uses import TunnelKey, TunnelUses
from iris.rpc.auth.caller import USER, Caller

ANN = Caller("ann", USER, "id", math.inf)
KEY: TunnelKey = ("train/task-0", 0, "a1")


def recorded(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the recorded events, in order."""
    return [record.getMessage().split()[0] for record in caplog.records]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="iris")


def test_broken_and_overlapping_streams_of_a_tunnel_count_as_one_use(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        uses = TunnelUses("tunnel", abandoned_s=math.inf)
        use = uses.stream_opened(KEY, ANN, resumes=False)
        uses.target_used(KEY, ANN, {"port": "80"})
        uses.stream_opened(KEY, ANN, resumes=True)
        uses.stream_ended(KEY, use)
        uses.target_used(KEY, ANN, {"port": "80"})
        uses.target_used(KEY, ANN, {})
        uses.stream_ended(KEY, use)
        uses.stream_opened(KEY, ANN, resumes=True)
        uses.end(KEY)
        uses.stream_ended(KEY, use)
        uses.end(KEY)

    asyncio.run(run())
    assert recorded(caplog) == ["tunnel.opened", "tunnel.used", "tunnel.closed"]


def test_use_of_a_tunnel_ends_if_its_client_does_not_come_back(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        uses = TunnelUses("exec", abandoned_s=0.0)
        uses.stream_ended(KEY, uses.stream_opened(KEY, ANN, resumes=False))
        while len(recorded(caplog)) < 2:  # noqa: ASYNC110 - the event log sets no event
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert recorded(caplog) == ["exec.opened", "exec.closed"]


def test_resumed_tunnel_of_an_earlier_controller_process_is_not_recorded_as_opened_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        uses = TunnelUses("tunnel")
        uses.stream_opened(KEY, ANN, resumes=True)
        uses.end(KEY)

    asyncio.run(run())
    assert recorded(caplog) == ["tunnel.closed"]


def test_late_end_of_a_stream_does_not_count_for_a_tunnel_that_was_opened_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        uses = TunnelUses("exec", abandoned_s=0.0)
        old = uses.stream_opened(KEY, ANN, resumes=False)
        uses.end(KEY)
        new = uses.stream_opened(KEY, ANN, resumes=False)
        uses.stream_ended(KEY, old)
        assert (new.streams, new.abandoned) == (1, None)

    asyncio.run(run())
    assert recorded(caplog) == ["exec.opened", "exec.closed", "exec.opened"]


def test_target_of_a_tunnel_of_an_earlier_controller_process_is_recorded_once(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        uses = TunnelUses("tunnel", abandoned_s=math.inf)
        assert not uses.is_known(KEY)
        uses.target_used(KEY, ANN, {"port": "80"})
        uses.target_used(KEY, ANN, {"port": "80"})
        uses.stream_opened(KEY, ANN, resumes=True)
        uses.target_used(KEY, ANN, {"port": "80"})
        assert uses.is_known(KEY)

    asyncio.run(run())
    assert recorded(caplog) == ["tunnel.used"]
