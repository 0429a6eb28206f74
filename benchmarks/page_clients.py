"""Pages of browsers, in one process: `python -m benchmarks.page_clients ADDRESS`.

The first line of stdin is the token. Each further line is a command, and the process answers each command with a line:
`open KIND` opens the pages of a kind, and is answered when all pages have their first messages. `close` closes them.
The process ends when stdin is closed. The pages make the calls of the TypeScript code in `web/src`, with the same
requests, in the same binary format and at the same times:

* A list of jobs follows the list.
* A view of a job follows the job and its child jobs. Every 8 s, the view loads the usage and the endpoints.
* A view of a log opens a stream at the end of the log. The log writes more than the view draws. Therefore the view
  closes the stream after the first burst, and then reads the last 64 KiB of the log twice a second.
* A view of the machines follows them, and loads the usage of the workers every 4 s.
* A view of the cluster follows the workers, the state of the controller and the events.
* A reader is no page, but a client like `iris logs -f`. It follows the log through the controller as fast as it can.

The streams open within half a second. A repeated call has its fixed times, as if the page had been open all the time:
they are spread over the period of the call, and stay the same when the pages are closed and opened again.

Browsers run on other machines, so the work of this process must not slow the controller. The process reads messages
without parsing them, and runs only when no other process of its scheduling policy wants to run.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

from google.protobuf.message import Message

from iris.rpc import cluster_pb2
from iris.system.event_loop import run_loop

Controller = cluster_pb2.Controller
Answer = TypeVar("Answer", bound=Message)

LARGE_JOB, LOUD_JOB = "large", "loud"
# The number of pages of each sort, by the kind of a block of the benchmark.
_COUNTS = {
    "quiet": {"list": 20, "job": 15, "machines": 5, "cluster": 5},
    "all": {"list": 20, "job": 15, "log": 5, "machines": 5, "cluster": 5},
    "lists": {"list": 20},
    "jobs": {"job": 15},
    "logs": {"log": 5},
    "machines": {"machines": 5},
    "clusters": {"cluster": 5},
    "readers": {"reader": 5},
}
_SERVICE = "iris.cluster.ControllerService"
_LIST_PAGE = 1_000  # `PAGE_SIZE` of web/src/views/jobs/conditions.ts
_CHILDREN = 1_000  # `MOST_JOBS` of web/src/views/job/child_jobs.tsx
_ENDPOINTS = 100  # `MOST` of web/src/views/job/endpoints.tsx
_USAGE_S = 8.0  # `USAGE_MS` of web/src/views/job/watch_job.ts
_WORKER_USAGE_S, _WORKER_POINTS = 4.0, 120  # web/src/views/machines/worker_usage.tsx
# `PART_BYTES`, `MAX_LINE_BYTES` of web/src/views/logs/controller_logs.ts and `JUMP_BYTES` of engine/log_document.ts
_PART_BYTES, _LINE_BYTES, _JUMP_BYTES = 256 << 10, 16 << 10, 64 << 10
# `JUMP_MS` and `BURST_LINES` of web/src/views/logs/engine/pace.ts. The lines of the log have 100 bytes.
_JUMP_S, _BURST_BYTES = 0.5, 20_000 * 100
_READ_BYTES = 1 << 18
_OPENING_S = 0.5


class Browser:
    """A browser that is signed in to the page.

    Args:
        address: The address of the controller.
        token: The token with which the browser signs in.
    """

    def __init__(self, address: str, token: str) -> None:
        import httpx

        self._address = urlsplit(address)
        self._connections: list[Connection] = []
        answer = httpx.post(
            f"{address}/{_SERVICE}/SignIn", json={"token": token, "pagePath": "/"}, headers={"origin": address}
        )
        answer.raise_for_status()
        self._path: str = answer.json()["sessionPath"]
        self._cookie = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]

    async def connect(self) -> Connection:
        """Open a connection to the controller."""
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port, limit=1 << 20)
        self._connections.append(Connection(reader, writer, self))
        return self._connections[-1]

    def close_connections(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def head(self, method: str, content_type: str, length: int) -> bytes:
        """Return the head of a request."""
        lines = [
            f"POST /{self._path}/{_SERVICE}/{method} HTTP/1.1",
            f"host: {self._address.netloc}",
            f"origin: {self._address.scheme}://{self._address.netloc}",
            "sec-fetch-site: same-origin",
            "accept-encoding: gzip, deflate, br, zstd",
            f"content-type: {content_type}",
            "connect-protocol-version: 1",
            f"cookie: iris_session={self._cookie}",
            f"content-length: {length}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    """A connection of a browser over HTTP/1.1.

    Args:
        reader: Reads from the socket.
        writer: Writes to the socket.
        browser: The browser.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, browser: Browser) -> None:
        self._reader = reader
        self._writer = writer
        self._browser = browser

    async def stream(self, method: str, request: Message) -> AsyncIterator[int]:
        """Call a method whose answer is a stream, and yield the size of each read from the socket."""
        data = request.SerializeToString()
        body = struct.pack(">BI", 0, len(data)) + data
        self._writer.write(self._browser.head(method, "application/connect+proto", len(body)) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        while data := await self._reader.read(_READ_BYTES):
            yield len(data)

    async def call(self, method: str, request: Message) -> bytes:
        """Call a method with one answer, and return the encoded answer."""
        body = request.SerializeToString()
        self._writer.write(self._browser.head(method, "application/proto", len(body)) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        assert b"transfer-encoding: chunked" in head.lower(), head
        data = b""
        while size := int(await self._reader.readline(), 16):
            data += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()
        return data

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class Pages:
    """The pages of a kind. They can be opened and closed many times.

    Args:
        browser: The browser.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._random = Random(1)
        # The parts of all pages. A part is a stream or a repeated call, and sets the event when it is open.
        self._parts: list[Callable[[asyncio.Event], Coroutine[Any, Any, None]]] = []
        self._running: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open all pages, and wait until they have their first messages."""
        opened = [asyncio.Event() for _ in self._parts]
        self._running = [asyncio.create_task(part(event)) for part, event in zip(self._parts, opened, strict=True)]
        waiting = asyncio.gather(*(event.wait() for event in opened))
        running: list[asyncio.Future[Any]] = [waiting, *self._running]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in self._running:
            if task.done():
                task.result()

    async def close(self) -> None:
        """Close all pages."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._browser.close_connections()

    def add_list(self) -> None:
        """Add a list of jobs."""
        self._follow("WatchJobs", Controller.WatchJobsRequest(newest_first=True, page_size=_LIST_PAGE))

    def add_job(self, job_id: str) -> None:
        """Add a view of a job."""
        self._follow("WatchJob", Controller.WatchJobRequest(job_id=job_id, include_tasks=True))
        self._follow("WatchJobs", Controller.WatchJobsRequest(id_prefix=f"{job_id}/", page_size=_CHILDREN))
        self._repeat("GetUsage", Controller.GetUsageRequest(job_id=job_id), _USAGE_S)
        self._repeat("ListEndpoints", Controller.ListEndpointsRequest(job_id=job_id, page_size=_ENDPOINTS), _USAGE_S)

    def add_log(self, job_id: str) -> None:
        """Add a view of the log of a job's only task, which writes faster than a page draws."""
        self._follow("WatchJob", Controller.WatchJobRequest(job_id=job_id, include_tasks=True))
        self._add(lambda opened: self._read_log(job_id, opened))

    def add_machines(self, worker_ids: list[str]) -> None:
        """Add a view of the machines."""
        self._follow("WatchCluster", Controller.WatchClusterRequest(include_machines=True))
        usage = Controller.GetUsageRequest(worker_ids=worker_ids, max_points=_WORKER_POINTS)
        self._repeat("GetUsage", usage, _WORKER_USAGE_S)

    def add_cluster(self) -> None:
        """Add a view of the cluster."""
        request = Controller.WatchClusterRequest(include_workers=True, include_status=True, include_events=True)
        self._follow("WatchCluster", request)

    def add_reader(self, job_id: str) -> None:
        """Add a client that follows the log of a job's only task through the controller, as fast as possible."""
        self._add(lambda opened: self._read_whole_log(job_id, opened))

    def _add(self, part: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        delay_s = self._random.uniform(0, _OPENING_S)

        async def run(opened: asyncio.Event) -> None:
            await asyncio.sleep(delay_s)
            await part(opened)

        self._parts.append(run)

    def _follow(self, method: str, request: Message) -> None:
        self._add(lambda opened: self._read_stream(method, request, opened))

    def _repeat(self, method: str, request: Message, period_s: float) -> None:
        first_s = time.monotonic() + self._random.uniform(0, period_s)
        self._parts.append(lambda opened: self._call_again(method, request, first_s, period_s, opened))

    async def _read_stream(self, method: str, request: Message, opened: asyncio.Event) -> None:
        async for _ in (await self._browser.connect()).stream(method, request):
            opened.set()

    async def _call_again(
        self, method: str, request: Message, first_s: float, period_s: float, opened: asyncio.Event
    ) -> None:
        connection = await self._browser.connect()
        opened.set()
        while True:
            await asyncio.sleep(period_s - (time.monotonic() - first_s) % period_s)
            await connection.call(method, request)

    async def _read_whole_log(self, job_id: str, opened: asyncio.Event) -> None:
        read = cluster_pb2.FetchLogPartsRequest.Read(task_index=0, attempt_id=0, backwards=True)
        request = cluster_pb2.FetchLogPartsRequest(job_id=job_id, reads=[read], max_bytes=_JUMP_BYTES)
        data = await (await self._browser.connect()).call("FetchLogParts", request)
        offsets = cluster_pb2.FetchLogPartsResponse.FromString(data).parts[0].offsets
        position = cluster_pb2.LogPosition(task_index=0, attempt_id=0, offsets=offsets)
        following = cluster_pb2.StreamTaskLogsRequest(job_id=job_id, positions=[position], follow=True)
        await self._read_stream("StreamTaskLogs", following, opened)

    async def _read_log(self, job_id: str, opened: asyncio.Event) -> None:
        reading = await self._browser.connect()

        async def read_end(max_bytes: int) -> cluster_pb2.FetchLogPartsResponse:
            read = cluster_pb2.FetchLogPartsRequest.Read(task_index=0, attempt_id=0, backwards=True)
            request = cluster_pb2.FetchLogPartsRequest(
                job_id=job_id, reads=[read], max_bytes=max_bytes, max_line_bytes=_LINE_BYTES
            )
            data = await reading.call("FetchLogParts", request)
            return cluster_pb2.FetchLogPartsResponse.FromString(data if not opened.is_set() else b"")

        part = (await read_end(_PART_BYTES)).parts[0]
        position = cluster_pb2.LogPosition(task_index=0, attempt_id=0, offsets=part.offsets)
        following = await self._browser.connect()
        burst = 0
        request = cluster_pb2.StreamTaskLogsRequest(job_id=job_id, positions=[position], follow=True)
        async for size in following.stream("StreamTaskLogs", request):
            burst += size
            if burst > _BURST_BYTES:
                break
        following.close()
        opened.set()
        while True:
            await read_end(_JUMP_BYTES)
            await asyncio.sleep(_JUMP_S)


def _pages(browser: Browser, kind: str) -> Pages:
    pages = Pages(browser)
    adders: dict[str, Callable[[], None]] = {
        "list": pages.add_list,
        "job": lambda: pages.add_job(LARGE_JOB),
        "log": lambda: pages.add_log(LOUD_JOB),
        "machines": lambda: pages.add_machines(["local-0"]),
        "cluster": pages.add_cluster,
        "reader": lambda: pages.add_reader(LOUD_JOB),
    }
    for sort, count in _COUNTS[kind].items():
        for _ in range(count):
            adders[sort]()
    return pages


async def _carry_out_commands(address: str) -> None:
    """Carry out the commands from stdin."""
    browser = Browser(address, (await _line()).strip())
    known: dict[str, Pages] = {}
    opened: Pages | None = None
    while words := (await _line()).split():
        if words[0] == "open":
            opened = known.get(words[1]) or known.setdefault(words[1], _pages(browser, words[1]))
            await opened.open()
        elif opened is not None:
            await opened.close()
        print("done", flush=True)
    os._exit(0)


async def _line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


def _take_lowest_priority() -> None:
    policy = os.sched_getscheduler(0)
    if policy == os.SCHED_OTHER:
        # A process with nice 19 would still keep a core for a millisecond after the controller is woken.
        policy = os.SCHED_IDLE
    os.sched_setscheduler(0, policy, os.sched_param(os.sched_get_priority_min(policy)))


if __name__ == "__main__":
    _take_lowest_priority()
    run_loop(_carry_out_commands(sys.argv[1]))
