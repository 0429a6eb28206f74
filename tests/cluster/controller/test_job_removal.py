"""Removal of ended jobs, and the limit of the bytes of one user, with a controller without workers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.odd_files import OddFileSystem, odd_files
from support.stored_jobs import store_long_job
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.removal.job_removal import JobRetention
from iris.cluster.controller.storage.contents import reading
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.task_inputs import pack_items
from iris.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import Controller


class World:
    """A controller whose engine grants nothing, so a job waits until it is terminated."""

    def __init__(self, running: ControllerThread, client: RemoteClusterClient, store: Store) -> None:
        self.store = store
        self.running = running
        self.client = client

    def submit(self, name: str, parent: str = "", *, entry_bytes: int = 0, workspace: bytes = b"") -> str:
        return self.client.launch_job(
            Controller.LaunchJobRequest(
                name=name,
                command=["true", "x" * entry_bytes],
                parent_job_id=parent,
                bundle_blob=workspace,
                bundle_hash=hashlib.sha256(workspace).hexdigest() if workspace else "",
            )
        )

    def end(self, job_id: str) -> None:
        """End a job, and wait until its end is saved."""
        self.client.terminate_job(job_id)
        wait_until(lambda: job_id not in self.running.controller.jobs.by_id, "the end of the job")

    def ended(self, name: str, **fields: int | bytes | str) -> str:
        job_id = self.submit(name, **fields)  # type: ignore[arg-type]
        self.end(job_id)
        return job_id

    def sweep(self) -> None:
        """Remove the jobs that are too old or too many."""
        self.running.run(self.running.controller.removal.sweep())

    def names(self) -> list[str]:
        return [job.job_id for job in self.client.list_jobs()]

    def stored_bytes(self, owner: str = "tests") -> reading.UserBytes:
        """Return the counted bytes of a user."""
        return self.running.call(lambda: self.store.read(lambda db: reading.bytes_of_user(db, owner)))

    def has_contents(self, job_id: str) -> bool:
        number = self.client.get_job_status(job_id).number
        return not self.running.call(lambda: self.store.read(lambda db: reading.has_dropped_contents(db, number)))


@contextmanager
def world_of(store: Store, **options: object) -> Iterator[World]:
    engine = FakeEngine()
    engine.granting = False
    with serving(engine, store, **options) as running, RemoteClusterClient(running.address) as client:  # type: ignore[arg-type]
        yield World(running, client, store)


@pytest.fixture
def world() -> Iterator[World]:
    with world_of(Store(None)) as world:
        yield world


def test_removed_job_is_unknown_and_its_name_is_free(world: World) -> None:
    world.ended("once")
    other = world.ended("other")
    assert world.client.forget_job("once") == ["once"]
    with pytest.raises(NotFoundError):
        world.client.get_job_status("once")
    with pytest.raises(NotFoundError):
        world.client.forget_job("once")
    assert world.names() == [other]
    assert world.submit("once") == "once"
    assert world.client.get_job_status("once").state == cluster_pb2.JOB_STATE_PENDING
    assert world.client.count_jobs() == (1, 1)


def test_job_that_has_not_ended_is_not_removed(world: World) -> None:
    world.submit("waits")
    with pytest.raises(FailedPreconditionError, match="iris kill --wait waits") as caught:
        world.client.forget_job("waits")
    assert caught.value.reason == ErrorReason.JOB_NOT_ENDED
    assert world.names() == ["waits"]


def test_child_jobs_are_removed_with_their_parent(world: World) -> None:
    world.submit("parent")
    world.submit("child", "parent")
    world.submit("grandchild", "parent/child")
    world.ended("parenthood")
    world.end("parent/child/grandchild")
    with pytest.raises(FailedPreconditionError):
        world.client.forget_job("parent/child")
    assert world.client.forget_job("parent/child/grandchild") == ["parent/child/grandchild"]
    world.end("parent")
    wait_until(lambda: not world.running.controller.jobs.by_id, "the end of all jobs")
    assert world.client.forget_job("parent") == ["parent", "parent/child"]
    assert world.names() == ["parenthood"]


def test_user_may_remove_and_resubmit_only_own_ended_jobs(world: World) -> None:
    with RemoteClusterClient(world.running.address, token=token("user", name="ana")) as ana:
        own = ana.launch_job(Controller.LaunchJobRequest(name="ana-job", command=["true"]))
        world.end(own)
        world.ended("foreign")
        with pytest.raises(PermissionDeniedError, match="only the owner 'tests' of job 'foreign'"):
            ana.forget_job("foreign")
        with pytest.raises(PermissionDeniedError, match="may submit it again"):
            ana.resubmit_job("foreign", Controller.LaunchJobRequest(name="again"))
        assert ana.forget_job(own) == [own]
    assert world.names() == ["foreign"]


def test_gangs_of_a_new_job_have_other_ids_than_gangs_of_a_removed_job_with_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"

    def submitted(world: World) -> list[str]:
        world.submit("same")
        gangs = world.running.call(lambda: list(world.running.controller.jobs.by_id["same"].job.gangs))
        world.end("same")
        world.client.forget_job("same")
        return gangs

    seen: list[str] = []
    for _ in range(2):
        with world_of(Store(path)) as world:
            seen += submitted(world) + submitted(world)
    assert seen == ["same@0", "same@1", "same@2", "same@3"]


def test_removed_job_stays_removed_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    with world_of(Store(path)) as world:
        world.ended("removed", workspace=b"of removed")
        world.ended("kept", workspace=b"of kept")
        world.client.forget_job("removed")
    with world_of(Store(path)) as world:
        assert world.names() == ["kept"]
        assert world.store.read(lambda db: db.execute("SELECT blob FROM bundles").fetchall()) == [(b"of kept",)]


def test_repeated_request_to_remove_a_job_does_not_remove_a_new_job_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    request = Controller.ForgetJobRequest(job_id="twice", request_id="once")

    def forget(world: World) -> list[str]:
        return list(world.client.connection.controller.forget_job(request).job_ids)

    with world_of(Store(path)) as world:
        world.submit("twice")
        world.submit("child", "twice")
        world.end("twice/child")
        world.end("twice")
        assert forget(world) == ["twice", "twice/child"]
        assert forget(world) == ["twice", "twice/child"]
    with world_of(Store(path)) as world:
        assert forget(world) == ["twice", "twice/child"]
        world.ended("twice")
        assert forget(world) == ["twice", "twice/child"]
        assert world.names() == ["twice"]


@pytest.mark.parametrize("is_name_used", [False, True])
def test_repeated_resubmission_gets_its_first_answer_although_the_earlier_job_was_removed(
    tmp_path: Path, is_name_used: bool
) -> None:
    path = tmp_path / "controller.db"
    request = Controller.ResubmitJobRequest(job_id="source", kept_variables=["KEPT"])
    request.submission.MergeFrom(Controller.LaunchJobRequest(name="again", command=["true"], submission_id="once"))
    with world_of(Store(path)) as world:
        source = Controller.LaunchJobRequest(name="source", command=["true"])
        source.environment.env_vars["KEPT"] = "1"
        world.client.launch_job(source)
        world.end("source")
        assert world.client.connection.controller.resubmit_job(request).job_id == "again"
        world.client.forget_job("source")
    with world_of(Store(path)) as world:
        if is_name_used:
            world.submit("source")  # This job has no variable KEPT.
        assert world.client.connection.controller.resubmit_job(request).job_id == "again"
        request.submission.submission_id = "another"
        with pytest.raises(ConnectError):
            world.client.connection.controller.resubmit_job(request)


@pytest.mark.parametrize(
    ("job_id", "request_id", "error"),
    [
        ("other", "once", "request_id 'once' has already removed another job: choose a new request_id"),
        ("other", "x" * 201, "request_id must have at most 200 characters, got 201"),
    ],
)
def test_removal_with_an_unusable_request_id_removes_nothing(
    world: World, job_id: str, request_id: str, error: str
) -> None:
    world.ended("first")
    world.ended("other")
    controller = world.client.connection.controller
    controller.forget_job(Controller.ForgetJobRequest(job_id="first", request_id="once"))
    with pytest.raises(ConnectError, match=error) as caught:
        controller.forget_job(Controller.ForgetJobRequest(job_id=job_id, request_id=request_id))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert world.names() == ["other"]


def test_removal_continues_although_its_client_has_left(world: World) -> None:
    world.ended("left")

    async def remove_and_leave() -> None:
        controller = world.running.controller
        call = asyncio.create_task(controller.removal.forget("left", "once"))
        while not (call.done() or controller.saver.is_saving()):  # noqa: ASYNC110 - There is no event for a save.
            await asyncio.sleep(0)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        # A repeated request comes while the first one is still being carried out.
        assert await controller.removal.forget("left", "once") == ["left"]

    world.running.run(remove_and_leave())
    with pytest.raises(NotFoundError):
        world.client.get_job_status("left")
    assert world.client.count_jobs() == (0, 0)


class InterruptedReads(Store):
    """A store that calls a function before it reads a result."""

    def __init__(self) -> None:
        super().__init__(None)
        self.before_result: Callable[[], object] = int

    def result(self, number: int, task_index: int) -> bytes | None:
        call, self.before_result = self.before_result, int
        call()
        return super().result(number, task_index)


@pytest.mark.parametrize("is_name_used", [False, True])
def test_result_is_not_found_if_its_job_is_removed_while_the_result_is_read(is_name_used: bool) -> None:
    store = InterruptedReads()
    with world_of(store) as world:

        def remove() -> None:
            world.client.forget_job("read")
            if is_name_used:
                world.ended("read")

        calls: list[Callable[[], object]] = [
            lambda: world.client.get_job_status("read", include_result=True),
            lambda: world.client.get_task_status("read", 0, include_result=True),
            lambda: list(world.client.stream_results("read")),
        ]
        for call in calls:
            if "read" not in world.names():
                world.ended("read")
            store.before_result = remove
            with pytest.raises(NotFoundError, match="job 'read' was removed while its results were being read"):
                call()


def test_stored_answers_to_the_oldest_requests_to_remove_jobs_are_dropped() -> None:
    store = Store(None)
    for number in range(5):
        store.write(Changes().add_removal(f"request-{number}", [f"job-{number}"], most=3))
    assert [store.read(lambda db, n=n: reading.jobs_removed_by(db, f"request-{n}")) for n in range(5)] == [
        None,
        None,
        ["job-2"],
        ["job-3"],
        ["job-4"],
    ]
    store.close()


# Retention


def test_old_jobs_are_removed_by_age(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    with world_of(Store(path), job_retention=JobRetention(keep_ms=3_600_000)) as world:
        world.ended("ended")
        world.submit("waits")
        world.sweep()
        assert world.names() == ["ended", "waits"]
    with world_of(Store(path), job_retention=JobRetention(keep_ms=0)) as world:
        wait_until(lambda: world.sweep() or world.names() == ["waits"], "the removal of the ended job")


def test_jobs_that_ended_first_are_removed_if_too_many_ended_jobs_are_stored() -> None:
    with world_of(Store(None), job_retention=JobRetention(keep_count=2)) as world:
        for name in ("one", "two", "three", "four"):
            world.submit(name)
        for name in ("three", "one", "four", "two"):
            world.end(name)
        world.submit("waits")
        world.sweep()
        assert world.names() == ["two", "four", "waits"]


def test_old_job_with_a_live_child_job_is_kept_and_does_not_block_other_removals() -> None:
    with world_of(Store(None), job_retention=JobRetention(keep_count=1)) as world:
        for name in ("one", "two"):
            world.ended(name)
        world.submit("three")
        world.sweep()
        assert world.names() == ["two", "three"]


def test_repeated_submission_is_accepted_although_the_job_it_waits_for_was_removed(world: World) -> None:
    awaited = world.ended("awaited")
    request = Controller.LaunchJobRequest(name="waits", command=["true"], submission_id="once")
    request.after.add(job_id=awaited, condition=cluster_pb2.DEPENDENCY_CONDITION_ENDED)
    assert world.client.launch_job(request) == "waits"
    world.client.forget_job(awaited)
    assert world.client.launch_job(request) == "waits"
    request.submission_id = "another"
    request.name = "other"
    with pytest.raises(NotFoundError, match="no job named 'awaited'"):
        world.client.launch_job(request)


def test_old_jobs_are_removed_although_the_stored_logs_of_one_job_cannot_be_removed(tmp_path: Path) -> None:
    store_long_job(tmp_path / "controller.db", {"job0": 1, "job1": 1, "job2": 1})
    retention = JobRetention(keep_count=0)
    with odd_files():
        keeping = Keeping(LogDirectories(tmp_path / "logs"), location=LogLocation(f"odd://{tmp_path}/there"))
        OddFileSystem.broken = "job1"
        with world_of(Store(tmp_path / "controller.db"), kept_logs=keeping, job_retention=retention) as world:
            world.sweep()
            assert world.names() == ["job1"]
            OddFileSystem.broken = ""
            world.sweep()
            assert world.names() == []


# The limit of the bytes of one user.


def test_contents_of_the_oldest_ended_jobs_are_dropped_above_the_limit() -> None:
    with world_of(Store(None), max_bytes_per_user=10_000) as world:
        names = [world.ended(f"job{number}", entry_bytes=3_000) for number in range(5)]
        wait_until(lambda: world.stored_bytes().total <= 9_500, "contents to be dropped")
        assert [world.has_contents(name) for name in names] == [False, False, True, True, True]
        assert world.names() == names
        world.ended("large", workspace=b"w" * 8_000)
        wait_until(lambda: world.stored_bytes().total <= 9_500, "contents to be dropped")
        assert world.has_contents("large")
        assert not any(map(world.has_contents, names))


def test_submission_is_refused_when_the_unfinished_jobs_of_a_user_reach_the_limit() -> None:
    with world_of(Store(None), max_bytes_per_user=10_000) as world:
        world.submit("one", entry_bytes=1_000, workspace=b"w" * 6_000)
        # The same workspace counts only once for one user.
        world.submit("two", entry_bytes=1_000, workspace=b"w" * 6_000)
        live = world.stored_bytes().live
        with pytest.raises(ResourceExhaustedError) as caught:
            world.submit("three", entry_bytes=3_000)
        assert caught.value.reason == ErrorReason.QUOTA_EXCEEDED
        assert dict(caught.value.metadata) == {"user": "tests", "limit": "10000"}
        for words in (f"store {live:,} bytes", "over the limit of 10,000", "--max-bytes-per-user"):
            assert words in str(caught.value)
        with pytest.raises(ResourceExhaustedError, match="make them smaller, or raise the limit"):
            world.submit("large", entry_bytes=10_001)  # Even without other jobs, this job would exceed the limit.
        with RemoteClusterClient(world.running.address, token=token(name="ana")) as ana:
            ana.launch_job(Controller.LaunchJobRequest(name="of-ana", command=["true", "x" * 3_000]))
        world.end("one")
        world.end("two")
        world.submit("three", entry_bytes=3_000)


def test_inputs_shared_with_an_earlier_job_count_towards_the_byte_limit_of_a_new_job() -> None:
    inputs = pack_items([b"vx" + b"i" * 4_000])
    request = Controller.LaunchJobRequest(
        command=["echo", "{}"],
        independent_tasks=True,
        inputs_hash=hashlib.sha256(inputs).hexdigest(),
        num_inputs=1,
        inputs_per_task=1,
    )
    with world_of(Store(None), max_bytes_per_user=10_000) as world:
        request.name, request.inputs_blob = "first", inputs
        world.client.launch_job(request)
        request.name, request.inputs_blob = "second", b""
        world.client.launch_job(request)
        assert world.stored_bytes().live > 8_000
        request.name = "third"
        with pytest.raises(ResourceExhaustedError):
            world.client.launch_job(request)


def test_submission_whose_tasks_do_not_match_the_stored_inputs_is_refused() -> None:
    inputs = pack_items([b"one", b"two"])
    request = Controller.LaunchJobRequest(
        command=["echo", "{}"],
        independent_tasks=True,
        inputs_hash=hashlib.sha256(inputs).hexdigest(),
        num_inputs=2,
        inputs_per_task=1,
        resources=cluster_pb2.ResourceSpecProto(replicas=2),
    )
    with world_of(Store(None)) as world:
        request.name, request.inputs_blob = "first", inputs
        world.client.launch_job(request)
        request.name, request.inputs_blob = "second", b""
        for replicas in (1, 3):
            request.resources.replicas = replicas
            with pytest.raises(InvalidArgumentError, match=f"an item for each of {replicas} tasks, got 2"):
                world.client.launch_job(request)
        request.resources.replicas, request.num_inputs = 2, 3
        with pytest.raises(InvalidArgumentError, match="num_inputs must match the 2 tasks"):
            world.client.launch_job(request)
        request.resources.replicas, request.num_inputs = 1, 2
        request.seen_task_indices.append(1)
        request.seen_num_tasks = 3
        with pytest.raises(InvalidArgumentError, match="an item for each of 3 tasks, got 2"):
            world.client.launch_job(request)
        request.seen_num_tasks = 2  # A job that repeats one of the two tasks.
        assert world.client.launch_job(request) == "second"
