"""Databases that earlier versions wrote: `databases/` holds one of each, with jobs in all states."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.stored_jobs import HASH

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.jobs.task import SUCCEEDED
from iris.cluster.controller.storage.schema import SCHEMA_VERSION
from iris.cluster.controller.storage.store import Store
from iris.cluster.types import is_job_finished
from iris.errors import DataLossError, IrisError

VERSIONS = range(1, SCHEMA_VERSION + 1)
LAST_WITHOUT_PACKED = 2
FORGOTTEN = "write it: cd tests && uv run python -m support.stored_jobs cluster/controller/databases"


def written_by(version: int, path: Path) -> Path:
    """A database as that version wrote it."""
    dump = Path(__file__).parent / "databases" / f"schema-{version}.sql"
    assert dump.exists(), f"there is no database of schema {version}; {FORGOTTEN}"
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(dump.read_text())
    db.close()
    return path


def rows(path: Path, query: str) -> list[Any]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_old_database_is_migrated_with_all_its_data(version: int, tmp_path: Path) -> None:
    path = written_by(version, tmp_path / "controller.db")
    # All dumps contain the same jobs. The dumps of later versions have packed records, which SQL cannot read.
    texts = written_by(min(version, LAST_WITHOUT_PACKED), tmp_path / "texts.db")
    jobs = {job_id: json.loads(record) for job_id, record in rows(texts, "SELECT job_id, record FROM jobs")}
    tasks = {
        (job_id, index): json.loads(record)
        for job_id, index, record in rows(texts, "SELECT job_id, task_index, record FROM tasks")
    }
    results = rows(path, "SELECT job_id, task_index, value FROM results")
    assert len(jobs) >= 28
    assert results
    store = Store(path)
    try:
        found = list(store.load())
        assert {one.job.job_id for one in found} == jobs.keys()
        for one in found:
            for name, value in jobs[one.job.job_id].items():
                assert getattr(one.job, name) == value, name
            assert one.launch.environment.env_vars["NAME"] == "v\u00e4lue"
            assert one.facts[1].ports["http"] == 20001
            assert bool(one.job.gangs) != one.job.is_finished
            for task in one.job.tasks:
                written = tasks[task.job_id, task.task_index]
                attempts, stop = written.pop("attempts"), written.pop("stop")
                assert (task.stop.name if task.stop else None) == stop
                for name, value in written.items():
                    assert getattr(task, name) == value, name
                assert len(task.attempts) == len(attempts)
                for attempt, values in zip(task.attempts, attempts, strict=True):
                    assert {name: getattr(attempt, name) for name in values} == values
        numbers = {one.job.job_id: one.number for one in found}
        assert {(job_id, index): store.result(numbers[job_id], index) for job_id, index, _ in results} == {
            (job_id, index): value for job_id, index, value in results
        }
        assert store.bundle(HASH) == b"a workspace"
        (endpoint,) = store.load_endpoints()
        assert (endpoint.name, endpoint.job_id, endpoint.metadata["k"]) == ("name", "running-gang", "v")
    finally:
        store.close()
    assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


@pytest.mark.parametrize("version", VERSIONS)
def test_controller_continues_the_jobs_of_an_old_database(version: int, tmp_path: Path) -> None:
    path = written_by(version, tmp_path / "controller.db")
    with serving(FakeEngine(), Store(path)) as controller, RemoteClusterClient(controller.address) as client:
        jobs = client.list_jobs()
        assert len(jobs) >= 28
        for job in jobs:
            status = client.get_job_status(job.job_id)
            assert len(status.tasks) == 3
            if not is_job_finished(status.state):
                client.terminate_job(job.job_id)
                assert is_job_finished(client.get_job_status(job.job_id).state), "no worker of then is there"


@pytest.mark.parametrize("version", VERSIONS)
def test_migration_keeps_a_copy_of_the_old_database(version: int, tmp_path: Path) -> None:
    path = written_by(version, tmp_path / "controller.db")
    before = rows(path, "SELECT * FROM jobs")
    Store(path).close()
    copy = path.with_name(f"controller.db.v{version}")
    if version == SCHEMA_VERSION:
        assert not copy.exists()
        return
    assert rows(copy, "PRAGMA user_version") == [(version,)]
    assert rows(copy, "SELECT * FROM jobs") == before
    Store(path).close()
    assert sorted(one.name for one in tmp_path.glob("controller.db.v*")) == [copy.name]


def test_failed_migration_step_leaves_the_database_unchanged(tmp_path: Path) -> None:
    path = written_by(1, tmp_path / "controller.db")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE fenced (in_the_way)")
    db.close()
    before = rows(path, "SELECT * FROM jobs")
    with pytest.raises(IrisError, match="fenced"):
        Store(path)
    assert rows(path, "PRAGMA user_version") == [(1,)]
    assert rows(path, "SELECT * FROM jobs") == before
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE fenced")
    db.close()
    Store(path).close()
    assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


@pytest.mark.parametrize("version", [1, LAST_WITHOUT_PACKED])
def test_migration_packs_ended_jobs_and_reports_progress(version: int, tmp_path: Path) -> None:
    path = written_by(version, tmp_path / "controller.db")
    (count,) = rows(path, "SELECT count(*) FROM jobs")[0]
    reported: list[tuple[int, int]] = []
    Store(path, progress=lambda done, total: reported.append((done, total))).close()
    assert reported[0] == (0, count)
    assert reported[-1] == (count, count)
    assert rows(path, "SELECT count(*) FROM jobs") == [(count,)]
    assert rows(path, "SELECT count(*) FROM jobs WHERE (state > 0) != (typeof(record) = 'blob')") == [(0,)]
    assert rows(path, "SELECT count(*) FROM tasks WHERE job_id IN (SELECT job_id FROM jobs WHERE state > 0)") == [(0,)]
    (ended,) = rows(path, "SELECT state, finished_at_ms, tasks FROM jobs WHERE job_id = 'succeeded-gang'")
    assert ended == (SUCCEEDED, 3000, 3)


def test_migration_of_a_damaged_job_leaves_the_database_unchanged(tmp_path: Path) -> None:
    path = written_by(LAST_WITHOUT_PACKED, tmp_path / "controller.db")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE jobs SET record = 'no JSON' WHERE job_id = 'succeeded-gang'")
    db.close()
    before = rows(path, "SELECT * FROM jobs")
    with pytest.raises(DataLossError, match="cannot be read"):
        Store(path)
    assert rows(path, "PRAGMA user_version") == [(LAST_WITHOUT_PACKED,)]
    assert rows(path, "SELECT * FROM jobs") == before


def test_unknown_and_missing_fields_of_a_record_are_accepted(tmp_path: Path) -> None:
    """What an older one did not write has its default; what a newer one wrote besides is ignored."""
    path = written_by(SCHEMA_VERSION, tmp_path / "controller.db")
    with sqlite3.connect(path) as db:
        for table in ("jobs", "tasks"):
            unfinished = f"SELECT job_id, record FROM {table} WHERE typeof(record) = 'text'"
            for rowid, text in db.execute(unfinished).fetchall():
                record = json.loads(text) | {"a field of tomorrow": [1, {"a": None}]}
                for attempt in record.get("attempts", ()):
                    attempt["another"] = "field"
                    attempt.pop("term_signal", None)
                record.pop("error", None)
                record.pop("stop", None)
                db.execute(
                    f"UPDATE {table} SET record=? WHERE job_id=? AND record=?", (json.dumps(record), rowid, text)
                )
    db.close()
    store = Store(path)
    try:
        found = list(store.load_unfinished())
    finally:
        store.close()
    assert len(found) >= 20
    assert {one.job.error for one in found} == {""}
    assert {attempt.term_signal for one in found for task in one.job.tasks for attempt in task.attempts} == {None}
