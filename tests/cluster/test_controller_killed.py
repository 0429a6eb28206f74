"""`kill -9` of a cluster's controller: workers and tasks go on, and the next controller knows all of them.

IRIS_CONTROLLER_KILLS=20 pytest tests/cluster/test_controller_killed.py -k acknowledged      more kills
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import is_alive, launch, reapers, shell, unique, wait_for_end, wait_for_state
from support.standing_cluster import Proofs, StandingCluster, standing_cluster
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import start_server
from iris.config import ClusterConfig
from iris.errors import AlreadyExistsError, IrisError, LocalClusterError
from iris.rpc import cluster_pb2 as pb

KILLS = int(os.environ.get("IRIS_CONTROLLER_KILLS", "6"))


@pytest.fixture
def proofs(tmp_path: Path) -> Proofs:
    return Proofs(tmp_path / "proofs")


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """One cluster for all tests that only kill the controller and start it again."""
    with standing_cluster(tmp_path_factory.mktemp("survivor") / "state", workers=2) as started:
        yield started


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[StandingCluster]:
    """A cluster for tests that change its workers."""
    with standing_cluster(tmp_path / "state", workers=2) as started:
        yield started


def test_tasks_continue_without_a_controller_and_are_adopted_by_the_next_controller(
    survivor: StandingCluster, proofs: Proofs
) -> None:
    with survivor.client() as client:
        job_id = launch(client, proofs.command(exit_code=7), replicas=3)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        for index in range(3):
            proofs.wait_for(index)
    workers = {survivor.worker("local-0"), survivor.worker("local-1")}
    survivor.kill()
    for index in range(3):
        proofs.wait_for_more(index)
    server = survivor.start()
    assert (server.found["jobs_going_on"], server.found["workers_running"]) == (1, 2)
    assert {survivor.worker("local-0"), survivor.worker("local-1")} == workers
    with survivor.client() as client:
        wait_until(lambda: len(client.list_workers()) == 2, "the workers to register again")
        assert client.get_job_status(job_id).state == pb.JOB_STATE_RUNNING
        proofs.open()
        job = wait_for_end(client, job_id)
        assert (job.state, job.exit_code, job.preemption_count) == (pb.JOB_STATE_FAILED, 7, 0)
        assert [len(task.attempts) for task in job.tasks] == [1, 1, 1]
        first_failed = job.first_failed_task_index
        (entry,) = client.fetch_task_logs(f"{job_id}/task-{first_failed}")
        assert entry.data == "went on"
    assert [proofs.attempts(index) for index in range(3)] == [[0], [0], [0]]


def test_allocations_of_running_tasks_survive_a_kill_of_the_controller(tmp_path: Path, proofs: Proofs) -> None:
    with standing_cluster(tmp_path / "state") as cluster:
        with cluster.client() as client:
            cluster.wait_for_workers()
            (worker,) = client.list_workers()
            resources = pb.ResourceSpecProto(cpu=worker.metadata.cpu_count)
            job_id = launch(client, proofs.command(), resources=resources)
            proofs.wait_for()
        for _ in range(2):  # the second finds what the first has found
            cluster.kill()
            cluster.start()
        with cluster.client() as client:
            cluster.wait_for_workers()
            waits = launch(client, ["true"], resources=resources)
            wait_until(lambda: "free now: 0 of" in client.get_job_status(waits).status_message, "the reason to wait")
            proofs.open()
            assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
            assert wait_for_end(client, waits).state == pb.JOB_STATE_SUCCEEDED


def test_end_of_a_task_without_a_controller_is_reported_to_the_next_controller(
    survivor: StandingCluster, proofs: Proofs
) -> None:
    with survivor.client() as client:
        job_id = launch(client, proofs.command(exit_code=0), replicas=2)
        failing = launch(client, shell("echo $$ > pid; exec sleep 600"))
        task = wait_for_state(client, failing, pb.JOB_STATE_RUNNING).tasks[0]
        proofs.wait_for(0)
        proofs.wait_for(1)
        attempts = survivor.directory / "workers" / task.worker_id / "attempts"
        pid = int(wait_until(lambda: next((p.read_text() for p in attempts.glob(f"{failing}*/0/work/pid")), ""), "pid"))
    survivor.kill()
    proofs.open()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "the end of the task")
    survivor.start()
    with survivor.client() as client:
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
        task = wait_for_end(client, failing).tasks[0]
        assert (task.exit_code, task.term_signal, len(task.attempts)) == (143, 15, 1)
    assert [proofs.attempts(index) for index in range(2)] == [[0], [0]]


def test_result_of_a_task_that_ends_without_a_controller_reaches_the_next_controller(
    survivor: StandingCluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def compute(path: str) -> int:
        import os
        import time

        open(path + ".began", "w").close()
        while not os.path.exists(path):
            time.sleep(0.01)
        return 42

    with IrisClient.remote(survivor.address) as client:
        job = client.run(compute, args=[str(gate)])
        wait_until((tmp_path / "gate.began").exists, "the callable to run")
        survivor.kill()
        gate.touch()
        survivor.start()
        assert job.wait().state == pb.JOB_STATE_SUCCEEDED
        assert job.results() == [42]


def test_exception_of_a_task_is_kept_when_the_controller_is_killed(survivor: StandingCluster) -> None:
    def fail() -> None:
        raise KeyError("shard")

    with IrisClient.remote(survivor.address) as client:
        job = client.run(fail)
        assert job.wait(raise_on_failure=False).state == pb.JOB_STATE_FAILED
        survivor.kill()
        survivor.start()
        error = job.tasks()[0].exception()
    assert isinstance(error, KeyError)
    assert 'raise KeyError("shard")' in str(error.__cause__)


def test_jobs_recover_after_controller_and_workers_were_killed(cluster: StandingCluster, proofs: Proofs) -> None:
    with cluster.client() as client:
        job_id = launch(client, proofs.command(), replicas=2)
        proofs.wait_for(0)
        proofs.wait_for(1)
    cluster.kill()
    cluster.kill_worker("local-0")
    cluster.kill_worker("local-1")
    assert cluster.start().found["workers_running"] == 0
    proofs.wait_for(0, 1)
    proofs.wait_for(1, 1)
    proofs.open()
    with cluster.client() as client:
        job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED
    assert [(len(task.attempts), task.preemption_count, task.failure_count) for task in job.tasks] == [(2, 1, 0)] * 2
    assert "lost" in job.tasks[0].attempts[0].error
    proofs.assert_no_overlap(0)
    proofs.assert_no_overlap(1)


def test_worker_that_dies_without_a_controller_loses_only_its_own_tasks(
    cluster: StandingCluster, proofs: Proofs
) -> None:
    with cluster.client() as client:
        cluster.wait_for_workers(2)
        job_id = launch(
            client, proofs.command(), replicas=2, independent_tasks=True, resources=pb.ResourceSpecProto(cpu=0)
        )
        proofs.wait_for(0)
        proofs.wait_for(1)
        killed = client.get_task_status(job_id, 0).worker_id
        assert killed != client.get_task_status(job_id, 1).worker_id
    cluster.kill()
    cluster.kill_worker(killed)
    assert cluster.start().found["workers_running"] == 1
    proofs.wait_for(0, 1)
    proofs.open()
    with cluster.client() as client:
        job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED
    assert [len(task.attempts) for task in job.tasks] == [2, 1]
    proofs.assert_no_overlap(0)


def test_no_process_survives_a_killed_worker_with_its_reaper(cluster: StandingCluster, proofs: Proofs) -> None:
    with cluster.client() as client:
        job_id = launch(client, proofs.command())
        proofs.wait_for()
        worker = cluster.worker(client.get_task_status(job_id, 0).worker_id)
        (reaper,) = reapers(worker.pid)
        os.kill(worker.pid, signal.SIGSTOP)  # A running worker would notice the end of its reaper and end its attempts.
        os.kill(reaper, signal.SIGKILL)
        os.kill(worker.pid, signal.SIGKILL)
        proofs.wait_for(0, 1)
        proofs.assert_no_overlap()
        proofs.open()
        job = wait_for_end(client, job_id)
    assert (job.state, job.preemption_count) == (pb.JOB_STATE_SUCCEEDED, 1)
    proofs.assert_no_overlap()


def test_endpoints_and_queued_jobs_survive_a_kill_of_the_controller(survivor: StandingCluster, proofs: Proofs) -> None:
    with survivor.client() as client:
        job_id = launch(client, proofs.command())
        proofs.wait_for()
        waits = launch(client, ["true"], resources=pb.ResourceSpecProto(memory_bytes=1), name=unique("waits"))
        name = unique("name")
        endpoint_id = client.register_endpoint(name, "h:1", job_id, {"key": "value"})
    survivor.kill()
    survivor.start()
    with survivor.client() as client:
        endpoint = client.lookup_endpoint(name)
        assert (endpoint.endpoint_id, endpoint.job_id, endpoint.metadata["key"]) == (endpoint_id, job_id, "value")
        assert wait_for_end(client, waits).state == pb.JOB_STATE_SUCCEEDED
        proofs.open()
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED


def test_workers_find_the_next_controller_on_another_port(survivor: StandingCluster, proofs: Proofs) -> None:
    with survivor.client() as client:
        job_id = launch(client, proofs.command())
        proofs.wait_for()
    before = survivor.address
    survivor.kill()
    survivor.start(port=0)
    assert survivor.address != before
    survivor.wait_for_workers(2)
    proofs.open()
    with survivor.client() as client:
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
        says = launch(client, shell("echo $IRIS_CONTROLLER_ADDRESS"))
        wait_for_end(client, says)
        (entry,) = client.fetch_task_logs(f"{says}/task-0")
        assert entry.data == survivor.address, "what starts now is told of the new address"


def test_surplus_workers_finish_their_tasks_after_a_restart_with_fewer_workers(
    cluster: StandingCluster, proofs: Proofs
) -> None:
    with cluster.client() as client:
        cluster.wait_for_workers(2)
        job_id = launch(client, proofs.command(), replicas=2)
        proofs.wait_for(0)
        proofs.wait_for(1)
    cluster.kill()
    assert cluster.start(workers=1).found["workers_running"] == 2
    cluster.wait_for_workers(2)
    with cluster.client() as client:
        done = launch(client, shell("echo $IRIS_WORKER_ID"), replicas=4)
        assert {task.worker_id for task in wait_for_end(client, done).tasks} == {"local-0"}
        proofs.open()
        job = wait_for_end(client, job_id)
        assert job.state == pb.JOB_STATE_SUCCEEDED
        assert [len(task.attempts) for task in job.tasks] == [1, 1]
    wait_until(lambda: cluster.standing() == ["local-0"], "the end of the worker that is one too many")


def test_idle_surplus_workers_end_at_once(cluster: StandingCluster) -> None:
    cluster.wait_for_workers(2)
    cluster.kill()
    cluster.start(workers=1)
    wait_until(lambda: cluster.standing() == ["local-0"], "the end of the worker that is one too many")


def test_reader_that_follows_a_log_continues_after_the_controller_was_killed(
    survivor: StandingCluster, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    steps.mkdir()
    script = f"for i in 1 2 3; do while [ ! -e {steps}/$i ]; do sleep 0.05; done; echo step $i; done; exit 3"
    lines: list[str] = []
    with IrisClient.remote(survivor.address) as client:
        job = client.run(shell(script))

        def follow() -> None:
            lines.extend(entry.message for entry in job.logs(follow=True))

        follower = threading.Thread(target=follow)
        follower.start()
        (steps / "1").touch()
        wait_until(lambda: job.tasks()[0].status().state == pb.TASK_STATE_RUNNING, "the task to run")
        survivor.kill()
        (steps / "2").touch()
        survivor.start()
        (steps / "3").touch()
        follower.join(60)
        assert not follower.is_alive()
        assert lines == ["step 1", "step 2", "step 3"]
        assert job.wait(raise_on_failure=False).exit_code == 3


def test_second_server_on_the_same_state_directory_is_refused(survivor: StandingCluster) -> None:
    assert survivor.server is not None
    with pytest.raises(LocalClusterError, match=f"in use by the controller of process {survivor.server.process.pid}"):
        start_server(ClusterConfig(state_dir=survivor.directory, port=0), ends_with_us=True)
    survivor.wait_for_workers(2)


@pytest.mark.parametrize("where", ["version", "database"])
def test_state_directory_of_a_newer_version_is_refused_and_not_changed(tmp_path: Path, where: str) -> None:
    import sqlite3

    state = tmp_path / "state"
    with standing_cluster(state) as cluster:
        cluster.wait_for_workers()
    if where == "version":
        (state / "version").write_text("1000\n")
    else:
        with sqlite3.connect(state / "controller.db") as db:
            db.execute("PRAGMA user_version=1000")
        db.close()
    (state / "server.log").unlink()
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    with pytest.raises(LocalClusterError, match="written by a newer version of Iris"):
        start_server(ClusterConfig(state_dir=state, port=0), ends_with_us=True)
    if where == "version":
        (state / "server.log").unlink()
        assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
    else:
        assert (state / "controller.db").read_bytes() == before[state / "controller.db"]
    wait_until(lambda: not cluster.standing(), "no worker stays of a start that failed")


@pytest.mark.timeout(600)  # many starts of a server
def test_each_acknowledged_submission_survives_many_kills(tmp_path: Path) -> None:
    """A submitter that never stops, and a controller that is killed again and again."""
    acknowledged: list[str] = []
    taken: list[str] = []
    done = threading.Event()
    with standing_cluster(tmp_path / "state") as cluster:
        address = cluster.address

        def submit() -> None:
            with IrisClient.remote(address) as client:
                for number in range(100_000):
                    if done.is_set():
                        return
                    name = f"job-{number}"
                    try:
                        client.run(["true"], name=name)
                        acknowledged.append(name)
                    except AlreadyExistsError:
                        taken.append(name)
                    except IrisError:
                        pass  # not acknowledged: it may be there, or not

        submitter = threading.Thread(target=submit)
        submitter.start()
        try:
            for _ in range(KILLS):
                before = len(acknowledged)
                wait_until(lambda before=before: len(acknowledged) > before + 2, "submissions")  # type: ignore[misc]
                cluster.kill()
                cluster.start()
        finally:
            done.set()
            submitter.join()
        with cluster.client() as client:
            states = wait_until(
                lambda: (
                    (states := {job.job_id: job.state for job in client.list_jobs()})
                    and all(state >= pb.JOB_STATE_SUCCEEDED for state in states.values())
                    and states
                ),
                "the end of all jobs",
                timeout_s=90,
            )
            assert not taken, "a repeated submission is answered as the first was"
            assert set(acknowledged) <= states.keys()
            assert {states[name] for name in acknowledged} == {pb.JOB_STATE_SUCCEEDED}
            attempts = [len(task.attempts) for name in acknowledged for task in client.list_tasks(name)]
            assert set(attempts) == {1}, "nothing was run twice"
