"""The stored bytes of each user are exact after any sequence of changes, and after a restart."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections import defaultdict
from pathlib import Path

from support.seeds import for_each_seed

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import KILLED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.storage.contents import reading as contents
from iris.cluster.controller.storage.store import Changes, Store
from iris.rpc import cluster_pb2

USERS = ["ana", "ben", ""]
ENDED = AttemptEnd(KILLED, 3000)
FACTS = cluster_pb2.TaskStatus()
WORKSPACES = [b"", b"w" * 1000, b"v" * 50, b"u" * 7]


class StoredModel:
    """A database that random changes fill, with the jobs that should be in it."""

    def __init__(self, path: Path | None, chance: random.Random) -> None:
        self.path = path
        self.chance = chance
        self.store = Store(path)
        self.jobs: dict[str, JobRecord] = {}
        self.dropped: set[str] = set()
        self.count = 0

    def step(self) -> None:
        """Make one random change."""
        steps = [self.add, self.add, self.result, self.result, self.end, self.drop, self.remove, self.remove_bundles]
        self.chance.choice(steps)()

    def add(self) -> None:
        blob = self.chance.choice(WORKSPACES)
        # The names of removed jobs are used again.
        free = [name for name in (f"job{number}" for number in range(8)) if name not in self.jobs]
        if not free:
            return
        self.count += 1
        job = Job.new(self.chance.choice(free), 2, 1000 + self.count)
        job.owner = self.chance.choice(USERS)
        job.submit()
        launch = cluster_pb2.Controller.LaunchJobRequest(
            name=job.job_id,
            serialized_entrypoint=b"e" * self.chance.randrange(500),
            bundle_hash=hashlib.sha256(blob).hexdigest() if blob else "",
        )
        if self.chance.random() < 0.2:
            job.terminate("at once", 2000)
        record = JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])
        self.store.write(Changes().add_job(record, blob))
        self.jobs[job.job_id] = record

    def some(self, *, ended: bool) -> JobRecord | None:
        found = [record for record in self.jobs.values() if record.job.is_finished == ended]
        return self.chance.choice(found) if found else None

    def result(self) -> None:
        record = self.some(ended=False)
        if record is not None:
            value = (self.chance.randrange(2), b"r" * self.chance.randrange(1, 300))
            self.store.write(Changes().save_job(record, record.job.revision, [value]))

    def end(self) -> None:
        record = self.some(ended=False)
        if record is not None:
            since = record.job.revision
            for gang in [gang for gang in record.job.gangs.values() if not gang.placed]:
                record.job.gang_placed(gang.gang_id, [WorkerIdentity("w", "http://w", "i") for _ in gang.task_indices])
            record.job.terminate("ends", 3000 + self.count)
            for index, attempt in record.job.live_attempts().items():
                record.job.attempt_ended(index, attempt.attempt_id, ENDED, 3000 + self.count)
            assert record.job.is_finished
            self.store.write(Changes().save_job(record, since, [(0, b"last")] if self.chance.random() < 0.5 else []))

    def drop(self) -> None:
        record = self.some(ended=True)
        if record is not None:
            self.store.write(Changes().drop_contents(self.number(record)))
            self.dropped.add(record.job_id)

    def remove(self) -> None:
        record = self.some(ended=True)
        if record is not None:
            self.store.write(Changes().remove_job(self.number(record), record.job.rounds))
            del self.jobs[record.job_id]
            self.dropped.discard(record.job_id)

    def remove_bundles(self) -> None:
        for bundle_hash in self.store.read(contents.unused_bundles):
            self.store.write(Changes().remove_bundle(bundle_hash))
        # A workspace that is in use cannot be removed.
        for blob in WORKSPACES:
            self.store.write(Changes().remove_bundle(hashlib.sha256(blob).hexdigest()))

    def number(self, record: JobRecord) -> int:
        return self.store.read(
            lambda db: db.execute("SELECT number FROM jobs WHERE job_id=?", (record.job_id,)).fetchone()[0]
        )

    def restart(self) -> None:
        """Close the database and open it again."""
        if self.path is not None:
            self.store.close()
            self.store = Store(self.path)

    def check(self) -> None:
        """Compare the counted bytes with the sum of the stored bytes."""
        truth = self.store.read(true_bytes)
        for owner in USERS:
            assert self.store.read(lambda db, owner=owner: contents.bytes_of_user(db, owner)) == truth[owner], owner
        for job_id in self.jobs:
            number = self.number(self.jobs[job_id])
            dropped = self.store.read(lambda db, number=number: contents.has_dropped_contents(db, number))
            assert dropped == (job_id in self.dropped)
        used = {self.jobs[job_id].launch.bundle_hash for job_id in self.jobs.keys() - self.dropped} - {""}
        assert all(self.store.has_bundle(bundle_hash) for bundle_hash in used)
        rows = self.store.read(
            lambda db: [db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("jobs", "contents")]
        )
        assert rows == [len(self.jobs), len(self.jobs) - len(self.dropped)]
        assert self.store.read(lambda db: db.execute("SELECT count(*) FROM entry_points").fetchone()[0]) == len(
            self.jobs
        ) - len(self.dropped)


def true_bytes(db: sqlite3.Connection) -> dict[str, contents.UserBytes]:
    """Return the bytes of all users, added up from the stored rows."""
    sums: dict[tuple[str, bool], int] = defaultdict(int)
    bundles: dict[str, int] = dict(db.execute("SELECT hash, length(blob) FROM bundles").fetchall())
    used: dict[tuple[str, str], bool] = {}
    rows = db.execute(
        "SELECT jobs.owner, state, job_id, length(entry_points.launch), bundle_hash"
        " FROM contents JOIN jobs USING (number) JOIN entry_points USING (number)"
    ).fetchall()
    for owner, state, job_id, size, bundle_hash in rows:
        results = db.execute("SELECT coalesce(sum(length(value)), 0) FROM results WHERE job_id=?", (job_id,))
        sums[owner, not state] += size + results.fetchone()[0]
        if bundle_hash:
            used[owner, bundle_hash] = used.get((owner, bundle_hash), False) or not state
    for (owner, bundle_hash), is_live in used.items():
        sums[owner, is_live] += bundles[bundle_hash]
    return {owner: contents.UserBytes(sums[owner, True] + sums[owner, False], sums[owner, True]) for owner in USERS}


@for_each_seed(30)
def test_number_of_stored_bytes_is_exact_after_random_changes(seed: int) -> None:
    model = StoredModel(None, random.Random(seed))
    for _ in range(60):
        model.step()
        model.check()
    model.store.close()


def test_number_of_stored_bytes_survives_restarts(tmp_path: Path) -> None:
    model = StoredModel(tmp_path / "controller.db", random.Random(7))
    for number in range(100):
        model.step()
        if number % 20 == 0:
            model.restart()
            model.check()
    model.store.close()


@for_each_seed(10)
def test_predicted_freed_bytes_equal_the_bytes_that_dropping_the_contents_of_a_job_frees(seed: int) -> None:
    model = StoredModel(None, random.Random(seed))
    for _ in range(40):
        model.step()
    for owner in USERS:
        numbers = model.store.read(lambda db, owner=owner: contents.oldest_contents(db, owner))
        freed = model.store.read(lambda db, owner=owner, numbers=numbers: contents.freed_bytes(db, owner, numbers))
        for number, size in zip(numbers, freed, strict=True):
            before = model.store.read(true_bytes)[owner].total
            model.store.write(Changes().drop_contents(number))
            assert before - model.store.read(true_bytes)[owner].total == size
    model.store.close()


def test_largest_gang_number_is_kept_when_its_job_is_removed() -> None:
    store = Store(None)
    assert store.read(contents.largest_rounds) == 0
    store.write(Changes().remove_job(1, 3).remove_job(2, 2))
    assert store.read(contents.largest_rounds) == 3
    store.close()


def test_child_jobs_are_listed_with_their_own_child_jobs() -> None:
    store = Store(None)
    for name in ("a", "a/b", "a/b/c", "x", "a/d"):
        job = Job.new(name, 1, 1000)
        job.parent_job_id = name.rpartition("/")[0]
        store.write(Changes().add_job(JobRecord(job, cluster_pb2.Controller.LaunchJobRequest(), [FACTS]), b""))
    assert store.read(lambda db: contents.children_of(db, "a")) == ["a/b", "a/b/c", "a/d"]
    assert store.read(lambda db: contents.children_of(db, "x")) == []
    assert store.read(lambda db: contents.children_of(db, "")) == []
    store.close()
