"""A reader who sees a line of a task can rely on the task's status being RUNNING or later."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.cluster import running_cluster, shell, unique
from support.waiting import wait_until

from iris import failpoints
from iris.client import IrisClient, Job, LogEntry
from iris.client.logs.read_options import Route
from iris.rpc import cluster_pb2 as pb


@pytest.fixture(scope="module")
def late_reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IrisClient]:
    """A client of a cluster whose worker's reports are lost, most of them, and are sent again later.

    The seed is one with at most three losses in a row: then a report is less than a second late.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(failpoints.VARIABLE, "report.before=error:0.6/693")
        cluster = running_cluster(tmp_path_factory.mktemp("late"))
        with cluster as server, IrisClient.remote(server.address) as client:
            yield client


def by_stream(route: Route) -> Callable[[Job], LogEntry]:
    return lambda job: next(iter(job.logs(follow=True, route=route)))


def by_page(job: Job) -> LogEntry:
    return wait_until(lambda: next(iter(job.logs()), None), "the first line")


@pytest.mark.parametrize(
    "read", [by_stream("worker"), by_stream("controller"), by_page], ids=["worker", "controller", "page"]
)
def test_job_is_running_once_its_first_log_line_was_read(
    late_reports: IrisClient, read: Callable[[Job], LogEntry]
) -> None:
    job = late_reports.run(shell("echo first; exec sleep 300"), name=unique("lines"))
    assert read(job).message == "first"
    assert job.status().tasks[0].state == pb.TASK_STATE_RUNNING
    job.terminate()
