"""Retries, limits of time, single tasks and jobs of jobs, with real processes on a real cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import is_alive, running_cluster, shell
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.engine.machine import this_machine
from iris.cluster.types import ResourceSpec
from iris.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, JobFailedError, NotFoundError
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def own_client(tmp_path: Path) -> Iterator[IrisClient]:
    """A client of a cluster of which a test may take all room."""
    with running_cluster(tmp_path / "cluster") as server, IrisClient.remote(server.address) as remote:
        yield remote


def pid_of(path: Path) -> int:
    """The process that has written its id to a file."""
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), f"{path.name} to be written"))


def states(job: Job) -> list[int]:
    return [task.state for task in job.status().tasks]


# Pauses between retries.


def test_gang_in_a_retry_pause_has_a_waiting_reason_and_holds_no_slot(own_client: IrisClient) -> None:
    whole = ResourceSpec(cpu=this_machine().cpu)
    job = own_client.run(shell("exit 3"), resources=whole, max_retries_failure=5, retry_pause=60)
    says = re.compile(r"waiting: retry 2 of 5 in [0-9]+ s, after: exit code 3")
    wait_until(lambda: says.fullmatch(job.status().status_message), "the pause")
    (task,) = job.status().tasks
    assert says.fullmatch(task.status_message)
    assert (task.state, len(task.attempts), task.failure_count) == (pb.TASK_STATE_PENDING, 2, 2)
    assert task.retry_at_ms - task.attempts[1].finished_at_ms >= 48_000
    own_client.run(["true"], resources=whole).wait(timeout=60)  # which takes all room there is
    job.terminate()
    status = job.wait(timeout=60, raise_on_failure=False)
    assert (status.state, len(status.tasks[0].attempts)) == (pb.JOB_STATE_KILLED, 2)


def test_first_retry_is_immediate_and_the_second_waits_for_the_pause(client: IrisClient) -> None:
    job = client.run(shell("[ $IRIS_ATTEMPT_ID = 2 ]"), replicas=2, max_retries_failure=2)
    (first, second) = job.wait(timeout=60).tasks
    assert (len(first.attempts), len(second.attempts)) == (3, 3), "a gang"
    for task in (first, second):
        assert task.attempts[2].started_at_ms - task.attempts[1].finished_at_ms >= 800
        assert task.retry_at_ms == 0


def test_waiting_reason_of_a_retry_pause_names_the_failed_task(client: IrisClient) -> None:
    script = "[ $IRIS_TASK_INDEX = 1 ] && exit 3; exec sleep 300"
    job = client.run(shell(script), replicas=2, max_retries_failure=5, retry_pause=60)
    wait_until(
        lambda: all(
            re.fullmatch(r"waiting: retry 2 of 5 in [0-9]+ s, after task 1: exit code 3", task.status_message)
            for task in job.status().tasks
        ),
        "the same reason for both",
    )
    job.terminate()
    assert client.wait(job.job_id, timeout=60).state == pb.JOB_STATE_KILLED


def test_retry_pause_survives_a_restart_of_the_controller(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server, IrisClient.remote(server.address) as client:
        client.run(shell("exit 3"), name="x", max_retries_failure=5, retry_pause=60)
        retry_at_ms = wait_until(lambda: client.task_status("x", 0).retry_at_ms, "the pause")
    with running_cluster(tmp_path / "cluster") as server, IrisClient.remote(server.address) as client:
        task = client.task_status("x", 0)
        assert (task.retry_at_ms, len(task.attempts), task.preemption_count) == (retry_at_ms, 2, 0)
        assert "retry 2 of 5" in task.status_message


def test_too_long_retry_pause_is_refused(client: IrisClient) -> None:
    with pytest.raises(InvalidArgumentError, match="retry_pause must be a number of seconds from 0 to 60, got 61"):
        client.run(["true"], retry_pause=61)


# The time of a job.


def test_job_that_runs_longer_than_its_job_timeout_fails(client: IrisClient, tmp_path: Path) -> None:
    job = client.run(shell(f"echo $$ > {tmp_path}/pid; exec sleep 300"), job_timeout=1)
    with pytest.raises(JobFailedError, match="job timed out after 1 s") as caught:
        job.wait(timeout=60)
    assert caught.value.status.state == pb.JOB_STATE_FAILED
    (task,) = caught.value.status.tasks
    assert (task.state, task.error) == (pb.TASK_STATE_KILLED, "job timed out after 1 s")
    assert not (tmp_path / "pid").exists() or not is_alive(pid_of(tmp_path / "pid"))


def test_job_timeout_includes_retries_and_pauses(client: IrisClient) -> None:
    job = client.run(shell("exit 3"), max_retries_failure=99, retry_pause=60, job_timeout=1)
    status = job.wait(timeout=60, raise_on_failure=False)
    assert (status.state, status.error) == (pb.JOB_STATE_FAILED, "job timed out after 1 s")
    assert len(status.tasks[0].attempts) <= 2


# One task.


@pytest.mark.parametrize("twice", [False, True])
def test_terminated_independent_task_leaves_the_others_running(client: IrisClient, tmp_path: Path, twice: bool) -> None:
    script = f"echo $$ > {tmp_path}/$IRIS_TASK_INDEX; while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done"
    job = client.run(shell(script), replicas=3, coscheduled=False, resources={"cpu": 0}, max_retries_failure=5)
    pids = [pid_of(tmp_path / str(index)) for index in range(3)]
    for _ in range(1 + twice):
        job.tasks()[1].terminate()
    wait_until(lambda: client.task_status(job.job_id, 1).state == pb.TASK_STATE_KILLED, "its end")
    assert [is_alive(pid) for pid in pids] == [True, False, True]
    assert client.task_status(job.job_id, 1).error == "terminated by a user"
    assert job.status().state == pb.JOB_STATE_RUNNING
    client.terminate(job.job_id, 1)  # it has ended, and stays as it is
    (tmp_path / "gate").touch()
    with pytest.raises(JobFailedError, match="task 1 was terminated by a user"):
        job.wait(timeout=60)
    assert job.status().state == pb.JOB_STATE_KILLED
    assert states(job) == [pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_KILLED, pb.TASK_STATE_SUCCEEDED]


def test_terminated_task_of_a_gang_ends_the_gang(client: IrisClient, tmp_path: Path) -> None:
    job = client.run(shell(f"echo $$ > {tmp_path}/$IRIS_TASK_INDEX; exec sleep 300"), replicas=3, max_retries_failure=5)
    pids = [pid_of(tmp_path / str(index)) for index in range(3)]
    client.terminate(job.job_id, task_index=1)
    status = job.wait(timeout=60, raise_on_failure=False)
    assert (status.state, status.error) == (pb.JOB_STATE_KILLED, "task 1 was terminated by a user")
    assert [task.error for task in status.tasks] == [
        "Job ended: task 1 was terminated by a user",
        "terminated by a user",
        "Job ended: task 1 was terminated by a user",
    ]
    assert {len(task.attempts) for task in status.tasks} == {1}
    assert not any(is_alive(pid) for pid in pids)


def test_gang_with_max_task_failures_continues_without_a_terminated_task(client: IrisClient, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/$IRIS_TASK_INDEX; while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done"
    job = client.run(shell(script), replicas=2, max_task_failures=1)
    pids = [pid_of(tmp_path / str(index)) for index in range(2)]
    client.terminate(job.job_id, 0)
    wait_until(lambda: states(job)[0] == pb.TASK_STATE_KILLED, "its end")
    assert [is_alive(pid) for pid in pids] == [False, True]
    (tmp_path / "gate").touch()
    status = job.wait(timeout=60, raise_on_failure=False)
    assert status.state == pb.JOB_STATE_KILLED
    assert states(job) == [pb.TASK_STATE_KILLED, pb.TASK_STATE_SUCCEEDED]


def test_terminating_an_unknown_task_or_job_is_refused(client: IrisClient) -> None:
    job = client.run(["true"])
    job.wait(timeout=60)
    with pytest.raises(NotFoundError, match="no task 1: its tasks are 0 to 0"):
        client.terminate(job.job_id, 1)
    with pytest.raises(NotFoundError, match="no-such-job"):
        client.terminate("no-such-job", 0)
    with pytest.raises(ValueError, match=r"task_index must be .* got -1"):
        client.terminate(job.job_id, -1)


# Jobs of jobs.


def test_child_jobs_of_an_attempt_end_with_the_attempt(client: IrisClient) -> None:
    def parent() -> str:
        from iris.client import IrisClient
        from iris.cluster.types import get_job_info

        with IrisClient.remote() as inside:
            if get_job_info().attempt_id == 1:
                work = inside.run(["true"], name="work")
                work.wait()
                return str(work.job_id)
            work = inside.run(["sleep", "300"], name="work")
            while work.status().state != 3:
                pass
            raise RuntimeError("the first attempt leaves its job behind")

    job = client.run(parent, max_retries_failure=1)
    assert job.results(timeout=60) == [f"{job.job_id}/work@1"]
    left = client.wait(f"{job.job_id}/work", timeout=60)
    assert left.state == pb.JOB_STATE_KILLED
    assert left.error == f"attempt 0 of {job.job_id}/task-0, which submitted it, has ended (FAILED)"
    assert client.status(f"{job.job_id}/work@1").state == pb.JOB_STATE_SUCCEEDED


def test_child_job_of_a_retry_gets_the_next_free_name(client: IrisClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waiting = f"[ $IRIS_ATTEMPT_ID = 1 ] && exec sleep 300; while [ ! -e {gate} ]; do sleep 0.05; done; exit 1"
    job = client.run(shell(waiting), max_retries_failure=1)

    def launch(name: str, attempt_id: int, submission_id: str = "") -> str:
        request = pb.Controller.LaunchJobRequest(
            name=name,
            parent_job_id=job.job_id,
            command=["sleep", "300"],
            parent_task_index=0,
            parent_attempt_id=attempt_id,
            submission_id=submission_id or f"{name} of {attempt_id}",
            asked_name="what a client says here is dropped",
        )
        return client.cluster.launch_job(request).removeprefix(f"{job.job_id}/")

    wait_until(lambda: states(job) == [pb.TASK_STATE_RUNNING], "the first attempt")
    assert [launch(name, 0) for name in ("c", "c@1", "c@1.2")] == ["c", "c@1", "c@1.2"]
    with pytest.raises(AlreadyExistsError, match="c@1"):
        launch("c@1", 0, "another")
    gate.touch()
    wait_until(lambda: len(job.status().tasks[0].attempts) == 2, "the second attempt")
    assert launch("c", 1) == "c@1.3"
    assert launch("c", 1) == "c@1.3"  # the same submission, after a lost reply
    with pytest.raises(AlreadyExistsError, match=re.escape("c@1.3")):
        launch("c", 1, "another")
    assert launch("c@1", 1) == "c@1@1"  # the user's own, which the attempt before had as well
    assert launch("c@1.3", 1) == "c@1.3@1"  # a name of the user's, which was made for another job before
    assert launch("c@1.4", 1) == "c@1.4"
    job.terminate()
    job.wait(timeout=60, raise_on_failure=False)


def test_child_job_name_is_refused_to_other_tasks_and_to_a_second_job_of_the_attempt(
    client: IrisClient, tmp_path: Path
) -> None:
    def parent() -> str:
        import os

        from iris.client import IrisClient
        from iris.cluster.types import get_job_info

        with IrisClient.remote() as inside:
            try:
                return str(inside.run(["true"], name="work").job_id)
            except AlreadyExistsError as error:
                return str(error)
            finally:
                if get_job_info().task_index == 0:
                    os.close(os.open(str(tmp_path / "gate"), os.O_CREAT))
                while not (tmp_path / "gate").exists():
                    pass

    job = client.run(parent, replicas=2)
    answers = sorted(job.results(timeout=60))
    assert answers[0] == f"{job.job_id}/work"
    assert f"there is a job named '{job.job_id}/work' already" in answers[1]


def test_child_job_of_a_succeeded_task_runs_until_the_parent_ends(client: IrisClient, tmp_path: Path) -> None:
    def parent() -> None:
        from iris.client import IrisClient
        from iris.cluster.types import get_job_info

        if get_job_info().task_index == 0:
            with IrisClient.remote() as inside:
                work = inside.run(["sleep", "300"], name="work")
                while work.status().state != 3:
                    pass
        else:
            while not (tmp_path / "gate").exists():
                pass

    job = client.run(parent, replicas=2)
    wait_until(lambda: states(job)[0] == pb.TASK_STATE_SUCCEEDED, "the end of the task that submitted it")
    assert client.status(f"{job.job_id}/work").state == pb.JOB_STATE_RUNNING
    (tmp_path / "gate").touch()
    job.wait(timeout=60)
    assert client.wait(f"{job.job_id}/work", timeout=60).error == f"its parent job {job.job_id!r} has ended (SUCCEEDED)"


def test_ended_attempt_cannot_submit_jobs(client: IrisClient) -> None:
    job = client.run(shell("[ $IRIS_ATTEMPT_ID = 1 ] && exec sleep 300; exit 1"), max_retries_failure=1)
    wait_until(lambda: len(job.status().tasks[0].attempts) == 2, "the second attempt")
    request = pb.Controller.LaunchJobRequest(
        name="late", parent_job_id=job.job_id, command=["true"], parent_task_index=0, parent_attempt_id=0
    )
    with pytest.raises(FailedPreconditionError, match=rf"attempt 0 of {job.job_id}/task-0 has ended"):
        client.cluster.launch_job(request)
    request.parent_attempt_id = 7
    with pytest.raises(InvalidArgumentError, match=rf"attempt 7 of {job.job_id}/task-0 does not exist"):
        client.cluster.launch_job(request)
    job.terminate()
    job.wait(timeout=60, raise_on_failure=False)
