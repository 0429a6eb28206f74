"""A worker may run attempts for as long as it has heard of the controller lately: its lease.

Who is silent for longer is declared lost, and its tasks run elsewhere. For no attempt of a task to run twice at once,
three clocks run out in this order, each counted from a moment that is no later than the one before:

1. The worker's, from when it *sent* what the controller has acknowledged last: it kills its attempts and ends.
2. The reaper's, a moment later: it does the same, and kills the worker, which may be stopped (reaper.py).
3. The controller's, from when it *received* something of the worker last, with a margin for both to have come to pass.

The first two count the time in which the machine was suspended, the third does not: it may be late, never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from iris.cluster.lease_terms import heartbeat_s, kill_after_s
from iris.cluster.worker.supervision.reaper import clock_s

_LONGEST_CALL_S = 30.0
_LOOK_S = 0.5  # a timer does not count the time in which the machine was suspended: look at the clock again


class Lease:
    """The worker's side.

    Args:
        length_s: How long it is until the controller says so; 0: endless.
        set_deadline: Told, in seconds of `clock_s`, when the reaper is to act.
    """

    def __init__(self, length_s: float, set_deadline: Callable[[float], None]) -> None:
        self._length_s = length_s
        self._set_deadline = set_deadline
        self._since_s = 0.0
        self.renew(clock_s())

    @property
    def length_s(self) -> float:
        """How long it is; 0: endless."""
        return self._length_s

    @property
    def heartbeat_s(self) -> float:
        """How often it is to be renewed."""
        return heartbeat_s(self._length_s)

    @property
    def call_timeout_s(self) -> float:
        """How long a call that renews it may take: there has to be time for another."""
        return min(_LONGEST_CALL_S, max(self._length_s / 2, 1.0)) if self._length_s else _LONGEST_CALL_S

    def grant(self, length_s: float, sent_s: float) -> None:
        """The controller has acknowledged a registration that was sent then, and says how long the lease is."""
        self._length_s = length_s
        self.renew(sent_s)

    def renew(self, sent_s: float) -> None:
        """The controller has acknowledged what was sent then."""
        self._since_s = max(self._since_s, sent_s)
        if self._length_s:
            self._set_deadline(self._since_s + kill_after_s(self._length_s))

    async def until_over(self) -> None:
        """Returns when it has run out."""
        while True:
            left_s = self._since_s + self._length_s - clock_s() if self._length_s else _LOOK_S
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, _LOOK_S))
