"""The states of handles, which can be compared with names, and the texts and tables of jobs, tasks and machines."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from support.cluster import unique

import iris
from iris.client import IrisClient, Job
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import JobState, TaskState
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2


@pytest.fixture(scope="module")
def jobs(shared_cluster: LocalServer) -> Iterator[dict[str, Job]]:
    """One job that succeeds, one whose task 1 fails, and one that runs until the tests end."""
    with IrisClient.remote(shared_cluster.address) as client:
        fails = ["sh", "-c", "test $IRIS_TASK_INDEX = 0 || exit 3"]
        jobs = {
            "good": client.run(["true"], name=unique("good"), replicas=2),
            # The second task starts after the end of the first task, because its failure ends the job.
            "bad": client.run(fails, name=unique("bad"), replicas=2, coscheduled=False, max_parallel=1),
            "runs": client.run(["sleep", "600"], name=unique("runs")),
        }
        for name in ("good", "bad"):
            client.wait(jobs[name])
        for status in client.cluster.watch_job(jobs["runs"]):
            if status.state == cluster_pb2.JOB_STATE_RUNNING:
                break
        yield jobs
        jobs["runs"].terminate()


def test_state_of_a_job_compares_equal_to_the_name_of_the_state(jobs: dict[str, Job]) -> None:
    assert jobs["good"].state == "SUCCEEDED"
    assert jobs["bad"].state == JobState.FAILED
    assert jobs["runs"].state == cluster_pb2.JOB_STATE_RUNNING


def test_done_and_exit_code_of_a_job_follow_its_state(jobs: dict[str, Job]) -> None:
    found = {name: (job.done(), job.exit_code) for name, job in jobs.items()}
    assert found == {"good": (True, 0), "bad": (True, 3), "runs": (False, None)}


def test_state_done_and_exit_code_of_a_task_follow_its_state(jobs: dict[str, Job]) -> None:
    good, bad = jobs["bad"].tasks()
    (runs,) = jobs["runs"].tasks()
    found = [(task.state, task.done(), task.exit_code) for task in (good, bad, runs)]
    assert found == [("SUCCEEDED", True, 0), ("FAILED", True, 3), ("RUNNING", False, None)]
    assert all(isinstance(state, TaskState) for state, _, _ in found)


def test_state_of_an_unknown_job_is_not_found(client: IrisClient) -> None:
    with pytest.raises(NotFoundError):
        client.job("no-such-job").state  # noqa: B018 - Reading the attribute makes the call.


def test_job_status_without_tasks_still_has_the_numbers_of_tasks(jobs: dict[str, Job], client: IrisClient) -> None:
    brief = client.cluster.get_job_status(jobs["bad"], without_tasks=True)
    assert (len(brief.tasks), brief.num_tasks, brief.tasks_failed) == (0, 2, 1)
    assert len(client.cluster.get_job_status(jobs["bad"]).tasks) == 2


def test_repr_and_str_of_a_handle_make_no_call_and_show_the_state_that_was_seen_last(
    jobs: dict[str, Job], client: IrisClient
) -> None:
    job = client.job(jobs["bad"].job_id)
    assert (repr(job), str(job)) == (f"Job({job.job_id!r})", f"job {job.job_id}")
    assert job.state == "FAILED"
    client.close()
    assert repr(client) == f"IrisClient({client.cluster.controller_address!r})"
    assert repr(job) == f"Job({job.job_id!r}, FAILED)"
    assert str(job).startswith(f"job {job.job_id}: FAILED, 1/2 failed, 1 succeeded, in ")


def test_repr_of_a_running_job_states_that_the_state_may_have_changed(jobs: dict[str, Job]) -> None:
    (task,) = jobs["runs"].tasks()
    assert repr(jobs["runs"]) == f"Job({jobs['runs'].job_id!r}, last seen RUNNING)"
    assert repr(task) == f"Task({task.task_id!r}, last seen RUNNING)"
    assert str(task).startswith(f"task {task.task_id}: RUNNING, ")
    assert str(task).endswith(" (when last asked)")


def test_list_of_tasks_is_shown_as_a_table(jobs: dict[str, Job]) -> None:
    tasks = jobs["bad"].tasks()
    lines = str(tasks).splitlines()
    assert lines[0] == f"2 tasks of job {jobs['bad'].job_id}"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["TASK", "STATE", "ATTEMPT"],
        ["0", "SUCCEEDED", "0"],
        ["1", "FAILED", "0"],
    ]
    assert repr(tasks[1:]).splitlines()[0] == f"1 task of job {jobs['bad'].job_id}"
    assert isinstance(tasks, list)


def test_lists_of_status_messages_are_printed_as_tables(jobs: dict[str, Job], client: IrisClient) -> None:
    tasks, listed = client.list_tasks(jobs["bad"]), client.list_jobs()
    assert tasks == [client.task_status(jobs["bad"], index) for index in range(2)]
    assert type(tasks[0]) is cluster_pb2.TaskStatus
    assert f"2 tasks of job {jobs['bad'].job_id}" in str(tasks)
    row = next(line for line in str(listed).splitlines() if line.startswith(jobs["bad"].job_id))
    assert row.split()[1:6] == ["FAILED", "1/2", "failed,", "1", "succeeded"]
    assert "JOB" in str(listed[-2:])
    assert len(str(listed[-2:]).splitlines()) == 4


def test_list_of_machines_is_a_sequence_and_is_printed_as_a_table(client: IrisClient, jobs: dict[str, Job]) -> None:
    machines = client.machines()
    assert len(machines) == len(machines.machines) == 2
    assert (machines.engine, machines.problem, machines[0]) == ("local", "", machines.machines[0])
    assert str(machines).startswith("local: 2 machines, ")
    assert machines[0].name in str(machines)


class Cells(HTMLParser):
    """Collects the tags of a page, and the text of the cells of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_of_a_list_escapes_all_text_of_tasks(client: IrisClient) -> None:
    from iris.client.views.lists import JobList, TaskStatusList

    bad = "<img src=x onerror=alert(1)>&\x1b[2J"
    task = cluster_pb2.TaskStatus(
        task_id=bad, job_id=bad, error=bad, worker_id=bad, state=cluster_pb2.TASK_STATE_FAILED
    )
    job = cluster_pb2.JobStatus(job_id=bad, error=bad, state=cluster_pb2.JOB_STATE_FAILED, num_tasks=1)
    for shown in (TaskStatusList([task])._repr_html_(), JobList([job])._repr_html_()):
        page = Cells(shown)
        assert set(page.tags) <= {"div", "b", "i", "table", "thead", "tbody", "tr", "th", "td"}
        assert "<img src=x onerror=alert(1)>&?[2J" in page.texts
    assert "\x1b" not in str(TaskStatusList([task])) + str(JobList([job]))


