"""The worker's side of the lease that the controller grants.

A worker may run attempts only if the controller has acknowledged one of the worker's reports recently. If a worker is
silent for longer than its lease, the controller declares the worker lost, and its tasks run elsewhere. To make sure
that no task runs twice at the same time, three clocks expire in this order. Each clock starts no later than the next
clock:
1. The worker's clock starts when the worker sends a report that the controller acknowledges. When it expires, the
   worker kills its attempts and ends.
2. The reaper's clock expires a moment later. The reaper kills the attempts as well, and also the worker, which may have
   been stopped (reaper.py).
3. The controller's clock starts when the controller receives a report. The controller's clock runs longer than the
   other two clocks, so that both have certainly expired before the controller's clock expires.

The first two clocks also run while the machine is suspended. The controller's clock does not, so it may expire late but
never early.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from iris.cluster.lease_terms import heartbeat_s, kill_after_s
from iris.cluster.worker.supervision.reaper import clock_s

_LONGEST_CALL_S = 30.0
# Timers stand still while the machine is suspended. Therefore the clock is read at least every `_LOOK_S` seconds.
_LOOK_S = 0.5


class Lease:
    """The lease of this worker.

    Args:
        length_s: The length of the lease until the controller sets another length; 0 means without limit.
        set_deadline: A function that is called with the time, by `clock_s`, at which the reaper must kill this worker;
            infinity means never.
    """

    def __init__(self, length_s: float, set_deadline: Callable[[float], None]) -> None:
        self._length_s = length_s
        self._set_deadline = set_deadline
        self._since_s = 0.0
        self.renew(clock_s())

    @property
    def length_s(self) -> float:
        """The length of the lease; 0 means without limit."""
        return self._length_s

    @property
    def left_s(self) -> float:
        """The seconds until the lease expires; infinity without limit."""
        return max(0.0, self._since_s + self._length_s - clock_s()) if self._length_s else math.inf

    @property
    def heartbeat_s(self) -> float:
        """The seconds between two reports that renew the lease."""
        return heartbeat_s(self._length_s)

    @property
    def call_timeout_s(self) -> float:
        """The timeout of a call that renews the lease. The timeout leaves enough time for a second call."""
        return min(_LONGEST_CALL_S, max(self._length_s / 2, 1.0)) if self._length_s else _LONGEST_CALL_S

    def grant(self, length_s: float, sent_s: float) -> None:
        """Set the length of the lease after a registration that the controller has acknowledged.

        Args:
            length_s: The length that the controller has sent; 0 means without limit.
            sent_s: When the registration was sent, by `clock_s`.
        """
        self._length_s = length_s
        if not length_s:
            # The reaper may still have a deadline from an earlier lease with a limit.
            self._set_deadline(math.inf)
        self.renew(sent_s)

    def renew(self, sent_s: float) -> None:
        """Renew the lease after a report that the controller has acknowledged and that was sent at `sent_s`."""
        self._since_s = max(self._since_s, sent_s)
        if self._length_s:
            self._set_deadline(self._since_s + kill_after_s(self._length_s))

    async def until_expired(self) -> None:
        """Wait until the lease has expired."""
        while True:
            left_s = self._since_s + self._length_s - clock_s() if self._length_s else _LOOK_S
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, _LOOK_S))
