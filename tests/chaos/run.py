"""Makes one run: starts a cluster, a load and faults, ends the faults, and checks the rules."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.cluster import RUN_VARIABLE, iris_processes, is_alive
from support.tokens import token
from support.waiting import wait_until

from chaos.faults import Cluster, Faults, sweep
from chaos.invariants import Facts, check
from chaos.load import Load
from chaos.proofs import Key, read_proofs
from chaos.readers import GreedyReaders
from chaos.surroundings import HOUR_S
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import is_job_finished, state_name
from iris.errors import NotFoundError
from iris.rpc import cluster_pb2 as pb

CLIENTS = 3
_QUIET_S = 180.0  # for all jobs to end, once nothing happens any more


@dataclass(slots=True)
class Report:
    """The result of a run.

    Attributes:
        wrong: What must not be, in words.
        kills: Who was killed or stopped, how often.
        states: In which jobs ended.
        attempts: In which attempts did.
        concerned: The jobs of which something is wrong, as the controller tells of them.
    """

    wrong: list[str]
    kills: Counter[str]
    states: Counter[str]
    attempts: Counter[str]
    concerned: list[str]


def run(seed: str, seconds: float, directory: Path, say: Callable[[str], None]) -> Report:
    """Make a run, and return its report. All files stay in the directory as evidence."""
    os.environ[RUN_VARIABLE] = secrets.token_hex(8)  # what we start is found by it
    for name in ("proofs", "tmp"):
        (directory / name).mkdir(parents=True)
    os.environ["TMPDIR"] = str(directory / "tmp")
    os.environ["IRIS_TOKEN"] = token(ttl_s=400 * 24 * HOUR_S)  # what a person made ends by the wall clock, which is set
    cluster = Cluster(directory)
    try:
        faults = Faults(cluster, seed)
        cluster.start(faults.failpoints())
        load = Load(cluster.address, directory / "proofs", seed)
        load.start(CLIENTS)
        readers = GreedyReaders(cluster.address, seed)
        readers.start()
        faults.start()
        with contextlib.suppress(AssertionError):  # as it should be: none breaks in all this time
            wait_until(lambda: load.broken or faults.broken, "a client or the faults to break", timeout_s=seconds)
        faults.stop()
        readers.stop()
        load.stop()
        say(f"quiet after {seconds:.0f} s with {len(load.promises)} jobs; waiting for their ends")
        wrong = [*load.broken, *readers.broken, *([faults.broken] if faults.broken else [])]
        with RemoteClusterClient(cluster.address) as client:
            wrong += _wait_for_ends(client)
            facts = _facts(client, load, cluster)
        cluster.close()
        _write_evidence(directory, facts)
        wrong += check(facts)
        wrong += _what_is_left(directory)
    finally:
        sweep()
        cluster.disk.close()
    return Report(
        wrong,
        cluster.kills(),
        Counter(state_name(job.state) for job in facts.jobs.values()),
        Counter(state_name(attempt.state) for _, _, attempt in facts.attempts()),
        [str(job) for job_id, job in facts.jobs.items() if any(text.startswith(f"{job_id}:") for text in wrong)],
    )


def _write_evidence(directory: Path, facts: Facts) -> None:
    """Write the faults, and the controller's final answers, into files beside the proofs and the state directory."""
    began = facts.events[0].at
    with (directory / "events.txt").open("w") as file:
        for event in sorted(facts.events, key=lambda event: event.at):
            until = f", until {event.until - began:.3f}" if event.until else ""
            print(f"{event.at - began:8.3f} ({event.at:.3f}) {event.what} {event.pid or ''}{until}", file=file)
    with (directory / "jobs.txt").open("w") as file:
        for job_id, job in facts.jobs.items():
            print(job_id, facts.promises.get(job_id), job, sep="\n", file=file)


def _wait_for_ends(client: RemoteClusterClient) -> list[str]:
    try:
        wait_until(
            lambda: all(is_job_finished(job.state) for job in client.list_jobs()), "all ends", timeout_s=_QUIET_S
        )
    except AssertionError:
        return [
            f"{job.job_id}: {state_name(job.state)} after {_QUIET_S:g} quiet seconds: {job.status_message!r}"
            for job in client.list_jobs()
            if not is_job_finished(job.state)
        ]
    return []


def _facts(client: RemoteClusterClient, load: Load, cluster: Cluster) -> Facts:
    jobs = {job.job_id: client.get_job_status(job.job_id) for job in client.list_jobs()}
    runs, again = read_proofs(load.proofs)
    facts = Facts(jobs, load.promises, runs, again, events=cluster.events)
    logs: dict[Key, list[str]] = {}
    for key, task, attempt in facts.attempts():
        try:
            entries = client.fetch_task_logs(task.task_id, attempt_id=attempt.attempt_id)
        except NotFoundError:  # there was no room for it
            entries = []
        logs[key] = [entry.data for entry in entries if entry.source == "stdout" and not entry.missing_bytes]
    facts.logs = logs
    facts.results = {
        (job.job_id, task.task_index): client.get_task_status(
            job.job_id, task.task_index, include_result=True
        ).serialized_result
        for job in jobs.values()
        for task in job.tasks
        if task.state == pb.TASK_STATE_SUCCEEDED and job.job_id in load.promises
    }
    return facts


def _what_is_left(directory: Path) -> list[str]:
    """Return sentences about processes, port locks and temporary files that the run has left behind, and about damage
    of the database."""
    wrong = []
    try:
        wait_until(lambda: not [pid for pid in iris_processes() if is_alive(pid)], "the end of all processes")
    except AssertionError:
        wrong += [f"process {pid} is left: {command}" for pid, command in iris_processes().items() if is_alive(pid)]
    for lock in (directory / "tmp").glob("iris-ports-*/*"):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wrong.append(f"port {lock.name} is still locked")
    wrong += [f"{path} is left" for path in (directory / "tmp").iterdir() if not path.name.startswith("iris-ports-")]
    wrong += [f"{path} is left" for path in (directory / "state" / "workers").glob("*/discarded/*")]
    database = sqlite3.connect(directory / "state" / "controller.db")
    try:
        (answer,) = database.execute("PRAGMA integrity_check").fetchone()
    finally:
        database.close()
    return wrong if answer == "ok" else [*wrong, f"the database: {answer}"]
