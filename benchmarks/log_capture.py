"""A task that writes 1 GB of lines of 100 bytes as fast as it can, beside `task | cat > file`.

Wall time from run() to wait() returned, on a cluster that is up, beside that of the same program and cat.
Both write to the same file system and in turn, each time into what is new: a cluster of its own, a file of its own.
Warm-up: one of each with a tenth of the lines, not counted.

Lines are counted when a page is requested by line number. Therefore the last line of each log is requested twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import urllib.request

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
    jobs, cats, cat_cpu_s = [], [], 0.0
    pages: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        jobs.append(_job_s(_LINES, cpu_s, pages))
        elapsed_s, used_s = _cat_s(_LINES)
        cats.append(elapsed_s)
        cat_cpu_s += used_s
    gigabytes = _LINES * LINE_BYTES / 1e9
    ours, theirs = p50(jobs), p50(cats)
    show(
        _NAME,
        f"{ours:.2f} s a task that writes {gigabytes:g} GB, {theirs:.2f} s the same program with `| cat > file`:"
        f" {ours / theirs:.2f} times that (p50 of {_ROUNDS}: {_seconds(jobs)}, beside {_seconds(cats)};"
        f" {aim(ours / theirs, _AIM_RATIO, 'times')})",
    )
    used = ", ".join(f"{who} {seconds / _ROUNDS / gigabytes:.2f} s" for who, seconds in cpu_s.items())
    show(_NAME, f"CPU a GB: {used}; cat {cat_cpu_s / _ROUNDS / gigabytes:.2f} s")
    first, second = (p50([page[number] for page in pages]) for number in (0, 1))
    show(
        _NAME,
        f"{first:.2f} s for the first page by line number, {second * 1000:.1f} ms for the second",
    )


def _seconds(values: list[float]) -> str:
    return f"{', '.join(f'{value:.2f}' for value in values)} s"


def _job_s(lines: int, cpu_s: dict[str, float], pages: list[tuple[float, float]] | None = None) -> float:
    """Return the seconds of a job that writes the given number of lines. Add the CPU time of the job to `cpu_s`, and
    the seconds for reading two pages by line number to `pages`.
    """
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
        if pages is not None:
            pages.append((_last_line_s(client, job.job_id, lines), _last_line_s(client, job.job_id, lines)))
    return elapsed_s


def _last_line_s(client: IrisClient, job_id: str, lines: int) -> float:
    """The seconds of a call for the last line of the log."""
    request = urllib.request.Request(
        f"{client.cluster.controller_address}/iris.cluster.ControllerService/FetchTaskLogs",
        json.dumps({"taskId": f"{job_id}/task-0", "filter": {"startLine": -1}}).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {client.cluster.token()}"},
    )
    start = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        page = json.load(answer)
    elapsed_s = time.perf_counter() - start
    if int(page["nextLine"]) != lines:
        raise RuntimeError(f"the log ends before line {page['nextLine']}, not {lines}")
    return elapsed_s


def _captured_bytes(client: IrisClient, job_id: str) -> int:
    """How much was captured of stdout, as the end of the log says it, in which nothing is missing."""
    with client.stream_task_logs(job_id, 0, follow=False, tail=1) as stream:
        list(stream)
    end = stream.ends[0]
    return end.bytes_written[0] - end.bytes_missing


def _cat_s(lines: int) -> tuple[float, float]:
    """The seconds of the program with `| cat > file`, and the CPU seconds of cat."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as directory:
        path = os.path.join(directory, "file")
        start = time.perf_counter()
        program = subprocess.Popen(writes_lines(lines), stdout=subprocess.PIPE)
        with open(path, "wb") as file:
            cat = subprocess.Popen(["cat"], stdin=program.stdout, stdout=file)
        assert program.stdout is not None, "a pipe"
        program.stdout.close()
        _, _, usage = os.wait4(cat.pid, 0)
        cat.returncode = 0
        program.wait()
        elapsed_s = time.perf_counter() - start
        if os.path.getsize(path) != lines * LINE_BYTES:
            raise RuntimeError("cat has not written all of it")
    return elapsed_s, usage.ru_utime + usage.ru_stime
