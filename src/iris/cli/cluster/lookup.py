"""Finds jobs and tasks by the names that a user types: ids, beginnings of ids, patterns, and `@` for the latest job.

All commands use `Lookup`. A name is resolved in this order, and the first step with a match decides:
1. `@` names the caller's latest job, and `@/task-2` names a task of that job.
2. The id of a job or of a task (`JOB/task-2`) names this job or task.
3. A pattern with `*`, `?` or `[…]` names all matching jobs, as in a shell. `*` does not match `/`, therefore `sweep-*`
   matches no child jobs.
4. The beginning of exactly one job id names this job. `JOB` in `JOB/task-2` may also be such a beginning.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iris.cluster.client.task_token import name_in_token, task_of_token
from iris.cluster.types import FINAL_STATES, STATE_NAMES, make_task_id, parse_task_id, state_name
from iris.errors import InvalidArgumentError, IrisError, NotFoundError

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.rpc import cluster_pb2

LATEST = "@"
_SHOWN = 3
_COMPARED = 1000  # To suggest similar ids, an unknown id is compared with the ids of this many jobs.
_UNFINISHED = [name for number, name in STATE_NAMES.items() if number and number not in FINAL_STATES]
_SHOWN_CANDIDATES = 10


@dataclass(frozen=True)
class Target:
    """A job, or one task of a job, that a command addresses.

    Attributes:
        job: The status of the job. It contains the tasks only if the `Lookup` was created with `with_tasks`.
        task_index: The index of the task. None if the command addresses the whole job.
    """

    job: cluster_pb2.JobStatus
    task_index: int | None = None

    @property
    def name(self) -> str:
        """The id of the job or of the task."""
        return self.job.job_id if self.task_index is None else make_task_id(self.job.job_id, self.task_index)


class Lookup:
    """Finds the jobs and tasks for the names on one command line. An id needs one call to the controller. Any other
    name needs a list of the matching jobs.

    Args:
        client: The client of the cluster.
        with_tasks: Whether the statuses of found jobs contain the tasks.
        live_only: Whether patterns match only jobs that have not ended.
    """

    def __init__(self, client: IrisClient, *, with_tasks: bool = True, live_only: bool = False) -> None:
        self._client = client
        self._with_tasks = with_tasks
        self._live_only = live_only

    def job(self, name: str) -> cluster_pb2.JobStatus:
        """Return the status of one job.

        Raises:
            NotFoundError: There is no such job. The message suggests similar ids.
            InvalidArgumentError: The name is a task, or stands for several jobs.
        """
        found = self.one(name)
        if found.task_index is not None:
            raise InvalidArgumentError(f"expected a job, got the task {found.name!r}: give {found.job.job_id!r}")
        return found.job

    def one(self, name: str) -> Target:
        """Return one job or task.

        Raises:
            NotFoundError: There is no such job or task. The message suggests similar ids.
            InvalidArgumentError: The name stands for several jobs. The message lists the jobs.
        """
        found = self.all_of(name)
        if len(found) > 1:
            raise InvalidArgumentError(f"{name!r} matches {len(found)} jobs, expected one:{_listed(found)}")
        return found[0]

    def several(self, names: Sequence[str], on_error: Callable[[IrisError], None] | None = None) -> list[Target]:
        """Return all jobs and tasks that the names stand for, each once, in the order of the names.

        Args:
            names: The names of jobs and tasks. Without any name, the caller's latest job is returned.
            on_error: A function that is called with the error about a name without a match. If None, the error is
                raised.

        Raises:
            NotFoundError: There is no such job or task.
            InvalidArgumentError: A beginning of an id stands for several jobs.
        """
        found: dict[str, Target] = {}
        for name in names or (LATEST,):
            try:
                found |= {target.name: target for target in self.all_of(name)}
            except (NotFoundError, InvalidArgumentError) as error:
                if on_error is None:
                    raise
                on_error(error)
        return list(found.values())

    def all_of(self, name: str) -> list[Target]:
        """Return the jobs and tasks that one name stands for. The docstring of this module lists the forms of names.

        Raises:
            NotFoundError: There is no such job or task.
            InvalidArgumentError: A beginning of an id stands for several jobs.
        """
        if name == LATEST:
            return [Target(self._latest())]
        try:
            # First look for a job, even if the name looks like the id of a task. A child job may have such a name, for
            # example `task-2`.
            return [Target(self._client.status(name))]
        except NotFoundError as error:
            unknown = error
        job_id, task_index = _task_in(name)
        if task_index is not None and not is_pattern(job_id):
            return [self._task(job_id, task_index)]
        if is_pattern(name):
            return self._matches(name)
        return [Target(self._beginning(name, unknown))]

    def _task(self, job_id: str, task_index: int) -> Target:
        if job_id == LATEST:
            job = self._latest()
        else:
            try:
                job = self._client.status(job_id)
            except NotFoundError as error:
                job = self._beginning(job_id, error)
        if task_index >= job.num_tasks:
            raise no_such_task(job, task_index)
        return Target(job, task_index)

    def _beginning(self, text: str, no_such_job: NotFoundError) -> cluster_pb2.JobStatus:
        depth = text.count("/")
        jobs = self._client.list_jobs(id_prefix=text, newest_first=True)
        found = [job for job in jobs if job.job_id.count("/") == depth]
        if len(found) == 1:
            return self._complete(found[0])
        if found:
            targets = [Target(job) for job in found]
            raise InvalidArgumentError(
                f"{text!r} is the beginning of {len(found)} job ids, give more of the id:{_listed(targets)}"
            )
        known = [job.job_id for job in self._client.list_jobs(newest_first=True, limit=_COMPARED)]
        owner, _, last = text.rpartition("/")
        near = difflib.get_close_matches(text, known, n=_SHOWN)
        if owner in known and last.isdecimal():
            near = [f"{owner}/task-{last}"]
        advice = f"did you mean {' or '.join(near)}?" if near else "'iris ps --all' shows all jobs"
        raise NotFoundError(f"{no_such_job} ({advice})") from None

    def _matches(self, pattern: str) -> list[Target]:
        states = _UNFINISHED if self._live_only else []
        jobs = self._client.list_jobs(id_prefix=literal_beginning(pattern), states=states, newest_first=True)
        found = [Target(self._complete(job)) for job in jobs if matches(job.job_id, pattern)]
        if found:
            return found
        # The last part of the pattern may select tasks: `sweep-*/task-0`.
        begin, _, last = pattern.rpartition("/")
        if begin:
            jobs = self._client.list_jobs(id_prefix=literal_beginning(begin), states=states, newest_first=True)
        for job in jobs:
            if begin and matches(job.job_id, begin):
                indices = (i for i in range(job.num_tasks) if fnmatch.fnmatchcase(f"task-{i}", last))
                if chosen := list(indices):
                    status = self._complete(job)
                    found += [Target(status, index) for index in chosen]
        if not found:
            unfinished = " that has not ended" if self._live_only else ""
            raise NotFoundError(f"no job{unfinished} matches the pattern {pattern!r}: 'iris ps --all' shows all jobs")
        return found

    def _latest(self) -> cluster_pb2.JobStatus:
        """Return the latest job of the caller. Inside a task, this is the latest child job of the task's job."""
        token = self._client.cluster.token() or ""
        inside = task_of_token(token)
        owner = "" if inside is not None else name_in_token(token) or ""
        begin = "" if inside is None else f"{inside.job_id}/"
        depth = begin.count("/")
        # The caller's latest job is nearly always among the newest `_COMPARED` jobs. Therefore the list of all jobs is
        # read only if the newest jobs contain only child jobs at deeper levels.
        for limit in (_COMPARED, None):
            for job in self._client.list_jobs(id_prefix=begin, owner=owner, newest_first=True, limit=limit):
                if job.job_id.count("/") == depth:
                    return self._complete(job)
        latest = f"job of {owner!r}" if owner else "child job of this job" if inside else "job"
        raise NotFoundError(
            f"there is no {latest} for '@' or a missing JOB to stand for: 'iris ps --all' shows all jobs"
        )

    def _complete(self, job: cluster_pb2.JobStatus) -> cluster_pb2.JobStatus:
        """Return the status of a job that was found in a list of jobs. If the command needs the tasks of the job,
        request the status again, with the tasks.
        """
        return self._client.status(job.job_id) if self._with_tasks else job


