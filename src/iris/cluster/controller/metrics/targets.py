"""Serves the list of workers to Prometheus, so that Prometheus can read the metrics of each worker.

Workers listen on any free port, so a configuration file cannot list the ports. `GET /metrics/workers` answers in the
format of Prometheus' HTTP service discovery: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from iris.cluster.controller.workers.fleet import Fleet
from iris.errors import IrisError
from iris.rpc.auth.authenticate import AuthenticationInterceptor
from iris.rpc.monitoring.metrics_route import METRICS_PATH, MetricsRoute
from iris.rpc.monitoring.plain_answers import Message, Send, refuse_method, send_answer, send_error

TARGETS_PATH = f"{METRICS_PATH}/workers"


class WorkerTargets:
    """An ASGI application that lists the workers.

    Args:
        fleet: The object that knows all workers of the cluster.
        authentication: The object that checks the tokens of readers; None if a reader needs no token.
        call: The name of the call whose permissions apply to the list.
    """

    def __init__(self, fleet: Fleet, authentication: AuthenticationInterceptor | None = None, call: str = "") -> None:
        self._fleet = fleet
        self._authentication = authentication
        self._call = call

    async def __call__(self, scope: Message, receive: object, send: Send) -> None:
        """Answer a request."""
        method = scope["method"]
        if await refuse_method(send, method):
            return
        try:
            if self._authentication is not None:
                value = dict(scope["headers"]).get(b"authorization")
                header = None if value is None else value.decode("latin-1")
                await self._authentication.authenticate(header, self._call)
        except IrisError as error:
            await send_error(send, method, error)
            return
        body = json.dumps(self._targets()).encode()
        await send_answer(send, method, body, content_type=b"application/json")

    def _targets(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for worker_id, worker in sorted(self._fleet.workers.items()):
            url = urlsplit(worker.identity.address)
            if not worker.is_dead:
                labels = {"worker": worker_id, "__scheme__": url.scheme, "__metrics_path__": METRICS_PATH}
                found.append({"targets": [url.netloc], "labels": labels})
        return found


class MetricsApplication:
    """An ASGI application that serves `/metrics` and `/metrics/workers`.

    Args:
        metrics: The application that serves the metrics.
        targets: The application that lists the workers.
    """

    def __init__(self, metrics: MetricsRoute, targets: WorkerTargets) -> None:
        self._metrics = metrics
        self._targets = targets

    async def __call__(self, scope: Message, receive: object, send: Send) -> None:
        """Answer a request."""
        path = scope["path"].rstrip("/")
        if path == METRICS_PATH:
            await self._metrics(scope, receive, send)
        elif path == TARGETS_PATH:
            await self._targets(scope, receive, send)
        else:
            text = f"iris: the paths are {METRICS_PATH} and {TARGETS_PATH}\n".encode()
            await send_answer(send, scope["method"], text, status=404)
