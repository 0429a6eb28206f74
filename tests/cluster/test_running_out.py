"""Disk, file descriptors and processes run out, under real limits: nothing new is taken, and what there is goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from support.cluster import launch, running_cluster, shell, wait_for_end, wait_for_state
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.metrics import Samples, read_metrics
from support.process_engine import ProcessEngine, slot_processes
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.logs.folding import Foldable, FoldedLogs
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.submission.headroom import DESCRIPTOR_HEADROOM, DISK_HEADROOM_BYTES
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.log_writer import LogWriter
from iris.errors import ControllerUnreachableError, ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb

MIB = 1024 * 1024


@contextlib.contextmanager
def _mounted(path: Path, *options: str) -> Iterator[None]:
    """A disk, mounted for the time of a test."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted here (root only): {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with little more room than the controller's reserve."""
    path = tmp_path / "disk"
    path.mkdir()
    with _mounted(path, f"size={DISK_HEADROOM_BYTES // MIB + 40}m"):
        yield path


def fill(disk: Path, leave: int) -> Path:
    """Fills a disk but for so many bytes."""
    other = disk / "other"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with other.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return other


def test_full_disk_of_the_controller_refuses_new_jobs_and_loses_none(disk: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running_cluster(disk / "state") as server, RemoteClusterClient(server.address) as client:
        runs = launch(client, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 3"))
        wait_for_state(client, runs, pb.JOB_STATE_RUNNING)
        other = fill(disk, DISK_HEADROOM_BYTES - 4 * MIB)
        with pytest.raises(ResourceExhaustedError, match=r"disk of the controller is nearly full: \d+ MiB are free"):
            launch(client, ["true"])
        other.unlink()
        other = fill(disk, DISK_HEADROOM_BYTES + 4 * MIB)
        blob = bytes(3 * MIB)
        bundle = {"bundle_hash": hashlib.sha256(blob).hexdigest(), "bundle_blob": blob}
        with pytest.raises(ResourceExhaustedError, match="nearly full"):
            launch(client, ["true"], **bundle)  # it would not fit twice
        small = launch(client, ["true"])
        assert wait_for_end(client, small).state == pb.JOB_STATE_SUCCEEDED
        other.unlink()
        other = fill(disk, 0)
        with pytest.raises(ResourceExhaustedError):
            launch(client, ["true"])
        gate.touch()
        wait_until(
            lambda: (
                client.get_task_status(runs, 0).state == pb.TASK_STATE_FAILED
                or "cannot be saved now" in client.get_job_status(runs).status_message
            ),
            "its end where that could be kept, or that it could not",
        )
        other.unlink()
        assert wait_for_end(client, runs).exit_code == 3
        assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
    with running_cluster(disk / "state") as server, RemoteClusterClient(server.address) as client:
        assert client.get_job_status(runs).exit_code == 3
        assert client.get_job_status(small).state == pb.JOB_STATE_SUCCEEDED


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


def limit_files(server: LocalServer, more: int) -> None:
    """From now on the controller may have so many more open than it has now."""
    limit = psutil.Process(server.process.pid).num_fds() + more
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))


def connect(server: LocalServer) -> socket.socket:
    parts = urlsplit(server.address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)


def test_controller_with_few_file_descriptors_refuses_only_new_jobs_and_streams(
    server: LocalServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 3")
    with RemoteClusterClient(server.address) as client, contextlib.ExitStack() as others:
        runs = launch(client, script)
        wait_for_state(client, runs, pb.JOB_STATE_RUNNING)
        limit_files(server, 4 * DESCRIPTOR_HEADROOM)
        assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
        for _ in range(3 * DESCRIPTOR_HEADROOM + 20):
            others.enter_context(connect(server))
        wait_until(lambda: not accepted(client), "the connections to be counted")
        with pytest.raises(ResourceExhaustedError, match="no new jobs now: nearly all of its"):
            launch(client, ["true"])
        with pytest.raises(ControllerUnreachableError, match="no new streams now"):
            next(client.watch_job(runs, patience_s=0))
        gate.touch()
        assert wait_for_end(client, runs).exit_code == 3, "what runs is reported, and told"
        others.close()
        job_id = wait_until(lambda: accepted(client), "the connections to be gone")
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED


def accepted(client: RemoteClusterClient) -> str:
    try:
        return launch(client, ["true"])
    except ResourceExhaustedError:
        return ""


def test_controller_without_free_file_descriptors_pauses_and_recovers(server: LocalServer) -> None:
    controller = psutil.Process(server.process.pid)
    with RemoteClusterClient(server.address) as client, contextlib.ExitStack() as others:
        wait_until(client.list_workers, "the worker")
        limit_files(server, 10)
        for _ in range(60):
            others.enter_context(connect(server))
        heard_ms = client.list_workers()[0].last_heartbeat_ms
        began_s, before = time.monotonic(), controller.cpu_times()
        # Two seconds are long enough to measure CPU time, which the kernel counts in steps of 10 ms.
        wait_until(lambda: client.list_workers()[0].last_heartbeat_ms > heard_ms + 2000, "later reports of the worker")
        used, passed_s = controller.cpu_times(), time.monotonic() - began_s
        spent_s = used.user + used.system - before.user - before.system
        assert spent_s < passed_s * 0.8, "it spins: these connections cannot be accepted"
        with pytest.raises(ResourceExhaustedError, match="no new jobs now"):
            launch(client, ["true"])
        others.close()
        job_id = wait_until(lambda: accepted(client), "the connections to be gone")
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED


# No limit of processes holds root: another user, who may read our files.
AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)


