"""A page of the list of jobs that follows changes, and the counts by state, compared with a plain model."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from support.seeds import for_each_seed

from iris.cluster.controller.api.job_lists.live_page import LivePage
from iris.cluster.controller.api.job_lists.pages import PageChoice
from iris.cluster.controller.api.job_lists.state_counts import StateCounts
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.storage.job_lists import JobFilter
from iris.rpc import cluster_pb2 as pb

RUNNING, SUCCEEDED, FAILED = 3, 4, 5


def status(number: int, state: int, text: str = "") -> pb.JobStatus:
    return pb.JobStatus(job_id=f"job-{number}", number=number, state=state, error=text)  # type: ignore[arg-type]


class Reader:
    """A client that applies messages, possibly after having missed some changes."""

    def __init__(self, page: LivePage) -> None:
        self.jobs: dict[int, pb.JobStatus] = {}
        self.more = ""
        self.snapshots = 0
        self._page = page
        self._known: int | None = None

    def read(self) -> None:
        message = pb.Controller.WatchJobsResponse()
        self._page.fill(message, self._known)
        self._known = self._page.version
        self.more = message.next_page_token
        if message.is_snapshot:
            self.snapshots += 1
            self.jobs = {}
        for number in message.left:
            assert number in self.jobs or not message.is_snapshot
            self.jobs.pop(number, None)
        self.jobs.update((job.number, job) for job in message.jobs)


class World:
    """All jobs, and the page that they should be on."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.choice = PageChoice(
            JobFilter(states=frozenset({RUNNING})),
            self.random.random() < 0.5,
            self.random.randint(1, 6),
            self.random.choice([None, None, 5]),
        )
        self.states: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.last = 0

    def expected(self) -> tuple[list[int], bool]:
        numbers = [number for number, state in self.states.items() if state == RUNNING]
        if self.choice.first is not None:
            numbers = [n for n in numbers if (n <= 5 if self.choice.newest_first else n >= 5)]
        numbers.sort(reverse=self.choice.newest_first)
        return numbers[: self.choice.limit], len(numbers) > self.choice.limit

    def read_page(self, choice: PageChoice) -> dict[int, pb.JobStatus]:
        numbers = [number for number, state in self.states.items() if state == RUNNING and choice.in_range(number)]
        numbers.sort(reverse=choice.newest_first)
        return {n: status(n, RUNNING, self.texts.get(n, "")) for n in numbers[: choice.limit + 1]}

    def step(self, page: LivePage) -> None:
        kind = self.random.randrange(4)
        if kind == 0 or not self.states:
            self.last += 1
            number, self.states[self.last] = self.last, RUNNING
        else:
            number = self.random.choice(list(self.states))
            if kind == 1:
                self.states[number] = self.random.choice([RUNNING, SUCCEEDED, FAILED])
            elif kind == 2:
                self.texts[number] = str(self.random.randrange(3))
            else:
                del self.states[number]
        state = self.states.get(number)
        page.change(number, status(number, RUNNING, self.texts.get(number, "")) if state == RUNNING else None)


@for_each_seed(200)
def test_live_page_of_jobs_equals_a_simple_model_for_every_reader(seed: int) -> None:
    world = World(seed)
    page = LivePage(world.choice)
    page.replace_all(world.read_page(world.choice))
    readers = [Reader(page) for _ in range(3)]
    for _ in range(60):
        for _ in range(world.random.randint(1, 3)):
            world.step(page)
        if page.needs_reading:
            page.extend(world.read_page(page.following()))
        expected, has_more = world.expected()
        for reader in readers:
            if world.random.random() < 0.4:
                reader.read()
                assert sorted(reader.jobs, reverse=world.choice.newest_first) == expected
                assert {n: job.error for n, job in reader.jobs.items()} == {n: world.texts.get(n, "") for n in expected}
                assert reader.more or not has_more  # the next page may have become empty


def test_live_page_that_jobs_have_left_needs_only_the_missing_jobs() -> None:
    choice = PageChoice(JobFilter(), True, 10, None)
    page = LivePage(choice)
    page.replace_all({number: status(number, RUNNING) for number in range(30, 19, -1)})
    for number in (30, 25, 22):
        page.change(number, None)
    assert page.following() == replace(choice, first=20, limit=3)
    page.extend({number: status(number, RUNNING) for number in range(20, 16, -1)})
    reader = Reader(page)
    reader.read()
    assert sorted(reader.jobs) == [18, 19, 20, 21, 23, 24, 26, 27, 28, 29]
    assert reader.more


def test_reader_of_a_live_page_that_missed_too_many_jobs_gets_the_whole_page() -> None:
    page = LivePage(PageChoice(JobFilter(), True, 10, None))
    page.replace_all({})
    slow = Reader(page)
    slow.read()
    for number in range(1, 3_000):
        page.change(number, status(number, RUNNING))
    slow.read()
    assert slow.snapshots == 2
    assert sorted(slow.jobs) == list(range(2_990, 3_000))


def test_unchanged_state_of_a_job_does_not_change_the_live_page() -> None:
    page = LivePage(PageChoice(JobFilter(), True, 10, None))
    page.change(1, status(1, RUNNING))
    before = page.version
    page.change(1, status(1, RUNNING))
    page.change(2, None)
    assert page.version == before


def test_live_page_is_limited_in_bytes_and_keeps_at_least_one_job() -> None:
    page = LivePage(PageChoice(JobFilter(), True, 100, None), most_bytes=1_000)
    for number in range(1, 11):
        page.change(number, status(number, RUNNING, "x" * 300))
    reader = Reader(page)
    reader.read()
    assert (sorted(reader.jobs), reader.more) == ([8, 9, 10], "jobs-7")
    page.change(11, status(11, RUNNING, "x" * 5_000))
    reader.read()
    assert (sorted(reader.jobs), reader.more) == ([11], "jobs-10")


@for_each_seed(100)
def test_counts_of_jobs_are_right_although_jobs_end_while_the_database_is_read(seed: int) -> None:
    choose = random.Random(seed)
    wanted = JobFilter(id_prefix="a")
    jobs: dict[int, tuple[Job, int]] = {}

    def add() -> int:
        number = max(jobs, default=0) + 1
        jobs[number] = (Job.new(choose.choice(["a", "b"]) + str(number), 1, number), RUNNING)
        return number

    def change() -> tuple[int, Job, int] | None:
        going_on = [number for number, (_, state) in jobs.items() if state == RUNNING]
        if choose.random() < 0.5 or not going_on:
            number = add()
        else:
            number = choose.choice(going_on)
            jobs[number] = (jobs[number][0], choose.choice([SUCCEEDED, FAILED]))
        return number, *jobs[number]

    for _ in range(20):
        change()
    counts = StateCounts(wanted, max(jobs))
    for number, (job, state) in jobs.items():
        if state == RUNNING:
            job.state = state
            counts.add_unfinished(number, job)
    before = set(counts.unfinished)
    last = counts.last
    noted = {noted[0]: noted for noted in (change() for _ in range(10)) if noted}
    ended = Counter(
        state
        for number, (job, state) in jobs.items()
        if state != RUNNING and number <= last and number not in before and wanted.matches(job)
    )
    counts.add_ended(ended)
    for _, noted_change in sorted(noted.items()):
        counts.change(*noted_change)
    for _ in range(10):
        if made := change():
            counts.change(*made)
    message = pb.Controller.WatchJobsResponse()
    counts.fill(message)
    expected = Counter(state for job, state in jobs.values() if wanted.matches(job))
    assert {count.state: count.jobs for count in message.counts.counts} == dict(expected)
