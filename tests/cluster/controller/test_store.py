"""What the controller remembers, in real files: round trips, who may open them, and crashes."""

from __future__ import annotations

import copy
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.stored_jobs import (
    HASH,
    STATES,
    building,
    ending,
    ending_while_restarting,
    fill,
    new_job,
    restarting,
    stored,
    succeeded,
)
from support.waiting import wait_until

from iris.cluster.controller.jobs.instructions import RequestAllocation
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.recovery import recover
from iris.cluster.controller.jobs.task import SUCCEEDED, Stop, WorkerIdentity
from iris.cluster.controller.storage.schema import SCHEMA_VERSION
from iris.cluster.controller.storage.state_counts import count_states
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError
from iris.rpc import cluster_pb2

Endpoint = cluster_pb2.Controller.Endpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "controller.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def reopen(store: Store, path: Path) -> Store:
    store.close()
    return Store(path)


@pytest.mark.parametrize("coscheduled", [True, False], ids=["gang", "independent"])
@pytest.mark.parametrize("bring", STATES)
@pytest.mark.parametrize("at_once", [True, False], ids=["added", "saved"])
def test_loaded_job_equals_the_saved_job(
    store: Store, path: Path, bring: Callable[[Job], None], coscheduled: bool, at_once: bool
) -> None:
    job = new_job(coscheduled=coscheduled)
    record = stored(job)
    if at_once:
        bring(job)
        store.write(Changes().add_job(record, b""))
    else:
        store.write(Changes().add_job(record, b""))
        since = job.revision
        bring(job)
        record.facts[1].ports["http"] = 20001
        record.facts[1].resource_usage.memory_mb = 5
        job.changes.note(job.tasks, max(job.revision, since + 1))  # Facts are stored with their task.
        store.write(Changes().save_job(record, since))
    store = reopen(store, path)
    try:
        (found,) = store.load()
    finally:
        store.close()
    assert found.job.tasks == job.tasks
    assert found.launch == record.launch
    assert found.facts == record.facts
    for gang in (*found.job.gangs.values(), *job.gangs.values()):
        gang.reason = ""  # why it waits is found out anew
        gang.restarting = False  # as is this, by its first member that waits
    assert found.job.gangs == job.gangs
    assert found.job == job
    if bring in (restarting, ending, ending_while_restarting):
        assert {task.stop for task in found.job.tasks} - {None} <= {Stop.RESTART, Stop.END}


def test_stored_task_without_the_out_of_memory_field_is_loaded(store: Store, path: Path) -> None:
    record = stored(new_job())
    restarting(record.job)
    store.write(Changes().add_job(record, b""))
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        changed = db.execute("UPDATE tasks SET record = json_remove(record, '$.attempts[0].out_of_memory')").rowcount
        assert changed == len(record.job.tasks)
        assert not db.execute("SELECT 1 FROM tasks WHERE record LIKE '%out_of_memory%'").fetchall()
    store = Store(path)
    try:
        (found,) = store.load()
    finally:
        store.close()
    assert found.job.tasks == record.job.tasks


def test_stored_job_without_retry_pauses_is_loaded(store: Store, path: Path) -> None:
    job = new_job()
    store.write(Changes().add_job(stored(job), b""))
    store.close()
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE jobs SET record = json_remove(record, '$.retry_pause_ms')")
        db.execute("UPDATE tasks SET record = json_remove(record, '$.not_before_ms', '$.retries_in_row')")
    db.close()
    again = Store(path)
    (found,) = again.load()
    again.close()
    assert (found.job.retry_pause_ms, found.job.tasks[0].retries_in_row) == (1000, 0)
    # From when on it has waited is not known: it waits from now on.
    assert recover(found.job, {}, 9000)[-1] == RequestAllocation("parent/job@1", (0, 1, 2), 9000)


def test_saving_a_job_writes_only_the_changed_tasks(store: Store) -> None:
    job = new_job()
    record = stored(job)
    store.write(Changes().add_job(record, b""))
    building(job)
    store.write(Changes().save_job(record, 1))
    since = job.revision
    job.attempt_running(1, 0, 2000)
    job.tasks[0].error = "changed without saying so"
    store.write(Changes().save_job(record, since))
    (found,) = store.load()
    assert found.job.tasks[1].state == job.tasks[1].state
    assert found.job.tasks[0].error == ""


def test_change_of_a_task_before_the_write_does_not_change_the_written_state(store: Store) -> None:
    job = new_job()
    record = stored(job)
    job.tasks[0].start_attempt(WorkerIdentity("w", "http://w", "first"))
    expected = copy.deepcopy(job.tasks)
    changes = Changes().add_job(record, b"")
    job.tasks[0].attempts[0].error = "later"
    job.tasks[1].start_attempt(WorkerIdentity("w", "http://w", "first"))
    store.write(changes)
    (found,) = store.load()
    assert found.job.tasks == expected


def test_jobs_are_loaded_in_the_order_of_their_submission(store: Store, path: Path) -> None:
    names = ["z", "a", "m", "parent/z", "B"]
    for name in names:
        store.write(Changes().add_job(stored(new_job(name)), b""))
    store = reopen(store, path)
    assert [record.job.job_id for record in store.load()] == names
    store.close()


def test_thousand_tasks_are_loaded_in_index_order(store: Store) -> None:
    job = Job.new("job", 1000, 1)
    job.submit()
    store.write(Changes().add_job(stored(job), b""))
    (found,) = store.load()
    assert [task.task_index for task in found.job.tasks] == list(range(1000))
    assert found.job.gangs == job.gangs


def test_second_job_with_the_same_id_is_not_stored(store: Store) -> None:
    store.write(Changes().add_job(stored(new_job("a")), b""))
    again = stored(new_job("a"))
    again.launch.bundle_hash = HASH
    with pytest.raises(sqlite3.IntegrityError):
        store.write(Changes().add_job(again, b"bundle"))
    assert store.bundle(HASH) is None  # all or nothing
    store.write(Changes().add_job(stored(new_job("b")), b""))
    assert [record.job.job_id for record in store.load()] == ["a", "b"]


def _bytes_of_ended_jobs(path: Path, jobs: int) -> int:
    changes = Changes()
    for number in range(jobs):
        record = stored(Job.new(f"sweep-of-may-{number}", 1, 1000))
        record.job.owner = "a-user@example.com"
        record.job.submit()
        succeeded(record.job)
        record.facts[0].resource_usage.memory_peak_mb = 512
        changes.add_job(record, b"")
    with closing(Store(path)) as store:
        store.write(changes)
    return path.stat().st_size


def test_ended_job_of_one_task_takes_less_than_one_kilobyte(tmp_path: Path) -> None:
    more = _bytes_of_ended_jobs(tmp_path / "more.db", 1500)
    assert (more - _bytes_of_ended_jobs(tmp_path / "fewer.db", 500)) / 1000 < 1024


def test_packed_job_of_a_newer_format_is_a_data_loss_error(store: Store, path: Path) -> None:
    job = new_job("ended")
    job.terminate("terminated by a user", 2000)
    store.write(Changes().add_job(stored(job), b""))
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE jobs SET record = CAST(x'7f00' AS BLOB)")
    again = Store(path)
    with pytest.raises(DataLossError, match="does not know"):
        list(again.load())
    again.close()


def test_states_of_unfinished_and_ended_jobs_are_counted_in_a_database_of_any_version(tmp_path: Path) -> None:
    store = Store(tmp_path / "controller.db")
    fill(store)
    store.close()
    counts = count_states(tmp_path / "controller.db")
    assert (sum(counts["jobs"].values()), sum(counts["tasks"].values())) == (32, 96)
    assert counts["jobs"]["SUCCEEDED"] == 2
    dump = Path(__file__).parent / "databases" / "schema-2.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as db, db:
        db.executescript(dump.read_text())
    assert count_states(tmp_path / "old.db") == counts


# Results, workspaces, endpoints.


def test_results_are_stored_by_task(store: Store, path: Path) -> None:
    job = new_job()
    record = stored(job)
    store.write(Changes().add_job(record, b""))
    store.write(Changes().save_job(record, 1, [(0, b"\0pickled\xff"), (2, b"x" * 3_000_000)]))
    store.write(Changes().save_job(record, 1, [(0, b"of a later attempt")]))
    store = reopen(store, path)
    (number,) = [one.number for one in store.load()]
    assert store.result(number, 0) == b"of a later attempt"
    assert store.result(number, 1) == b""
    assert store.result(number, 2) == b"x" * 3_000_000
    assert store.result(number + 1, 0) is None
    store.close()


def test_workspaces_are_stored_once_by_hash(store: Store, path: Path) -> None:
    first, second = stored(new_job("a")), stored(new_job("b"))
    first.launch.bundle_hash = second.launch.bundle_hash = HASH
    assert store.bundle(HASH) is None
    assert not store.has_bundle(HASH)
    store.write(Changes().add_job(first, b"tar\0"))
    store.write(Changes().add_job(second, b"tar\0"))  # the same again
    store.write(Changes().add_job(stored(new_job("c")), b""))
    store = reopen(store, path)
    assert store.bundle(HASH) == b"tar\0"
    assert store.has_bundle(HASH)
    assert store.bundle("cd" * 32) is None
    store.close()


def test_stored_endpoints_are_loaded_in_order_until_removed(store: Store, path: Path) -> None:
    made = [Endpoint(endpoint_id=i, name=f"name {i}", address="h:1", metadata={"k": i}) for i in ("z", "a", "m", "q")]
    store.write(Changes().save_endpoints(made[:2]))
    store.write(Changes().save_endpoints(made[2:], removed=["a", "unknown"]))
    store = reopen(store, path)
    assert [endpoint.endpoint_id for endpoint in store.load_endpoints()] == ["z", "m", "q"]
    assert store.load_endpoints() == [made[0], made[2], made[3]]
    store.write(Changes().save_endpoints(removed=["z", "m", "q"]))
    assert store.load_endpoints() == []
    store.close()


def test_store_in_memory_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(None)
    store.write(Changes().add_job(stored(new_job()), b""))
    assert len(list(store.load())) == 1
    store.close()
    other = Store(None)
    assert list(other.load()) == []
    other.close()
    assert list(tmp_path.iterdir()) == []


# Who may open it.


def test_directory_of_the_database_is_created_and_private(store: Store, path: Path) -> None:
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_database_files_in_a_public_directory_are_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "controller.db").touch(0o644)  # as earlier versions made it
    with closing(Store(tmp_path / "controller.db")):
        found = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert set(found.values()) == {0o600}, found


def test_second_store_on_the_same_database_file_is_refused(store: Store, path: Path) -> None:
    store.write(Changes().add_job(stored(new_job("before")), b""))
    for _ in range(2):
        with pytest.raises(FailedPreconditionError, match="another controller is running on") as caught:
            Store(path)
        assert str(path) in str(caught.value)
    store.write(Changes().add_job(stored(new_job("after")), b""))  # the first goes on undisturbed
    store = reopen(store, path)
    assert [record.job.job_id for record in store.load()] == ["before", "after"]
    store.close()


def test_store_of_a_second_process_is_refused_until_the_first_process_has_ended(store: Store, path: Path) -> None:
    program = "from iris.cluster.controller.storage.store import Store; Store(Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"import sys; from pathlib import Path; {program}", str(path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "another controller is running on" in refused.stderr
    store.close()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_text_file_opened_as_a_database_is_a_data_loss_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("This is not a database, but a letter to one.\n" * 100)
    with pytest.raises(DataLossError) as caught:
        Store(path)
    assert str(path) in str(caught.value)
    assert path.read_text().startswith("This is not a database")  # and it is left as it was


def _filled(path: Path) -> None:
    store = Store(path)
    for number in range(50):
        store.write(Changes().add_job(stored(new_job(f"job {number}")), b""))
    store.close()


@pytest.mark.parametrize("first", [0, 1, 3])
def test_damaged_database_is_a_data_loss_error_when_opened_or_read(path: Path, first: int) -> None:
    _filled(path)
    pages = path.stat().st_size // 4096
    assert pages > 5
    with path.open("r+b") as file:
        file.seek(first * 4096)
        file.write(b"\xa5" * 4096 * (pages - first))
    with pytest.raises(DataLossError) as caught:
        _open_and_read_all(path)
    assert str(path) in str(caught.value)


def test_truncated_database_is_a_data_loss_error(path: Path) -> None:
    _filled(path)
    os.truncate(path, path.stat().st_size // 4096 // 2 * 4096)
    with pytest.raises(DataLossError):
        _open_and_read_all(path)


def _open_and_read_all(path: Path) -> None:
    store = Store(path)
    try:
        list(store.load())
        store.load_endpoints()
    finally:
        store.close()


@pytest.mark.parametrize("column", ["record", "launch"])
def test_invalid_record_in_the_database_is_a_data_loss_error(path: Path, column: str) -> None:
    _filled(path)
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE jobs SET {column} = ? WHERE job_id = 'job 7'", (b"\xff{",))
    db.close()
    with pytest.raises(DataLossError):
        _open_and_read_all(path)


def test_database_of_a_newer_version_is_refused_and_not_changed(path: Path) -> None:
    _filled(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(FailedPreconditionError, match="newer version of Iris") as caught:
        Store(path)
    assert str(path) in str(caught.value)
    db = sqlite3.connect(path, timeout=0)  # the refusal has let go of it
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    db.execute("BEGIN EXCLUSIVE")
    db.close()


def test_unwritable_database_path_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhaustedError, match="cannot write") as caught:
        Store(tmp_path)  # a folder
    assert str(tmp_path) in str(caught.value)


# Crashes.

WRITER = """
import sys
from pathlib import Path
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.state_counts import count_states
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.rpc import cluster_pb2

store = Store(Path(sys.argv[1]))
for number in range(100_000):
    job = Job.new(f"job-{number}", 3, 1)
    job.submit()
    launch = cluster_pb2.Controller.LaunchJobRequest(name=job.job_id, bundle_hash=f"{number:064x}")
    record = JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])
    store.write(Changes().add_job(record, b"bundle of %d" % number))
    for gang in list(job.gangs):
        saved = job.revision
        job.gang_placed(gang, [WorkerIdentity(f"w{i}", "http://w") for i in range(3)])
        store.write(Changes().save_job(record, saved))
    for index in range(3):
        saved = job.revision
        job.attempt_ended(index, 0, AttemptEnd(SUCCEEDED, 2, exit_code=0))
        store.write(Changes().save_job(record, saved, [(index, b"result of %d" % index)]))
    print(number, flush=True)  # acknowledged
"""


@pytest.mark.parametrize("acknowledged", [1, 2, 7, 40, 150])
def test_killed_store_has_saved_every_acknowledged_write(path: Path, acknowledged: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledged):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        last = [int(line) for line in writer.stdout if line.endswith("\n")]
        assert writer.wait() == -signal.SIGKILL
    said = max([acknowledged - 1, *last])
    store = Store(path)
    records = list(store.load())
    try:
        assert [record.job.job_id for record in records] == [f"job-{number}" for number in range(len(records))]
        assert said + 1 <= len(records) <= said + 2  # the one that it was at
        for number, record in enumerate(records):
            job = record.job
            assert len(job.tasks) == len(record.facts) == 3
            assert store.bundle(f"{number:064x}") == b"bundle of %d" % number
            assert job.is_finished == all(task.is_finished for task in job.tasks)
            assert bool(job.gangs) != job.is_finished
            assert max(task.revision for task in job.tasks) <= job.revision or not job.live_attempts()
            for index, task in enumerate(job.tasks):  # a result is stored with the state that it belongs to
                assert store.result(record.number, index) == (b"result of %d" % index if task.is_finished else b"")
            if number <= said:
                assert job.state == SUCCEEDED
        store.write(Changes().add_job(stored(new_job("goes on")), b""))
    finally:
        store.close()


def test_killed_store_releases_its_lock_on_the_database(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline()
        with pytest.raises(FailedPreconditionError, match="another controller"):
            Store(path)
        writer.kill()
    wait_until(lambda: writer.poll() is not None)
    Store(path).close()


def test_database_is_readable_with_sqlite_tools(store: Store, path: Path) -> None:
    store.write(Changes().add_job(stored(new_job()), b""))
    store.close()
    db = sqlite3.connect(path)
    (record,) = db.execute("SELECT record FROM jobs").fetchone()
    assert json.loads(record)["job_id"] == "parent/job"
    db.close()
