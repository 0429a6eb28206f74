"""Serves the real controller on a real port, in a thread of the test, with any engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from support.tokens import shared_key

from iris.cluster.controller.api.service import ControllerService
from iris.cluster.controller.controller import Controller
from iris.cluster.controller.events.events import EventSettings
from iris.cluster.controller.forwarding.exec_calls import ExecPolicy
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.removal.job_removal import JobRetention
from iris.cluster.controller.scheduling.scheduler import WITHDRAW_AFTER_S
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.quotas import Quota
from iris.cluster.controller.tracing.trace_delivery import SpanSender
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.cluster.engine.base import Engine
from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.rpc.http.server.asgi_server import HttpServer
from iris.server.application import controller_applications
from iris.system.sockets import address_of, bind
from iris.web.page import page_applications

T = TypeVar("T")


class ControllerThread:
    """A controller that serves in a thread."""

    def __init__(self, controller: Controller, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self.controller = controller
        self.address = address
        self._loop = loop

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the controller's loop, for example to change the behaviour of a fake engine."""

        async def on_loop() -> T:
            return function()

        return self.run(on_loop())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the controller's loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@contextmanager
def serving(
    engine: Engine,
    store: Store,
    *,
    kept_logs: Keeping | None = None,
    port: int = 0,
    lease_s: float = DEFAULT_LEASE_S,
    quota: Quota | None = None,
    worker_limits: WorkerLimits | None = None,
    withdraw_after_s: float = WITHDRAW_AFTER_S,
    job_retention: JobRetention | None = None,
    max_bytes_per_user: int | None = None,
    execs: ExecPolicy | None = None,
    spans: SpanSender | None = None,
) -> Iterator[ControllerThread]:
    """Serve a controller with an engine and a store during a test. The store is closed at the end."""
    ready = threading.Event()
    running: list[ControllerThread] = []
    stop = asyncio.Event()

    async def serve() -> None:
        listener = bind("127.0.0.1", port)
        address = address_of(listener)
        controller = Controller(
            engine,
            store,
            address,
            kept_logs,
            lease_s,
            quota=quota,
            key=shared_key(),
            worker_limits=worker_limits,
            withdraw_after_s=withdraw_after_s,
            job_retention=job_retention,
            max_bytes_per_user=max_bytes_per_user,
            events=EventSettings(spans=spans),
        )
        applications = controller_applications(ControllerService(controller, quota, execs=execs))
        server = HttpServer(applications, listener, files=page_applications())
        await controller.start()
        server.start()
        running.append(ControllerThread(controller, address, asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        await controller.stop()
        await server.close()
        await controller.close()
        store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield running[0]
    finally:
        running[0].call(stop.set)
        thread.join()
