"""Serves the logs of this worker's attempts, as streams and in parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from pathlib import Path

from iris.cluster.logs.cursor import Position, from_message
from iris.cluster.logs.parts.answer import PartsRequest, refused_part
from iris.cluster.logs.reading.scan_threads import LogScans
from iris.cluster.logs.streaming.open_log import OpenLog, StreamBudget, open_reader
from iris.cluster.logs.streaming.refused_log import refused_log
from iris.cluster.logs.streaming.serve_stream import stream_logs
from iris.cluster.types import make_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import FetchLogPartsRequest, FetchLogPartsResponse, StreamTaskLogsResponse

_OPENED_AT_ONCE = 50  # How many logs a stream opens before it lets the event loop do other work.


async def stream_task_logs(
    registry: AttemptRegistry, budget: StreamBudget, request: cluster_pb2.StreamTaskLogsRequest, caller: str
) -> AsyncIterator[StreamTaskLogsResponse]:
    """Yield the logs of the requested attempts as one stream. If this worker does not have the log of an attempt, the
    stream contains a chunk with `error` for the attempt.

    Raises:
        InvalidArgumentError: The request names no attempt, or its filter is invalid.
    """
    if not request.positions:
        raise InvalidArgumentError(
            "positions must name at least one task, because a worker does not know which tasks a job has"
        )
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


async def fetch_log_parts(
    registry: AttemptRegistry, scans: LogScans, request: FetchLogPartsRequest, caller: str
) -> FetchLogPartsResponse:
    """Return parts of the logs of attempts. If this worker does not have a log, its part has an error.

    Raises:
        InvalidArgumentError: The request is invalid.
    """
    wanted = PartsRequest(request)
    response = FetchLogPartsResponse()
    for number, read in enumerate(wanted.reads):
        try:
            _, directory, attempt = registry.log_of(make_task_id(request.job_id, read.task_index), read.attempt_id)
        except NotFoundError as error:
            response.parts.append(refused_part(read, error))
            continue
        # Check whether the attempt is final before reading its log, because the whole log of a final attempt is on
        # disk.
        final = attempt is None or attempt.is_final
        writer = None if attempt is None else attempt.log
        with registry.reading(directory):
            steps = wanted.part_steps(number, directory.log, writer, final=final)
            response.parts.append(await scans.scan(caller, steps))
        if attempt is not None:
            # Wait until the controller knows that the attempt runs. The wait follows the read, because the process may
            # have started during the read.
            await attempt.announcement.wait()
    return response


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
