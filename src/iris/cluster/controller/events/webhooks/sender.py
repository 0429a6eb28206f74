"""Sends one request to a webhook. A request never follows a redirect, and only the status of the answer is used."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pyqwest import Headers, HTTPTransport, Request

from iris.rpc.http.client.async_client_transport import pyqwest_proxy_for
from iris.rpc.http.client.proxies import Proxy
from iris.rpc.http.tls import ClientTls

TIMEOUT_S = 10.0
_LONGEST_ADVICE_S = 300.0
_URL = re.compile(r"( for url)? ?\(?https?://\S*[^\s:]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a webhook did not accept an event.

    Attributes:
        problem: The reason, as text for people.
        is_final: Whether the answer says that a later try is useless, for example 400 or 404.
        retry_after_s: The number of seconds that the receiver asks the controller to wait before the next try; 0 if the
            answer does not say.
    """

    problem: str
    is_final: bool = False
    retry_after_s: float = 0.0


class WebhookSender:
    """Sends requests to one URL.

    Args:
        url: The URL of the request.
        proxy: The proxy through which the requests go; None if they go directly to the receiver.

    Raises:
        FailedPreconditionError: A file with certificates cannot be read.
    """

    def __init__(self, url: str, proxy: Proxy | None) -> None:
        self._url = url
        pems: dict[str, Any] = ClientTls().pems() if url.startswith("https:") else {}
        self._transport = HTTPTransport(
            proxy=pyqwest_proxy_for(url, proxy),
            timeout=TIMEOUT_S,
            connect_timeout=TIMEOUT_S,
            pool_idle_timeout=60.0,
            follow_redirects=False,
            enable_otel=False,
            **pems,
        )

    async def post(self, headers: dict[str, str], body: bytes) -> Refusal | None:
        """Send a request. Return None if the receiver has accepted the request. Otherwise return why the request was
        not accepted.
        """
        request = Request("POST", self._url, headers=Headers(headers.items()), content=body)
        try:
            async with asyncio.timeout(TIMEOUT_S + 1):
                response = await self._transport.execute(request)
                async with aclosing(response):
                    return _judge(response.status, response.headers.get("retry-after") or "")
        except TimeoutError:
            return Refusal(f"no answer within {TIMEOUT_S:g} s")
        except Exception as error:  # noqa: BLE001 - pyqwest raises several types for a connection that fails.
            return Refusal(f"the connection failed: {_short(error)}")

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def _judge(status: int, retry_after: str) -> Refusal | None:
    if 200 <= status < 300:
        return None
    wait_s = min(float(retry_after), _LONGEST_ADVICE_S) if retry_after.isascii() and retry_after.isdigit() else 0.0
    is_final = 300 <= status < 500 and status not in (408, 425, 429)
    redirect = " (a redirect, which is not followed)" if 300 <= status < 400 else ""
    return Refusal(f"the receiver answered with HTTP status {status}{redirect}", is_final, wait_s)


def _short(error: Exception) -> str:
    """Return the text of an error without URLs, because a URL may contain secrets and every user may read the text."""
    text = _URL.sub("", str(error)) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
