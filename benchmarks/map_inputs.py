"""What 5,000 small inputs of `client.map` cost, beyond the time of the function."""

from __future__ import annotations

import time

from benchmarks.measure import aim, p50, p95, show
from iris.client import IrisClient

_INPUTS = 5_000
_RUNS = 3


def _double(number: int) -> int:
    return 2 * number


def run() -> None:
    """Measure the milliseconds that each input costs."""
    with IrisClient.local() as client:
        list(client.map(_double, range(2), progress=False))  # The first job also starts processes of the worker.
        costs = []
        for _ in range(_RUNS):
            began_s = time.monotonic()
            values = list(client.map(_double, range(_INPUTS), progress=False))
            costs.append((time.monotonic() - began_s) / _INPUTS * 1000)
            if values != [2 * number for number in range(_INPUTS)]:
                raise RuntimeError("a value of the map is wrong")
    show(
        "map_inputs", f"{_INPUTS:,} inputs: {p50(costs):.2f} ms each (p95 {p95(costs):.2f}), {aim(p50(costs), 2, 'ms')}"
    )
