"""Writes jobs in all states into a controller's database, and dumps such a database.

After a change of the schema: `cd tests && uv run python -m support.stored_jobs cluster/controller/databases`.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import FAILED, KILLED, SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.storage.schema import SCHEMA_VERSION
from iris.cluster.controller.storage.store import Changes, Store
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

HASH = "ab" * 32


def stored(job: Job) -> JobRecord:
    launch = cluster_pb2.Controller.LaunchJobRequest(name=job.job_id, command=["true"], submission_id="s")
    return JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])


def _place(job: Job) -> None:
    for gang in [gang for gang in job.gangs.values() if not gang.placed]:
        job.gang_placed(gang.gang_id, [WorkerIdentity(f"w{i}", f"http://w{i}", f"inc{i}") for i in gang.task_indices])


def _run(job: Job) -> None:
    _place(job)
    for index, attempt in job.live_attempts().items():
        job.attempt_running(index, attempt.attempt_id, 2000 + index)


def _end(job: Job, index: int, state: int) -> None:
    attempt = job.tasks[index].attempts[-1]
    job.attempt_ended(
        index,
        attempt.attempt_id,
        AttemptEnd(state, 3000, exit_code=0 if state == SUCCEEDED else 137, term_signal=9, error=f"é\0'{state}"),
    )


def waiting(job: Job) -> None:
    pass


def building(job: Job) -> None:
    _place(job)


def running(job: Job) -> None:
    _run(job)


def partly_done(job: Job) -> None:
    _run(job)
    _end(job, 1, SUCCEEDED)


def restarting(job: Job) -> None:
    _run(job)
    _end(job, 0, FAILED)


def restarting_with_one_that_is_done(job: Job) -> None:
    _run(job)
    _end(job, 1, SUCCEEDED)
    _end(job, 0, FAILED)


def waiting_again(job: Job) -> None:
    _run(job)
    _end(job, 0, FAILED)
    for index in list(job.live_attempts()):
        _end(job, index, KILLED)


def lost_and_running_again(job: Job) -> None:
    _run(job)
    job.attempts_lost({index: a.attempt_id for index, a in job.live_attempts().items()}, "worker lost", 4000)
    _run(job)


def ending(job: Job) -> None:
    _run(job)
    job.terminate("terminated by a user", 5000)


def ending_while_restarting(job: Job) -> None:
    restarting(job)
    job.terminate("terminated by a user", 5000)


def with_a_task_that_a_user_ends(job: Job) -> None:
    _run(job)
    job.terminate_task(1, "terminated by a user", 5000)


def pausing(job: Job) -> None:
    for task in job.tasks:
        task.max_retries_failure = 9
    waiting_again(job)
    waiting_again(job)


def killed(job: Job) -> None:
    job.terminate("terminated by a user", 5000)


def unschedulable(job: Job) -> None:
    job.unschedulable("no room", 5000)


def succeeded(job: Job) -> None:
    _run(job)
    for index in range(len(job.tasks)):
        _end(job, index, SUCCEEDED)


def failed(job: Job) -> None:
    _run(job)
    job.tasks[2].max_retries_failure = 0
    _end(job, 2, FAILED)
    for index in list(job.live_attempts()):
        _end(job, index, KILLED)


STATES = [
    waiting,
    building,
    running,
    partly_done,
    restarting,
    restarting_with_one_that_is_done,
    waiting_again,
    lost_and_running_again,
    ending,
    ending_while_restarting,
    with_a_task_that_a_user_ends,
    pausing,
    killed,
    unschedulable,
    succeeded,
    failed,
]


def new_job(job_id: str = "parent/job", *, coscheduled: bool = True) -> Job:
    job = Job.new(
        job_id,
        3,
        1000,
        coscheduled=coscheduled,
        max_task_failures=0,
        max_retries_failure=1,
        max_retries_preemption=7,
        retry_pause_ms=250,
        parent_job_id="parent",
    )
    job.submit()
    return job


def fill(store: Store) -> None:
    """Write a job in each state, with its tasks, results and endpoints."""
    for coscheduled in (True, False):
        for bring in STATES:
            job = new_job(f"{bring.__name__}-{'gang' if coscheduled else 'independent'}", coscheduled=coscheduled)
            record = stored(job)
            record.launch.bundle_hash = HASH
            record.launch.environment.env_vars["NAME"] = "v\u00e4lue"
            store.write(Changes().add_job(record, b"a workspace"))
            since = job.revision
            bring(job)
            record.facts[1].ports["http"] = 20001
            record.facts[1].resource_usage.memory_mb = 5
            job.changes.note(job.tasks, max(job.revision, since + 1))  # Facts are stored with their task.
            done = [task.task_index for task in job.tasks if task.state == SUCCEEDED]
            store.write(Changes().save_job(record, since, [(index, b"result of %d" % index) for index in done]))
    endpoint = cluster_pb2.Controller.Endpoint(endpoint_id="e1", name="name", address="h:1", job_id="running-gang")
    endpoint.metadata["k"] = "v"
    store.write(Changes().save_endpoints([endpoint]).fence("w0", "an earlier process").set_lease(60.0))


def store_ended_jobs(path: Path, jobs: int, wide: dict[str, int]) -> None:
    """Write a database of jobs that have ended, without running them.

    Args:
        path: Where the database is made.
        jobs: How many jobs of one task: `ended-0`, `ended-1` and so on.
        wide: More jobs, by name: how many tasks each has.
    """
    store, changes = Store(path), Changes()
    for name, tasks in ({f"ended-{number}": 1 for number in range(jobs)} | wide).items():
        job = Job.new(name, tasks, 1000)
        job.submit()
        job.terminate("terminated by a user", 2000)
        changes.add_job(stored(job), b"")
    store.write(changes)
    store.close()


def store_long_job(path: Path, sizes: dict[str, int]) -> None:
    """Write a database of jobs that have ended, without running them. Their tasks have attempts of various lengths.

    Each 50th task has failed twice, and each 20th task has succeeded with its second attempt.

    Args:
        path: Where the database is made.
        sizes: The number of tasks of each job, by name.
    """
    store, changes = Store(path), Changes()
    begin_ms = now_ms() - 3_600_000
    for name, tasks in sizes.items():
        job = Job.new(name, tasks, begin_ms, coscheduled=False, max_retries_failure=1, max_task_failures=tasks)
        job.submit()
        for index in range(tasks):
            failures = 2 if index % 50 == 7 else 1 if index % 20 == 3 else 0
            placed_ms = begin_ms + index * 1000 * 3000 // tasks
            for number in range(failures + (failures < 2)):
                gang_id = job.tasks[index].gang_id
                job.gang_placed(gang_id, [WorkerIdentity(f"w{index % 8}", "http://w", "i")], placed_ms)
                started_ms = placed_ms + 500 + index % 7 * 300
                end_ms = started_ms + 20_000 + index * 7919 % 90_000
                job.attempt_running(index, number, started_ms)
                failed = number < failures
                end = AttemptEnd(FAILED, end_ms, 3, error="exited with code 3", failure=FailureCode.EXIT_CODE)
                job.attempt_ended(index, number, end if failed else AttemptEnd(SUCCEEDED, end_ms, 0), end_ms)
                placed_ms = end_ms + 2000
        assert job.is_finished
        changes.add_job(stored(job), b"")
    store.write(changes)
    store.close()


def store_short_job(path: Path, name: str, length_ms: int) -> None:
    """Add a job to a database, without running it. Its only task has succeeded `length_ms` after the submission.

    Args:
        path: The database.
        name: The job's id.
        length_ms: The time between the submission and the end of the job, in milliseconds.
    """
    store, begin_ms = Store(path), now_ms() - 60_000
    job = Job.new(name, 1, begin_ms)
    job.submit()
    (gang_id,) = job.gangs
    job.gang_placed(gang_id, [WorkerIdentity("w0", "http://w", "i")], begin_ms + length_ms // 5)
    job.attempt_running(0, 0, begin_ms + length_ms // 2)
    end_ms = begin_ms + length_ms
    job.attempt_ended(0, 0, AttemptEnd(SUCCEEDED, end_ms, 0), end_ms)
    assert job.is_finished
    store.write(Changes().add_job(stored(job), b""))
    store.close()


def dump(path: Path) -> str:
    """Return the content of a database as SQL."""
    db = sqlite3.connect(path)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        return "\n".join([f"PRAGMA user_version={version};", *db.iterdump(), ""])
    finally:
        db.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "controller.db"
        store = Store(database)
        fill(store)
        store.close()
        Path(sys.argv[1], f"schema-{SCHEMA_VERSION}.sql").write_text(dump(database))
