"""Streams the logs of this worker's attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from pathlib import Path

from iris.cluster.logs.cursor import Position, from_message
from iris.cluster.logs.streaming.open_log import OpenLog, StreamBudget, open_reader
from iris.cluster.logs.streaming.refused_log import refused_log
from iris.cluster.logs.streaming.serve_stream import stream_logs
from iris.cluster.types import make_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse

_OPENED_AT_ONCE = 50  # After opening this many logs, the stream lets the event loop do other work.


async def stream_task_logs(
    registry: AttemptRegistry, budget: StreamBudget, request: cluster_pb2.StreamTaskLogsRequest, caller: str
) -> AsyncIterator[StreamTaskLogsResponse]:
    """Yield the logs of the requested attempts as one stream.

    If this worker does not have the log of an attempt, the stream contains a chunk with `error` for the attempt.

    Raises:
        InvalidArgumentError: The request names no attempt, or its filter is invalid.
    """
    if not request.positions:
        raise InvalidArgumentError("positions must name at least one task, because a worker does not know jobs")
    logs = []
    refused = StreamTaskLogsResponse()
    with ExitStack() as reading:
        for count, message in enumerate(request.positions):
            if not count % _OPENED_AT_ONCE:
                await asyncio.sleep(0)
            position = from_message(message)
            task_id = make_task_id(request.job_id, message.task_index)
            try:
                _, directory, attempt = registry.log_of(task_id, position.attempt_id)
            except NotFoundError as error:
                refused.chunks.append(refused_log(message.task_index, position.attempt_id, error))
                continue
            reading.enter_context(registry.reading(directory))
            logs.append(_open_log(message.task_index, position, directory.log, attempt, request.filter))
        if refused.chunks:
            yield refused
        stream = stream_logs(logs, budget, follow=request.follow, max_bytes=request.max_bytes, caller=caller)
        async with aclosing(stream) as messages:
            async for answer in messages:
                yield answer


def _open_log(
    task_index: int,
    position: Position,
    directory: Path,
    attempt: Attempt | None,
    log_filter: cluster_pb2.Worker.FetchLogsFilter,
) -> OpenLog:
    writer = None if attempt is None else attempt.log
    return OpenLog(
        task_index,
        position.attempt_id,
        open_reader(directory, position.offsets, writer, log_filter),
        is_final=lambda: attempt is None or attempt.is_final,
        end=cluster_pb2.LogEnd if attempt is None else attempt.log_end,
        writer=writer,
        until_announced=None if attempt is None else attempt.announcement.wait,
    )
