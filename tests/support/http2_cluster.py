"""The program of a cluster whose controller and workers can be given another address, so that tests put proxies there.

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

from support.tokens import shared_key, worker_credentials

from iris.cluster.controller.api.service import ControllerService
from iris.cluster.controller.controller import Controller
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.local.engine import LocalEngine
from iris.rpc.http.server.asgi_server import HttpServer
from iris.server.application import controller_application
from iris.system.sockets import address_of, bind


async def serve(directory: Path, workers: int, advertise_host: str) -> None:
    stop = asyncio.Event()
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
    await controller.start()
    application = controller_application(ControllerService(controller))
    server = HttpServer({application.path: application}, listener)
    server.start()
    print(address, flush=True)
    await stop.wait()
    await controller.close()
    await engine.close()  # workers still tell us how their tasks ended
    await server.close()


if __name__ == "__main__":
    if os.getppid() == 1:
        sys.exit("started by nobody")
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--advertise-host", default="")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.directory, arguments.workers, arguments.advertise_host))
