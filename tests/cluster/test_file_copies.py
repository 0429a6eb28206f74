"""Files are copied from and to running tasks, through the worker and the controller, also over kills of both."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import launch, shell, unique, wait_for_end, wait_for_state
from support.standing_cluster import StandingCluster, standing_cluster
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2 as pb

MIB = 1 << 20


@pytest.fixture(scope="module")
def task(shared_cluster: LocalServer) -> Iterator[str]:
    """A task that runs and has files of all kinds."""
    script = """
        mkdir -p out/sub empty; echo one > out/one; chmod 750 out/one; touch -d @1000000000 out/one
        echo two > out/sub/two; ln -s one out/inside; ln -s /etc out/outside; ln -s ../../../.. out/up; mkfifo out/pipe
        touch ready; sleep 1000
    """
    with RemoteClusterClient(shared_cluster.address) as cluster:
        job_id = launch(cluster, shell(script))
        wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
        wait_until(lambda: has_file(cluster, f"{job_id}/task-0", "ready"), "the task to be ready")
        yield f"{job_id}/task-0"
        cluster.terminate_job(job_id)
        wait_for_end(cluster, job_id)


def has_file(cluster: RemoteClusterClient, task_id: str, path: str) -> bool:
    try:
        return bool(cluster.list_task_files(task_id, path))
    except (NotFoundError, FailedPreconditionError):
        return False


@pytest.fixture(params=["worker", "controller"])
def client(request: pytest.FixtureRequest, shared_cluster: LocalServer, task: str) -> Iterator[IrisClient]:
    """A client that reaches the worker, or only the controller."""
    with IrisClient.remote(shared_cluster.address) as remote:
        if request.param == "controller":
            for worker in remote.cluster.list_workers():
                remote.cluster.lost_worker(worker.address)
        yield remote


def test_directory_of_a_task_is_copied_with_its_permissions_times_and_links(
    client: IrisClient, task: str, tmp_path: Path
) -> None:
    reported: list[tuple[int, int]] = []
    copied = client.download(task, "out", tmp_path, on_progress=lambda done, total: reported.append((done, total)))
    assert (copied.path, copied.files, copied.bytes) == (tmp_path / "out", 2, 8)
    one = tmp_path / "out/one"
    assert one.read_text() == "one\n"
    assert (stat.S_IMODE(one.stat().st_mode), one.stat().st_mtime) == (0o750, 1000000000)
    assert (tmp_path / "out/sub/two").read_text() == "two\n"
    assert os.readlink(tmp_path / "out/inside") == "one"
    assert [text.split(":")[0] for text in copied.skipped] == ["out/outside", "out/pipe", "out/up"]
    assert not os.path.lexists(tmp_path / "out/outside")
    assert reported[-1] == (8, 8)
    contents = client.download(task, "out/.", tmp_path / "new")
    assert contents.path == tmp_path / "new"
    assert (tmp_path / "new/sub/two").exists()


def test_file_of_a_task_is_copied_to_a_name_a_directory_or_a_stream(
    client: IrisClient, task: str, tmp_path: Path
) -> None:
    assert client.download(task, "out/inside", tmp_path / "name").path == tmp_path / "name"
    assert client.download(task, "out/inside", tmp_path).path == tmp_path / "inside"
    assert client.download(task, "out/one", f"{tmp_path}/made/").path == tmp_path / "made/one"
    stream = io.BytesIO()
    client.download(task, "out/one", stream)
    assert (tmp_path / "inside").read_bytes() == stream.getvalue() == b"one\n"


def test_large_file_is_unchanged_after_a_copy_to_a_task_and_back(client: IrisClient, task: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5 * MIB + 17))
    source.chmod(0o640)
    os.utime(source, ns=(1, 1234567890123456789))
    name = unique("large")
    sent = client.upload(source, task, f"{name}/deep/")
    assert (sent.path, sent.bytes) == (f"{name}/deep/source", 5 * MIB + 17)
    totals: list[int] = []
    client.download(task, f"{name}/deep/source", tmp_path / "back", on_progress=lambda _, total: totals.append(total))
    assert set(totals) == {5 * MIB + 17}
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    back = (tmp_path / "back").stat()
    assert (stat.S_IMODE(back.st_mode), back.st_mtime_ns) == (0o640, 1234567890123456789)


def test_directory_is_copied_into_a_task_and_replaces_files(client: IrisClient, task: str, tmp_path: Path) -> None:
    name = unique("dir")
    folder = tmp_path / name
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("1")
    (folder / "link").symlink_to("sub/file")
    (folder / "out").symlink_to("/etc")
    for text in ("1", "2"):
        (folder / "sub/file").write_text(text)
        sent = client.upload(folder, task)
        assert (sent.path, sent.files) == (name, 1)
        assert sent.skipped == ["out: a symbolic link out of the directory"]
        stream = io.BytesIO()
        client.download(task, f"{name}/link", stream)
        assert stream.getvalue().decode() == text
    client.upload(io.BytesIO(b""), task, f"{name}/empty")
    assert client.cluster.list_task_files(task, f"{name}/empty")[0].size == 0


@pytest.mark.parametrize("path", ["out/outside/passwd", "out/up/x", "out/outside", "out/pipe"])
def test_copies_of_links_out_of_the_task_directory_and_of_pipes_are_refused(
    client: IrisClient, task: str, path: str, tmp_path: Path
) -> None:
    with pytest.raises(FailedPreconditionError):
        client.download(task, path, tmp_path)
    assert list(tmp_path.iterdir()) == []
    if path != "out/pipe":
        with pytest.raises(FailedPreconditionError, match="leads out of"):
            client.upload(io.BytesIO(b"evil"), task, f"{path}/new")


def test_error_of_an_invalid_file_copy_names_the_argument(client: IrisClient, task: str, tmp_path: Path) -> None:
    for call in (client.download, lambda task_id, path, to: client.upload(to, task_id, path)):
        for path in ("/etc/passwd", "../x"):
            with pytest.raises(InvalidArgumentError, match="must not leave"):
                call(task, path, tmp_path)
    with pytest.raises(NotFoundError, match="no file 'nope'"):
        client.download(task, "nope", tmp_path)
    with pytest.raises(FailedPreconditionError, match="No such file"):
        client.upload(tmp_path / "nope", task)
    (tmp_path / "file").touch()
    for to in (f"{tmp_path}/file/", f"{tmp_path}/file/below/"):
        with pytest.raises(FailedPreconditionError, match=rf"{to}: .+"):
            client.download(task, "out/one", to)
    with pytest.raises(InvalidArgumentError, match="must name a file"):
        client.upload(io.BytesIO(), task, "out")
    with pytest.raises(FailedPreconditionError, match="not a directory"):
        client.upload(io.BytesIO(b"x"), task, "out/sub/two/x")


def test_growing_file_is_copied_up_to_its_initial_size_and_a_replaced_file_is_refused(
    shared_cluster: LocalServer, tmp_path: Path
) -> None:
    """The size of the copy is the size at the beginning. A file that is replaced again and again is never mixed."""
    with IrisClient.remote(shared_cluster.address) as client:
        grows = "head -c 3000000 /dev/zero > grows; while :; do echo more >> grows; done"
        swaps = "while :; do head -c 2500000 /dev/urandom > new; mv new swapped; done"
        job = client.run(shell(f"({grows}) & {swaps}"))
        task_id = f"{job.job_id}/task-0"
        wait_until(lambda: has_file(client.cluster, task_id, "swapped"), "the files")
        before = client.cluster.list_task_files(task_id, "grows")[0].size
        assert client.download(task_id, "grows", tmp_path / "grows").bytes >= before
        replaced = threading.Event()

        def until_replaced(done: int, total: int) -> None:
            inode = client.cluster.read_task_file(pb.ReadTaskFileRequest(task_id=task_id, path="swapped")).inode

            def is_new() -> bool:
                request = pb.ReadTaskFileRequest(task_id=task_id, path="swapped")
                return client.cluster.read_task_file(request).inode != inode

            wait_until(is_new, "another file")
            replaced.set()

        with pytest.raises((DataLossError, NotFoundError)):
            client.download(task_id, "swapped", tmp_path / "swapped", on_progress=until_replaced)
        assert replaced.is_set()
        assert [path.name for path in tmp_path.iterdir()] == ["grows"]
        job.terminate()
        job.wait(raise_on_failure=False)


def test_files_of_an_ended_or_waiting_task_are_refused_for_writing(client: IrisClient, tmp_path: Path) -> None:
    job = client.run(shell("echo kept > kept"))
    job.wait()
    task = job.tasks()[0]
    assert task.download("kept", tmp_path).bytes == 5
    with pytest.raises(FailedPreconditionError, match="has ended") as refused:
        task.upload(tmp_path / "kept")
    assert refused.value.reason == ErrorReason.ATTEMPT_NOT_RUNNING
    waiting = client.run(["true"], after=[client.run(["sleep", "1000"], name=unique("never"))])
    with pytest.raises(FailedPreconditionError, match="has not started yet"):
        waiting.tasks()[0].download("x", tmp_path)
    for job_id in (waiting.job_id, *(one.job_id for one in client.list_jobs(id_prefix="never"))):
        client.terminate(job_id)


def test_job_in_a_working_directory_of_the_user_has_no_files_to_copy(client: IrisClient, tmp_path: Path) -> None:
    job_id = launch(client.cluster, ["sleep", "1000"], working_directory=str(tmp_path))
    wait_for_state(client.cluster, job_id, pb.JOB_STATE_RUNNING)
    with pytest.raises(FailedPreconditionError, match=f"{job_id}/task-0 runs in the directory"):
        client.download(f"{job_id}/task-0", "x", tmp_path)
    client.terminate(job_id)
    wait_for_end(client.cluster, job_id)


def test_only_owner_and_admin_may_write_files_of_tasks_and_readers_may_read(
    shared_cluster: LocalServer, task: str, tmp_path: Path
) -> None:
    job_id = task.rpartition("/")[0]
    task_token = token("task", job_id=job_id, task_index=0, attempt_id=0)
    with IrisClient.remote(shared_cluster.address, token=token("user", name="tests")) as owner:
        owner.upload(io.BytesIO(b"x"), task, unique("yes"))
    for shown in (token("user", name="other"), token("reader", name="tests"), task_token):
        with IrisClient.remote(shared_cluster.address, token=shown) as other:
            assert other.download(task, "out/one", tmp_path / "one").bytes == 4
            with pytest.raises(PermissionDeniedError):
                other.upload(tmp_path / "one", task, unique("no"))


def test_async_client_copies_files_to_and_from_tasks(shared_cluster: LocalServer, task: str, tmp_path: Path) -> None:
    async def copy() -> None:
        async with AsyncIrisClient.remote(shared_cluster.address) as client:
            await client.download(task, "out", tmp_path)
            name = unique("async")
            await client.upload(tmp_path / "out", task, f"{name}/")
            copied = await client.download(task, f"{name}/out/sub/two", tmp_path / "two")
            assert copied.bytes == 4

    asyncio.run(copy())
    assert (tmp_path / "two").read_text() == "two\n"


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[StandingCluster]:
    with standing_cluster(tmp_path / "state") as cluster:
        yield cluster


def test_copies_through_the_controller_continue_after_it_was_killed(standing: StandingCluster, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4 * MIB))
    with IrisClient.remote(standing.address) as client:
        task = client.run(["sleep", "1000"]).tasks()[0]
        wait_for_state(client.cluster, task.job_id, pb.JOB_STATE_RUNNING)
        (worker,) = client.cluster.list_workers()
        client.cluster.lost_worker(worker.address)
        kills = iter([2 * MIB, 3 * MIB])
        at = next(kills)
        starting = threading.Thread()

        def kill(done: int, total: int) -> None:
            nonlocal at, starting
            if done >= at:
                at = next(kills, 100 * MIB)
                standing.kill()
                starting = threading.Thread(target=standing.start)
                starting.start()

        assert task.upload(source, "copy", on_progress=kill).bytes == 4 * MIB
        kills = iter([MIB])
        at = next(kills)
        starting.join()  # The server may answer before `start` knows its process, which the next kill needs.
        task.download("copy", tmp_path / "back", on_progress=kill)
        starting.join()
        assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_copy_ends_with_an_error_and_no_file_when_the_worker_is_killed(
    standing: StandingCluster, tmp_path: Path
) -> None:
    with IrisClient.remote(standing.address) as client:
        task = client.run(shell("head -c 4000000 /dev/urandom > big; mv big big2; sleep 1000")).tasks()[0]
        wait_until(lambda: has_file(client.cluster, f"{task.job_id}/task-0", "big2"), "the file")
        (tmp_path / "here").mkdir()

        def kill(done: int, total: int) -> None:
            if standing.find_worker() is not None and done < total:
                standing.kill_worker()

        with pytest.raises((UnavailableError, NotFoundError, FailedPreconditionError)):
            client.download(task, "big2", tmp_path / "here/big", patience_s=1.0, on_progress=kill)
        assert list((tmp_path / "here").iterdir()) == []
        client.terminate(task.job_id)


def test_file_part_with_a_gap_or_a_wrong_hash_is_refused_and_leaves_no_file(client: IrisClient, task: str) -> None:
    name = unique("parts")
    request = pb.WriteTaskFileRequest(
        task_id=task,
        file=pb.TaskFile(path=name, type=pb.FILE_TYPE_REGULAR),
        transfer_id=secrets.token_hex(16),
        offset=5,
        data=b"x",
    )
    with pytest.raises(FailedPreconditionError) as gap:
        client.cluster.write_task_file(request)
    assert gap.value.reason == ErrorReason.TRANSFER_UNKNOWN
    request.offset, request.end, request.sha256 = 0, True, hashlib.sha256(b"y").hexdigest()
    with pytest.raises(DataLossError, match="SHA-256"):
        client.cluster.write_task_file(request)
    request.sha256 = hashlib.sha256(b"x").hexdigest()
    for _ in range(2):
        assert client.cluster.write_task_file(request).offset == 1
    request.transfer_id = "../../../x"
    with pytest.raises(InvalidArgumentError, match="transfer_id"):
        client.cluster.write_task_file(request)
    with pytest.raises(IrisError):
        client.cluster.list_task_files(task, f"{name}/x")
