"""Adds up what the attempts of one job, or the attempts on one worker, use at the same moment. The module is pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from iris.cluster.controller.usage.series import (
    CPU,
    GPU,
    GPU_MEMORY,
    MEMORY,
    SUM_COLUMNS,
    TASKS,
    Points,
    UsageSeries,
    clamped,
)

# The sum over the attempts of a job or worker gets at most one sample in this many seconds.
SAMPLE_S = 4
# An attempt whose last usage sample is older than this many seconds is left out of the total.
SILENT_S = 30


class UsageTotal:
    """What the attempts of one job, or on one worker, use together, now and over time.

    Args:
        life: The points of an earlier controller; None for a new sum.

    Attributes:
        series: The usage of all attempts together, over time.
    """

    __slots__ = ("_parts", "_sampled_s", "_sums", "series")

    def __init__(self, life: Points | None = None) -> None:
        self.series = UsageSeries(SUM_COLUMNS, life=life)
        self._sums = [0] * SUM_COLUMNS
        self._sampled_s = 0
        # The time and the values of the last sample of each attempt, and what the attempt has requested.
        self._parts: dict[Hashable, tuple[int, Sequence[int], Sequence[int]]] = {}

    def set(self, key: Hashable, time_s: int, used: Sequence[int], requested: Sequence[int]) -> None:
        """Replace the last usage sample of an attempt in the sum over attempts.

        Args:
            key: Identifies the task of the attempt. A task has at most one live attempt.
            time_s: The time of the sample, in seconds since the epoch.
            used: The values of the sample, one for each column of a task's series.
            requested: The requested millicores, MiB of memory, and GPUs. Only the first sample of a key sets them.
        """
        before = self._parts.get(key)
        if before is None:
            self._change((*used, 1, *requested), 1)
        else:
            requested = before[2]
            earlier, sums = before[1], self._sums
            sums[CPU] += used[CPU] - earlier[CPU]
            sums[MEMORY] += used[MEMORY] - earlier[MEMORY]
            sums[GPU] += used[GPU] - earlier[GPU]
            sums[GPU_MEMORY] += used[GPU_MEMORY] - earlier[GPU_MEMORY]
        self._parts[key] = (time_s, used, requested)

    def remove(self, key: Hashable) -> None:
        """Remove an attempt that has ended. An unknown attempt is ignored."""
        part = self._parts.pop(key, None)
        if part is not None:
            self._change((*part[1], 1, *part[2]), -1)

    def _change(self, values: Sequence[int], sign: int) -> None:
        for index, value in enumerate(values):
            self._sums[index] += sign * value

    def remove_silent(self, now_s: int) -> None:
        """Remove the attempts without a sample in the last `SILENT_S` seconds, because their worker is lost or cannot
        reach the controller.
        """
        for key in [key for key, (time_s, *_) in self._parts.items() if time_s < now_s - SILENT_S]:
            self.remove(key)

    def sample(self, now_s: int) -> None:
        """Add the present sum to the series, at most once in `SAMPLE_S` seconds."""
        if self._sampled_s <= now_s < self._sampled_s + SAMPLE_S:
            return
        self._sampled_s = now_s
        self.series.add(now_s, list(map(clamped, self._sums)))

    @property
    def present(self) -> Sequence[int]:
        """The present sum, by column."""
        return self._sums

    @property
    def num_tasks(self) -> int:
        """How many attempts are in the sum."""
        return self._sums[TASKS]
