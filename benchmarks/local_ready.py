"""IrisClient.local(): until it returns, and until its first job is seen as finished; each time a fresh process.

The import of iris is not in these figures (import_time has it). Warm-up: one process that is not counted, so that
bytecode is compiled and files are in the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from benchmarks.measure import aim, p50, p95, plain_environment, show

_REPEATS = 7
_AIM_S = 0.5

_PROGRAM = """
import json, time
from iris.client import IrisClient
start = time.perf_counter()
with IrisClient.local() as client:
    ready = time.perf_counter()
    client.run(["true"]).wait()
    finished = time.perf_counter()
closed = time.perf_counter()
print(json.dumps({"ready": ready - start, "finished": finished - start, "close": closed - finished}))
"""


def run() -> None:
    """Prints the figures."""
    _once()
    runs = [_once() for _ in range(_REPEATS)]

    def value(key: str) -> str:
        seconds = [run[key] for run in runs]
        return f"(p50 of {_REPEATS} processes, p95 {p95(seconds):.2f} s"

    ready, finished, close = (p50([run[key] for run in runs]) for key in ("ready", "finished", "close"))
    show("local_ready", f"{ready:.2f} s until local() returns {value('ready')}; {aim(ready, _AIM_S, 's')})")
    show("local_ready", f"{finished:.2f} s until its first `true` job is seen as finished {value('finished')})")
    show("local_ready", f"{close:.2f} s until close() has left nothing behind {value('close')})")


def _once() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as elsewhere:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            cwd=elsewhere,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds
