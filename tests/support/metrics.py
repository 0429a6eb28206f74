"""Reads the metrics of a server in tests."""

from __future__ import annotations

from support.plain_http import Answer, ask
from support.tokens import token

from iris.metrics.exposition import OPENMETRICS


def read_metrics(address: str, *, role: str = "reader") -> str:
    """Return the metrics of a server in OpenMetrics."""
    answer = ask_metrics(address, role=role)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == OPENMETRICS.content_type
    return answer.body.decode()


def ask_metrics(address: str, path: str = "/metrics", *, role: str = "reader", method: str = "GET") -> Answer:
    """Ask for metrics with a token of a role."""
    return ask(
        address,
        method,
        path,
        authorization=f"Bearer {token(role)}",
        accept="application/openmetrics-text;version=1.0.0",
    )


class Samples:
    """The samples in a text of metrics."""

    def __init__(self, text: str) -> None:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families

        self.families = list(text_string_to_metric_families(text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return a value; 0 if there is no such sample."""
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of all samples with a name."""
        return [dict(labels) for known, labels in self._values if known == name]
