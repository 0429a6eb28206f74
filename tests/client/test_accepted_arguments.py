"""Arguments of every type that stands for a value, on a real cluster."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from support.cluster import shell, unique

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import Entrypoint, ResourceSpec, make_task_id, parse_task_id
from iris.errors import DeadlineExceededError, InvalidArgumentError
from iris.rpc import cluster_pb2 as pb

YEARS = 3 * 365 * 86400


class Index:
    """A whole number of another library, as numpy's are."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __index__(self) -> int:
        return self._number


def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


NAMES = ("function", "cls", "self", "callable", "entrypoint", "args", "kwargs", "name", "client", "job_id", "return")


def test_callable_receives_keyword_arguments_of_any_name(client: IrisClient) -> None:
    given = {name: index for index, name in enumerate(NAMES)}
    job = client.run(collect, args=[1, 2], kwargs=given)
    assert job.results(timeout=60) == [((1, 2), given)]
    made = Entrypoint.from_callable(collect, 1, **given)
    assert made == Entrypoint(callable=collect, args=(1,), kwargs=given)
    assert client.run(made).results(timeout=60) == [((1,), given)]


@pytest.mark.parametrize("args", [(1, 2), [1, 2], range(1, 3), (number for number in (1, 2))])
def test_callable_receives_arguments_given_as_any_ordered_collection(client: IrisClient, args: Any) -> None:
    assert client.run(collect, args=args).results(timeout=60) == [((1, 2), {})]


def test_index_fraction_and_decimal_objects_are_accepted_as_numbers(client: IrisClient) -> None:
    job = client.run(
        shell("exit $IRIS_TASK_INDEX"),
        replicas=Index(3),  # type: ignore[arg-type]
        max_task_failures=Index(2),  # type: ignore[arg-type]
        max_retries_failure=Index(0),  # type: ignore[arg-type]
        max_log_bytes=Index(1 << 20),  # type: ignore[arg-type]
        resources={"cpu": Index(0), "memory": Index(1 << 30)},  # type: ignore[dict-item]
        timeout=Fraction(3600),  # type: ignore[arg-type]
        job_timeout=Decimal(3600),  # type: ignore[arg-type]
        scheduling_timeout=Index(60),  # type: ignore[arg-type]
    )
    assert client.wait(job, timeout=Decimal(60)).state == pb.JOB_STATE_SUCCEEDED  # type: ignore[arg-type]
    assert client.task_status(job, Index(2)).exit_code == 2  # type: ignore[arg-type]
    assert client.fetch_task_logs(job, Index(1), max_lines=Index(5)) == []  # type: ignore[arg-type]
    with client.stream_job_logs(job, [Index(0), Index(2)]) as lines:  # type: ignore[list-item]
        assert list(lines) == []


def test_job_handle_is_accepted_as_job_id_by_every_call(client: IrisClient, cluster: RemoteClusterClient) -> None:
    job = client.run(shell("echo hello"))
    assert client.wait(job, timeout=60).job_id == job.job_id
    assert client.status(job).job_id == job.job_id
    assert client.job(job).job_id == job.job_id
    assert [task.task_id for task in client.list_tasks(job)] == [f"{job.job_id}/task-0"]
    assert client.task_status(job, 0).job_id == job.job_id
    assert [line.message for line in client.fetch_task_logs(job, 0)] == ["hello"]
    assert [line.message for line in client.stream_task_logs(job, 0)] == ["hello"]
    assert [line.message for line in client.stream_job_logs(job)] == ["hello"]
    client.terminate(job)
    client.terminate(job, 0)
    assert cluster.get_job_status(job).job_id == job.job_id
    assert [state.state for state in cluster.watch_job(job)][-1] == pb.JOB_STATE_SUCCEEDED
    [task] = job.tasks()
    assert [line.data for line in cluster.fetch_task_logs(task)] == ["hello"]
    assert parse_task_id(task) == (job.job_id, 0)
    assert make_task_id(job, 0) == task.task_id


def test_task_handle_in_place_of_a_job_is_refused_and_its_job_continues(client: IrisClient) -> None:
    job = client.run(["sleep", "600"])
    [task] = job.tasks()
    with pytest.raises(
        InvalidArgumentError, match=f"job_id must be a job id or a Job, got .*its job_id is '{job.job_id}'"
    ):
        client.terminate(task)  # type: ignore[arg-type]
    assert client.status(job).state not in (pb.JOB_STATE_KILLED, pb.JOB_STATE_FAILED)
    job.terminate()
    job.wait(timeout=60, raise_on_failure=False)


@pytest.mark.parametrize("resources", [{"cpu": 0, "memory": "64MB"}, {}, ResourceSpec(memory="64MB"), None])
def test_resources_given_as_mapping_equal_the_same_resource_spec(client: IrisClient, resources: Any) -> None:
    assert client.run(collect, resources=resources).results(timeout=60) == [((), {})]


@pytest.mark.parametrize(
    ("resources", "advice"),
    [
        ({"cpus": 1}, "resources must not have the key 'cpus': did you mean 'cpu'?"),
        ({"GPU": 1}, "resources must not have the key 'GPU': did you mean 'gpu'?"),
        ({"mem": "1GiB"}, "resources must not have the key 'mem': did you mean 'memory'?"),
        ({"disk": 1}, "resources must not have the key 'disk': expected 'cpu', 'memory' or 'gpu'"),
        (
            {"cpu": 0.0005},
            "cpu must be a number of cores from 0 to 2147483647 with at most three decimals, such as 2, 0.25 or '250m',"
            " or None for the default, got 0.0005",
        ),
    ],
)
def test_unknown_resource_is_refused_with_the_nearest_valid_name(
    client: IrisClient, resources: dict[str, Any], advice: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.run(collect, resources=resources)
    assert str(caught.value) == advice


@pytest.mark.parametrize("limit", [1e8, YEARS, 2**31 - 1, math.inf, None, 0])
def test_job_with_timeouts_of_years_runs(client: IrisClient, limit: float | None) -> None:
    job = client.run(collect, timeout=limit, job_timeout=limit, scheduling_timeout=limit)
    assert job.results(timeout=60) == [((), {})]


def test_job_with_the_longest_grace_period_is_ended_by_sigterm(client: IrisClient) -> None:
    job = client.run(["sleep", "600"], kill_grace_period=2147483)
    job.terminate()
    assert job.wait(timeout=60, raise_on_failure=False).state == pb.JOB_STATE_KILLED


@pytest.mark.parametrize("timeout", [1e8, YEARS, 1e300, pytest.param(10**400, id="huge"), math.inf, None])
def test_wait_with_timeout_of_years_returns_when_the_job_ends(client: IrisClient, timeout: Any) -> None:
    job = client.run(shell("echo hello"))
    assert job.wait(timeout=timeout, stream_logs=True).state == pb.JOB_STATE_SUCCEEDED
    assert client.wait(job, timeout=timeout).state == pb.JOB_STATE_SUCCEEDED
    with client.stream_task_logs(job, 0, patience_s=timeout) as lines:
        assert [line.message for line in lines] == ["hello"]
    with job.logs(patience_s=None) as lines:
        assert [line.message for line in lines] == ["hello"]
    assert client.run(collect).results(timeout=timeout) == [((), {})]


@pytest.mark.parametrize("timeout", [1e8, math.inf, None])
def test_lookup_with_timeout_of_years_finds_the_endpoint(client: IrisClient, timeout: float | None) -> None:
    name = unique("endpoint")
    endpoint_id = client.register_endpoint(name, "here:80")
    assert client.lookup_endpoint(name, timeout=timeout).address == "here:80"
    client.unregister_endpoint(endpoint_id)


@pytest.mark.parametrize("timeout_s", [1e8, math.inf, None])
def test_low_level_client_accepts_a_timeout_of_years(client: IrisClient, timeout_s: float | None) -> None:
    with RemoteClusterClient(client.cluster.controller_address, timeout_s=timeout_s) as cluster:
        job = client.run(["true"])
        client.wait(job, timeout=60)
        assert cluster.get_job_status(job).state == pb.JOB_STATE_SUCCEEDED
        assert [state.state for state in cluster.watch_job(job, timeout=timeout_s)][-1] == pb.JOB_STATE_SUCCEEDED
        assert len(cluster.list_tasks(job)) == 1


def test_wait_with_tiny_timeout_reports_its_timeout(client: IrisClient) -> None:
    job = client.run(["sleep", "600"])
    with pytest.raises(DeadlineExceededError, match=r"has not ended within 0\.25 s"):
        client.wait(job, timeout=Fraction(1, 4))  # type: ignore[arg-type]
    job.terminate()
    job.wait(timeout=60, raise_on_failure=False)
