"""Long lists page by page, also while they change, and lists that come at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support import tokens
from support.cluster import launch, unique, wait_for_end
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.api.messages import job_status
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import WorkerIdentity
from iris.cluster.controller.storage.store import Store
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_connect
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import call
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.pages import LONGEST_PAGE, PAGE_BYTES, cut_named_page, cut_page
from iris.rpc.peer import Peer
from iris.rpc.serving.steps import finish

Ask = Callable[[int, str], tuple[list[str], str]]


@pytest.fixture(scope="module")
def controller() -> Iterator[ControllerThread]:
    engine = FakeEngine()
    engine.granting = False
    with serving(engine, Store(None)) as running:
        yield running


@pytest.fixture(scope="module")
def client(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as remote:
        yield remote


@pytest.fixture(scope="module")
def stub(controller: ControllerThread) -> Iterator[cluster_connect.ControllerServiceClientSync]:
    transport = HttpTransport(controller.address)
    yield cluster_connect.ControllerServiceClientSync(
        controller.address,
        accept_compression=(),
        send_compression=None,
        interceptors=(BearerInterceptor(tokens.token),),
        http_client=transport.connect_client(),
    )
    transport.close()


def list_jobs(stub: cluster_connect.ControllerServiceClientSync, size: int, token: str) -> tuple[list[str], str]:
    request = pb.Controller.ListJobsRequest(page_size=size, page_token=token)
    answer = call(stub.list_jobs, request, Peer("there", "the controller"))
    return [job.job_id for job in answer.jobs], answer.next_page_token


def list_tasks(
    stub: cluster_connect.ControllerServiceClientSync, job_id: str, size: int, token: str
) -> tuple[list[int], str]:
    request = pb.Controller.ListTasksRequest(job_id=job_id, page_size=size, page_token=token)
    answer = call(stub.list_tasks, request, Peer("there", "the controller"))
    return [task.task_index for task in answer.tasks], answer.next_page_token


def test_pages_contain_each_job_once_while_jobs_start_and_end(
    client: RemoteClusterClient, stub: cluster_connect.ControllerServiceClientSync
) -> None:
    prefix = unique("paged")
    names = [launch(client, ["true"], name=f"{prefix}-{number}") for number in range(10)]
    found, token = list_jobs(stub, 3, "")
    while token:
        if len(names) < 14:
            names.append(launch(client, ["true"], name=f"{prefix}-{len(names)}"))
            client.terminate_job(names[len(names) - 11])  # one that was listed, and one that was not
            client.terminate_job(names[-2])
        page, token = list_jobs(stub, 3, token)
        assert len(page) <= 3
        found += page
    assert [name for name in found if name.startswith(prefix)] == names
    everything, token = list_jobs(stub, 0, "")
    assert (everything, token) == (found, ""), "without a size: all at once"


def test_pages_contain_all_tasks_of_a_job_in_index_order(
    client: RemoteClusterClient, stub: cluster_connect.ControllerServiceClientSync
) -> None:
    job_id = launch(client, ["true"], replicas=7)
    first, token = list_tasks(stub, job_id, 5, "")
    client.terminate_job(job_id)
    wait_for_end(client, job_id)
    second, end = list_tasks(stub, job_id, 5, token)
    assert (first, second, end) == ([0, 1, 2, 3, 4], [5, 6], "")
    assert list_tasks(stub, job_id, 0, "") == (list(range(7)), "")
    assert list_tasks(stub, job_id, 7, "") == (list(range(7)), "")
    with pytest.raises(NotFoundError):
        list_tasks(stub, "unknown-job", 5, "")


def test_invalid_page_token_or_size_is_refused(
    client: RemoteClusterClient, stub: cluster_connect.ControllerServiceClientSync
) -> None:
    job_id = launch(client, ["true"], replicas=3)
    _, of_tasks = list_tasks(stub, job_id, 1, "")
    for token in ("x", "jobs-", "jobs--1", "jobs-1.5", "jobs-99999999", "jobs-9" + "9" * 100, "jobs-²", of_tasks):
        with pytest.raises(InvalidArgumentError, match="next_page_token"):
            list_jobs(stub, 5, token)
    with pytest.raises(InvalidArgumentError, match=r"page_size must be .* got -1"):
        list_jobs(stub, -1, "")
    with pytest.raises(InvalidArgumentError, match=r"page_size must be .* got -3"):
        list_tasks(stub, job_id, -3, "")


def test_list_methods_of_the_client_return_the_items_of_all_pages(
    client: RemoteClusterClient, stub: cluster_connect.ControllerServiceClientSync
) -> None:
    job_id = launch(client, ["true"], replicas=2 * LONGEST_PAGE + 1)
    page, token = list_tasks(stub, job_id, 10 * LONGEST_PAGE, "")
    assert (len(page), bool(token)) == (LONGEST_PAGE, True), "a page has an end, whatever is asked for"
    assert [task.task_index for task in client.list_tasks(job_id)] == list(range(2 * LONGEST_PAGE + 1))
    assert [job.job_id for job in client.list_jobs()] == list_jobs(stub, 0, "")[0]


@pytest.mark.parametrize("page_size", [0, 100])
def test_page_with_large_items_contains_fewer_items(page_size: int) -> None:
    items = [pb.TaskStatus(task_index=index, error="x" * 1024 * 1024) for index in range(10)]
    found: list[int] = []
    token, pages = "", 0
    while token or not pages:
        page = finish(cut_page("tasks", 10, items.__getitem__, page_size=page_size, page_token=token))
        found += [task.task_index for task in page.items]
        token, pages = page.next_token, pages + 1
    assert (found, pages) == (list(range(10)), 4)
    giant = pb.TaskStatus(error="x" * 2 * PAGE_BYTES)
    giants = finish(cut_page("tasks", 2, lambda _: giant, page_size=page_size, page_token=""))
    assert len(giants.items) == 1, "never an empty page"


def test_page_without_a_size_is_limited_and_has_a_next_token() -> None:
    page = finish(cut_page("jobs", 2500, lambda number: pb.JobStatus(job_id=str(number)), page_size=0, page_token=""))
    assert (len(page.items), page.next_token) == (LONGEST_PAGE, "jobs-1000")


def test_pages_of_named_items_contain_each_item_that_stays_in_the_list_exactly_once() -> None:
    names = {f"w{number:02}" for number in range(30)}

    def make(name: str) -> pb.Controller.Endpoint | None:
        return None if name == "w13" else pb.Controller.Endpoint(name=name)  # it goes while the page is made

    found: list[str] = []
    token = ""
    while not found or token:
        page = finish(cut_named_page("workers", sorted(names), make, page_size=7, page_token=token))
        found += [one.name for one in page.items]
        token = page.next_token
        names -= {"w01", "w06", "w25"}  # one that was listed, the last of the first page, and one of a later page
        names |= {"w00a", "w99"}
    assert found == [f"w{number:02}" for number in range(30) if number not in (13, 25)] + ["w99"]
    for wrong in ("machines:w01", "w01", "workers", "workers-5"):
        with pytest.raises(InvalidArgumentError, match="next_page_token"):
            finish(cut_named_page("workers", sorted(names), make, page_size=7, page_token=wrong))


def test_job_message_that_would_be_too_large_has_only_the_newest_attempt_of_each_task() -> None:
    job = Job.new("job", 3, 1, coscheduled=False)
    job.submit()
    for _ in range(50):
        for gang in list(job.gangs):
            job.gang_placed(gang, [WorkerIdentity("w", "http://w")])
        lost = {index: attempt.attempt_id for index, attempt in job.live_attempts().items()}
        job.attempts_lost(lost, "the worker was lost", 5)
    record = JobRecord(job, pb.Controller.LaunchJobRequest(), [pb.TaskStatus() for _ in job.tasks])
    whole = job_status(record, tasks_since=0)
    assert [len(task.attempts) for task in whole.tasks] == [50] * 3
    cut = job_status(record, tasks_since=0, most_bytes=whole.ByteSize() - 1)
    assert [[attempt.attempt_id for attempt in task.attempts] for task in cut.tasks] == [[49]] * 3
    assert [task.current_attempt_id for task in cut.tasks] == [49] * 3
