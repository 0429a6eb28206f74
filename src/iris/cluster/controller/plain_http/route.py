"""The ASGI application of the log route, `GET /v1/jobs/JOB/logs`.

The route answers a request in these steps:
1. Check the path and the method, and choose the format by the `Accept` header.
2. Authenticate the caller, read the parameters, which may choose another format, and authorise the request, as for the
   call `StreamTaskLogs`.
3. Find the tasks, and send the head of the answer once the first item is known. Until then, an error can still be
   answered with its own HTTP status.
4. Send items as they come. While the client does not read, nothing more is read from the logs. While there are no
   items, send bytes that the client ignores, so that the connection stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

from iris.cluster.controller.api.service import ControllerService
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.plain_http.answers import METHODS, Message, PlainError, Send, send_error, send_head
from iris.cluster.controller.plain_http.content_types import CONTENT_TYPES, format_for
from iris.cluster.controller.plain_http.fair_writing import lines_per_turn, write_items, writing_lane
from iris.cluster.controller.plain_http.formats import (
    JsonArrayFormat,
    JsonLinesFormat,
    LogFormat,
    RawFormat,
    TextFormat,
)
from iris.cluster.controller.plain_http.items import Item, Pause
from iris.cluster.controller.plain_http.job_log_reader import read_logs
from iris.cluster.controller.plain_http.query import LogQuery, read_query
from iris.cluster.controller.plain_http.reader_state import ReaderState, find_indices
from iris.cluster.controller.plain_http.server_sent_events import MAX_TASKS, EventStreamFormat, read_event_id
from iris.cluster.logs.records import SOURCES
from iris.cluster.types import parse_task_id
from iris.errors import InternalError, InvalidArgumentError, IrisError, NotFoundError, quoted, shown
from iris.event_log import log_event
from iris.rpc import cluster_pb2
from iris.rpc.auth.authenticate import AuthenticationInterceptor, AuthorisationInterceptor
from iris.rpc.auth.caller import Caller

PATH = "/v1"
_BEGIN, _END = "/v1/jobs/", "/logs"
# The route that serves logs has the same permissions as the call with this name.
_METHOD = "StreamTaskLogs"
_USAGE = "expected /v1/jobs/JOB/logs, in which JOB is the id of a job or a task, for example /v1/jobs/train-1a2b/logs"
_BEAT_S = 10.0
# The server sends the headers of an answer together with the first item, but waits at most for this time. An error
# before the headers can still be sent with its own status.
_FIRST_ITEM_S = 5.0
_SENT_BYTES = 64 * 1024
_FLUSH_S = 0.05
_log = logging.getLogger(__name__)


class PlainHttp:
    """The log route of a controller.

    Args:
        service: The service of the controller, whose limits of streams apply.
        authentication: The object that checks the tokens of callers.
        authorisation: The object that checks the requests of callers.
    """

    def __init__(
        self,
        service: ControllerService,
        authentication: AuthenticationInterceptor,
        authorisation: AuthorisationInterceptor,
    ) -> None:
        self._service = service
        self._controller = service.controller
        self._authentication = authentication
        self._authorisation = authorisation
        self._lane = writing_lane()

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Answer a request."""
        started_s = time.perf_counter()
        request = _Request(scope)
        code = ""
        try:
            await self._answer(request, receive, send)
        except (IrisError, PlainError) as error:
            code = error.code if isinstance(error, IrisError) else "invalid_argument"
            await send_error(send, error, request.format, is_head=request.method == "HEAD")
        except asyncio.CancelledError:
            code = "canceled"
            raise
        finally:
            log_event(
                _log,
                "call.answered",
                level=logging.DEBUG,
                method=f"GET {PATH}/jobs/JOB/logs",
                duration_ms=round((time.perf_counter() - started_s) * 1000, 1),
                error=code or request.failure,
            )

    async def _answer(self, request: _Request, receive: Any, send: Send) -> None:
        job_id = _job_of_path(request.path)
        if request.method == "OPTIONS":
            await send_head(send, 204, [(b"allow", METHODS)])
            return
        if request.method not in ("GET", "HEAD"):
            allow = [(b"allow", METHODS)]
            raise PlainError(
                status=405, text=f"a log is read with GET or HEAD, not with {shown(request.method)}", headers=allow
            )
        request.choose_format()
        known = await self._authentication.authenticate(request.header(b"authorization"), _METHOD)
        query = request.query()
        if query is None:
            await send_head(send, 204)  # The status 204 keeps a browser from connecting again.
            return
        # The permission is checked before the search for the job. Otherwise a caller with a task's token could find out
        # which other jobs exist.
        self._check(known, job_id)
        record, query = await self._find(job_id, query)
        self._check(known, record.job_id)
        self._controller.headroom.check_stream()
        indices = find_indices(record, query)
        if request.format == "sse" and len(indices) > MAX_TASKS:
            raise InvalidArgumentError(
                f"events carry the logs of at most {MAX_TASKS:,} tasks, got {len(indices):,}: choose tasks with"
                " task=…, or use NDJSON"
            )
        partial = _shows_partial(request.format, query, len(indices))
        blocks = _writes_blocks(request.format, query, len(indices))
        sources = self._controller.log_sources
        state = ReaderState(sources, record, known.key, query, indices, partial=partial, blocks=blocks)
        await state.load()
        if request.method == "HEAD":
            await send_head(send, 200, request.headers())
            return
        await self._send_logs(request, known, state, receive, send)

    def _check(self, known: Caller, job_id: str) -> None:
        message = cluster_pb2.StreamTaskLogsRequest(job_id=job_id)
        self._authorisation.check_request(known, _METHOD, message)

    async def _find(self, job_id: str, query: LogQuery) -> tuple[JobRecord, LogQuery]:
        """Return the job that the path names. If the path has the id of a task, return the task's job, and a query that
        selects this task only.

        Raises:
            NotFoundError: There is no such job.
        """
        jobs = self._controller.jobs
        try:
            return await jobs.find(job_id), query
        except NotFoundError as error:
            try:
                parent, index = parse_task_id(job_id)
            except InvalidArgumentError:
                parent, index = "", 0
            if not parent or await jobs.get(parent) is None:
                raise NotFoundError(
                    f"{error} ('iris ps --all' shows all jobs)", reason=error.reason, metadata=error.metadata
                ) from None
        if query.tasks:
            raise InvalidArgumentError(f"{quoted(job_id)} is the id of a task: leave out task=…, or give the job's id")
        return await jobs.find(parent), replace(query, tasks=(index,))

    async def _send_logs(self, request: _Request, known: Caller, state: ReaderState, receive: Any, send: Send) -> None:
        items_read = self._controller.jobs.until_removed(state.record, read_logs(state))
        limited = self._service.open_streams.limited(known.name, items_read, max(1, len(state.tasks)))
        valid = self._authorisation.while_valid(known, limited)
        written = _format(request.format, state)
        size = lines_per_turn(len(state.tasks), has_cursors=isinstance(written, (JsonLinesFormat, EventStreamFormat)))
        answer = _Answer(written, request.headers(), send)
        async with contextlib.aclosing(write_items(valid, written, self._lane, known.key, size)) as items:
            try:
                if await _pump(items, answer, receive):
                    await answer.end()
            except Exception as error:
                wrong = error if isinstance(error, IrisError) else _bug(error)
                if not answer.has_begun:
                    raise wrong from error
                request.failure = wrong.code
                await answer.fail(wrong)


