"""A job of one `true`, from run() to wait() returned, beside subprocess.run(["true"]).

On a local cluster that is up, alternating with the peer. Warm-up: 5 of each, not counted.
"""

from __future__ import annotations

import subprocess
import time

from benchmarks.measure import aim, p50, p95, show
from iris.client import IrisClient

_REPEATS = 30
_WARM_UP = 5
_AIM_MS = 50.0


def run() -> None:
    """Prints the figures."""
    with IrisClient.local() as client:
        pairs = [(_job_ms(client), _subprocess_ms()) for _ in range(_WARM_UP + _REPEATS)][_WARM_UP:]
    more = [job - bare for job, bare in pairs]
    jobs, bares = zip(*pairs, strict=True)
    show(
        "true_job",
        f"{p50(more):.1f} ms more than subprocess.run"
        f" (p50 of {_REPEATS}, p95 {p95(more):.1f} ms; {aim(p50(more), _AIM_MS, 'ms')})",
    )
    show(
        "true_job",
        f"{p50(jobs):.1f} ms from run() to wait() returned, {p50(bares):.1f} ms for subprocess.run:"
        f" {p50(jobs) / p50(bares):.1f} times (p50 of {_REPEATS} each)",
    )


def _job_ms(client: IrisClient) -> float:
    start = time.perf_counter()
    job = client.run(["true"])
    client.wait(job.job_id)
    return (time.perf_counter() - start) * 1000


def _subprocess_ms() -> float:
    start = time.perf_counter()
    subprocess.run(["true"], check=True)
    return (time.perf_counter() - start) * 1000
