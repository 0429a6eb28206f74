"""Outputs of attempts are stored before their end is known, bounded, and removed with their job."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from support.cluster import launch, shell, unique, wait_for_end, wait_for_state
from support.standing_cluster import StandingCluster, standing_cluster
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.operations.steps import Call
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.outputs.output_store import OutputKeeping, OutputStore, Stored
from iris.cluster.files.output_pack import StoredPack
from iris.cluster.memory_profile import PROFILE_PATH
from iris.cluster.worker.files.collect_outputs import OutputCollector
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.peer import Peer

MIB = 1 << 20


def paths(client: IrisClient, job_id: str, **options: bool) -> list[tuple[str, int, str]]:
    return [(file.task_id, file.attempt_id, file.path) for file in client.outputs(job_id, **options)]


def test_outputs_of_all_tasks_are_stored_when_the_job_has_ended(client: IrisClient, tmp_path: Path) -> None:
    script = """
        [ "$IRIS_OUTPUT_DIR" = "$PWD/out" ] || exit 3
        mkdir -p out/sub; echo $IRIS_TASK_INDEX > out/sub/index; chmod 750 out/sub/index; touch -d @1000 out/sub/index
        ln -s sub/index out/link; ln -s /etc out/etc; mkfifo out/pipe; touch out/empty; echo x > more/x; echo no > not
    """
    job = client.run(shell(script), replicas=2, outputs=["./out/", "more"])
    job.wait()
    outputs = job.outputs()
    assert [(file.task_index, file.path, file.size) for file in outputs] == [
        (index, path, size)
        for index in range(2)
        for path, size in (("out/empty", 0), ("out/sub/index", 2), ("more/x", 2))
    ]
    assert outputs.missing == []
    copies = outputs.download(tmp_path)
    assert [(copy.files, copy.bytes) for copy in copies] == [(3, 4), (3, 4)]
    for index in range(2):
        copy = tmp_path / f"task-{index}/out/sub/index"
        assert copy.read_text() == f"{index}\n"
        assert (stat.S_IMODE(copy.stat().st_mode), copy.stat().st_mtime) == (0o750, 1000)
        assert os.readlink(tmp_path / f"task-{index}/out/link") == "sub/index"
        assert not os.path.lexists(tmp_path / f"task-{index}/out/etc")
        assert not (tmp_path / f"task-{index}/not").exists()
    (second,) = [file for file in job.tasks()[1].outputs() if file.path == "more/x"]
    assert second.download(tmp_path / "one").bytes == 2
    assert client.download(f"{job.job_id}/task-0", "out/link", tmp_path / "linked").bytes == 2
    with pytest.raises(NotFoundError, match="no file 'nope'"):
        client.download(f"{job.job_id}/task-0", "nope", tmp_path)


def test_outputs_of_failed_and_retried_attempts_are_stored(client: IrisClient) -> None:
    script = "echo $IRIS_ATTEMPT_ID > out/attempt; [ $IRIS_ATTEMPT_ID = 1 ] || exit 7; kill -9 $$"
    job = client.run(shell(script), outputs=["out"], max_retries_failure=1)
    status = job.wait(raise_on_failure=False)
    assert status.state == pb.JOB_STATE_FAILED
    assert paths(client, job.job_id) == [(f"{job.job_id}/task-0", 1, "out/attempt")]
    both = client.outputs(job, all_attempts=True)
    assert [file.attempt_id for file in both] == [0, 1]


def test_missing_outputs_of_a_running_and_a_terminated_attempt_have_a_reason(client: IrisClient) -> None:
    job = client.run(shell("echo x > out/x; sleep 1000"), outputs=["out"])
    wait_for_state(client.cluster, job.job_id, pb.JOB_STATE_RUNNING)
    (waiting,) = job.outputs().missing
    assert (waiting.reason, waiting.task_index) == ("NOT_ENDED", 0)
    job.terminate()
    wait_for_end(client.cluster, job.job_id)
    (missing,) = job.outputs().missing
    assert missing.reason == "TERMINATED"


def test_reading_the_outputs_of_a_job_without_outputs_is_refused(client: IrisClient) -> None:
    plain = client.run(["true"])
    plain.wait()
    with pytest.raises(FailedPreconditionError, match="submitted without outputs"):
        plain.outputs()


def test_invalid_output_directories_are_refused(client: IrisClient) -> None:
    for wrong in ("/tmp", "../x", ".", "", "*.csv"):
        with pytest.raises(InvalidArgumentError):
            client.run(["true"], outputs=[wrong])
    with pytest.raises(InvalidArgumentError, match="contain each other"):
        client.run(["true"], outputs=["a/b", "a"])


def test_output_directory_that_is_a_link_outside_is_not_read(client: IrisClient, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    job = client.run(shell(f"rmdir out; ln -s {tmp_path} out"), outputs=["out"])
    job.wait()
    (missing,) = job.outputs().missing
    assert missing.reason == "UNREADABLE"
    assert "leads out of" in missing.text
    assert "the outputs are not stored" in job.tasks()[0].status().output_warning


def test_async_client_reads_outputs(shared_cluster: LocalServer, tmp_path: Path) -> None:
    async def read() -> None:
        async with AsyncIrisClient.remote(shared_cluster.address) as client:
            job = await client.run(shell("echo x > out/x"), outputs=["out"])
            await job.wait()
            outputs = await job.outputs()
            assert [file.path for file in outputs] == ["out/x"]
            await outputs.download(tmp_path)
            await outputs[0].download(tmp_path / "x")

    asyncio.run(read())
    assert (tmp_path / "task-0/out/x").read_text() == (tmp_path / "x").read_text() == "x\n"


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[StandingCluster]:
    options = {"max_output_bytes": 2 * MIB, "max_stored_output_bytes": 3 * MIB}
    with standing_cluster(tmp_path / "state", **options) as cluster:
        yield cluster


def test_outputs_over_a_limit_are_refused_with_the_reason_and_removal_makes_space(limited: StandingCluster) -> None:
    def write(size: int) -> str:
        job = client.run(shell(f"head -c {size} /dev/zero > out/zeros"), outputs=["out"])
        assert job.wait().state == pb.JOB_STATE_SUCCEEDED
        return job.job_id

    def reason(job_id: str) -> str:
        outputs = client.outputs(job_id)
        return outputs.missing[0].reason if outputs.missing else ""

    with IrisClient.remote(limited.address) as client:
        assert reason(write(2 * MIB)) == "TOO_LARGE"
        first = write(2 * MIB - 1000)
        assert reason(first) == ""
        refused = write(2 * MIB - 1000)
        assert reason(refused) == "CLUSTER_LIMIT"
        assert "iris rm" in client.outputs(refused).missing[0].text
        root = limited.directory / "outputs"
        assert len(list(root.glob("*/0/pack"))) == 1
        client.forget(first)
        assert list(root.glob("*/0/pack")) == []
        limited.kill()
        limited.start()
        assert reason(write(2 * MIB - 1000)) == ""
        many = client.run(shell("cd out; seq 10001 | xargs touch"), outputs=["out"])
        many.wait()
        assert reason(many.job_id) == "TOO_MANY_FILES"


def state_of(pid: int) -> str:
    """Return the state of a process, for example `T` for a stopped process (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_collection_of_outputs_continues_after_a_kill_of_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller is killed while outputs arrive; the job ends when the next controller has all of them."""
    monkeypatch.setenv("IRIS_FAILPOINTS", "outputs.before=stop@3")
    with standing_cluster(tmp_path / "state") as cluster:
        monkeypatch.delenv("IRIS_FAILPOINTS")
        with cluster.client() as low:
            job_id = launch(
                low,
                shell("head -c 6000000 /dev/urandom > out/random; cp out/random /tmp/$IRIS_JOB_ID"),
                outputs=["out"],
                name=unique("kept"),
            )
            pack = cluster.directory / "outputs"
            wait_until(lambda: sum(file.stat().st_size for file in pack.glob("*/0/pack")) >= 2 * MIB, "two parts")
        worker = cluster.worker().pid
        # The worker stops itself a moment after the controller has written the second part.
        wait_until(lambda: state_of(worker) == "T", "the stop of the worker")
        cluster.kill()
        os.kill(worker, signal.SIGCONT)
        cluster.start()
        with IrisClient.remote(cluster.address) as client:
            assert wait_for_end(client.cluster, job_id).state == pb.JOB_STATE_SUCCEEDED
            (file,) = client.outputs(job_id)
            file.download(tmp_path / "back")
            original = Path("/tmp") / job_id
            assert (tmp_path / "back").read_bytes() == original.read_bytes()
            original.unlink()


def test_task_of_a_worker_killed_during_the_collection_of_outputs_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRIS_FAILPOINTS", "outputs.before=kill@1")
    with standing_cluster(tmp_path / "state") as cluster:
        monkeypatch.delenv("IRIS_FAILPOINTS")
        with IrisClient.remote(cluster.address) as client:
            job = client.run(shell("echo $IRIS_ATTEMPT_ID > out/x"), outputs=["out"], max_retries_preemption=1)
            assert job.wait(raise_on_failure=False).state == pb.JOB_STATE_WORKER_FAILED
            missing = client.outputs(job, all_attempts=True).missing
            assert [one.reason for one in missing] == ["WORKER_LOST", "WORKER_LOST"]
            assert "was lost before it had sent them" in missing[0].text


def test_unfinished_outputs_count_with_their_whole_size_after_a_restart(tmp_path: Path) -> None:
    keeping = OutputKeeping(tmp_path, max_total_bytes=100)

    def send(store: OutputStore, directory: str, **fields: Any) -> pb.Controller.StoreOutputsResponse:
        request = pb.Controller.StoreOutputsRequest(task_id="a/task-0", **fields)
        return asyncio.run(store.store(tmp_path / directory, request))

    first = OutputStore(keeping, jobs=None)  # type: ignore[arg-type]
    assert send(first, "task-1/0", total_bytes=80, data=b"x" * 10).position == 10
    first.close()
    second = OutputStore(keeping, jobs=None)  # type: ignore[arg-type]
    assert send(second, "task-1/0", total_bytes=80, position=10, data=b"x" * 10).position == 20
    assert send(second, "task-2/0", total_bytes=30).reason == pb.OUTPUT_REASON_CLUSTER_LIMIT
    second.close()


class NoJobs:
    """A table of jobs from which every job was removed."""

    async def get(self, job_id: str) -> None:
        """Return no job."""


def test_space_reserved_for_outputs_of_a_lost_attempt_is_free_after_the_next_sweep(tmp_path: Path) -> None:
    store = OutputStore(OutputKeeping(tmp_path, max_total_bytes=100), jobs=NoJobs())  # type: ignore[arg-type]

    async def announce(directory: str) -> pb.Controller.StoreOutputsResponse:
        request = pb.Controller.StoreOutputsRequest(task_id="a/task-0", total_bytes=80)
        return await store.store(tmp_path / directory, request)

    async def announce_twice() -> list[pb.Controller.StoreOutputsResponse]:
        answers = [await announce("task-1/0"), await announce("task-2/0")]
        await store.sweep()
        return [*answers, await announce("task-3/0"), await announce("task-1/0")]

    first, refused, later, lost = asyncio.run(announce_twice())
    store.close()
    assert first.refused == ""
    assert refused.reason == pb.OUTPUT_REASON_CLUSTER_LIMIT
    assert later.refused == ""
    assert lost.reason == pb.OUTPUT_REASON_WORKER_LOST


@pytest.mark.parametrize("token", ["x", "-1", "7", "outputs-999", "9" * 5000])
def test_page_token_of_another_list_is_refused_for_a_list_of_outputs(client: IrisClient, done: str, token: str) -> None:
    request = pb.Controller.ListOutputsRequest(job_id=done, page_token=token)

    def listing() -> Any:
        return (yield Call("list_outputs", request))

    with pytest.raises(InvalidArgumentError, match="page_token"):
        client.cluster.connection.perform(listing())


def test_warning_about_outputs_that_the_controller_refuses_names_the_controller(tmp_path: Path) -> None:
    async def refuse(*args: object, **options: object) -> None:
        raise ConnectError(Code.RESOURCE_EXHAUSTED, "too many calls")

    lines: list[str] = []
    attempt: Any = SimpleNamespace(
        working_directory=tmp_path,
        request=pb.Worker.RunTaskRequest(task_id="a/task-0", outputs=["out"]),
        write_build_line=lines.append,
        key="a/task-0",
    )
    connection: Any = SimpleNamespace(stub=SimpleNamespace(store_outputs=refuse), peer=Peer("host:1", "the controller"))
    asyncio.run(OutputCollector(connection, "worker", "incarnation").collect(attempt))
    assert lines == [attempt.output_warning]
    assert "the controller does not accept them: " in attempt.output_warning
    assert "too many calls" in attempt.output_warning


@pytest.mark.parametrize(("profile_bytes", "stored"), [(10, ["memory-profile/memray.bin", "out/x"]), (500, ["out/x"])])
def test_outputs_are_stored_without_a_memory_profile_that_exceeds_the_limit(
    tmp_path: Path, profile_bytes: int, stored: list[str]
) -> None:
    for file, size in (("work/out/x", 100), (f"profiled/{PROFILE_PATH}", profile_bytes)):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"x" * size)
    store = OutputStore(OutputKeeping(tmp_path / "stored", max_bytes=400), jobs=None)  # type: ignore[arg-type]
    directory = tmp_path / "stored/task-1/0"

    async def answer(request: pb.Controller.StoreOutputsRequest, **options: object) -> object:
        return await store.store(directory, request)

    lines: list[str] = []
    attempt: Any = SimpleNamespace(
        working_directory=tmp_path / "work",
        directory=SimpleNamespace(profiled=tmp_path / "profiled"),
        request=pb.Worker.RunTaskRequest(task_id="a/task-0", outputs=["out"], profile_memory=True),
        output_warning="",
        write_build_line=lines.append,
        key="a/task-0",
    )
    connection: Any = SimpleNamespace(stub=SimpleNamespace(store_outputs=answer), peer=Peer("host:1", "the controller"))
    asyncio.run(OutputCollector(connection, "worker", "incarnation").collect(attempt))
    pack = store.pack(directory)
    store.close()
    assert pack is not None
    assert sorted(file.path for file in pack.files if file.type == pb.FILE_TYPE_REGULAR) == stored
    assert lines[-1].startswith("stored the outputs: ")
    assert ("without the memory profile: with it, they have" in attempt.output_warning) == (profile_bytes > 400)


@pytest.fixture(scope="module")
def done(shared_cluster: LocalServer) -> str:
    """The id of a job with an output that has ended."""
    with IrisClient.remote(shared_cluster.address) as client:
        job = client.run(shell("echo x > out/x"), outputs=["out"])
        job.wait()
        return job.job_id


def test_outputs_with_a_damaged_index_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="the index of the pack is damaged"):
        StoredPack(path, 20)


def test_old_outputs_are_removed_and_the_reason_of_the_removal_is_kept(tmp_path: Path) -> None:
    now = [1_000]
    store = OutputStore(OutputKeeping(tmp_path, keep_ms=500, now_ms=lambda: now[0]), jobs=None)  # type: ignore[arg-type]
    directory = tmp_path / "task-1/0"
    request = pb.Controller.StoreOutputsRequest(task_id="a/task-0", total_bytes=0, sha256=hashlib.sha256().hexdigest())

    async def store_and_sweep() -> list[Stored | None]:
        await store.store(directory, request)
        seen = [store.stored(directory)]
        for now[0] in (1_400, 1_600):
            await store.sweep()
            seen.append(store.stored(directory))
        return seen

    first, kept, removed = asyncio.run(store_and_sweep())
    store.close()
    assert first == kept
    assert removed is not None
    assert (removed.reason, removed.job_id) == (pb.OUTPUT_REASON_REMOVED, "a")
    assert "--keep-logs" in removed.problem
    assert not (directory / "pack").exists()
