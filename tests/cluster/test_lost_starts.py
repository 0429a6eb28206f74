"""Starts and stops that are lost, late, or come to another process than the one that was meant."""

from __future__ import annotations

import hashlib
import io
import signal
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

from support.cluster import launch, shell, wait_for_end, wait_for_state
from support.lossy_world import WORKER_HOST, lossy_world
from support.tokens import token
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.rpc import cluster_connect
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor


def test_stopping_an_attempt_waits_for_its_start_after_the_worker_has_registered_again(tmp_path: Path) -> None:
    with lossy_world(tmp_path, "--incarnation", "a") as world:
        lost = world.worker_proxy.lose("WorkerService/RunTasks", "request", 8)
        job_id = launch(world.direct, ["sleep", "300"])
        wait_until(lambda: lost.left < 8, "a start that is lost")
        (worker,) = world.direct.list_workers()
        stub = cluster_connect.ControllerServiceClientSync(
            world.controller.address, send_compression=None, interceptors=(BearerInterceptor(token),)
        )
        stub.register_worker(
            pb.Controller.RegisterWorkerRequest(worker_id="w", address=worker.address, incarnation="a")
        )
        assert lost.left, "the start is still under way"
        world.direct.terminate_job(job_id)
        (attempt,) = wait_for_end(world.direct, job_id).tasks[0].attempts
        calls = [call for call in world.worker_proxy.passed if call.endswith(("RunTasks", "KillTask"))]
        assert calls == ["WorkerService/RunTasks", "WorkerService/KillTask"]
        assert attempt.state == pb.TASK_STATE_KILLED


def test_start_request_for_an_earlier_worker_process_runs_no_attempt(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with lossy_world(tmp_path, "--incarnation", "a") as world:
        port = urlsplit(world.worker_address).port
        heard = world.worker_proxy.lose("WorkerService/RunTasks", "response", 1000)
        script = f"echo $IRIS_ATTEMPT_ID >> {proof}; [ $IRIS_ATTEMPT_ID = 0 ] && exec sleep 300; exit 0"
        job_id = launch(world.direct, shell(script))
        wait_until(proof.exists, "the first run, of which the controller has no answer")
        unknown = world.controller_proxy.lose("ControllerService/RegisterWorker", "request", 8, containing="b")
        world.worker.send_signal(signal.SIGKILL)
        world.worker.wait()
        place = ("--advertise", WORKER_HOST, "--port", str(port), "--incarnation", "b")
        with running_worker(world.controller_proxy.address, tmp_path / "other", *place):
            before = heard.left
            wait_until(lambda: heard.left < before or not unknown.left, "the start, once more")
            wait_until(lambda: not unknown.left, "the registration of the other process")
            heard.left = 0
            task = wait_for_end(world.direct, job_id).tasks[0]
        assert [one.state for one in task.attempts] == [pb.TASK_STATE_WORKER_FAILED, pb.TASK_STATE_SUCCEEDED]
        assert proof.read_text().split() == ["0", "1"]


def test_attempt_abandoned_by_its_worker_during_preparation_is_lost_and_not_killed(tmp_path: Path) -> None:
    packed = io.BytesIO()
    tarfile.open(fileobj=packed, mode="w:gz").close()
    workspace = {"bundle_blob": packed.getvalue(), "bundle_hash": hashlib.sha256(packed.getvalue()).hexdigest()}
    with lossy_world(tmp_path) as world:
        lost = world.controller_proxy.lose("ControllerService/FetchBundle", "request", 1000)
        job_id = launch(world.direct, ["true"], **workspace)
        wait_until(lambda: lost.left < 1000, "the attempt to be prepared")
        assert wait_for_state(world.direct, job_id, pb.JOB_STATE_BUILDING)
        world.worker.send_signal(signal.SIGTERM)
        world.worker.wait()
        lost.left = 0
        with running_worker(world.controller_proxy.address, tmp_path / "other"):
            task = wait_for_end(world.direct, job_id).tasks[0]
    *lost_ones, last = [one.state for one in task.attempts]
    assert set(lost_ones) == {pb.TASK_STATE_WORKER_FAILED}
    assert (last, task.failure_count) == (pb.TASK_STATE_SUCCEEDED, 0)
