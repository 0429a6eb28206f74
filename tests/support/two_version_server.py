"""A server of a few calls that speaks HTTP/1.1 and HTTP/2 (prior knowledge, and ALPN over TLS), in a thread.

`ListJobs` is answered at once. `WatchJob` sends one message and then nothing, until the client leaves. `ListTasks` is
never answered.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from typing import Any

from support.certificates import Certificate

from iris.rpc import cluster_pb2
from iris.system.sockets import address_of, bind

_STREAM_HEAD = [(b"content-type", b"application/connect+proto")]


class TwoVersionServer:
    """A running server.

    Args:
        certificate: The certificate for TLS, or None to serve without TLS.
        versions: The versions of HTTP that the server offers over TLS, the preferred one first.

    Attributes:
        address: The base URL of the server.
        requests: The HTTP version and the client's port of each request, in the order of their arrival.
        waiting: The number of calls that wait for the client to leave.
    """

    def __init__(self, certificate: Certificate | None = None, versions: tuple[str, ...] = ("h2", "http/1.1")) -> None:
        # Loading hypercorn takes long. Therefore collecting the tests does not load hypercorn.
        import hypercorn.config

        listener = bind("127.0.0.1", 0)
        self.address = address_of(listener).replace("http:", "https:" if certificate else "http:")
        self.requests: list[tuple[str, int]] = []
        self.waiting = 0
        self._config = hypercorn.config.Config()
        self._config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes the descriptor
        self._config.graceful_timeout = 0
        self._config.alpn_protocols = list(versions)
        if certificate is not None:
            self._config.certfile, self._config.keyfile = certificate.pair
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        import hypercorn.asyncio

        asyncio.set_event_loop(self._loop)
        serving = hypercorn.asyncio.serve(self._application, self._config, shutdown_trigger=self._stop.wait)  # type: ignore[arg-type]
        self._loop.run_until_complete(serving)
        self._loop.close()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.requests.append((scope["http_version"], scope["client"][1]))
        while (await receive()).get("more_body"):
            pass
        call = scope["path"].rpartition("/")[2]
        if call == "ListJobs":
            jobs = cluster_pb2.Controller.ListJobsResponse(jobs=[cluster_pb2.JobStatus(job_id="a")])
            await _send(send, [(b"content-type", b"application/proto")], jobs.SerializeToString(), more=False)
            return
        if call == "WatchJob":
            message = cluster_pb2.Controller.WatchJobResponse(job=cluster_pb2.JobStatus(state=3)).SerializeToString()
            await _send(send, _STREAM_HEAD, struct.pack(">BI", 0, len(message)) + message, more=True)
        self.waiting += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        self.waiting -= 1


async def _send(send: Any, headers: list[tuple[bytes, bytes]], body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})
