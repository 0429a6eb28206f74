"""The text of metrics, as the parsers of the Python client of Prometheus read it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client.metrics_core import Metric as Parsed
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_classic

from iris.metrics.definitions import Family, counter, gauge, histogram
from iris.metrics.exposition import CLASSIC, OPENMETRICS, TextFormat, choose_format, metric_lines
from iris.metrics.tallies import Counts, Histogram, Histograms

FORMATS = [CLASSIC, OPENMETRICS]
CALLS = counter("iris_calls_total", 'Calls: "all" of them.\nAnd a \\ too.', "method", "code")
AGE = gauge("iris_age_seconds", "An age.")
WAIT = histogram("iris_wait_seconds", "A wait.", "kind")


def read(families: list[Family], text_format: TextFormat) -> dict[str, Parsed]:
    """Write metrics, and return what a parser of Prometheus finds, by name."""
    text = "".join(f"{line}\n" for line in metric_lines(families, text_format))
    parse = read_openmetrics if text_format.is_openmetrics else read_classic
    found: Iterator[Parsed] = parse(text)
    return {metric.name: metric for metric in found}


@pytest.mark.parametrize("text_format", FORMATS)
def test_counter_metric_with_labels_is_read_back_from_its_text(text_format: TextFormat) -> None:
    counts = Counts()
    counts.add("Run", "ok")
    counts.add("Run", "ok", amount=2)
    counts.add('a "b"\\\n', "not_found")
    found = read([CALLS.many(counts)], text_format)["iris_calls"]
    assert found.type == "counter"
    assert found.documentation == CALLS.help
    assert [(sample.name, sample.labels, sample.value) for sample in found.samples] == [
        ("iris_calls_total", {"method": "Run", "code": "ok"}, 3),
        ("iris_calls_total", {"method": 'a "b"\\\n', "code": "not_found"}, 1),
    ]


@pytest.mark.parametrize("text_format", FORMATS)
@pytest.mark.parametrize("value", [0, 3, 2**53, 0.1, 1e-9, 1e300, math.inf, -math.inf])
def test_gauge_metric_is_read_back_from_its_text(text_format: TextFormat, value: float) -> None:
    (sample,) = read([AGE.one(value)], text_format)["iris_age_seconds"].samples
    assert sample.value == value


@pytest.mark.parametrize("text_format", FORMATS)
def test_histogram_metric_has_cumulative_buckets_a_sum_and_a_count(text_format: TextFormat) -> None:
    waits = Histograms((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        waits.add(value, "long")
    found = read([WAIT.distributions(waits)], text_format)["iris_wait_seconds"]
    assert found.type == "histogram"
    values = {
        (sample.name.removeprefix("iris_wait_seconds"), sample.labels.get("le")): sample for sample in found.samples
    }
    assert {key: sample.value for key, sample in values.items()} == {
        ("_bucket", "0.1"): 2,
        ("_bucket", "1.0"): 3,
        ("_bucket", "+Inf"): 4,
        ("_count", None): 4,
        ("_sum", None): 7.65,
    }
    assert all(sample.labels["kind"] == "long" for sample in values.values())


@pytest.mark.parametrize("text_format", FORMATS)
def test_metric_with_a_lone_surrogate_in_its_text_can_be_sent(text_format: TextFormat) -> None:
    counts = Counts()
    counts.add("\ud800", "ok")
    assert "\n".join(metric_lines([CALLS.many(counts)], text_format)).encode()


def test_histogram_value_on_a_bound_counts_for_the_bucket_of_that_bound() -> None:
    distribution = Histogram((1.0, 2.0))
    for value in (1.0, 2.0, 2.5):
        distribution.add(value)
    assert distribution.counts == [1, 1, 1]


def test_counter_of_a_known_label_value_begins_at_zero() -> None:
    assert Counts(["failure"]).items() == [(("failure",), 0)]


def test_openmetrics_text_ends_with_eof_and_the_older_format_does_not() -> None:
    assert list(metric_lines([AGE.one(1)], OPENMETRICS))[-2:] == ["iris_age_seconds 1", "# EOF"]
    assert not any("EOF" in line for line in metric_lines([AGE.one(1)], CLASSIC))


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", CLASSIC),
        ("*/*", CLASSIC),
        ("text/html", CLASSIC),
        ("text/plain;version=0.0.4", CLASSIC),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text;q=0, text/plain", CLASSIC),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", CLASSIC),
        ("application/openmetrics-text;q=nonsense", CLASSIC),
        ("application/openmetrics-text;version=0.0.1", CLASSIC),
        # What Prometheus 2.42 sends.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),
    ],
)
def test_metrics_are_written_in_the_format_that_the_reader_prefers(accept: str, chosen: TextFormat) -> None:
    assert choose_format(accept) is chosen