def test_failed_process_start_for_lack_of_resources_is_charged_to_the_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "iris.cluster.worker", "--worker-id", "w", "--directory", str(tmp_path / "w")]
    if shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        pytest.skip("no setpriv and prlimit here")
    user = AS_NOBODY if os.geteuid() == 0 else ()
    with (
        serving(FakeEngine(), Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
        (tmp_path / "worker.log").open("wb") as log,
        subprocess.Popen([*user, *command, "--controller", controller.address], stdout=log, stderr=log) as process,
    ):
        try:
            # One that runs first: its threads are there by then, and the limit is of threads, too.
            assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
            before = resource.getrlimit(resource.RLIMIT_NPROC)[0]  # it has ours
            limit = [*user, "prlimit", "--nproc={}:", "--pid={}"]  # only its own user may, where root may not do all
            starters = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]

            def allow(processes: int | str) -> None:
                for pid in starters:
                    subprocess.run(
                        [word.format(processes) if "nproc" in word else word.format(pid) for word in limit], check=True
                    )

            allow(1)
            job_id = launch(client, ["true"])
            task = wait_until(
                lambda: (seen := client.get_task_status(job_id, 0)).preemption_count and seen, "a start that fails"
            )
            assert task.failure_count == 0, "a job without retries is not at fault"
            assert "cannot start another process" in task.error
            assert "ulimit -u" in task.error
            wait_until(
                lambda: client.list_workers()[0].shortage_reason == pb.SHORTAGE_REASON_PROCESSES,
                "the worker to report its shortage",
            )
            allow(before if before >= 0 else "unlimited")
            job = wait_for_end(client, job_id)
            assert job.state == pb.JOB_STATE_SUCCEEDED
            assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED, (
                "nothing else is hurt"
            )
        finally:
            process.terminate()
            process.wait()


def test_write_that_does_not_fit_on_the_disk_reports_a_full_disk(tmp_path: Path) -> None:
    with _mounted(tmp_path, "size=4m"), contextlib.closing(Store(tmp_path / "db" / "x.db")) as store:
        changes = Changes().add_rows("INSERT INTO bundles VALUES (?, ?)", [("hash", b"x" * 8 * MIB)])
        with pytest.raises(ResourceExhaustedError, match="database or disk is full"):
            store.write(changes)
        assert not store.has_bundle("hash")
        store.write(Changes().set_lease(7.0))
        assert store.load_lease() == 7.0


def test_fold_that_does_not_fit_on_the_disk_reports_a_full_disk_and_keeps_the_logs(tmp_path: Path) -> None:
    names = [f"job{number}/0" for number in range(4)]
    with _mounted(tmp_path, "size=6m"):
        logs = FoldedLogs(LogDirectories(tmp_path / "logs"))
        for name in names:
            with contextlib.closing(LogWriter(tmp_path / "logs" / name)) as writer:
                writer.append("stdout", b"x" * (MIB - 1) + b"\n", 1)
        foldable = [Foldable(name, MIB, 1, "") for name in names]
        with contextlib.closing(logs):
            with pytest.raises(OSError, match="database or disk is full"):
                logs.fold(foldable)
            assert logs.total_bytes() == 0
            assert all((tmp_path / "logs" / name).exists() for name in names)
            logs.fold(foldable[:1])
            assert logs.total_bytes() > MIB


def fill_inodes(disk: Path) -> Path:
    """Takes all inodes of a disk."""
    folder = disk / "many"
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10**6):
            (folder / str(number)).touch()
    return folder


def free_worker(cluster: LocalServer, client: RemoteClusterClient) -> None:
    """Until no worker is short of anything."""
    wait_until(
        lambda: (workers := client.list_workers()) and not any(worker.shortage_reason for worker in workers),
        "workers without a shortage",
    )


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_worker_with_a_full_disk_starts_no_attempt_until_it_has_space(tmp_path: Path, what: str) -> None:
    state = tmp_path / "state"
    workers = state / "workers"
    workers.mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    with (
        _mounted(workers, "size=32m", "nr_inodes=400", "mode=700"),
        running_cluster(state) as server,
        RemoteClusterClient(server.address) as client,
    ):
        runs = launch(client, shell("while [ -e /proc/self ] && [ ! -e gate ]; do sleep 0.05; done; echo went on"))
        wait_for_state(client, runs, pb.JOB_STATE_RUNNING)
        other = fill(workers, 0) if what == "bytes" else fill_inodes(workers)
        jobs = [launch(client, ["true"]) for _ in range(4)]
        expected = pb.SHORTAGE_REASON_DISK_SPACE if what == "bytes" else pb.SHORTAGE_REASON_INODES
        wait_until(
            lambda: any(worker.shortage_reason == expected for worker in client.list_workers()), "a reported shortage"
        )
        for job_id in jobs:
            wait_until(
                lambda job_id=job_id: client.get_job_status(job_id).pending_reason == pb.PENDING_REASON_NO_MACHINE,
                "the reason why the job waits",
            )
        later = launch(client, ["true"])
        assert client.get_job_status(runs).state == pb.JOB_STATE_RUNNING, "what runs goes on"
        shutil.rmtree(other) if other.is_dir() else other.unlink()
        for job_id in [*jobs, later]:
            job = wait_for_end(client, job_id)
            assert job.state == pb.JOB_STATE_SUCCEEDED, job.error
            assert job.tasks[0].failure_count == 0
            assert job.tasks[0].preemption_count <= 1, "at most what was placed before the worker had said it"
        client.terminate_job(runs)
        wait_for_end(client, runs)


def test_jobs_run_on_workers_with_free_disk_space(tmp_path: Path) -> None:
    state = tmp_path / "state"
    full = state / "workers" / "local-0"
    full.mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    with (
        _mounted(full, "size=16m", "mode=700"),
        running_cluster(state, workers=2) as server,
        RemoteClusterClient(server.address) as client,
    ):
        # A worker that has not started yet could not start on a full disk, and would say nothing.
        wait_until(lambda: len(client.list_workers()) == 2, "both workers")
        fill(full, 0)
        wait_until(
            lambda: [worker.shortage_reason != 0 for worker in client.list_workers()].count(True) == 1, "one full disk"
        )
        jobs = [wait_for_end(client, launch(client, ["true"])) for _ in range(4)]
        assert [job.state for job in jobs] == [pb.JOB_STATE_SUCCEEDED] * 4
        assert {job.tasks[0].worker_id for job in jobs} == {"local-1"}
        machines = {machine.name: machine for machine in client.list_machines().machines}
        assert machines["local-0"].shortage_reason == pb.SHORTAGE_REASON_DISK_SPACE
        assert "disk is nearly full" in machines["local-0"].why_avoided
        assert not machines["local-0"].alive
        assert machines["local-1"].alive
        metrics = Samples(read_metrics(server.address))
        assert [metrics.value("iris_machines", state=state) for state in ("alive", "avoided", "dead")] == [1, 1, 0]
        assert metrics.value("iris_cpu_capacity_cores") == sum(machine.total.cpu for machine in machines.values())
        (full / "other").unlink()
        free_worker(server, client)
        job = wait_for_end(client, launch(client, ["true"], replicas=2, placement=pb.PLACEMENT_SPREAD))
        assert job.state == pb.JOB_STATE_SUCCEEDED


def test_controller_with_few_inodes_refuses_jobs(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with (
        _mounted(disk, f"size={DISK_HEADROOM_BYTES // MIB + 40}m", "nr_inodes=2000"),
        running_cluster(disk / "state") as server,
        RemoteClusterClient(server.address) as client,
    ):
        folder = fill_inodes(disk)
        with pytest.raises(ResourceExhaustedError, match="hardly any inodes left"):
            launch(client, ["true"])
        shutil.rmtree(folder)
        free_worker(server, client)
        assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED


def test_single_slot_worker_with_a_full_disk_moves_its_gang(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    with (
        contextlib.ExitStack() as disk,
        slot_processes(folder) as slots,
        serving(ProcessEngine(slots), Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        disk.enter_context(_mounted(folder, "size=16m"))
        slots.address = controller.address
        other = fill(folder, 64 * 1024)  # enough for a worker to start
        job_id = launch(client, ["true"])
        task = wait_until(
            lambda: (seen := client.get_task_status(job_id, 0)).preemption_count and seen, "a start that fails"
        )
        assert "could not start the attempt: the worker's disk is nearly full" in task.attempts[0].error
        assert task.attempts[0].is_worker_failure
        other.unlink()
        job = wait_for_end(client, job_id)
        assert (job.state, job.tasks[0].failure_count) == (pb.JOB_STATE_SUCCEEDED, 0)
        assert len({attempt.worker_id for attempt in job.tasks[0].attempts}) > 1
