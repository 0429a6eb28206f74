"""Writes metrics as text for Prometheus: as OpenMetrics 1.0, or in the older text format 0.0.4. This module only
converts values into text.

Specifications: https://prometheus.io/docs/specs/om/open_metrics_spec/ and
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from iris.metrics.definitions import Family, Kind, Labels
from iris.metrics.tallies import Histogram

_OPENMETRICS = "application/openmetrics-text"
_PLAIN = ("text/plain", "text/*", "*/*")
_TOTAL = "_total"


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format in which Prometheus reads metrics.

    Attributes:
        content_type: The value of the header `content-type`.
        is_openmetrics: Whether the format is OpenMetrics.
    """

    content_type: str
    is_openmetrics: bool


OPENMETRICS = TextFormat(f"{_OPENMETRICS}; version=1.0.0; charset=utf-8", is_openmetrics=True)
CLASSIC = TextFormat("text/plain; version=0.0.4; charset=utf-8", is_openmetrics=False)


def choose_format(accept: str) -> TextFormat:
    """Return the format that a client prefers, judging by its header `Accept`. The default is the older format."""
    openmetrics = classic = 0.0
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weight = _weight(parameters)
        if name == _OPENMETRICS and "version=0.0.1" not in parameters:
            openmetrics = max(openmetrics, weight)
        elif name in _PLAIN:
            classic = max(classic, weight)
    return OPENMETRICS if openmetrics and openmetrics >= classic else CLASSIC


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def metric_lines(families: Iterable[Family], text_format: TextFormat) -> Iterator[str]:
    """Yield the lines of the text of metrics, each without its line break. A metric without samples has only its
    description. The samples may change between two lines.
    """
    for family in families:
        metric = family.metric
        described = metric.name
        if text_format.is_openmetrics and metric.kind is Kind.COUNTER:
            # In OpenMetrics, the description of a counter names the counter without the suffix `_total`.
            described = metric.name.removesuffix(_TOTAL)
        yield f"# HELP {described} {_escaped_help(metric.help, text_format)}"
        yield f"# TYPE {described} {metric.kind}"
        for values, value in family.samples:
            labels = _labels(metric.labels, values)
            if isinstance(value, Histogram):
                # All lines of a histogram are made in one step. Between two steps its values could change, and the sum
                # of its buckets must equal its count.
                yield from list(_histogram_lines(metric.name, labels, value))
            else:
                yield f"{metric.name}{_in_braces(labels)} {_number(value)}"
    if text_format.is_openmetrics:
        yield "# EOF"


def _histogram_lines(name: str, labels: list[str], histogram: Histogram) -> Iterator[str]:
    bounds = (*histogram.bounds, math.inf)
    for bound, count in zip(bounds, accumulate(histogram.counts), strict=True):
        upper = f'le="{_number(float(bound))}"'
        yield f"{name}_bucket{_in_braces([*labels, upper])} {count}"
    yield f"{name}_count{_in_braces(labels)} {sum(histogram.counts)}"
    yield f"{name}_sum{_in_braces(labels)} {_number(histogram.total)}"


def _labels(names: Labels, values: Labels) -> list[str]:
    return [f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)]


def _in_braces(labels: list[str]) -> str:
    return "{" + ",".join(labels) + "}" if labels else ""


def _escaped(text: str) -> str:
    # Lone surrogates, which UTF-8 cannot encode, are replaced by question marks.
    text = text.encode(errors="replace").decode()
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_help(text: str, text_format: TextFormat) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if text_format.is_openmetrics else text


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)
