"""How long a gang waits before it is tried again. Pure.

What fails at once would otherwise be started again and again, as fast as the cluster can. Lost workers count as well:
a worker that dies of what it runs is no better than a task that fails.
"""

from __future__ import annotations

import zlib

DEFAULT_PAUSE_MS = 1000
LONGEST_PAUSE_MS = 60_000
LONG_RUN_MS = 10 * 60_000  # what ran for so long has worked: the row of its failures is over


def next_in_row(row: int, ran_ms: int) -> int:
    """The number of the retry that follows an attempt, in the row of retries that follow each other; from 1."""
    return 1 if ran_ms >= LONG_RUN_MS else row + 1


def pause_before(row: int, first_ms: int, salt: str) -> int:
    """Milliseconds before a retry: none before the first of a row, then `first_ms`, and each time twice as long.

    It is up to a fifth shorter than that, by a number made of `salt`, so that what failed together does not come back
    together; the same salt gives the same pause.
    """
    if row < 2:
        return 0
    pause_ms = min(first_ms << min(row - 2, 16), LONGEST_PAUSE_MS)
    return pause_ms - pause_ms * (zlib.crc32(salt.encode()) % 200) // 1000
