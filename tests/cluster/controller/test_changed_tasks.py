"""The changed tasks of a job, which watchers and the store ask for after each change."""

from __future__ import annotations

from random import Random

from support.seeds import for_each_seed

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.tally import ChangedTasks
from iris.cluster.controller.jobs.task import Task, WorkerIdentity


def tasks_of(count: int) -> list[Task]:
    return [Task("job", index) for index in range(count)]


@for_each_seed(20)
def test_changed_tasks_since_any_revision_are_the_tasks_with_a_higher_revision(seed: int) -> None:
    random = Random(seed)
    tasks = tasks_of(30)
    changes, revision = ChangedTasks(tasks), 1
    for _ in range(40):
        revision += random.randrange(3)
        changes.note(random.sample(tasks, random.randrange(4)), revision)
        since = random.randrange(revision + 2)
        expected = [task for task in tasks if task.revision > since]
        assert changes.since(since) == expected
        assert ChangedTasks(tasks).since(since) == expected, "after a restart"


def test_changed_tasks_of_a_job_contain_started_tasks_and_tasks_with_a_new_waiting_reason() -> None:
    job = Job.new("job", 5, 1, coscheduled=False)
    job.submit()
    before = job.revision
    assert [task.task_index for task in job.changes.since(before - 1)] == [0, 1, 2, 3, 4]
    assert job.changes.since(before) == []
    job.gang_placed("job@3", [WorkerIdentity("w", "http://w")])
    assert [task.task_index for task in job.changes.since(before)] == [3]
