"""Defines metrics: the name, the kind, the labels and the help text of each figure that Prometheus reads."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from iris.metrics.tallies import Counts, Histogram, Histograms

Labels = tuple[str, ...]  # The values of a metric's labels, in the order of `Metric.labels`.


class Kind(enum.StrEnum):
    """The kind of a metric, with the name that Prometheus uses."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """The definition of one metric.

    Attributes:
        name: The name in queries. A counter's name ends in `_total`. A histogram's name is the name without `_bucket`,
            `_sum` and `_count`.
        kind: Whether the metric is a counter, a gauge or a histogram.
        help: One or two sentences in plain English.
        labels: The names of the labels.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()

    def one(self, value: float) -> Family:
        """Return the metric, which has no labels, with its value."""
        return Family(self, [((), value)])

    def labelled(self, samples: Sequence[tuple[Labels, float]]) -> Family:
        """Return the metric with its samples. A sample is a pair of label values and a value."""
        return Family(self, samples)

    def many(self, counts: Counts) -> Family:
        """Return the metric with the values of a tally and the labels of each value."""
        return Family(self, counts.items())

    def distribution(self, histogram: Histogram) -> Family:
        """Return the metric with the values of a histogram that has no labels."""
        return Family(self, [((), histogram)])

    def distributions(self, histograms: Histograms) -> Family:
        """Return the metric with the values of several histograms and the labels of each histogram."""
        return Family(self, histograms.items())


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its present values.

    Attributes:
        metric: The metric that the samples belong to.
        samples: For each combination of label values, the value: a number, or a `Histogram`.
    """

    metric: Metric
    samples: Sequence[tuple[Labels, float]] | Sequence[tuple[Labels, Histogram]]


def counter(name: str, help_text: str, *labels: str) -> Metric:
    """Return the definition of a counter, a number that only grows until the server restarts."""
    assert name.endswith("_total"), f"the name of a counter must end in _total, got {name}"
    return Metric(name, Kind.COUNTER, help_text, labels)


def gauge(name: str, help_text: str, *labels: str) -> Metric:
    """Return the definition of a gauge, a number that rises and falls."""
    return Metric(name, Kind.GAUGE, help_text, labels)


def histogram(name: str, help_text: str, *labels: str) -> Metric:
    """Return the definition of a histogram, which counts values by size."""
    return Metric(name, Kind.HISTOGRAM, help_text, labels)
