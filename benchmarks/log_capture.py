"""A task that writes 1 GB of lines of 100 bytes as fast as it can, beside `task | cat > file`.

Wall time from run() to wait() returned, on a cluster that is up, beside that of a shell with the same program and cat.
Both write to the same file system and in turn, each time into what is new: a cluster of its own, a file of its own.
Warm-up: one of each with a tenth of the lines, not counted.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time

from benchmarks.log_task import LINE_BYTES, writes_lines
from benchmarks.measure import CpuClock, aim, our_processes, p50, show
from iris.client import IrisClient

_LINES = 10_000_000
_ROUNDS = 3
_AIM_RATIO = 1.25
_NAME = "log_capture"


def run() -> None:
    """Prints the figures."""
    _job_s(_LINES // 10, {})
    _cat_s(_LINES // 10)
    cpu_s = {"worker": 0.0, "controller": 0.0}
    jobs, cats = [], []
    for _ in range(_ROUNDS):
        jobs.append(_job_s(_LINES, cpu_s))
        cats.append(_cat_s(_LINES))
    gigabytes = _LINES * LINE_BYTES / 1e9
    ours, theirs = p50(jobs), p50(cats)
    show(
        _NAME,
        f"{ours:.2f} s a task that writes {gigabytes:g} GB, {theirs:.2f} s the same program with `| cat > file`:"
        f" {ours / theirs:.2f} times that (p50 of {_ROUNDS}: {_seconds(jobs)}, beside {_seconds(cats)};"
        f" {aim(ours / theirs, _AIM_RATIO, 'times')})",
    )
    used = ", ".join(f"{who} {seconds / _ROUNDS / gigabytes:.2f} s" for who, seconds in cpu_s.items())
    show(_NAME, f"CPU a GB: {used}")


def _seconds(values: list[float]) -> str:
    return f"{', '.join(f'{value:.2f}' for value in values)} s"


def _job_s(lines: int, cpu_s: dict[str, float]) -> float:
    """The seconds of a job that writes so many lines; adds the CPU that it cost to `cpu_s`."""
    with IrisClient.local() as client:
        client.run(["true"]).wait()
        modules = {"worker": "iris.cluster.worker", "controller": "iris.server"}
        clocks = {who: CpuClock(our_processes(modules[who])) for who in cpu_s}
        for clock in clocks.values():
            clock.start()
        start = time.perf_counter()
        job = client.run(writes_lines(lines))
        job.wait()
        elapsed_s = time.perf_counter() - start
        for who, clock in clocks.items():
            clock.stop()
            cpu_s[who] += clock.used_s
        written = _captured_bytes(client, job.job_id)
        if written != lines * LINE_BYTES:
            raise RuntimeError(f"{written} bytes were captured, not {lines * LINE_BYTES}")
    return elapsed_s


def _captured_bytes(client: IrisClient, job_id: str) -> int:
    """How much was captured of stdout, as the end of the log says it, in which nothing is missing."""
    with client.stream_task_logs(job_id, 0, follow=False, tail=1) as stream:
        list(stream)
    end = stream.ends[0]
    return end.bytes_written[0] - end.bytes_missing


def _cat_s(lines: int) -> float:
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as directory:
        path = os.path.join(directory, "file")
        start = time.perf_counter()
        subprocess.run(f"{shlex.join(writes_lines(lines))} | cat > {shlex.quote(path)}", shell=True, check=True)
        elapsed_s = time.perf_counter() - start
        if os.path.getsize(path) != lines * LINE_BYTES:
            raise RuntimeError("cat has not written all of it")
    return elapsed_s