class _Request:
    """One request.

    Attributes:
        method: The HTTP method of the request.
        path: The path of the request, still with percent encoding.
        format: The format of the answer. None until it is chosen by the `Accept` header or the parameter `format`.
        failure: The code of the error that has ended the answer early. Empty if there is none.
    """

    def __init__(self, scope: Message) -> None:
        self.method: str = scope["method"]
        raw = scope.get("raw_path")
        self.path: str = quote(scope["path"], safe="/%") if raw is None else raw.decode("latin-1").partition("?")[0]
        self.format: str | None = None
        self.failure = ""
        self._accept = ""
        self._all_headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._headers = dict(self._all_headers)
        self._query = scope["query_string"].decode(errors="replace")

    def header(self, name: bytes) -> str | None:
        """Return the value of a header; None if the request does not have it."""
        value = self._headers.get(name)
        return None if value is None else value.decode(errors="replace")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer with logs."""
        assert self.format is not None
        return [
            (b"content-type", CONTENT_TYPES[self.format].encode()),
            (b"vary", b"accept"),
            # Because of the header `x-accel-buffering`, nginx passes each part of the answer on at once.
            (b"x-accel-buffering", b"no"),
        ]

    def choose_format(self) -> None:
        """Choose the format of the answer by the `Accept` header. If the client accepts none of the formats, the format
        stays None.
        """
        # A request may have several Accept headers, which together form one list.
        self._accept = ",".join(
            value.decode(errors="replace") for name, value in self._all_headers if name == b"accept"
        )
        self.format = format_for(self._accept)

    def query(self) -> LogQuery | None:
        """Return the parameters of the request. Return None if a browser connects again after it has already received
        the last event of the answer.

        Raises:
            InvalidArgumentError: A parameter or the id of an event is not accepted.
            PlainError: The client accepts none of the formats, and the parameter `format` chooses none.
        """
        query = read_query(self._query)
        self.format = query.format or self.format
        if self.format is None:
            given, listed = quoted(self._accept), ", ".join(CONTENT_TYPES.values())
            raise PlainError(status=406, text=f"the route has none of the types in Accept: {given}; it has {listed}")
        if self.format == "raw" and not query.sources:
            query = replace(query, sources=tuple(source for source in SOURCES if source != "build"))
        last = self.header(b"last-event-id") if self.format == "sse" else None
        if not last:
            return query
        event = read_event_id(last)
        if event.is_end:
            return None
        return query.continued(
            event.cursor,
            start_ms=event.start_ms or query.start_ms,
            end_ms=event.end_ms or query.end_ms,
            max_lines=event.max_lines or query.max_lines,
        )


class _Answer:
    """The answer to one request, which collects small pieces before it sends them.

    Args:
        written: The format in which the answer is written.
        headers: The HTTP headers of the answer.
        send: A function that sends a message to the client.

    Attributes:
        has_begun: Whether the head of the answer was sent.
        has_data: Whether some data of the answer was not sent yet.
    """

    def __init__(self, written: LogFormat, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        self.has_begun = False
        self._format = written
        self._headers = headers
        self._send = send
        self._data: list[bytes] = []
        self._size = 0

    @property
    def has_data(self) -> bool:
        """Whether there is data that was not sent yet."""
        return bool(self._size)

    async def begin(self) -> None:
        """Send the head of the answer, unless it was sent."""
        if not self.has_begun:
            self.has_begun = True
            await send_head(self._send, 200, self._headers, is_last=False)
            self._add(self._format.begin())
            await self.flush(is_empty_sent=True)

    async def add(self, item: Item, data: bytes) -> None:
        """Add the bytes of an item, and send all data if the item is the last for now, or if much data waits."""
        await self.begin()
        self._add(data)
        if isinstance(item, Pause) or self._size >= _SENT_BYTES:
            await self.flush()

    async def beat(self) -> None:
        """Send bytes that readers ignore, so that the connection stays open."""
        self._add(self._format.beat())
        await self.flush()

    async def flush(self, *, is_empty_sent: bool = False) -> None:
        """Send the waiting data."""
        if self._size or is_empty_sent:
            data, self._data, self._size = b"".join(self._data), [], 0
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Send the end of the answer."""
        await self.begin()
        self._add(self._format.end())
        await self._send({"type": "http.response.body", "body": b"".join(self._data)})

    async def fail(self, error: IrisError) -> None:
        """Send the reason why the answer ends early. If the format cannot contain a reason, the HTTP server cuts the
        connection.
        """
        said = self._format.failed(error)
        await self.flush()
        if said:
            self._add(said)
            await self.end()

    def _add(self, data: bytes) -> None:
        if data:
            self._data.append(data)
            self._size += len(data)


async def _pump(items: AsyncGenerator[tuple[Item, bytes]], answer: _Answer, receive: Any) -> bool:
    """Send items until there are no more, and return True. Return False if the client has left.

    Args:
        items: The items of the answer, each with its formatted bytes.
        answer: The object that sends the items.
        receive: A function that receives messages about the connection.
    """
    gone = asyncio.ensure_future(_left(receive))
    step: asyncio.Future[tuple[Item, bytes] | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(items, None))
            while not step.done():
                wait_s = _FIRST_ITEM_S if not answer.has_begun else _FLUSH_S if answer.has_data else _BEAT_S
                await asyncio.wait((step, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return False
                if step.done():
                    break
                if not answer.has_begun:
                    await answer.begin()
                elif answer.has_data:
                    await answer.flush()
                else:
                    await answer.beat()
            following = step.result()
            if following is None:
                return True
            await answer.add(*following)
            if gone.done():
                return False
    finally:
        for task in (gone, step):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _left(receive: Any) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _job_of_path(path: str) -> str:
    """Return the id of the job, or of the task, in a path. A child job has a slash in its id, which may be written as
    `/` or as `%2F`.

    Raises:
        NotFoundError: The path is not the path of a log.
    """
    if path.startswith(_BEGIN) and path.endswith(_END) and len(path) > len(_BEGIN) + len(_END):
        return unquote(path[len(_BEGIN) : -len(_END)])
    raise NotFoundError(f"there is no {quoted(unquote(path))} here: {_USAGE}")


def _shows_partial(chosen: str | None, query: LogQuery, num_read: int) -> bool:
    """Return whether the answer contains unfinished lines while tasks write them, in the same cases as in `iris
    logs`.
    """
    if chosen == "text":
        return not query.follow or (num_read == 1 and not query.timestamps)
    return query.partial if chosen != "raw" else True


def _writes_blocks(chosen: str | None, query: LogQuery, num_read: int) -> bool:
    """Return whether lines can stay in blocks. Lines can stay in blocks if the answer contains the lines unchanged and
    the reader need not count the lines.
    """
    is_unchanged = chosen == "raw" or (chosen == "text" and num_read == 1 and not query.timestamps)
    return is_unchanged and not query.max_lines and query.tail is None


def _format(chosen: str | None, state: ReaderState) -> LogFormat:
    match chosen:
        case "raw":
            return RawFormat()
        case "ndjson":
            return JsonLinesFormat()
        case "json":
            return JsonArrayFormat()
        case "sse":
            return EventStreamFormat(state.query)
    return TextFormat(state.query, len(state.tasks), len(state.record.job.tasks))


def _bug(error: Exception) -> IrisError:
    _log.error("a call failed", exc_info=error)
    return InternalError(f"a bug of Iris, see the server's log: {type(error).__name__}: {error}")
