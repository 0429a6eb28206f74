"""Tallies for metrics: counts with labels, and histograms. This module makes no calls.

Only the event loop of a server changes a tally. Adding to a tally takes less than a microsecond, and nothing else is
computed until Prometheus asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

# The upper bounds of the buckets of histograms.
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WAIT_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 86400.0)
BATCH_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Counts:
    """A counter with labels: one growing number for each combination of label values.

    Args:
        known: Values of a single label that are shown from the start, with the number 0. Prometheus cannot see the
            first change of a series that begins with a number above 0.
    """

    __slots__ = ("_values",)

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._values: dict[tuple[str, ...], float] = dict.fromkeys(((value,) for value in known), 0)

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add an amount to the number that is counted under these label values."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def get(self, *labels: str) -> float:
        """Return the number that is counted under these label values."""
        return self._values.get(labels, 0)

    def items(self) -> Sequence[tuple[tuple[str, ...], float]]:
        """Return all numbers, each with its label values."""
        return list(self._values.items())


class Histogram:
    """Counts values by size.

    Args:
        bounds: The upper bounds of the buckets, in increasing order. A value counts for the first bucket whose bound is
            at least the value. Larger values count for a further bucket without a bound.

    Attributes:
        bounds: The upper bounds of the buckets.
        counts: How many values each bucket has, the bucket without a bound last.
        total: The sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histograms:
    """Histograms of one metric: one histogram for each combination of label values.

    Args:
        bounds: The upper bounds of the buckets of each histogram.
    """

    __slots__ = ("_bounds", "_histograms")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._histograms: dict[tuple[str, ...], Histogram] = {}

    def add(self, value: float, *labels: str) -> None:
        """Count a value for these label values."""
        histogram = self._histograms.get(labels)
        if histogram is None:
            histogram = self._histograms[labels] = Histogram(self._bounds)
        histogram.add(value)

    def items(self) -> Sequence[tuple[tuple[str, ...], Histogram]]:
        """Return all histograms with their label values."""
        return list(self._histograms.items())
