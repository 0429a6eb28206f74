"""Reads the queries of the Grafana dashboard and of the alert rules in `deploy/`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "iris.json"
ALERTS = DEPLOY / "prometheus" / "iris-alerts.yml"
SCRAPES = DEPLOY / "prometheus" / "prometheus.yml"

_SELECTOR = re.compile(r"\b((?:iris|process)_[a-z_]+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\bby\s*\(([^)]*)\)")


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found = json.loads(DASHBOARD.read_text())
    assert isinstance(found, dict)
    return found


def dashboard_targets() -> list[dict[str, str]]:
    """Return the targets of all panels. Each one has a query `expr` and the text `legendFormat`."""
    return [target for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def alert_queries() -> list[str]:
    """Return the queries of all alerts. Each one is in one line of the file."""
    return re.findall(r"^\s+expr: (.+)$", ALERTS.read_text(), re.MULTILINE)


def selectors(query: str) -> list[tuple[str, dict[str, str]]]:
    """Return the names in a query, each with the values that the query asks of its labels."""
    found = _SELECTOR.findall(_GROUPED.sub("", query))
    return [(name, dict(_MATCHER.findall(matchers))) for name, matchers in found]


def grouped_labels(query: str) -> set[str]:
    """Return the labels by which a query groups."""
    return {label.strip() for group in _GROUPED.findall(query) for label in group.split(",")}
