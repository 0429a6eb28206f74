"""What is due when, for who looks again and again."""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

_FEW = 64
Key = TypeVar("Key")


class Timers(Generic[Key]):
    """Moments (seconds of any steady clock) by key. Each costs the logarithm of their number, not the number."""

    def __init__(self) -> None:
        self._due: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []  # also of what was dropped, at most as many again
        self._count = 0

    def set(self, key: Key, due_s: float) -> None:
        """From then on it is due; an earlier moment of the same key is forgotten."""
        self._count += 1
        self._due[key] = (due_s, self._count)
        heapq.heappush(self._heap, (due_s, self._count, key))
        if len(self._heap) > 2 * len(self._due) + _FEW:
            self._heap = [(*due, one) for one, due in self._due.items()]
            heapq.heapify(self._heap)

    def drop(self, key: Key) -> None:
        """It will not be due."""
        self._due.pop(key, None)

    def __len__(self) -> int:
        """How many moments are held, those that were dropped included."""
        return len(self._heap)

    def pop_due(self, now_s: float) -> Key | None:
        """The one that has been due for longest, which is forgotten then; None when none is."""
        if self.next_s() > now_s:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        return key

    def next_s(self) -> float:
        """When the next one is due; infinity when there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf
