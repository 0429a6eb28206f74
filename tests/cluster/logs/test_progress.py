"""Reading through attempts: what happens, as lists, and what is to be opened, told and waited for after each step."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from support.seeds import for_each_seed

from iris.cluster.logs.cursor import Position
from iris.cluster.logs.progress import NextAttempt, NoAttempt, Outcome, Progress
from iris.cluster.types import is_task_finished
from iris.rpc import cluster_pb2

BEGINNING = (0, 0, 0)
STATES = {name: cluster_pb2.TaskState.Value(f"TASK_STATE_{name}") for name in ("PENDING", "BUILDING", "RUNNING")} | {
    name: cluster_pb2.TaskState.Value(f"TASK_STATE_{name}")
    for name in ("SUCCEEDED", "FAILED", "KILLED", "WORKER_FAILED", "UNSCHEDULABLE")
}


def task(text: str, index: int = 0) -> cluster_pb2.TaskStatus:
    """`RUNNING: FAILED RUNNING` is a task that runs, in its second attempt."""
    state, _, attempts = text.partition(":")
    return cluster_pb2.TaskStatus(
        task_index=index,
        state=STATES[state],
        attempts=[
            cluster_pb2.TaskAttempt(attempt_id=number, state=STATES[name])
            for number, name in enumerate(attempts.split())
        ],
    )


ENDED, INTERRUPTED, GIVEN_UP = "(ended)", "(interrupted)", "(given up)"

# What happens: a status that the controller tells, or the end of what is read. Then what is expected:
# "reads N": attempt N is to be opened now; "reads": what is read is still read; "waits": for news; "over".
# "retry N": it is told that attempt N is followed by another one.
Story = list[tuple[str, str]]

FOLLOW: dict[str, Story] = {
    "one attempt, from before it is placed": [
        ("PENDING:", "waits"),
        ("BUILDING: BUILDING", "reads 0"),
        ("RUNNING: RUNNING", "reads"),
        ("SUCCEEDED: SUCCEEDED", "reads"),
        (ENDED, "over"),
    ],
    "a worker knows of the end before the controller does": [
        ("RUNNING: RUNNING", "reads 0"),
        (ENDED, "waits"),
        ("RUNNING: RUNNING", "waits"),
        ("SUCCEEDED: SUCCEEDED", "over"),
    ],
    "a worker knows of the end, and then there is a retry": [
        ("RUNNING: RUNNING", "reads 0"),
        (ENDED, "waits"),
        ("PENDING: FAILED", "waits, retry 0"),
        ("BUILDING: FAILED BUILDING", "reads 1"),
        (ENDED, "waits"),
        ("FAILED: FAILED FAILED", "over"),
    ],
    "a worker knows of the end, and next is heard of the attempt after it": [
        ("RUNNING: RUNNING", "reads 0"),
        (ENDED, "waits"),
        ("RUNNING: WORKER_FAILED RUNNING", "reads 1, retry 0"),
    ],
    "the controller knows of the retry before the log was read": [
        ("RUNNING: RUNNING", "reads 0"),
        ("PENDING: FAILED", "reads"),
        ("RUNNING: FAILED RUNNING", "reads"),
        (ENDED, "reads 1, retry 0"),
        ("SUCCEEDED: FAILED SUCCEEDED", "reads"),
        (ENDED, "over"),
    ],
    "the log was read before the retry is placed": [
        ("PENDING: FAILED", "reads 0"),
        (ENDED, "waits, retry 0"),
        ("RUNNING: FAILED RUNNING", "reads 1"),
    ],
    "killed while it waits for a retry": [
        ("PENDING: FAILED", "reads 0"),
        (ENDED, "waits, retry 0"),
        ("KILLED: FAILED", "over"),
    ],
    "killed while it waits for a retry, before the log was read": [
        ("PENDING: FAILED", "reads 0"),
        ("KILLED: FAILED", "reads"),
        (ENDED, "over"),
    ],
    "never started": [("PENDING:", "waits"), ("PENDING:", "waits"), ("KILLED:", "over")],
    "final without attempts": [("UNSCHEDULABLE:", "over")],
    "final from the beginning": [
        ("SUCCEEDED: FAILED SUCCEEDED", "reads 0"),
        (ENDED, "reads 1, retry 0"),
        (ENDED, "over"),
    ],
    "several new attempts at once": [
        ("RUNNING: RUNNING", "reads 0"),
        ("RUNNING: WORKER_FAILED FAILED WORKER_FAILED RUNNING", "reads"),
        (ENDED, "reads 1, retry 0"),
        (ENDED, "reads 2, retry 1"),
        (ENDED, "reads 3, retry 2"),
        (ENDED, "waits"),
        ("SUCCEEDED: WORKER_FAILED FAILED WORKER_FAILED SUCCEEDED", "over"),
    ],
    "several new attempts at once, and the log was read before": [
        ("RUNNING: RUNNING", "reads 0"),
        (ENDED, "waits"),
        ("SUCCEEDED: FAILED FAILED SUCCEEDED", "reads 1, retry 0"),
        (ENDED, "reads 2, retry 1"),
        (ENDED, "over"),
    ],
    "interrupted, and opened again": [
        ("RUNNING: RUNNING", "reads 0"),
        (INTERRUPTED, "reads 0"),
        (INTERRUPTED, "reads 0"),
        ("SUCCEEDED: SUCCEEDED", "reads"),
        (INTERRUPTED, "reads 0"),
        (ENDED, "over"),
    ],
    "interrupted in the second attempt": [
        ("RUNNING: FAILED RUNNING", "reads 0"),
        (ENDED, "reads 1, retry 0"),
        (INTERRUPTED, "reads 1"),
        (ENDED, "waits"),
    ],
    "given up while it is read": [
        ("RUNNING: RUNNING", "reads 0"),
        (GIVEN_UP, "over"),
        ("PENDING: FAILED", "over"),
        ("RUNNING: FAILED RUNNING", "over"),
        (ENDED, "over"),
        (INTERRUPTED, "over"),
    ],
    "given up while it waits": [("PENDING:", "waits"), (GIVEN_UP, "over"), ("RUNNING: RUNNING", "over")],
}

UNTIL_NOW: dict[str, Story] = {
    "one that runs": [("RUNNING: RUNNING", "reads 0"), (ENDED, "over")],
    "one that has ended": [("FAILED: FAILED", "reads 0"), (ENDED, "over")],
    "all attempts that there are": [
        ("RUNNING: FAILED WORKER_FAILED RUNNING", "reads 0"),
        (ENDED, "reads 1, retry 0"),
        (ENDED, "reads 2, retry 1"),
        (ENDED, "over"),
    ],
    "none that is still to come": [("PENDING: FAILED", "reads 0"), (ENDED, "over")],
    "none": [("PENDING:", "over")],
    "interrupted": [("RUNNING: RUNNING", "reads 0"), (INTERRUPTED, "reads 0"), (ENDED, "over")],
}

ONE_ATTEMPT: dict[str, Story] = {  # of attempt 1
    "it is to come": [
        ("RUNNING: RUNNING", "waits"),
        ("PENDING: FAILED", "waits"),
        ("RUNNING: FAILED RUNNING", "reads 1"),
        (ENDED, "over"),
    ],
    "it is one of many": [("RUNNING: FAILED FAILED FAILED RUNNING", "reads 1"), (ENDED, "over")],
    "it will not come": [("RUNNING: RUNNING", "waits"), ("SUCCEEDED: SUCCEEDED", "over")],
    "there will be none at all": [("KILLED:", "over")],
    "it waits for a retry": [("PENDING: FAILED FAILED", "reads 1"), (ENDED, "over")],
    "the worker knows first": [("RUNNING: FAILED RUNNING", "reads 1"), (ENDED, "over")],
}

ONE_ATTEMPT_UNTIL_NOW: dict[str, Story] = {  # of attempt 1
    "it is there": [("RUNNING: FAILED RUNNING", "reads 1"), (ENDED, "over")],
    "there are others after it": [("RUNNING: FAILED FAILED RUNNING", "reads 1"), (ENDED, "over")],
    "it is not there": [("RUNNING: RUNNING", "over")],
}


def retries(outcomes: list[Outcome]) -> list[tuple[int, cluster_pb2.TaskAttempt]]:
    return [(outcome.task_index, outcome.ended) for outcome in outcomes if isinstance(outcome, NextAttempt)]


def told(progress: Progress, happened: str) -> str:
    """One step: what happens, and then what there is to do, as a word."""
    if happened == ENDED:
        retried = retries(progress.attempt_ended(0))
    elif happened == INTERRUPTED:
        retried = []
        progress.interrupted(0)
    elif happened == GIVEN_UP:
        retried = []
        progress.give_up(0)
    else:
        retried = retries(progress.update([task(happened)]))
    opened = [f" {attempt.attempt_id}" for _, attempt, _ in progress.to_open()]
    assert len(opened) < 2
    assert not progress.to_open(), "whoever asks opens them"
    assert not (progress.is_over and progress.is_waiting)
    word = "over" if progress.is_over else "waits" if progress.is_waiting else "reads"
    return word + "".join(opened) + "".join(f", retry {attempt.attempt_id}" for _, attempt in retried)


def check(story: Story, progress: Progress) -> None:
    assert not progress.is_over
    assert progress.is_waiting, "nothing is known yet"
    assert progress.to_open() == []
    assert [(happened, told(progress, happened)) for happened, _ in story] == story


@pytest.mark.parametrize("name", FOLLOW)
def test_following_log_reader_opens_existing_and_future_attempts_in_order(name: str) -> None:
    check(FOLLOW[name], Progress({0: Position()}, follow=True))


@pytest.mark.parametrize("name", UNTIL_NOW)
def test_log_reader_without_follow_opens_only_existing_attempts(name: str) -> None:
    check(UNTIL_NOW[name], Progress({0: Position()}, follow=False))


@pytest.mark.parametrize("name", ONE_ATTEMPT)
def test_log_reader_of_one_attempt_opens_only_the_wanted_attempt(name: str) -> None:
    check(ONE_ATTEMPT[name], Progress({0: Position(1)}, follow=True, one_attempt=True))


@pytest.mark.parametrize("name", ONE_ATTEMPT_UNTIL_NOW)
def test_log_reader_of_one_attempt_without_follow_does_not_wait(name: str) -> None:
    check(ONE_ATTEMPT_UNTIL_NOW[name], Progress({0: Position(1)}, follow=False, one_attempt=True))


def test_log_of_an_attempt_is_reopened_at_the_offset_of_the_interruption() -> None:
    there = Position(1, (7, 8, 9))
    progress = Progress({0: there}, follow=True)
    progress.update([task("RUNNING: FAILED FAILED RUNNING")])
    ((_, attempt, position),) = progress.to_open()
    assert (attempt.attempt_id, position) == (1, there)
    progress.interrupted(0)
    assert [position for _, _, position in progress.to_open()] == [there]
    progress.attempt_ended(0)
    ((_, attempt, position),) = progress.to_open()
    assert (attempt.attempt_id, position) == (2, Position(2, BEGINNING))


def test_log_reader_knows_the_newest_status_of_an_attempt() -> None:
    progress = Progress({0: Position()}, follow=True)
    assert progress.attempt(0) is None
    progress.update([task("PENDING:")])
    assert progress.attempt(0) is None
    progress.update([task("RUNNING: RUNNING")])
    progress.to_open()
    progress.update([task("PENDING: FAILED")])
    attempt = progress.attempt(0)
    assert attempt is not None
    assert attempt.state == STATES["FAILED"]
    assert [told_of.state for _, told_of in retries(progress.attempt_ended(0))] == [STATES["FAILED"]]
    assert progress.attempt(0) is None, "the next one is not there yet"


def test_log_reader_reads_the_attempts_of_several_tasks_independently() -> None:
    progress = Progress({2: Position(), 5: Position()}, follow=True)
    assert progress.update([task("RUNNING: RUNNING", 2), task("PENDING:", 5), task("RUNNING: RUNNING", 7)]) == []
    assert [index for index, _, _ in progress.to_open()] == [2]
    assert progress.is_waiting
    progress.update([task("SUCCEEDED: FAILED SUCCEEDED", 5)])
    assert [index for index, _, _ in progress.to_open()] == [5]
    assert not progress.is_waiting
    assert [(index, attempt.attempt_id) for index, attempt in retries(progress.attempt_ended(5))] == [(5, 0)]
    assert [(index, attempt.attempt_id) for index, attempt, _ in progress.to_open()] == [(5, 1)]
    progress.attempt_ended(5)
    assert not progress.is_over
    progress.give_up(2)
    assert progress.is_over


def test_task_that_does_not_have_the_wanted_attempt_is_reported_once() -> None:
    progress = Progress({0: Position()}, follow=True)
    assert progress.update([task("PENDING:")]) == []
    killed = task("KILLED:")
    assert progress.update([killed]) == [NoAttempt(killed)]
    assert progress.update([killed]) == []


def test_log_reader_without_tasks_ends_at_once() -> None:
    progress = Progress({}, follow=True)
    assert progress.is_over
    assert not progress.is_waiting
    assert progress.update([task("RUNNING: RUNNING")]) == []
    assert progress.to_open() == []


# --- against a model


@dataclass
class Model:
    """A task as it really is, whose life is a list of statuses, and one who reads it by the simplest of rules.

    Attributes:
        life: What the controller says, from the first status to the last.
        follow: As `Progress`.
        told: Which status was told last; -1: none.
        real: Which one is true, as the workers know.
        next: The attempt that is read, or is to be read next.
        open: It is being read.
        wrote: Attempts that were read to their end, in order.
    """

    life: list[str]
    follow: bool
    told: int = -1
    real: int = 0
    next: int = 0
    open: bool = False
    wrote: list[int] = field(default_factory=list)

    def attempts(self, at: int) -> list[str]:
        return self.life[at].partition(":")[2].split() if at >= 0 else []

    def is_final(self, at: int) -> bool:
        return at >= 0 and is_task_finished(STATES[self.life[at].partition(":")[0]])

    def has_ended(self, attempt: int) -> bool:
        """Whether the attempt's worker knows of its end."""
        attempts = self.attempts(self.real)
        return attempt < len(attempts) and is_task_finished(STATES[attempts[attempt]])

    @property
    def is_over(self) -> bool:
        if self.told < 0 or self.open or self.next < len(self.attempts(self.told)):
            return False
        return self.is_final(self.told) if self.follow else True

    @property
    def is_to_open(self) -> bool:
        return not self.open and self.next < len(self.attempts(self.told))


