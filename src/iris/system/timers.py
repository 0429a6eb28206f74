"""Stores timers for a loop that repeatedly checks which timers are due."""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

_FEW = 64
Key = TypeVar("Key")


class Timers(Generic[Key]):
    """A set of timers, with at most one timer for each key. Each operation takes logarithmic time in the number of
    timers. The times of timers are seconds of any steady clock.
    """

    def __init__(self) -> None:
        self._due: dict[Key, tuple[float, int]] = {}
        # The heap also contains replaced timers. There are at most about as many replaced timers as valid timers.
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0

    def set(self, key: Key, due_s: float) -> None:
        """Set the timer of a key, and replace an earlier timer of the same key."""
        self._count += 1
        self._due[key] = (due_s, self._count)
        heapq.heappush(self._heap, (due_s, self._count, key))
        if len(self._heap) > 2 * len(self._due) + _FEW:
            self._heap = [(*due, one) for one, due in self._due.items()]
            heapq.heapify(self._heap)

    def drop(self, key: Key) -> None:
        """Remove the timer of a key, if there is one."""
        self._due.pop(key, None)

    def __len__(self) -> int:
        """Return the number of timers in memory. Timers that were replaced but not yet removed count, too."""
        return len(self._heap)

    def pop_due(self, now_s: float) -> Key | None:
        """Remove the timer that has been due for longest, and return its key. Return None if no timer is due."""
        if self.next_s() > now_s:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        return key

    def next_s(self) -> float:
        """Return the time at which the next timer is due, or infinity if there is no timer."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf
