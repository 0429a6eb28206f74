"""Stores what a task, a job or a worker has used over time, in a bounded number of points.

A series has two rings of points. The *life* ring covers the whole life of its task. When the ring is full, its step
doubles, and every two points become one point. Therefore the ring covers any time with the same number of points. The
*recent* ring covers the last minutes with the shortest step. The recent ring exists once the step of the life ring has
doubled. The module is pure: the time is an argument.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# The shortest time in seconds that one point covers. Workers measure their attempts about once in this time.
STEP_S = 2
# The largest number of points in the usage of one task, for the task's whole life. With the shortest step, these points
# cover 8 minutes.
LIFE_POINTS = 240
# Even in a job with very many tasks, the usage of each task may have this many points.
LEAST_POINTS = 60
# All tasks of one job together have about this many points.
_POINTS_OF_A_JOB = 240_000
_FORMAT = 1
_HEADER = struct.Struct("<BBII")
_LARGEST = 2**32 - 1

# The columns of a series of points. CPU and GPU are averages over the time that a point covers. All other columns are
# the largest values in that time.
CPU, MEMORY, GPU, GPU_MEMORY, TASKS, REQUESTED_CPU, REQUESTED_MEMORY, REQUESTED_GPUS = range(8)
TASK_COLUMNS = 4  # The number of columns in the series of a task, which has only the columns up to GPU_MEMORY.
SUM_COLUMNS = 8


def points_per_task(num_tasks: int) -> int:
    """Return how many points store the whole life of each task, in a job with `num_tasks` tasks."""
    return max(LEAST_POINTS, min(LIFE_POINTS, _POINTS_OF_A_JOB // max(num_tasks, 1)) // 2 * 2)


@dataclass(slots=True)
class Points:
    """Points in the order of time, each for the same number of seconds.

    Attributes:
        step_s: The seconds that each point covers.
        times: The time at which each point begins, in seconds since the epoch. Each time is a multiple of `step_s`.
        columns: The values of the points, one array for each column.
        samples: How many samples the last point has. A later sample of the same step changes the averages of the point.
    """

    step_s: int
    times: array[int]
    columns: list[array[int]]
    samples: int = 1

    @classmethod
    def empty(cls, columns: int, step_s: int = STEP_S) -> Points:
        """Return an object without points."""
        return cls(step_s, array("I"), [array("I") for _ in range(columns)])

    def __len__(self) -> int:
        return len(self.times)

    def add(self, time_s: int, values: Sequence[int]) -> None:
        """Add a sample. A sample after the time that the last point covers begins a new point. Any other sample changes
        the last point.
        """
        begin = time_s - time_s % self.step_s
        if self.times and begin <= self.times[-1]:
            self.samples += 1
            for index, column in enumerate(self.columns):
                before, value = column[-1], values[index]
                if value == before:
                    # The average and the maximum stay the same. This case is common: for example, a task without GPUs
                    # always uses 0 GPUs.
                    continue
                if index in (CPU, GPU):
                    column[-1] = before + round((value - before) / self.samples)
                elif value > before:
                    column[-1] = value
        else:
            self.samples = 1
            self.times.append(begin)
            for column, value in zip(self.columns, values, strict=True):
                column.append(value)

    def newest(self, count: int) -> Points:
        """Return a copy of the last `count` points."""
        return Points(self.step_s, self.times[-count:], [column[-count:] for column in self.columns], self.samples)

    def drop_oldest(self, count: int) -> None:
        """Remove the first `count` points."""
        del self.times[:count]
        for column in self.columns:
            del column[:count]

    def between(self, since_s: int, until_s: int) -> Points:
        """Return a copy of the points that cover a part of the time from `since_s` to `until_s`, both included."""
        chosen = [i for i, begin in enumerate(self.times) if begin + self.step_s > since_s and begin <= until_s]
        first, end = (chosen[0], chosen[-1] + 1) if chosen else (0, 0)
        return Points(self.step_s, self.times[first:end], [column[first:end] for column in self.columns], self.samples)

    def with_step(self, step_s: int) -> Points:
        """Merge the points into points with a longer step, and return these. For averages, all merged points have the
        same weight.

        Args:
            step_s: The new step in seconds, a multiple of the present step.
        """
        if step_s == self.step_s or not self.times:
            return Points(step_s, self.times[:], [column[:] for column in self.columns], self.samples)
        merged = Points.empty(len(self.columns), step_s)
        for time_s, *values in zip(self.times, *self.columns, strict=True):
            merged.add(time_s, values)
        return merged

    def pack(self) -> bytes:
        """Return the points as bytes for the database."""
        first = self.times[0] if self.times else 0
        numbers = [first, *([0] if first else [])]
        numbers += [(after - before) // self.step_s for before, after in pairwise(self.times)]
        for column in self.columns:
            numbers += column
        header = _HEADER.pack(_FORMAT, len(self.columns), self.step_s, len(self))
        return header + zlib.compress(struct.pack(f"<{len(numbers)}I", *numbers))

    @classmethod
    def unpack(cls, packed: bytes) -> Points:
        """Return the points from the bytes that `pack` has returned.

        Raises:
            ValueError: A newer version of Iris packed the points, or the bytes are damaged.
        """
        try:
            version, columns, step_s, count = _HEADER.unpack_from(packed)
            if version != _FORMAT:
                raise ValueError(f"the stored usage of a task has format {version}, expected format {_FORMAT}")
            content = zlib.decompress(packed[_HEADER.size :])
            numbers = array("I", struct.unpack(f"<{1 + count * (columns + 1)}I", content))
        except (struct.error, zlib.error) as error:
            raise ValueError(f"the stored usage of a task is damaged: {error}") from error
        time_s, times = numbers[0], array("I")
        for step in numbers[1 : count + 1]:
            time_s += step * step_s
            times.append(time_s)
        starts = range(count + 1, count + 1 + count * columns, count) if count else ()
        return cls(step_s, times, [numbers[start : start + count] for start in starts] or cls.empty(columns).columns)


class UsageSeries:
    """What one task, job or worker has used over time.

    Args:
        columns: The number of columns of the series: `TASK_COLUMNS` or `SUM_COLUMNS`.
        points: The largest number of points in the life ring, an even number.
        life: The points of an earlier controller; None for a new series.

    Attributes:
        life: The ring of points that covers the whole life of the task, job or worker.
    """

    __slots__ = ("_capacity", "_recent", "life")

    def __init__(self, columns: int, points: int = LIFE_POINTS, life: Points | None = None) -> None:
        self.life = Points.empty(columns) if life is None else life
        self._capacity = points
        self._recent: Points | None = None
        if self.life.step_s > STEP_S:
            self._recent = Points.empty(columns)

    @property
    def last_s(self) -> int:
        """The time at which the last point begins, in seconds since the epoch; 0 without points."""
        return self.life.times[-1] if self.life.times else 0

    def add(self, time_s: int, values: Sequence[int]) -> None:
        """Add a sample.

        Args:
            time_s: The time of the sample, in seconds since the epoch.
            values: One value for each column, from 0 to 2^32 - 1.
        """
        self.life.add(time_s, values)
        if self._recent is not None:
            self._recent.add(time_s, values)
            if len(self._recent) > self._capacity:
                self._recent.drop_oldest(self._capacity // 2)
        if len(self.life) > self._capacity:
            if self._recent is None:
                self._recent = self.life.newest(self._capacity // 2)
            self.life = self.life.with_step(self.life.step_s * 2)

    def read(self, since_s: int, until_s: int, most: int) -> Points:
        """Return at most `most` points of the time from `since_s` to `until_s`. If the recent ring covers the whole
        requested time, its points are returned. Otherwise the points of the life ring are returned, which have longer
        steps.

        Args:
            since_s: The beginning of the requested time, in seconds since the epoch; 0 for the beginning of the series.
            until_s: The end of the requested time, in seconds since the epoch.
            most: The largest number of points.
        """
        recent = self._recent
        covers = recent is not None and bool(recent.times) and since_s >= recent.times[0]
        found = (recent if covers and recent is not None else self.life).between(since_s, until_s)
        while len(found) > most:
            found = found.with_step(found.step_s * 2)
        return found


def clamped(value: int) -> int:
    """Return the number closest to a reported value that a column can store. A faulty worker may report any number."""
    return value if 0 <= value <= _LARGEST else min(max(value, 0), _LARGEST)