def a_life(chance: random.Random) -> list[str]:
    """Statuses in the order of a task's life, of which some are never told."""
    life, ended = ["PENDING:"], ""
    for attempt in range(chance.randrange(5)):
        if attempt:
            life.append(f"PENDING:{ended}")
        life += [f"{state}:{ended} {state}" for state in ("BUILDING", "RUNNING")]
        ended += " " + chance.choice(("FAILED", "WORKER_FAILED", "SUCCEEDED", "KILLED"))
    life.append(f"{chance.choice(('FAILED', 'KILLED', 'SUCCEEDED'))}:{ended}")
    kept = [status for status in life[:-1] if chance.random() < 0.7]
    return [*kept, life[-1]]


@pytest.mark.parametrize("follow", [True, False])
@for_each_seed(50)
def test_log_reader_opens_each_attempt_once_in_any_order_of_events(seed: int, follow: bool) -> None:
    chance = random.Random(seed)
    models = {index: Model(a_life(chance), follow) for index in range(chance.randrange(1, 4))}
    progress = Progress(dict.fromkeys(models, Position()), follow=follow)
    for _ in range(1000):
        retried = []
        index = chance.choice(list(models))
        model = models[index]
        event = chance.choice(["happens", "told", "ended", "interrupted"])
        if event == "happens":
            model.real = min(model.real + 1, len(model.life) - 1)
        elif event == "told" and (model.told < 0 or follow):  # who does not follow asks once
            model.told = chance.randint(max(model.told, 0), model.real)
            retried = retries(progress.update([task(model.life[model.told], index)]))
        elif event == "ended" and model.open and (model.has_ended(model.next) or not follow):
            model.wrote.append(model.next)
            model.open = False
            model.next += 1
            retried = retries(progress.attempt_ended(index))
        elif event == "interrupted" and model.open:
            model.open = False
            progress.interrupted(index)
        for number, attempt in retried:
            assert (number, attempt.attempt_id) == (index, models[number].wrote[-1])
        opened = [(number, attempt.attempt_id, position) for number, attempt, position in progress.to_open()]
        assert opened == [(n, m.next, Position(m.next)) for n, m in models.items() if m.is_to_open]
        for number, _, _ in opened:
            models[number].open = True
        assert progress.is_over == all(m.is_over for m in models.values()), [m.life[m.told] for m in models.values()]
        assert progress.is_waiting == any(not m.is_over and not m.open for m in models.values())
        if progress.is_over:
            break
    assert progress.is_over, "all of it has happened by now"
    for model in models.values():
        assert model.wrote == list(range(len(model.attempts(model.told))))
