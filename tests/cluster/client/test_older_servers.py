"""A client refuses options that a controller of an older release would ignore."""

from __future__ import annotations

from typing import Any

import pytest

from iris.cluster.client.operations.jobs import launch_job
from iris.errors import UnimplementedError
from iris.rpc import cluster_pb2

Controller = cluster_pb2.Controller


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_parallel": 4, "independent_tasks": True}, "does not know max_parallel:"),
        ({"resources": {"cpu": 1, "cpu_millicores": 250}}, "does not know a fraction of a core as cpu:"),
    ],
)
def test_job_that_an_older_controller_would_misunderstand_is_refused(fields: dict[str, Any], named: str) -> None:
    request = Controller.LaunchJobRequest(name="job", command=["true"], **fields)
    operation = launch_job(request)
    assert next(operation).method == "describe_cluster"
    with pytest.raises(UnimplementedError, match=named) as caught:
        operation.send(Controller.DescribeClusterResponse(engine="local"))
    assert "install Iris" in str(caught.value)
    operation = launch_job(request)
    next(operation)
    assert operation.send(Controller.DescribeClusterResponse(version="0.1.0")).method == "launch_job"


def test_job_that_requests_whole_cores_is_sent_without_a_check_of_the_controller_release() -> None:
    request = Controller.LaunchJobRequest(name="job", command=["true"], resources={"cpu": 2})
    assert next(launch_job(request)).method == "launch_job"
