"""Many clients that watch the list of jobs, in one process: `python -m benchmarks.list_watch_clients ADDRESS COUNT`.

Reads the token from stdin. Prints a line when all clients have the list, and, once stdin is closed, the number of their
messages.
"""

from __future__ import annotations

import asyncio
import sys

from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.system.event_loop import raise_file_limit, run_loop


async def _watch(address: str, count: int, token: str) -> None:
    request = cluster_pb2.Controller.WatchJobsRequest(newest_first=True)
    heard = [0] * count
    begun = asyncio.Event()

    async def watch(number: int) -> None:
        stub = cluster_connect.ControllerServiceClient(
            address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(lambda: token),),
        )
        async for message in stub.watch_jobs(request):
            heard[number] += message.HasField("counts")
            if all(heard) and not begun.is_set():
                begun.set()
                print("all watch", flush=True)

    watching = [asyncio.create_task(watch(number)) for number in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    print(sum(heard), flush=True)


if __name__ == "__main__":
    raise_file_limit()
    run_loop(_watch(sys.argv[1], int(sys.argv[2]), sys.stdin.readline().strip()))
