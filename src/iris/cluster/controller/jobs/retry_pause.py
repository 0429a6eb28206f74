"""Computes the pause before a gang is retried. Pure.

Without a pause, a task that fails at once would be started again and again, as fast as the cluster can. The loss of a
worker also leads to a pause, because the task may have killed the worker.
"""

from __future__ import annotations

import zlib

DEFAULT_PAUSE_MS = 1000
LONGEST_PAUSE_MS = 60_000
LONG_RUN_MS = 10 * 60_000  # An attempt that ran for this time has worked, so it ends a row of retries.


def next_in_row(row: int, ran_ms: int) -> int:
    """Return the number of the next retry in its row, counted from 1.

    Args:
        row: The number of retries in the row so far.
        ran_ms: How long the last attempt ran, in milliseconds. A long run starts a new row.
    """
    return 1 if ran_ms >= LONG_RUN_MS else row + 1


def pause_before(row: int, first_ms: int, salt: str) -> int:
    """Return the pause before a retry, in milliseconds.

    There is no pause before the first retry of a row. The second retry waits for `first_ms`, and each further retry for
    twice as long, up to `LONGEST_PAUSE_MS`. Each pause is shortened by up to a fifth, so that gangs that failed
    together do not return together.

    Args:
        row: The number of the retry in its row, counted from 1.
        first_ms: The pause before the second retry, in milliseconds.
        salt: Any text. The same salt shortens a pause by the same amount.
    """
    if row < 2:
        return 0
    pause_ms = min(first_ms << min(row - 2, 16), LONGEST_PAUSE_MS)
    return pause_ms - pause_ms * (zlib.crc32(salt.encode()) % 200) // 1000
