"""Submissions that are durable when they are answered, beside the same without that.

Through the wire: a cluster that keeps its jobs on disk, beside one that keeps them in memory; one client after the
other, and 50 at once. The jobs ask for more than the machine has, so nothing runs. Below it, the store alone: jobs
saved one by one and 50 at once through the controller's saver (`synchronous=FULL`, many jobs with one fsync), beside a
commit for each with `synchronous=NORMAL`, which does not survive a power cut. All of it alternates. Warm-up: one round.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import p50, show
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

_CLIENTS = 50
_CALLS = 200
_WARM_UP = 20
_REPEATS = 5


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        _wire(Path(name))
        _store(Path(name))


def _wire(directory: Path) -> None:
    servers = {
        "disk": start_server(ClusterConfig(state_dir=directory / "disk", port=0), ends_with_us=True),
        "memory": start_server(
            ClusterConfig(state_dir=directory / "memory", port=0), ends_with_us=True, temporary=True
        ),
    }
    rates: dict[tuple[str, int], list[float]] = {}
    try:
        for repeat in range(_REPEATS + 1):
            for kind, server in servers.items():
                for clients in (1, _CLIENTS):
                    rate = _submissions_per_s(server, clients)
                    if repeat:
                        rates.setdefault((kind, clients), []).append(rate)
    finally:
        for server in servers.values():
            server.stop()
    for clients, words in ((1, "one after the other"), (_CLIENTS, f"by {_CLIENTS} clients at once")):
        disk, memory = p50(rates["disk", clients]), p50(rates["memory", clients])
        show(
            "submissions",
            f"{disk:.0f} a second {words}, on the disk when answered; {memory:.0f} in memory:"
            f" {disk / memory:.2f} times that (p50 of {_REPEATS} x {_CALLS})",
        )


def _submissions_per_s(server: LocalServer, clients: int) -> float:
    with RemoteClusterClient(server.address, token=server.token) as client, ThreadPoolExecutor(clients) as threads:
        start = time.perf_counter()
        list(threads.map(lambda _: _submit(client), range(_CALLS)))
        return _CALLS / (time.perf_counter() - start)


def _submit(client: RemoteClusterClient) -> None:
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=secrets.token_hex(8), command=["true"], submission_id=secrets.token_hex(8)
    )
    request.resources.cpu = 1_000_000
    client.launch_job(request)


def _store(directory: Path) -> None:
    rates: dict[str, list[float]] = {}
    for repeat in range(_REPEATS + 1):
        for name, measure in (
            ("plain", lambda path: _plain(path)),
            ("saver", lambda path: asyncio.run(_saver(path, 1))),
            ("saver at once", lambda path: asyncio.run(_saver(path, _CLIENTS))),
        ):
            rate = _timed(measure, directory / f"{name}-{repeat}.db")
            if repeat:
                rates.setdefault(name, []).append(rate)
    plain, one, many = (p50(rates[name]) for name in ("plain", "saver", "saver at once"))
    show(
        "submissions",
        f"{one:.0f} jobs saved a second one by one, {many:.0f} by {_CLIENTS} at once; {plain:.0f} with a commit each"
        f" and no fsync: {one / plain:.2f} and {many / plain:.2f} times that (p50 of {_REPEATS} x {_CALLS})",
    )


def _timed(measure: Callable[[Path], float], path: Path) -> float:
    return _CALLS / measure(path)


def _records(count: int) -> list[JobRecord]:
    records = []
    for _ in range(count):
        job = Job.new(secrets.token_hex(8), 1, 1)
        launch = cluster_pb2.Controller.LaunchJobRequest(name=job.job_id, command=["true"])
        records.append(JobRecord(job, launch, [cluster_pb2.TaskStatus()]))
    return records


def _plain(path: Path) -> float:
    store = Store(path)
    store.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("PRAGMA synchronous=NORMAL")
    records = _records(_WARM_UP + _CALLS)
    start = 0.0
    for number, record in enumerate(records):
        if number == _WARM_UP:
            start = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        for statement, rows in Changes().add_job(record, b"").statements:
            db.executemany(statement, rows() if callable(rows) else rows)
        db.execute("COMMIT")
    elapsed_s = time.perf_counter() - start
    db.close()
    return elapsed_s


async def _saver(path: Path, at_once: int) -> float:
    store = Store(path)
    saver = Saver(store)

    async def write() -> None:
        async for _ in saver.batches():
            pass

    running = asyncio.create_task(write())

    async def submit(records: list[JobRecord]) -> None:
        for record in records:
            await saver.add_job(record, b"")

    await submit(_records(_WARM_UP))
    records = _records(_CALLS)
    start = time.perf_counter()
    await asyncio.gather(*(submit(records[first::at_once]) for first in range(at_once)))
    elapsed_s = time.perf_counter() - start
    running.cancel()
    await saver.close()
    store.close()
    return elapsed_s
