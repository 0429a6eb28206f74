"""Serves `/healthz` and `/readyz`, with which orchestrators and load balancers check a server by plain HTTP.

`/healthz` and `/readyz` need no token, and their answers contain no details. `/healthz` answers 200 while the process
answers at all, so an orchestrator restarts only a server that hangs. `/readyz` answers 503 while the server loads its
state, so a load balancer sends no calls there yet.
"""

from __future__ import annotations

from typing import Any

from iris.rpc.monitoring.plain_answers import Message, Send, refuse_method, send_answer

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"


class Probe:
    """An ASGI application that answers a probe.

    Args:
        is_ready: Whether the answer is 200. Otherwise the answer is 503.
    """

    def __init__(self, *, is_ready: bool = True) -> None:
        self._is_ready = is_ready

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Answer a request."""
        method = scope["method"]
        if await refuse_method(send, method):
            return
        if self._is_ready:
            await send_answer(send, method, b"ok\n")
        else:
            await send_answer(send, method, b"loading\n", status=503, headers=[(b"retry-after", b"1")])


def probes(*, is_ready: bool) -> dict[str, Probe]:
    """Return the applications that answer the health probes of a server, by path.

    Args:
        is_ready: Whether the server has loaded its state, so that `/readyz` answers 200 instead of 503.
    """
    return {HEALTH_PATH: Probe(), READY_PATH: Probe(is_ready=is_ready)}
