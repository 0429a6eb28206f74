"""Many clients that watch one job, in one process: `python -m benchmarks.load_watchers ADDRESS JOB COUNT`.

Prints a line when all have heard of the job, and at its end how many messages they were sent.
"""

from __future__ import annotations

import asyncio
import os
import sys

from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.system.event_loop import raise_file_limit, run_loop


async def _watch(address: str, job_id: str, count: int) -> None:
    request = cluster_pb2.Controller.WatchJobRequest(job_id=job_id)
    heard = [0] * count

    async def watch(number: int) -> None:
        stub = cluster_connect.ControllerServiceClient(
            address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(lambda: os.environ["IRIS_TOKEN"]),),
        )
        async for message in stub.watch_job(request):
            heard[number] += message.HasField("job")
            if all(heard) and sum(heard) == count:
                print("all watch", flush=True)

    await asyncio.gather(*(watch(number) for number in range(count)))
    print(sum(heard), flush=True)


if __name__ == "__main__":
    raise_file_limit()
    run_loop(_watch(sys.argv[1], sys.argv[2], int(sys.argv[3])))
