"""A controller's service with jobs for tests of gRPC, on the server of Iris.

`python -m support.grpc_service` serves in a process of its own until its stdin ends, and prints its port.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

from connectrpc.request import RequestContext
from support.served_application import Served

from iris.errors import NotFoundError, UnauthenticatedError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_connect import ControllerService, ControllerServiceASGIApplication
from iris.rpc.serving.codecs import CODECS
from iris.rpc.serving.error_interceptors import DetailInterceptor, ErrorInterceptor

Controller = cluster_pb2.Controller
LARGE_BYTES = 300_000
SERVICE = "iris.cluster.ControllerService"


class Service(ControllerService):
    """A controller with the jobs that the tests ask for."""

    def __init__(self) -> None:
        self.next = asyncio.Event()
        self.ended = threading.Event()

    async def get_job_status(self, request: Any, ctx: RequestContext[Any, Any]) -> Any:
        match request.job_id:
            case "absent":
                raise NotFoundError("no job named 'absent'", reason=ErrorReason.JOB_NOT_FOUND)
            case "secret":
                raise UnauthenticatedError("this call needs a token")
            case "slow":
                await asyncio.Event().wait()
        return Controller.GetJobStatusResponse(job=cluster_pb2.JobStatus(job_id=request.job_id))

    async def watch_job(self, request: Any, ctx: RequestContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            while request.job_id == "large":
                yield Controller.WatchJobResponse(job=cluster_pb2.JobStatus(error="x" * LARGE_BYTES))
            for number in range(3):
                yield Controller.WatchJobResponse(job=cluster_pb2.JobStatus(num_tasks=number + 1))
                await self.next.wait()
                self.next.clear()
            if request.job_id == "failing":
                raise NotFoundError("the job is gone", reason=ErrorReason.JOB_NOT_FOUND)
        finally:
            self.ended.set()


class GrpcWorld(Served):
    """A server with the service above."""

    def __init__(self) -> None:
        super().__init__()
        self.service = Service()
        self.application = ControllerServiceASGIApplication(  # type: ignore[method-assign]
            self.service, interceptors=(DetailInterceptor(), ErrorInterceptor()), codecs=CODECS
        )
        self.path = "/" + SERVICE


if __name__ == "__main__":
    with GrpcWorld().running() as running:
        print(running.address[1], flush=True)
        sys.stdin.read()
