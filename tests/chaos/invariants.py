"""Checks the rules that must hold at the end of a run. Each check returns the violations as sentences, by job."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.faults import Event
from chaos.load import Promise
from chaos.proofs import Key, Run
from chaos.task import FAILED, PAUSE_S
from iris.cluster.types import state_name
from iris.rpc import cluster_pb2 as pb

# Bytes that a killed worker had not yet read from a task's pipe are lost with the worker (docs/explanation/logs.md).
LOST_WITH_WORKER_S = 2.0
# A line certainly arrived if the task printed this number of later lines. The age of a line is not enough, because the
# whole machine may stand still for seconds.
LOST_WITH_WORKER_LINES = round(LOST_WITH_WORKER_S / PAUSE_S)


@dataclass(slots=True)
class Facts:
    """The facts about a run that the checks compare.

    Attributes:
        jobs: From the controller, with their tasks.
        promises: What was submitted by clients.
        runs: What was proved to have run.
        again: Proofs of runs that found that they had run before.
        logs: The lines of stdout, by attempt, and whether something is said to be missing.
        results: What callables returned, by task, pickled.
        events: What was done to the cluster.
    """

    jobs: dict[str, pb.JobStatus]
    promises: Mapping[str, Promise] = field(default_factory=dict)
    runs: Mapping[Key, Run] = field(default_factory=dict)
    again: Sequence[str] = ()
    logs: Mapping[Key, list[str]] = field(default_factory=dict)
    results: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    events: Sequence[Event] = ()

    def attempts(self) -> Iterator[tuple[Key, pb.TaskStatus, pb.TaskAttempt]]:
        """All attempts that the controller knows."""
        for job_id, job in self.jobs.items():
            for task in job.tasks:
                for attempt in task.attempts:
                    yield (job_id, task.task_index, attempt.attempt_id), task, attempt


def check(facts: Facts) -> list[str]:
    """Return the violations of all rules."""
    return [
        wrong
        for one in (
            _acknowledged,
            _ran_once,
            _known,
            _no_overlap,
            _successes,
            _failures,
            _budgets,
            _gangs,
            _ends_of_jobs,
            _final,
            _children,
            _results,
            _logs,
        )
        for wrong in one(facts)
    ]


def _acknowledged(facts: Facts) -> Iterable[str]:
    for job_id, promise in facts.promises.items():
        job = facts.jobs.get(job_id)
        if job is None:
            if promise.acknowledged:
                yield f"{job_id}: was acknowledged, and is forgotten"
        elif len(job.tasks) != promise.replicas:
            yield f"{job_id}: has {len(job.tasks)} tasks, {promise.replicas} were asked for"


def _ran_once(facts: Facts) -> Iterable[str]:
    for name in facts.again:
        yield f"{name}: an attempt ran twice"


def _known(facts: Facts) -> Iterable[str]:
    known = {key for key, _, _ in facts.attempts()}
    for key in facts.runs.keys() - known:
        yield f"{key[0]}: attempt {key[2]} of task {key[1]} ran, and the controller knows nothing of it"


def _no_overlap(facts: Facts) -> Iterable[str]:
    for key, run in facts.runs.items():
        following = facts.runs.get((key[0], key[1], key[2] + 1))
        if following is not None and following.began is not None and following.began < run.seen:
            both_s = run.seen - following.began
            yield f"{key[0]}: attempts {key[2]} and {key[2] + 1} of task {key[1]} ran side by side for {both_s:.3f} s"


def _successes(facts: Facts) -> Iterable[str]:
    """A successful attempt has run to its end and is the last attempt of its task. A task has succeeded if and only if
    its last attempt has."""
    for key, task, attempt in facts.attempts():
        where = f"{key[0]}: attempt {key[2]} of task {key[1]}"
        is_last = attempt.attempt_id == len(task.attempts) - 1
        if attempt.state == pb.TASK_STATE_SUCCEEDED:
            run = facts.runs.get(key)
            if run is None or run.exit_code != 0:
                yield f"{where} SUCCEEDED, and did not run to its end"
            if not is_last or task.state != pb.TASK_STATE_SUCCEEDED:
                yield f"{where} SUCCEEDED, and its task is {state_name(task.state)} after {len(task.attempts)} attempts"
        elif is_last and task.state == pb.TASK_STATE_SUCCEEDED:
            yield f"{where} is {state_name(attempt.state)} and the last of a task that SUCCEEDED"
        if attempt.state in (0, pb.TASK_STATE_PENDING, pb.TASK_STATE_BUILDING, pb.TASK_STATE_RUNNING):
            yield f"{where} is {state_name(attempt.state)} at the end"


def _failures(facts: Facts) -> Iterable[str]:
    """A task is charged only for failures that the task itself has caused."""
    for key, _, attempt in facts.attempts():
        run = facts.runs.get(key)
        if attempt.state == pb.TASK_STATE_FAILED and (run is None or run.exit_code != FAILED):
            yield (
                f"{key[0]}: attempt {key[2]} of task {key[1]} FAILED ({attempt.error!r}),"
                f" and its run ended with {run and run.exit_code}"
            )


def _budgets(facts: Facts) -> Iterable[str]:
    for job_id, promise in facts.promises.items():
        for task in facts.jobs[job_id].tasks if job_id in facts.jobs else ():
            where = f"{job_id}: task {task.task_index}"
            states = Counter(attempt.state for attempt in task.attempts)
            failed, lost = states[pb.TASK_STATE_FAILED], states[pb.TASK_STATE_WORKER_FAILED]
            if task.failure_count > failed or task.preemption_count > lost:
                yield f"{where} is charged for {task.failure_count} and {task.preemption_count}, of {failed} and {lost}"
            if task.failure_count > promise.max_retries_failure + 1:
                yield f"{where} failed {task.failure_count} times, {promise.max_retries_failure} retries were allowed"
            if task.preemption_count > promise.max_retries_preemption + 1:
                yield f"{where} was lost {task.preemption_count} times, {promise.max_retries_preemption} were allowed"
            charged_all = task.failure_count == failed  # the last was not, if it was being stopped
            if task.state == pb.TASK_STATE_FAILED and charged_all and failed != promise.max_retries_failure + 1:
                yield f"{where} FAILED after {task.failure_count} failures, {promise.max_retries_failure} were allowed"
            if (
                task.state == pb.TASK_STATE_WORKER_FAILED
                and task.preemption_count != promise.max_retries_preemption + 1
            ):
                allowed = promise.max_retries_preemption
                yield f"{where} WORKER_FAILED when it was lost {task.preemption_count} times, {allowed} were allowed"
            if [attempt.attempt_id for attempt in task.attempts] != list(range(len(task.attempts))):
                yield f"{where} has attempts {[attempt.attempt_id for attempt in task.attempts]}"


def _gangs(facts: Facts) -> Iterable[str]:
    """The tasks of a gang are restarted only if one of them has failed or was lost."""
    for job_id, promise in facts.promises.items():
        job = facts.jobs.get(job_id)
        if job is None or promise.independent:
            continue
        reasons = sum(
            attempt.state in (pb.TASK_STATE_FAILED, pb.TASK_STATE_WORKER_FAILED)
            for task in job.tasks
            for attempt in task.attempts
        )
        for task in job.tasks:
            if len(task.attempts) > 1 + reasons:
                yield f"{job_id}: task {task.task_index} has {len(task.attempts)} attempts, for {reasons} reasons"


def _ends_of_jobs(facts: Facts) -> Iterable[str]:
    """The state of an ended job follows from the states of its tasks, and from the termination that its client has
    requested."""
    for job_id, promise in facts.promises.items():
        job = facts.jobs.get(job_id)
        if job is None:
            continue
        states = Counter(task.state for task in job.tasks)
        text = f"{job_id}: {state_name(job.state)} with {dict(states)}"
        if job.state == pb.JOB_STATE_SUCCEEDED:
            if states[pb.TASK_STATE_SUCCEEDED] + states[pb.TASK_STATE_FAILED] != len(job.tasks):
                yield f"{text}, and not all ended by themselves"
            if states[pb.TASK_STATE_FAILED] > promise.max_task_failures:
                yield f"{text}, and {promise.max_task_failures} may fail"
        elif job.state == pb.JOB_STATE_FAILED:
            if states[pb.TASK_STATE_FAILED] <= promise.max_task_failures:
                yield f"{text}, and {promise.max_task_failures} may fail"
            if all(count <= promise.max_retries_failure for count in promise.failures):
                yield f"{text}, though its tasks fail only {promise.failures} times: {job.error!r}"
        elif job.state == pb.JOB_STATE_KILLED:
            if not promise.terminated:
                yield f"{text}, and nobody asked for that: {job.error!r}"
        elif job.state == pb.JOB_STATE_WORKER_FAILED:
            if not states[pb.TASK_STATE_WORKER_FAILED]:
                yield f"{text}, and no task was lost for good"
        else:
            yield f"{text} at the end: {job.status_message!r} {job.error!r}"


def _final(facts: Facts) -> Iterable[str]:
    """A final state that a client has seen has not changed afterwards."""
    for job_id, promise in facts.promises.items():
        job, seen = facts.jobs.get(job_id), promise.seen_final
        if job is not None and seen is not None and job.state != seen:
            yield f"{job_id}: was said to be {state_name(seen)}, and is {state_name(job.state)}"


def _children(facts: Facts) -> Iterable[str]:
    """Each acknowledged child job exists, and has ended with its parent job."""
    for key, run in facts.runs.items():
        for child in run.children:
            job = facts.jobs.get(child)
            if job is None:
                yield f"{key[0]}: its child {child} was acknowledged, and is forgotten"
            elif job.state not in (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_KILLED, pb.JOB_STATE_WORKER_FAILED):
                yield f"{child}: {state_name(job.state)} at the end: {job.error!r}"


def _results(facts: Facts) -> Iterable[str]:
    for job_id, promise in facts.promises.items():
        job = facts.jobs.get(job_id)
        if job is None or not promise.is_callable:
            continue
        for task in job.tasks:
            if task.state == pb.TASK_STATE_SUCCEEDED:
                pickled = facts.results.get((job_id, task.task_index), b"")
                expected = [task.task_index, len(task.attempts) - 1]
                result = pickle.loads(pickled) if pickled else None
                if result is None and "could not be stored" in task.result_error:
                    continue  # there was no room for it, which is said
                if result != expected:
                    yield f"{job_id}: the result of task {task.task_index} is {result}, not {expected}"


def _logs(facts: Facts) -> Iterable[str]:
    """A log has all printed lines in order and once. If the worker was killed, lines that it had not read yet may be
    missing."""
    for key, _, attempt in facts.attempts():
        run, lines = facts.runs.get(key), facts.logs.get(key, [])
        where = f"{key[0]}: the log of attempt {key[2]} of task {key[1]}"
        if run is not None and _is_disk_full(facts.events, run):
            if [int(line) for line in lines] != sorted({int(line) for line in lines}):
                yield f"{where} has lines out of order, or twice: {_around(lines)}"
            continue  # lines may be missing
        if lines != [str(number) for number in range(len(lines))]:
            yield f"{where} has lines out of order, twice or missing in between: {_around(lines)}"
        printed = [] if run is None else run.lines
        if attempt.state == pb.TASK_STATE_WORKER_FAILED and run is not None:
            blind_since = _blind_since(facts.events, run)
            while_read = [at for at in printed if at < blind_since]
            printed = [at for at in while_read[:-LOST_WITH_WORKER_LINES] if at < blind_since - LOST_WITH_WORKER_S]
        if len(lines) < len(printed):
            state = state_name(attempt.state)
            yield f"{where} ends after {len(lines)} lines, {len(printed)} were printed (it is {state})"


def _blind_since(events: Sequence[Event], run: Run) -> float:
    """Return the time after which printed lines may be missing, because the worker was killed, or was stopped before it
    was killed."""
    stops = [event for event in events if event.pid in run.ancestors and event.what == "stop worker"]
    return min([run.seen, *(event.at for event in stops if event.until > run.seen - LOST_WITH_WORKER_S)])


def _is_disk_full(events: Sequence[Event], run: Run) -> bool:
    """Return whether the disk was full while the attempt ran, or shortly before the attempt's end was written."""
    began, ended = run.began or run.seen, run.seen + LOST_WITH_WORKER_S
    return any(event.what == "fill disk" and event.at < ended and event.until > began for event in events)


def _around(lines: Sequence[str]) -> str:
    for number, line in enumerate(lines):
        if line != str(number):
            return f"… {', '.join(lines[max(0, number - 2) : number + 3])} …"
    return ""
