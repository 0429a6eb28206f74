"""Ended jobs that are only in the database: each call answers as if they were in memory, and lists are filtered."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.stored_jobs import failed, new_job, stored, succeeded
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.storage.contents.stored_outcome import result_in
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from iris.rpc import cluster_pb2 as pb

JOBS = 600  # More jobs than one page has, and more than the controller keeps in memory.


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerThread]:
    """A controller that was started with many ended jobs, and has no workers."""
    store = Store(tmp_path_factory.mktemp("ended") / "controller.db")
    changes = Changes()
    for number in range(JOBS):
        job = Job.new(f"sweep-{number}" if number % 2 else f"train-{number}", 1, 1_000_000 + number)
        job.owner = "ann" if number % 3 else "bob"
        job.submit()
        (failed if number % 100 == 0 else succeeded)(_with_three_tasks(job))
        changes.add_job(stored(job), b"")
    store.write(changes)
    record = stored(new_job("with-result"))
    succeeded(record.job)
    store.write(Changes().add_job(record, b"").save_job(record, 0, [(0, b"a result")]))
    with serving(FakeEngine(), store) as served:
        yield served


def _with_three_tasks(job: Job) -> Job:
    """Give a job the tasks that the functions of `stored_jobs` expect."""
    three = Job.new(job.job_id, 3, job.submitted_at_ms)
    three.submit()
    job.tasks, job.gangs, job.tally = three.tasks, three.gangs, three.tally
    return job


@pytest.fixture
def client(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as made:
        yield made


def launch(client: RemoteClusterClient, name: str, submission_id: str = "", parent: str = "") -> str:
    return client.launch_job(
        pb.Controller.LaunchJobRequest(name=name, command=["true"], submission_id=submission_id, parent_job_id=parent)
    )


def test_started_controller_has_no_ended_job_in_memory(controller: ControllerThread) -> None:
    assert controller.call(lambda: [*controller.controller.jobs.by_id]) == []
    assert controller.controller.jobs.count() == (0, JOBS + 1)


def test_status_and_tasks_and_result_of_an_ended_job_are_read_from_the_database(client: RemoteClusterClient) -> None:
    status = client.get_job_status("sweep-1")
    assert (status.state, status.num_tasks, status.owner) == (pb.JOB_STATE_SUCCEEDED, 3, "ann")
    assert [task.attempts[0].worker_id for task in status.tasks] == ["w0", "w1", "w2"]
    assert len(client.list_tasks("train-0")) == 3
    assert client.get_task_status("train-0", 2).state == pb.TASK_STATE_FAILED
    assert client.get_job_status("with-result", include_result=True).serialized_result == result_in(b"a result")
    with pytest.raises(NotFoundError, match="has no task 3"):
        client.get_task_status("train-0", 3)
    with pytest.raises(NotFoundError, match="that is task 1 of job 'sweep-1'"):
        client.get_job_status("sweep-1/task-1")


def test_watch_of_an_ended_job_returns_its_final_state(client: RemoteClusterClient) -> None:
    assert [job.state for job in client.watch_job("sweep-3", include_tasks=True)] == [pb.JOB_STATE_SUCCEEDED]


def test_calls_do_not_change_an_ended_job(client: RemoteClusterClient) -> None:
    before = client.get_job_status("sweep-5")
    client.terminate_job("sweep-5")
    client.terminate_task("sweep-5", 1)
    assert client.get_job_status("sweep-5") == before
    with pytest.raises(FailedPreconditionError, match="has ended"):
        client.register_endpoint("name", "h:1", "sweep-5")
    with pytest.raises(FailedPreconditionError, match="has ended"):
        launch(client, "child", parent="sweep-5")


def test_new_job_cannot_take_the_name_of_an_ended_job_but_a_repeated_submission_gets_its_id(
    client: RemoteClusterClient,
) -> None:
    with pytest.raises(AlreadyExistsError, match=r"'sweep-7' already \(SUCCEEDED\)"):
        launch(client, "sweep-7")
    # The jobs in the database were submitted with the submission id "s".
    assert launch(client, "sweep-7", submission_id="s") == "sweep-7"


def test_list_of_jobs_has_each_job_once_in_the_order_of_submission(client: RemoteClusterClient) -> None:
    names = [job.job_id for job in client.list_jobs() if job.owner]
    assert names == [f"sweep-{number}" if number % 2 else f"train-{number}" for number in range(JOBS)]
    newest = [job.job_id for job in client.list_jobs(newest_first=True, limit=550) if job.owner]
    assert newest == names[::-1][: len(newest)]
    assert len(newest) > 500


@pytest.mark.parametrize("newest_first", [False, True])
def test_filtered_lists_and_counts_of_jobs_contain_all_jobs_that_match(
    client: RemoteClusterClient, newest_first: bool
) -> None:
    everything = client.list_jobs(newest_first=newest_first)
    for filters, matches in (
        ({"id_prefix": "sweep-1"}, lambda job: job.job_id.startswith("sweep-1")),
        ({"states": ["FAILED"]}, lambda job: job.state == pb.JOB_STATE_FAILED),
        ({"states": ["failed", 4], "owner": "bob"}, lambda job: job.owner == "bob"),
        ({"since_ms": 1_000_100, "until_ms": 1_000_105}, lambda job: 1_000_100 <= job.submitted_at_ms < 1_000_105),
        ({"id_prefix": "train", "owner": "ann", "since_ms": 1_000_300},
         lambda job: job.job_id.startswith("train") and job.owner == "ann" and job.submitted_at_ms >= 1_000_300),
        ({"id_prefix": "nothing"}, lambda job: False),
        ({"states": ["RUNNING"]}, lambda job: False),
    ):  # fmt: skip
        wanted = [job.job_id for job in everything if matches(job)]
        assert [job.job_id for job in client.list_jobs(newest_first=newest_first, **filters)] == wanted, filters
        assert [job.job_id for job in client.list_jobs(newest_first=newest_first, limit=3, **filters)] == wanted[:3]
        assert client.count_jobs(**filters) == (0, len(wanted)), filters


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"states": ["LOST"]}, "the state must be"),
        ({"states": "RUNNING"}, "states must be"),
        ({"states": [0]}, "states must name states"),
        ({"since_ms": -1}, "since_ms must be"),
        ({"limit": 0}, "limit must be"),
        ({"owner": 3}, "owner must be"),
    ],
)
def test_client_refuses_an_invalid_filter_for_a_list_of_jobs(
    client: RemoteClusterClient, arguments: dict[str, object], error: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=error):
        client.list_jobs(**arguments)  # type: ignore[arg-type]


def test_live_and_ended_jobs_are_listed_together(client: RemoteClusterClient) -> None:
    first = launch(client, "live-1")
    second = launch(client, "live-2")
    try:
        client.terminate_job(first)
        last = client.list_jobs(newest_first=True, limit=3)
        assert [job.job_id for job in last] == [second, first, "with-result"]
        assert [job.job_id for job in client.list_jobs(id_prefix="live-")] == [first, second]
        assert [job.job_id for job in client.list_jobs(states=["PENDING"])] == [second]
        assert [job.job_id for job in client.list_jobs(states=["KILLED"])] == [first]
        assert client.count_jobs(id_prefix="live-") == (1, 1)
        assert client.count_jobs() == (1, JOBS + 2)
    finally:
        client.terminate_job(second)


def test_each_job_is_listed_once_while_jobs_end(client: RemoteClusterClient, controller: ControllerThread) -> None:
    names = [launch(client, f"ending-{number}") for number in range(60)]
    left = iter(names)
    lock = threading.Lock()

    def end_some(_: int) -> None:
        with RemoteClusterClient(controller.address) as own:
            while True:
                with lock:
                    name = next(left, None)
                if name is None:
                    return
                own.terminate_job(name)

    with ThreadPoolExecutor(3) as pool:
        ending = [pool.submit(end_some, number) for number in range(3)]
        while True:
            is_last = all(one.done() for one in ending)
            for newest_first in (False, True):
                page = pb.Controller.ListJobsRequest(id_prefix="ending-", page_size=7, newest_first=newest_first)
                found = _all_pages(controller, page)
                assert found == (names[::-1] if newest_first else names)
            if is_last:
                break
    wait_until(lambda: controller.controller.jobs.count()[0] == 0, "all jobs to leave the memory")
    assert [job.state for job in client.list_jobs(id_prefix="ending-")] == [pb.JOB_STATE_KILLED] * 60


def _all_pages(controller: ControllerThread, request: pb.Controller.ListJobsRequest) -> list[str]:
    found: list[str] = []
    while True:
        answer = controller.run(controller.controller.queries.list_jobs(request))
        found += [job.job_id for job in answer.jobs]
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


@pytest.mark.parametrize("token", ["tasks-1", "jobs-x", "jobs-999999", "jobs-1234567890123456789"])
def test_list_of_jobs_refuses_the_page_token_of_another_list(controller: ControllerThread, token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="page_token"):
        _all_pages(controller, pb.Controller.ListJobsRequest(page_token=token))


def test_child_jobs_end_if_their_parent_job_ended_before_the_controller_restarted(tmp_path: Path) -> None:
    store = Store(tmp_path / "controller.db")
    parent, child = Job.new("parent", 1, 1000), Job.new("parent/child", 1, 1000, parent_job_id="parent")
    for job in (parent, child):
        job.submit()
    parent.terminate("terminated by a user", 2000)
    store.write(Changes().add_job(stored(parent), b"").add_job(stored(child), b""))
    with serving(FakeEngine(), store) as served, RemoteClusterClient(served.address) as own:
        wait_until(lambda: own.get_job_status("parent/child").state == pb.JOB_STATE_KILLED, "the end of the child")
        assert "its parent job 'parent' has ended (KILLED)" in own.get_job_status("parent/child").error


# Tests of reads during a write.


def test_readers_see_the_last_committed_state_during_a_write_to_the_database(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    record = stored(new_job("job"))
    succeeded(record.job)
    with closing(Store(path)) as store:
        store.write(Changes().add_job(record, b""))
        with store._connections.writing() as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM jobs")
            assert store.ended_job("job") is not None
            db.execute("ROLLBACK")


def test_read_of_ended_jobs_is_interrupted_when_the_controller_stops(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "controller.db")) as store, ThreadPoolExecutor(1) as pool:
        begun = threading.Event()

        def read_for_ever(db: sqlite3.Connection) -> None:
            begun.set()
            db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")

        reading = pool.submit(store.read, read_for_ever)
        assert begun.wait(30)
        wait_until(lambda: store.interrupt() or reading.done(), "the end of the read")
        with pytest.raises(UnavailableError, match="the controller is shutting down"):
            reading.result()
        with pytest.raises(UnavailableError, match="the controller is shutting down"):
            store.has_job("job")
        store.write(Changes().add_job(stored(new_job("last")), b""))  # Writes still work after the interrupt.


def test_database_on_a_file_system_without_shared_memory_has_one_connection(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    # The directory of this name prevents SQLite from creating its shared memory.
    (tmp_path / "controller.db-shm").mkdir()
    record = stored(new_job("job"))
    succeeded(record.job)
    with closing(Store(path)) as store, ThreadPoolExecutor(2) as pool:
        store.write(Changes().add_job(record, b""))
        assert store.ended_job("job") is not None
        reads = [pool.submit(store.ended_job, "job") for _ in range(20)]
        for number in range(20):
            store.write(Changes().add_job(stored(new_job(f"job-{number}")), b""))
        assert all(read.result() is not None for read in reads)
    with closing(Store(path)) as again:
        assert len(list(again.load())) == 21
