"""The dashboard and the alerts in `deploy/` use only metrics and labels that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.deployed_queries import (
    ALERTS,
    SCRAPES,
    alert_queries,
    dashboard,
    dashboard_targets,
    grouped_labels,
    selectors,
)

from iris.cluster.controller.metrics.collection import CONTROLLER_METRICS
from iris.cluster.worker.metrics.collection import WORKER_METRICS
from iris.metrics.definitions import Kind, Metric

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*CONTROLLER_METRICS, *WORKER_METRICS)}
FROM_PROMETHEUS = {"job", "instance", "worker"}  # `worker` comes from the list of workers that the controller serves.
QUERIES = [target["expr"] for target in dashboard_targets()] + alert_queries()
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def labels_of(name: str) -> tuple[str, ...]:
    """Return the labels of a metric, whose name may have the suffix of a histogram's part."""
    if name == "up":
        return ()
    metric = METRICS.get(name) or METRICS[re.sub(r"_(bucket|sum|count)$", "", name)]
    assert metric.kind is Kind.HISTOGRAM or metric.name == name, f"{name} is no part of a histogram"
    return metric.labels


@pytest.mark.parametrize("query", QUERIES)
def test_query_uses_only_metrics_and_labels_that_exist(query: str) -> None:
    used = selectors(query)
    assert used
    known = {"le"} | FROM_PROMETHEUS
    for name, matchers in used:
        labels = labels_of(name)
        known |= set(labels)
        assert set(matchers) <= {*labels, *FROM_PROMETHEUS}, name
    assert grouped_labels(query) <= known


@pytest.mark.parametrize("query", QUERIES)
def test_query_of_a_metric_that_other_programs_also_have_selects_only_iris(query: str) -> None:
    for name, matchers in selectors(query):
        assert not name.startswith("process_") or matchers["job"] == "iris|iris-workers", name


@pytest.mark.parametrize("target", dashboard_targets(), ids=lambda target: target["expr"])
def test_legend_of_a_panel_shows_only_labels_of_its_query(target: dict[str, str]) -> None:
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    labels = {label for name, _ in selectors(target["expr"]) for label in labels_of(name)}
    assert shown <= (grouped_labels(target["expr"]) or labels | FROM_PROMETHEUS)


def test_alerts_show_only_labels_that_exist() -> None:
    shown = set(re.findall(r"\$labels\.(\w+)", ALERTS.read_text()))
    assert shown <= {label for metric in METRICS.values() for label in metric.labels} | FROM_PROMETHEUS


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_names_of_metrics_follow_the_conventions_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"(iris|process)_[a-z]+(_[a-z]+)*", name), name
        assert (metric.kind is Kind.COUNTER) == name.endswith("_total"), name
        assert not re.search(r"_(ms|minutes|hours|mb|kb|percent)(_|$)", name), f"{name}: use base units"
        assert metric.help.endswith("."), name
        assert not {"job_id"} & set(metric.labels) or "--metrics-per-job" in metric.help, name
        assert not {"task_id", "attempt_id", "owner"} & set(metric.labels), name


@needs_promtool
def test_promtool_accepts_the_alerts_and_the_configuration(tmp_path: Path) -> None:
    token = tmp_path / "iris-token"
    token.write_text("token")
    copy = tmp_path / "prometheus.yml"
    copy.write_text(SCRAPES.read_text().replace("/etc/prometheus/iris-token", str(token)))
    shutil.copy(ALERTS, tmp_path)
    for command in (["rules", str(ALERTS)], ["config", str(copy)]):
        done = subprocess.run(["promtool", "check", *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
