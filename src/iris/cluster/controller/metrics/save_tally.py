"""Counts the batches of saved changes, for the metrics of the controller."""

from __future__ import annotations

import time
from collections.abc import Awaitable

from iris.errors import IrisError
from iris.metrics.definitions import Family, counter, histogram
from iris.metrics.tallies import BATCH_SIZES, CALL_SECONDS, Histogram

BATCH_JOBS = histogram(
    "iris_save_batch_jobs", "How many jobs each batch of saved changes had. A busy controller has large batches."
)
SECONDS = histogram(
    "iris_save_duration_seconds",
    "How long each write of a batch to the database took, including the fsync and the wait for reads.",
)
FAILURES = counter(
    "iris_save_failures_total", "Batches that could not be saved, for example because the disk was full."
)
SAVE_METRICS = (BATCH_JOBS, SECONDS, FAILURES)


class SaveTally:
    """The tally of the writes of one saver."""

    def __init__(self) -> None:
        self._sizes = Histogram(BATCH_SIZES)
        self._seconds = Histogram(CALL_SECONDS)
        self._failures = 0

    async def count(self, num_jobs: int, write: Awaitable[IrisError | None]) -> IrisError | None:
        """Wait for the write of a batch, and count the write. Return the error of the write, or None after a success.

        Args:
            num_jobs: The number of jobs in the batch.
            write: The write of the batch to the database.
        """
        began_s = time.perf_counter()
        error = await write
        self._seconds.add(time.perf_counter() - began_s)
        self._sizes.add(num_jobs)
        self._failures += error is not None
        return error

    def families(self) -> list[Family]:
        """Return the present values."""
        return [
            BATCH_JOBS.distribution(self._sizes),
            SECONDS.distribution(self._seconds),
            FAILURES.one(self._failures),
        ]
