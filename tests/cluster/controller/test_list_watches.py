"""`WatchJobs`: clients follow pages of the list of jobs, on a controller with many ended jobs in its database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from typing import Any

import pytest
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.stored_jobs import failed, new_job, stored, succeeded
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.operations.watches.list_watching import WatchedJobs
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.api.job_lists.list_watches import JobListWatch, JobListWatches, shortest_pause_s
from iris.cluster.controller.api.job_lists.pages import JobPages, PageChoice
from iris.cluster.controller.api.slices import Slices, uncounted
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.submission.quotas import Quota
from iris.errors import InvalidArgumentError, PermissionDeniedError, ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb

ENDED = 300  # More jobs than the controller keeps in memory.
_names = count()


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerThread]:
    """A controller with ended jobs of ann and bob, and without workers. A tenth of the ended jobs has failed."""
    store = Store(tmp_path_factory.mktemp("lists") / "controller.db")
    changes = Changes()
    for number in range(ENDED):
        job = new_job(f"old-{number}")
        job.owner = "ann" if number % 3 else "bob"
        (succeeded if number % 10 else failed)(job)
        changes.add_job(stored(job), b"")
    store.write(changes)
    with serving(FakeEngine(), store) as served:
        yield served


@pytest.fixture
def client(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as made:
        yield made


def launch(client: RemoteClusterClient, prefix: str) -> str:
    """Submit a job that waits forever, because there are no workers."""
    return client.launch_job(pb.Controller.LaunchJobRequest(name=f"{prefix}-{next(_names)}", command=["true"]))


class Watcher:
    """A client that watches, and remembers the newest list."""

    def __init__(self, client: RemoteClusterClient, **conditions: Any) -> None:
        self._lists = client.watch_jobs(newest_first=True, **conditions)
        self.newest: WatchedJobs = next(self._lists)

    def close(self) -> None:
        self._lists.close()  # type: ignore[attr-defined]  # a generator

    @property
    def states(self) -> dict[str, int]:
        return {job.job_id: job.state for job in self.newest.jobs}

    def until(self, condition: Callable[[], bool]) -> None:
        """Read lists until the newest one meets a condition."""
        while not condition():
            self.newest = next(self._lists)


def test_first_message_of_a_watched_list_has_the_jobs_of_list_jobs_and_the_number_in_each_state(
    client: RemoteClusterClient,
) -> None:
    for conditions in ({"id_prefix": "old-1"}, {"owner": "bob"}, {"states": ["FAILED"]}, {"id_contains": "-2"}):
        with closing(Watcher(client, limit=20, **conditions)) as watcher:
            listed = client.list_jobs(newest_first=True, limit=20, **conditions)  # type: ignore[arg-type]
            assert watcher.newest.jobs == listed
            assert watcher.newest.has_more
            assert watcher.newest.changed == {job.job_id for job in listed}
            without_states = {name: value for name, value in conditions.items() if name != "states"}
            found = client.list_jobs(**without_states)  # type: ignore[arg-type]
            for state in ("SUCCEEDED", "FAILED"):
                number = getattr(pb, f"JOB_STATE_{state}")
                assert watcher.newest.counts.get(state, 0) == sum(job.state == number for job in found)


def test_watched_list_shows_new_and_ended_jobs_and_drops_removed_jobs(client: RemoteClusterClient) -> None:
    with closing(Watcher(client, id_prefix="live", limit=2)) as watcher:
        assert (watcher.newest.jobs, watcher.newest.counts) == ([], {})
        first, second, third = (launch(client, "live") for _ in range(3))
        watcher.until(lambda: [*watcher.states] == [third, second])
        watcher.until(lambda: watcher.newest.counts == {"PENDING": 3})
        assert watcher.newest.has_more
        client.terminate_job(second)
        watcher.until(lambda: watcher.states.get(second) == pb.JOB_STATE_KILLED)
        assert watcher.newest.counts == {"PENDING": 2, "KILLED": 1}
        assert second in watcher.newest.changed
        client.forget_job(second)
        watcher.until(lambda: [*watcher.states] == [third, first])
        assert watcher.newest.counts == {"PENDING": 2}
        for job_id in (first, third):
            client.terminate_job(job_id)
        watcher.until(lambda: watcher.newest.counts == {"KILLED": 2})


def test_job_that_leaves_a_list_filtered_by_state_is_replaced_by_the_next_job(client: RemoteClusterClient) -> None:
    first, second = launch(client, "left"), launch(client, "left")
    with closing(Watcher(client, id_prefix="left", states=["PENDING"], limit=1)) as watcher:
        assert [*watcher.states] == [second]
        client.terminate_job(second)
        watcher.until(lambda: [*watcher.states] == [first])
        assert watcher.newest.counts == {"PENDING": 1, "KILLED": 1}
        client.terminate_job(first)
        watcher.until(lambda: not watcher.newest.jobs)


def test_watched_page_of_the_list_of_jobs_begins_where_the_previous_page_ends(
    controller: ControllerThread, client: RemoteClusterClient
) -> None:
    seen: list[str] = []
    page_token = ""
    while True:
        request = pb.Controller.WatchJobsRequest(
            id_prefix="old-", newest_first=True, page_size=90, page_token=page_token
        )
        answer = first_answer(controller, request)
        seen += [job.job_id for job in sorted(answer.jobs, key=lambda job: -job.number)]
        page_token = answer.next_page_token
        if not page_token:
            break
    assert seen == [f"old-{number}" for number in reversed(range(ENDED))]


def first_answer(
    controller: ControllerThread, request: pb.Controller.WatchJobsRequest
) -> pb.Controller.WatchJobsResponse:
    async def ask() -> pb.Controller.WatchJobsResponse:
        stream = controller.controller.list_watches.messages(request, "tests")
        try:
            return await anext(stream)
        finally:
            await stream.aclose()

    return controller.run(ask())


def watches(controller: ControllerThread) -> list[JobListWatch]:
    return controller.call(lambda: list(controller.controller.list_watches.watches()))


def only_watch(controller: ControllerThread) -> JobListWatch:
    """Return the watch of the list that a test has opened. The watches of earlier tests may end a moment later."""
    wait_until(lambda: len(watches(controller)) == 1, "the end of the watches of earlier tests")
    return watches(controller)[0]


def test_pause_between_messages_of_a_watch_grows_with_the_number_of_clients() -> None:
    pauses_s = [shortest_pause_s(clients) for clients in (1, 10, 20, 100, 1_000)]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[0] < 0.3
    assert 2 * pauses_s[0] < pauses_s[2] <= pauses_s[3] < 0.8
    assert pauses_s[4] > 2.0


def test_fifty_clients_share_one_watch_and_one_message_for_each_change(
    controller: ControllerThread, client: RemoteClusterClient
) -> None:
    with ExitStack() as opened:
        watchers = [opened.enter_context(closing(Watcher(client, id_prefix="shared"))) for _ in range(50)]
        watch = only_watch(controller)
        assert (watch.clients, watch.reads) == (50, 1)
        job_id = launch(client, "shared")
        for watcher in watchers:
            watcher.until(lambda watcher=watcher: job_id in watcher.states)  # type: ignore[misc]
        client.terminate_job(job_id)
        for watcher in watchers:
            watcher.until(lambda watcher=watcher: watcher.newest.counts == {"KILLED": 1})  # type: ignore[misc]
        # Each change is one message for all clients. Some clients may have joined two changes into one message.
        assert watch.built <= 8
        assert watch.reads == 1
    wait_until(lambda: not watches(controller), "the end of the watch without clients")


def test_jobs_that_do_not_match_a_watched_list_cause_no_new_read_of_the_list(
    controller: ControllerThread, client: RemoteClusterClient
) -> None:
    with closing(Watcher(client, id_prefix="old-", limit=20)) as watcher:
        watch = only_watch(controller)
        for _ in range(30):
            launch(client, "beside")
        launch(client, "old-x")
        watcher.until(lambda: "PENDING" in watcher.newest.counts)
        assert watcher.newest.counts["PENDING"] == 1
        assert watch.reads == 1


def test_watched_page_is_read_again_after_a_flood_of_new_jobs(
    controller: ControllerThread, client: RemoteClusterClient
) -> None:
    with closing(Watcher(client, id_prefix="flood", limit=1)) as watcher:
        watch = only_watch(controller)
        job_ids = [launch(client, "flood") for _ in range(40)]
        watcher.until(lambda: watcher.newest.counts == {"PENDING": 40})
        assert [*watcher.states] == [job_ids[-1]]
        assert watcher.newest.has_more
        assert watch.clients == 1


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("page_size", -1, "page_size must be"),
        ("page_token", "tasks-1", "page_token='tasks-1'"),
        ("since_ms", -1, "since_ms must be"),
        ("states", [0], "states must be numbers of job states"),
    ],
)
def test_invalid_request_to_watch_the_list_of_jobs_is_refused(
    controller: ControllerThread, field: str, value: Any, text: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        first_answer(controller, pb.Controller.WatchJobsRequest(**{field: value}))


@pytest.mark.parametrize("limit", [0, 1001, True, "9"])
def test_client_refuses_an_invalid_limit_for_a_watched_list_of_jobs(client: RemoteClusterClient, limit: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="limit must be"):
        client.watch_jobs(limit=limit)


def test_role_reader_may_watch_the_list_of_jobs_and_role_worker_may_not(controller: ControllerThread) -> None:
    with (
        RemoteClusterClient(controller.address, token=token("reader")) as reader,
        closing(Watcher(reader, id_prefix="old-", limit=1)) as watcher,
    ):
        assert watcher.states
    with (
        RemoteClusterClient(controller.address, token=token("worker", worker_id="w")) as worker,
        pytest.raises(PermissionDeniedError),
    ):
        next(worker.watch_jobs())


def test_watches_of_the_list_of_jobs_count_as_open_streams_of_their_user(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store = Store(tmp_path_factory.mktemp("quota") / "controller.db")
    with (
        serving(FakeEngine(), store, quota=Quota(streams=1)) as served,
        RemoteClusterClient(served.address) as one,
        closing(Watcher(one)),
        pytest.raises(ResourceExhaustedError, match="streams open"),
    ):
        next(one.watch_jobs())


class SlowPages(JobPages):
    """Pages whose reads after the first one wait until the test lets them pass, and then lack the removed jobs."""

    def __init__(self, pages: JobPages) -> None:
        vars(self).update(vars(pages))
        self.reads = 0
        self.removed: set[int] = set()
        self.is_reading, self.may_read = asyncio.Event(), asyncio.Event()

    async def read(self, choice: PageChoice, tally: Callable[[float], None] = uncounted) -> dict[int, pb.JobStatus]:
        self.reads += 1
        if self.reads > 1:
            self.is_reading.set()
            await self.may_read.wait()
        return {
            number: job for number, job in (await super().read(choice, tally)).items() if number not in self.removed
        }


def test_watcher_that_joins_during_a_reload_of_the_list_does_not_keep_a_removed_job(
    controller: ControllerThread,
) -> None:
    request = pb.Controller.WatchJobsRequest(id_prefix="old-", newest_first=True, page_size=1)

    async def watch() -> set[int]:
        made, jobs = controller.controller, controller.controller.jobs
        pages = SlowPages(made.list_watches.pages)
        watches = JobListWatches(jobs, pages, made.saver, made.slices)
        early, late = watches.messages(request, "early"), watches.messages(request, "late")
        (first,) = (await anext(early)).jobs
        record = await jobs.get(first.job_id)
        assert record is not None
        pages.removed.add(record.number)
        watches.job_removed(record)
        await pages.is_reading.wait()
        shown = {job.number for job in (await anext(late)).jobs}
        pages.may_read.set()
        message = await anext(late)
        shown = shown - set(message.left) | {job.number for job in message.jobs}
        for stream in (early, late):
            await stream.aclose()
        return shown & pages.removed

    assert not controller.run(watch())


class SlicedPages(JobPages):
    """Pages whose messages are made in slices of the test."""

    def __init__(self, pages: JobPages, slices: Slices) -> None:
        vars(self).update(vars(pages))
        self._slices = slices


def test_cost_of_reading_a_page_does_not_contain_the_waits_for_urgent_work(
    controller: ControllerThread, client: RemoteClusterClient
) -> None:
    launch(client, "read")
    now_s = 0.0
    costs_s: list[float] = []

    async def read() -> dict[int, pb.JobStatus]:
        async def sleep(seconds: float) -> None:
            nonlocal now_s
            now_s += seconds

        slices = Slices(0.0, lambda: True, clock=lambda: now_s, sleep=sleep)
        pages = SlicedPages(controller.controller.list_watches.pages, slices)
        return await pages.read(pages.choice(pb.Controller.ListJobsRequest(page_size=5)), costs_s.append)

    assert len(controller.run(read())) == 6
    assert now_s >= 0.1, "the messages waited for the urgent work"
    assert sum(costs_s) < 0.1
