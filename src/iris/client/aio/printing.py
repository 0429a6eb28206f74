"""Prints the lines of a task for `AsyncIrisClient.wait`."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace

from iris.client.aio.streams import AsyncLogStream, AsyncTaskLogReader
from iris.client.logs.read_options import ReadOptions
from iris.client.printing import new_printer
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.errors import DeadlineExceededError, UnavailableError


async def print_task(connection: AsyncClusterConnection, job_id: str, task_index: int, options: ReadOptions) -> None:
    """Print the lines of a task as they arrive, as `iris.client.printing.print_task` does."""
    printer = new_printer()
    options = replace(options, on_notice=printer.notice, partial=printer.shows_partial_lines)
    left_s = None if options.until == math.inf else max(0.0, options.until - time.monotonic())
    try:
        async with (
            asyncio.timeout(left_s) as limit,
            AsyncLogStream(AsyncTaskLogReader(connection, job_id, [task_index], options)) as stream,
        ):
            async for entries in stream.batches():
                printer.show(entries)
                if printer.is_over:
                    return
    except TimeoutError:
        if not limit.expired() and time.monotonic() < options.until:
            raise
    except (UnavailableError, DeadlineExceededError):
        if time.monotonic() < options.until:
            raise
    finally:
        printer.end()
