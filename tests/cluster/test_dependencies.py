"""Jobs that wait for other jobs, on a real cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cluster import unique, wait_for_state
from support.standing_cluster import Proofs, standing_cluster
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError
from iris.reasons import FailureCode, PendingCode
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def proofs(tmp_path: Path) -> Proofs:
    return Proofs(tmp_path / "proofs")


def end_of(job: Job) -> tuple[int, int]:
    status = job.wait(raise_on_failure=False)
    return status.state, status.failure_reason


def test_job_starts_when_the_jobs_for_which_it_waits_have_met_its_conditions(
    client: IrisClient, proofs: Proofs
) -> None:
    first, second = client.run(proofs.command(), name=unique("first")), client.run(["false"], name=unique("second"))
    job = client.run(["true"], replicas=2, after={first: "ok", second.job_id: "any"})
    status = wait_until(lambda: len((now := job.status()).waits_for) == 1 and now, "the end of the second job")
    assert (status.state, status.pending_reason) == (pb.JOB_STATE_PENDING, PendingCode.DEPENDENCY)
    assert status.status_message == f"waiting for job {first.job_id!r} to succeed"
    assert status.waits_for[0] == pb.JobDependency(job_id=first.job_id, condition=pb.DEPENDENCY_CONDITION_SUCCEEDED)
    assert {(task.status_message, task.pending_reason) for task in client.list_tasks(job.job_id)} == {
        (status.status_message, PendingCode.DEPENDENCY)
    }
    proofs.open()
    assert end_of(job)[0] == pb.JOB_STATE_SUCCEEDED
    assert first.status().finished_at_ms <= job.status().started_at_ms


def test_job_ends_when_a_job_for_whose_success_it_waits_has_failed(client: IrisClient, proofs: Proofs) -> None:
    first = client.run(proofs.command(), name=unique("first"))
    job = client.run(["true"], name=unique("second"), after=[first])
    last = client.run(["true"], after=[job])
    always = client.run(["true"], after={last: "any"})
    first.terminate()
    failed = (pb.JOB_STATE_UNSCHEDULABLE, FailureCode.DEPENDENCY_FAILED)
    assert (end_of(job), end_of(last), end_of(always)[0]) == (failed, failed, pb.JOB_STATE_SUCCEEDED)
    assert job.status().error == f"not started: job {first.job_id!r} had to succeed first, but it ended as KILLED"
    assert client.list_tasks(job.job_id)[0].state == pb.TASK_STATE_UNSCHEDULABLE


def test_job_may_wait_for_a_job_that_has_ended_before_the_submission(client: IrisClient) -> None:
    good, bad = client.run(["true"]), client.run(["false"])
    for job in (good, bad):
        job.wait(raise_on_failure=False)
    for after, state in (
        ([good], pb.JOB_STATE_SUCCEEDED),
        ([bad], pb.JOB_STATE_UNSCHEDULABLE),
        ({bad: "any"}, pb.JOB_STATE_SUCCEEDED),
    ):
        assert end_of(client.run(["true"], after=after))[0] == state  # type: ignore[arg-type]


def test_scheduling_timeout_begins_when_the_job_no_longer_waits_for_other_jobs(
    client: IrisClient, proofs: Proofs
) -> None:
    first = client.run(proofs.command(), name=unique("first"))
    job = client.run(["true"], after=[first], scheduling_timeout=5)
    limit = client.run(["true"], after=[first], job_timeout=6)
    assert end_of(limit) == (
        pb.JOB_STATE_FAILED,
        FailureCode.JOB_TIMEOUT,
    )  # The job timeout counts from the submission.
    assert job.status().state == pb.JOB_STATE_PENDING
    proofs.open()
    assert end_of(job)[0] == pb.JOB_STATE_SUCCEEDED


def test_waiting_job_and_its_tasks_can_be_terminated(client: IrisClient, proofs: Proofs) -> None:
    first = client.run(proofs.command(), name=unique("first"))
    job = client.run(["true"], after=[first])
    partly = client.run(["true"], replicas=2, coscheduled=False, max_task_failures=1, after=[first])
    job.terminate()
    client.terminate(partly.job_id, 1)
    assert end_of(job) == (pb.JOB_STATE_KILLED, FailureCode.TERMINATED)
    assert partly.status().state in (pb.JOB_STATE_PENDING, pb.JOB_STATE_RUNNING)
    proofs.open()
    partly.wait(raise_on_failure=False)
    assert [task.state for task in client.list_tasks(partly.job_id)] == [
        pb.TASK_STATE_SUCCEEDED,
        pb.TASK_STATE_KILLED,
    ]


def test_job_cannot_wait_for_an_unknown_job_or_for_itself(client: IrisClient) -> None:
    name = unique("job")
    with pytest.raises(NotFoundError, match="no job named 'nowhere'"):
        client.run(["true"], after=["nowhere"])
    with pytest.raises(InvalidArgumentError, match=f"job '{name}' cannot wait for itself"):
        client.run(["true"], name=name, after=[name])


def test_code_in_a_task_may_wait_for_child_jobs_only(client: IrisClient) -> None:
    stranger = client.run(["true"])

    def submit(stranger: str) -> list[str]:
        import os

        from iris.client import IrisClient
        from iris.errors import IrisError

        errors = []
        with IrisClient.remote() as inner:
            child = inner.run(["true"], name="child")
            inner.run(["true"], name="after-child", after=[child]).wait()
            for other in (stranger, os.environ["IRIS_JOB_ID"]):
                try:
                    inner.run(["true"], after=[other])
                except IrisError as error:
                    errors.append(type(error).__name__)
        return errors

    (errors,) = client.run(submit, args=[stranger.job_id]).results()
    assert errors == [PermissionDeniedError.__name__, InvalidArgumentError.__name__]


def test_waiting_jobs_continue_after_a_kill_of_the_controller(tmp_path: Path, proofs: Proofs) -> None:
    with standing_cluster(tmp_path / "state") as cluster:
        with cluster.client() as low:
            client = IrisClient(low)
            first = client.run(proofs.command(), name="first")
            job = client.run(["true"], after=[first])
            wait_for_state(low, first.job_id, pb.JOB_STATE_RUNNING)
        cluster.kill()
        cluster.start()
        with cluster.client() as low:
            client = IrisClient(low)
            job = client.job(job.job_id)
            assert [one.job_id for one in job.status().waits_for] == ["first"]
            proofs.open()
            assert end_of(job)[0] == pb.JOB_STATE_SUCCEEDED