def is_pattern(text: str) -> bool:
    """Return whether a name contains a wildcard."""
    return any(character in text for character in "*?[")


def literal_beginning(name: str) -> str:
    """Return the part of a name before its first wildcard."""
    return re.split(r"[*?[]", name, maxsplit=1)[0]


def matches(job_id: str, pattern: str) -> bool:
    """Return whether a job id matches a pattern. The id and the pattern are compared part by part, between their
    `/`.
    """
    parts, wanted = job_id.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def no_such_task(job: cluster_pb2.JobStatus, task_index: int) -> NotFoundError:
    """Return the error for a task that a job does not have."""
    has = f"its tasks are 0 to {job.num_tasks - 1}" if job.num_tasks > 1 else "its only task is 0"
    return NotFoundError(f"job {job.job_id!r} has no task {task_index}: {has}")


def _task_in(name: str) -> tuple[str, int | None]:
    """Return the job id and the task index in a task id. If the name is not a task id, return the name and None."""
    try:
        return parse_task_id(name)
    except InvalidArgumentError:
        return name, None


def _listed(targets: Iterable[Target]) -> str:
    """Return a text with one line for each job: its id and its state."""
    shown = list(targets)
    lines = [f"\n  {target.name} ({state_name(target.job.state)})" for target in shown[:_SHOWN_CANDIDATES]]
    more = len(shown) - len(lines)
    return "".join(lines) + (f"\n  … and {more} more" if more else "")
