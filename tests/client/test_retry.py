"""`retry` submits an earlier job again, and `submission` returns how a job was submitted, without its secrets."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.async_client import open_async_client
from support.cluster import running_cluster, shell, unique, wait_for_end, wait_for_state
from support.tokens import token

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.client.retry.resubmit import keep_unsuccessful, new_name
from iris.cluster.client.server_process import LocalServer
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from iris.rpc import cluster_pb2 as pb


@pytest.fixture(params=["sync", "async"])
def either(request: pytest.FixtureRequest, shared_cluster: LocalServer) -> Iterator[Any]:
    """A sync client, and an async client with the same methods."""
    if request.param == "sync":
        with IrisClient.remote(shared_cluster.address) as client:
            yield client
        return
    client = open_async_client(lambda: AsyncIrisClient.remote(shared_cluster.address))
    yield client
    client.close()


def test_retry_runs_the_same_callable_with_the_same_environment_and_workspace(either: Any, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("sent")

    def work(word: str) -> tuple[str, str, str]:
        import os

        return word, os.environ["SECRET"], Path("file.txt").read_text()

    job = either.run(work, args=("given",), env={"SECRET": "value"}, workspace=tmp_path, name=unique("again"))
    job.wait()
    again = job.retry()
    assert again.results() == [("given", "value", "sent")]
    assert again.job_id.startswith(f"{job.job_id[:-9]}-"), "a new random suffix"
    assert either.retry(again.job_id, name=f"{job.job_id}x").job_id == f"{job.job_id}x"


def test_submission_contains_the_names_of_environment_variables_without_their_values(either: Any) -> None:
    job = either.run(["sh", "-c", "true"], env={"SECRET": "value"}, resources={"memory": "1MiB"}, ports=["http"])
    answer = either.submission(job)
    assert list(answer.submission.command) == ["sh", "-c", "true"]
    assert dict(answer.submission.environment.env_vars) == {"SECRET": ""}
    assert (answer.submission.resources.memory_bytes, list(answer.submission.ports)) == (2**20, ["http"])
    assert (answer.problem, answer.callable_bytes) == ("", 0)
    of_callable = either.submission(either.run(lambda: 1))
    assert of_callable.callable_bytes > 0
    assert not of_callable.submission.serialized_entrypoint
    with pytest.raises(NotFoundError, match="no job named"):
        either.submission("nobody's")


def test_retry_of_failed_tasks_runs_only_these_tasks_with_their_indices(either: Any) -> None:
    script = "echo $IRIS_TASK_INDEX/$IRIS_NUM_TASKS; exit $((IRIS_TASK_INDEX % 2))"
    job = either.run(shell(script), replicas=4, coscheduled=False, max_task_failures=4)
    job.wait()
    again = job.retry(failed_only=True)
    again.wait()
    assert sorted(entry.message for entry in again.logs(sources=["stdout"])) == ["1/4", "3/4"]
    assert again.status().num_tasks == 2
    third = again.retry(failed_only=True)
    third.wait()
    assert sorted(entry.message for entry in third.logs(sources=["stdout"])) == ["1/4", "3/4"]


@pytest.mark.parametrize(("limit", "of_retry"), [(1, 0), (59, 1), (60, 60)])
def test_retry_of_failed_tasks_fails_if_all_of_them_fail_as_the_earlier_job_would(limit: int, of_retry: int) -> None:
    submission = pb.Controller.LaunchJobRequest(independent_tasks=True, max_task_failures=limit)
    states = [pb.TASK_STATE_FAILED] * min(limit, 2) + [pb.TASK_STATE_SUCCEEDED] * (60 - min(limit, 2))
    tasks = [pb.TaskStatus(task_index=index, state=state) for index, state in enumerate(states)]
    keep_unsuccessful(submission, pb.JobStatus(state=pb.JOB_STATE_SUCCEEDED, num_tasks=60, tasks=tasks))
    assert submission.max_task_failures == of_retry


def test_retry_of_the_failed_tasks_of_a_gang_runs_all_tasks(client: IrisClient) -> None:
    job = client.run(shell("exit $IRIS_TASK_INDEX"), replicas=2)
    job.wait(raise_on_failure=False)
    assert job.retry(failed_only=True).status().num_tasks == 2


def test_retry_of_failed_tasks_is_refused_without_failed_tasks(client: IrisClient) -> None:
    running = client.run(shell("exec sleep 600"))
    with pytest.raises(FailedPreconditionError, match="has not ended"):
        running.retry(failed_only=True)
    running.terminate()
    good = client.run(shell("true"))
    good.wait()
    with pytest.raises(FailedPreconditionError, match="nothing is left to retry"):
        good.retry(failed_only=True)
    with pytest.raises(AlreadyExistsError):
        good.retry(name=running.job_id)
    with pytest.raises(NotFoundError):
        client.retry("nobody's")
    with pytest.raises(InvalidArgumentError, match="failed_only"):
        client.retry(good, failed_only="yes")  # type: ignore[arg-type]


def test_argument_if_exists_decides_whether_a_taken_job_name_is_refused_reused_or_replaced(
    either: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(random.Random(1).randbytes(100_000))
    name = unique("taken")
    first = either.run(shell("wc -c < file; sleep 600"), name=name, workspace=tmp_path)
    with pytest.raises(AlreadyExistsError):
        either.run(shell("true"), name=name)
    reused = either.run(shell("true"), name=name, if_exists="reuse")
    assert reused.status().submitted_at_ms == first.status().submitted_at_ms
    with pytest.raises(FailedPreconditionError, match="has not ended"):
        either.run(shell("true"), name=name, if_exists="replace")
    first.terminate()
    first.wait(raise_on_failure=False)
    second = either.run(shell("wc -c < file"), name=name, workspace=tmp_path, if_exists="replace")
    assert second.wait().job_id == name
    assert [entry.message.strip() for entry in second.logs(sources=["stdout"])] == ["100000"]


def test_only_the_owner_and_admins_may_retry_a_job(shared_cluster: LocalServer) -> None:
    with (
        IrisClient.remote(shared_cluster.address, token=token("user", name="ann")) as ann,
        IrisClient.remote(shared_cluster.address, token=token("user", name="bob")) as bob,
    ):
        job = ann.run(shell("true"))
        assert bob.submission(job.job_id).submission.command[0] == "sh"
        with pytest.raises(PermissionDeniedError, match="only the owner 'ann'"):
            bob.retry(job.job_id)
        assert ann.retry(job.job_id).status().owner == "ann"


def test_changed_submission_keeps_only_the_named_variables(client: IrisClient) -> None:
    job = client.run(shell("exit 1"), env={"A": "a", "B": "b"})
    changed = client.submission(job).submission
    changed.name, changed.submission_id = unique("changed"), unique("id")
    changed.command[:] = shell("echo $A$B$C")
    changed.environment.env_vars.clear()
    changed.environment.env_vars["C"] = "c"
    with pytest.raises(InvalidArgumentError, match="variables of the earlier job, got 'X'"):
        client.cluster.resubmit_job(job, changed, kept_variables=["X"])
    new = client.cluster.resubmit_job(job, changed, kept_variables=["A"])
    wait_for_end(client.cluster, new)
    assert [entry.message for entry in client.job(new).logs(sources=["stdout"])] == ["ac"]


def test_repeated_resubmission_of_a_removed_job_gets_the_id_of_the_new_job(client: IrisClient) -> None:
    job = client.run(shell("true"))
    job.wait()
    again = client.submission(job).submission
    again.name, again.submission_id = unique("again"), unique("id")
    new = client.cluster.resubmit_job(job, again)
    wait_for_end(client.cluster, new)
    client.forget(job)
    assert client.cluster.resubmit_job(job, again) == new
    again.submission_id = unique("id")
    with pytest.raises(NotFoundError, match=job.job_id):
        client.cluster.resubmit_job(job, again)


def test_job_whose_entry_point_or_workspace_was_removed_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "file").write_text("content")
    with running_cluster(tmp_path / "cluster") as cluster, IrisClient.remote(cluster.address) as client:
        plain = client.run(shell("true"), env={"A": "a"})
        packed = client.run(shell("true"), workspace=tmp_path / "code")
        for job in (plain, packed):
            wait_for_state(client.cluster, job.job_id, pb.JOB_STATE_SUCCEEDED)
    (database,) = tmp_path.rglob("controller.db")
    with closing(sqlite3.connect(database)) as db, db:
        db.execute(
            "DELETE FROM entry_points WHERE number = (SELECT number FROM jobs WHERE job_id = ?)", (plain.job_id,)
        )
        db.execute("DELETE FROM bundles")
    with running_cluster(tmp_path / "cluster") as cluster, IrisClient.remote(cluster.address) as client:
        for job, reason in ((plain, "command or callable"), (packed, "workspace")):
            assert reason in client.submission(job.job_id).problem
            with pytest.raises(FailedPreconditionError, match=f"the {reason} of job .* is no longer stored"):
                client.retry(job.job_id)
        submission = client.submission(packed).submission
        submission.name = submission.submission_id = unique("other")
        with pytest.raises(FailedPreconditionError, match="workspace"):
            client.cluster.resubmit_job(packed, submission)


@pytest.mark.parametrize("name", ["train-1a2b3c4d", "train"])
def test_name_of_a_retry_has_a_new_random_suffix_in_place_of_the_earlier_suffix(name: str) -> None:
    made = new_name(name)
    assert made.startswith("train-")
    assert len(made) == len("train-1a2b3c4d")
    assert made != name
    assert len(new_name("n" * 200).encode()) == 200
