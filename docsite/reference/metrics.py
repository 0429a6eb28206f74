"""Writes the page of the metrics from their definitions in the code."""

from __future__ import annotations

from collections.abc import Iterable

from docsite.reference.markdown import HEADER, prose
from iris.cluster.controller.metrics.collection import CONTROLLER_METRICS
from iris.cluster.worker.metrics.collection import WORKER_METRICS
from iris.metrics.definitions import Metric

_INTRO = """\
The controller and each worker serve these metrics at `GET /metrics`. [Monitor a
cluster](../how-to/monitor-a-cluster.md) shows how Prometheus reads them.

* The format is OpenMetrics 1.0 if the request accepts `application/openmetrics-text`, and otherwise the text format
  0.0.4 of Prometheus. In OpenMetrics, the description of a counter has no suffix `_total`, and its sample has it.
* Each answer is computed when a reader asks. Answers within one second are the same.
* Counters and histograms begin at 0 when their process starts.
* Labels have few values. Only the metrics of `--metrics-per-job` have the id of a job, and no metric has the id of a
  task.
"""
_SHARED = "Both the controller and each worker have these metrics."


def metrics_page() -> str:
    """Return the text of docs/reference/metrics.md."""
    shared = [metric for metric in CONTROLLER_METRICS if metric in WORKER_METRICS]
    parts = [
        HEADER,
        "# Metrics",
        _INTRO,
        "## Of the controller",
        _table(metric for metric in CONTROLLER_METRICS if metric not in shared),
        "## Of a worker",
        _table(metric for metric in WORKER_METRICS if metric not in shared),
        "## Of both",
        _SHARED,
        _table(shared),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(metrics: Iterable[Metric]) -> str:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or " "
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {prose(metric.help)} |")
    return "\n".join(rows)
