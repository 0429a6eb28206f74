"""The program of a cluster whose controller is served by hypercorn, which speaks HTTP/2 (prior knowledge) and 1.1.

python -m support.http2_cluster DIRECTORY    prints its address, serves until SIGTERM
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config

from iris.cluster.controller.controller import Controller
from iris.cluster.controller.service import ControllerService
from iris.cluster.controller.store import Store
from iris.cluster.engine.local import LocalEngine
from iris.rpc.process import address_of, bind
from iris.server import controller_application


async def serve(directory: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = bind("127.0.0.1", 0)
    address = address_of(listener)
    engine = LocalEngine(directory / "workers")
    await engine.start(address)
    controller = Controller(engine, Store(None), address)
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.graceful_timeout = 1.0
    await controller.start()
    application = controller_application(ControllerService(controller))
    serving = asyncio.create_task(
        hypercorn.asyncio.serve(application, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
    )
    print(address, flush=True)
    await stop.wait()
    await controller.close()
    await engine.close()
    await serving


if __name__ == "__main__":
    if os.getppid() == 1:
        sys.exit("started by nobody")
    asyncio.run(serve(Path(sys.argv[1])))