def test_table_of_many_tasks_shows_the_first_ones_and_counts_the_others() -> None:
    from iris.client.views.lists import TaskStatusList

    tasks = [cluster_pb2.TaskStatus(task_index=index, job_id="big") for index in range(1000)]
    lines = str(TaskStatusList(tasks)).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (53, "1,000 tasks of job big", "… and 950 more tasks")


def test_table_of_a_job_shows_failed_tasks_first() -> None:
    from iris.client.views.job_tables import job_table

    states = [4, 3, 5, 1, 7]
    tasks = [cluster_pb2.TaskStatus(task_index=index, state=state) for index, state in enumerate(states)]  # type: ignore[arg-type]
    table = job_table(cluster_pb2.JobStatus(job_id="a", state=cluster_pb2.JOB_STATE_RUNNING, tasks=tasks))
    assert [row[1] for row in table.rows] == ["FAILED", "WORKER_FAILED", "RUNNING", "PENDING", "SUCCEEDED"]


def test_async_job_handle_returns_state_done_and_exit_code(jobs: dict[str, Job], shared_cluster: LocalServer) -> None:
    async def ask() -> None:
        async with AsyncIrisClient.remote(shared_cluster.address) as client:
            job = client.job(jobs["bad"].job_id)
            assert repr(job) == f"AsyncJob({job.job_id!r})"
            assert repr(client) == f"AsyncIrisClient({client.cluster.controller_address!r})"
            assert await job.state == "FAILED"
            assert (await job.done(), await job.exit_code) == (True, 3)
            assert repr(job) == f"AsyncJob({job.job_id!r}, FAILED)"
            tasks = await job.tasks()
            assert [await task.state for task in tasks] == ["SUCCEEDED", "FAILED"]
            assert [(await task.done(), await task.exit_code) for task in tasks] == [(True, 0), (True, 3)]
            assert f"2 tasks of job {job.job_id}" in str(tasks)
            assert str(await client.machines()).startswith("local: 2 machines")
            assert f"2 tasks of job {job.job_id}" in str(await client.list_tasks(job))
            assert job.job_id in str(await client.list_jobs())

    asyncio.run(ask())


def test_state_of_an_async_handle_without_await_is_refused(shared_cluster: LocalServer) -> None:
    job = AsyncIrisClient.remote(shared_cluster.address).job("train")
    for use in (lambda: job.state == "SUCCEEDED", lambda: job.state != "FAILED", lambda: bool(job.exit_code)):
        with pytest.raises(InvalidArgumentError, match=r"write \(await AsyncJob\('train'\)\.(state|exit_code)\)"):
            use()


def test_public_names_of_the_iris_package_are_the_same_objects_as_in_their_modules() -> None:
    from iris import versions
    from iris.client.aio import AsyncJob
    from iris.cluster.types import ResourceSpec, get_job_info

    assert iris.IrisClient is IrisClient
    assert iris.AsyncJob is AsyncJob
    assert iris.Resources is iris.ResourceSpec is ResourceSpec
    assert iris.current_job is get_job_info
    assert iris.__version__ == versions.VERSION
    assert set(iris.__all__) <= set(dir(iris))
    assert all(getattr(iris, name) is not None for name in iris.__all__)
    with pytest.raises(AttributeError, match="module 'iris' has no attribute 'Irisclient'"):
        iris.Irisclient  # type: ignore[attr-defined] # noqa: B018


def test_import_of_the_package_imports_none_of_its_modules() -> None:
    program = "import sys, iris; print(sorted(name for name in sys.modules if name.startswith(('iris', 'google'))))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "['iris']"


def test_import_of_the_sync_client_from_the_package_imports_no_async_client() -> None:
    program = "import sys; from iris import IrisClient, Resources; print([m for m in sys.modules if '.aio' in m])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
