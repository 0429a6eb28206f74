"""The program of a cluster whose controller is served by hypercorn, which speaks HTTP/2 (prior knowledge) and 1.1.

python -m support.http2_cluster DIRECTORY    prints its address, serves until SIGTERM
    --workers 2                     how many share the machine
    --advertise-host 127.0.0.2      where workers say that they are: put a proxy at that host and their port
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
from support.tokens import shared_key, worker_credentials

from iris.cluster.controller.api.service import ControllerService
from iris.cluster.controller.controller import Controller
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.local.engine import LocalEngine
from iris.server.application import controller_application
from iris.system.sockets import address_of, bind


def silent_after_disconnect(application: Any) -> Any:
    """An application whose last words to a client that has gone are dropped.

    hypercorn 0.18 waits for ever until somebody takes them (protocol/h2.py: `drain` of a buffer that its ended
    connection no longer sends), and keeps the socket for as long.
    """

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        gone = False

        async def noticing_receive() -> Any:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def silent_send(message: Any) -> None:
            if not gone:
                await send(message)

        await application(scope, noticing_receive, silent_send)

    return asgi


async def serve(directory: Path, workers: int, advertise_host: str) -> None:
    stop, stop_serving = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = bind("127.0.0.1", 0)
    address = address_of(listener)
    engine = LocalEngine(
        directory / "workers", workers=workers, advertise_host=advertise_host, credentials=worker_credentials
    )
    await engine.start(address)
    store = Store(None)
    controller = Controller(engine, store, address, key=shared_key())
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.graceful_timeout = 1.0
    await controller.start()
    application = controller_application(ControllerService(controller))
    serving = asyncio.create_task(
        hypercorn.asyncio.serve(silent_after_disconnect(application), config, shutdown_trigger=stop_serving.wait)  # type: ignore[arg-type]
    )
    print(address, flush=True)
    await stop.wait()
    await controller.close()
    await engine.close()  # workers still tell us how their tasks ended
    stop_serving.set()
    await serving


if __name__ == "__main__":
    if os.getppid() == 1:
        sys.exit("started by nobody")
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--advertise-host", default="")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.directory, arguments.workers, arguments.advertise_host))
