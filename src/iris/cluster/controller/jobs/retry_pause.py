"""Computes the pause before a gang is retried. The module is pure.

Without pauses, the cluster would restart a task again and again if the task always fails right after its start. A pause
also follows the loss of a worker, because the task may have killed the worker.
"""

from __future__ import annotations

import zlib

DEFAULT_PAUSE_MS = 1000
LONGEST_PAUSE_MS = 60_000
# If an attempt has run for at least 10 minutes, the retry after it has no pause, like the first retry of a gang.
LONG_RUN_MS = 10 * 60_000


def next_in_row(row: int, ran_ms: int) -> int:
    """Return how many times in a row the gang has been retried, including the next retry.

    Args:
        row: How many times in a row the gang has been retried so far.
        ran_ms: How long the last attempt ran, in milliseconds. After a run of at least `LONG_RUN_MS`, counting begins
            again at 1.
    """
    return 1 if ran_ms >= LONG_RUN_MS else row + 1


def pause_before(row: int, first_ms: int, salt: str) -> int:
    """Return the pause before a retry, in milliseconds.

    The first retry has no pause. The second retry in a row waits for `first_ms`. Each further retry in a row waits for
    twice as long as the previous retry, up to `LONGEST_PAUSE_MS`. Each pause is shortened by up to a fifth, depending
    on `salt`. Otherwise all gangs that failed together would return at the same time.

    Args:
        row: How many times in a row the gang has been retried, including this retry.
        first_ms: The shortest pause, in milliseconds. The second retry in a row has this pause, and the first has none.
        salt: Any text. The text determines by how much the pause is shortened.
    """
    pause_ms = longest_pause_before(row, first_ms)
    return pause_ms - pause_ms * (zlib.crc32(salt.encode()) % 200) // 1000


def longest_pause_before(row: int, first_ms: int) -> int:
    """Return the longest possible pause before a retry, in milliseconds. `pause_before` shortens this pause by up to a
    fifth.

    Args:
        row: How many times in a row the gang has been retried, including this retry; 0 if there was no retry.
        first_ms: The shortest pause, in milliseconds. The second retry in a row has this pause, and the first has none.
    """
    return min(first_ms << min(row - 2, 16), LONGEST_PAUSE_MS) if row >= 2 else 0


def pause_left_ms(end_ms: int, now_ms: int, row: int, first_ms: int) -> int:
    """Return how much of a retry pause remains, in milliseconds. A negative value is the time since the pause ended.

    The remaining pause is never longer than the whole pause, because the wall clock may have been set back during the
    pause. If there was no retry, the result is 0 or negative.

    Args:
        end_ms: The end of the pause, as wall clock time.
        now_ms: The present time of the wall clock.
        row: How many times in a row the gang has been retried, including this retry; 0 if there was no retry.
        first_ms: The shortest pause, in milliseconds. The second retry in a row has this pause, and the first has none.
    """
    return min(end_ms - now_ms, longest_pause_before(row, first_ms))
