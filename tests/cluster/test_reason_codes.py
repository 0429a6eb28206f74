"""The codes of failures and of pending tasks, as a client of a real cluster gets them."""

from __future__ import annotations

import pytest
from support.cluster import unique
from support.waiting import wait_until

from iris.client import IrisClient
from iris.errors import NotFoundError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2


def raise_error() -> None:
    raise RuntimeError("on purpose")


def ask_for_too_much() -> None:
    raise MemoryError("on purpose")


@pytest.mark.parametrize(
    ("entrypoint", "options", "code"),
    [
        (["sh", "-c", "exit 3"], {}, cluster_pb2.FAILURE_REASON_EXIT_CODE),
        (["sh", "-c", "kill -9 $$"], {}, cluster_pb2.FAILURE_REASON_SIGNAL),
        (["no-such-program"], {}, cluster_pb2.FAILURE_REASON_START_FAILED),
        (["sleep", "600"], {"timeout": 1}, cluster_pb2.FAILURE_REASON_ATTEMPT_TIMEOUT),
        (["sleep", "600"], {"job_timeout": 1}, cluster_pb2.FAILURE_REASON_JOB_TIMEOUT),
        (["true"], {"resources": {"cpu": 1_000_000}}, cluster_pb2.FAILURE_REASON_UNPLACEABLE),
        (raise_error, {}, cluster_pb2.FAILURE_REASON_EXCEPTION),
        (ask_for_too_much, {}, cluster_pb2.FAILURE_REASON_OUT_OF_MEMORY),
    ],
)
def test_failed_job_has_the_failure_code_of_its_failed_task(
    client: IrisClient, entrypoint: object, options: dict[str, object], code: int
) -> None:
    job = client.run(entrypoint, name=unique("codes"), **options)  # type: ignore[arg-type]
    status = job.wait(raise_on_failure=False, stream_logs=False)
    (task,) = client.list_tasks(job.job_id)
    assert (status.failure_reason, task.failure_reason) == (code, code), status.error


def test_job_terminated_by_a_user_has_the_failure_code_terminated(client: IrisClient) -> None:
    job = client.run(["sleep", "600"], name=unique("codes"))
    job.terminate()
    assert job.wait(raise_on_failure=False).failure_reason == cluster_pb2.FAILURE_REASON_TERMINATED


def test_task_in_a_retry_pause_has_a_waiting_reason_and_a_failure_code(client: IrisClient) -> None:
    job = client.run(["false"], name=unique("codes"), max_retries_failure=50, retry_pause=60.0)

    def reasons() -> set[tuple[int, int]]:
        (task,) = client.list_tasks(job.job_id)
        return {(task.pending_reason, task.failure_reason)}

    expected = (cluster_pb2.PENDING_REASON_RETRY_PAUSE, cluster_pb2.FAILURE_REASON_EXIT_CODE)
    wait_until(lambda: expected in reasons(), "the task pauses between two attempts")
    job.terminate()


def test_unknown_job_is_refused_with_its_id(client: IrisClient) -> None:
    job_id = unique("unknown")
    with pytest.raises(NotFoundError) as caught:
        client.status(job_id)
    assert (caught.value.reason, caught.value.metadata) == (ErrorReason.JOB_NOT_FOUND, {"job_id": job_id})
