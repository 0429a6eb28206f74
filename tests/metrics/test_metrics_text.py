"""The text of metrics that a server keeps for a second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from iris.metrics.definitions import Family, gauge
from iris.metrics.exposition import OPENMETRICS, metric_lines
from iris.rpc.monitoring.metrics_route import MetricsText

AGE = gauge("iris_age_seconds", "An age.", "kind")


def test_event_loop_does_other_work_while_the_text_of_many_metrics_is_written() -> None:
    families = [AGE.labelled([((str(number),), number) for number in range(5000)])]
    turns = 0

    async def collect() -> Sequence[Family]:
        return families

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def write() -> bytes:
        working = asyncio.create_task(work())
        text = await MetricsText(collect).text(OPENMETRICS)
        working.cancel()
        return text

    lines = [f"{line}\n" for line in metric_lines(families, OPENMETRICS)]
    assert asyncio.run(write()) == "".join(lines).encode()
    assert turns >= 5
