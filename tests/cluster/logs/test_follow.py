"""The follow engine, driven by events without a server: what it instructs, and what it does in any order of events."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from support.seeds import for_each_seed

from iris.cluster.logs.cursor import Position
from iris.cluster.logs.follow import LOST_WORKER_SILENCE_S, Follow, FollowRules
from iris.cluster.logs.follow_events import (
    AttemptAbandoned,
    Chunk,
    ChunkReceived,
    CloseStream,
    Deliver,
    Event,
    Fail,
    GiveUp,
    Instruction,
    Interrupted,
    MessageReceived,
    NoServer,
    NothingYet,
    Read,
    ReadElsewhere,
    RestartRequested,
    Retry,
    StreamEnded,
    StreamOpened,
    TasksChanged,
    TimePassed,
    WorkerLost,
)
from iris.cluster.logs.outage import FIRST_PAUSE_S, Failure, RetryRules
from iris.cluster.logs.progress import NextAttempt, NoAttempt
from iris.errors import NotFoundError, UnavailableError
from iris.rpc import cluster_pb2 as pb
from iris.system.backoff import Backoff

WORKER = ("worker-1", "http://127.0.0.1:1")
CLIENT = FollowRules(RetryRules(patience_s=300.0))
RELAY = replace(CLIENT, retry=replace(CLIENT.retry, patience_s=2.0, any_answer_counts=False), resumes=False)


def even_pauses() -> Backoff:
    return Backoff(FIRST_PAUSE_S, 5.0, factor=lambda low, high: 1.0)


def task(state: str, *attempts: str, index: int = 0, lost: bool = False) -> pb.TaskStatus:
    return pb.TaskStatus(
        task_index=index,
        state=pb.TaskState.Value(f"TASK_STATE_{state}"),
        attempts=[
            pb.TaskAttempt(
                attempt_id=number,
                state=pb.TaskState.Value(f"TASK_STATE_{name}"),
                is_worker_failure=lost and name == "WORKER_FAILED",
            )
            for number, name in enumerate(attempts)
        ],
    )


def chunk(index: int = 0, attempt_id: int = 0, records: bytes = b"data", error: str = "") -> Chunk:
    return Chunk(task_index=index, attempt_id=attempt_id, records=records, error=error)


def last_chunk(index: int = 0, attempt_id: int = 0, *, complete: bool = True) -> Chunk:
    made = chunk(index, attempt_id)
    made.end.complete = complete
    return made


@dataclass
class Driven:
    """A follow with a clock that the test moves.

    Attributes:
        rules: How the reader follows.
        tasks: How many tasks it follows.
        now: The time.
    """

    rules: FollowRules = CLIENT
    tasks: int = 1
    now: float = 1000.0
    follow: Follow = field(init=False)

    def __post_init__(self) -> None:
        self.follow = Follow({index: Position() for index in range(self.tasks)}, self.rules, even_pauses)

    def do(self, *events: Event) -> list[Instruction]:
        return [instruction for event in events for instruction in self.follow.handle(event, self.now)]

    def wait(self) -> list[Instruction]:
        """Move the clock to the time at which the follow wants to be woken."""
        assert self.follow.wake_at is not None
        self.now = max(self.now, self.follow.wake_at)
        return self.do(TimePassed())

    def open(self, stream: int = 1, worker: tuple[str, str] | None = WORKER) -> None:
        """Let all tasks run, and open a stream for all of them."""
        self.do(TasksChanged([task("RUNNING", "RUNNING", index=index) for index in range(self.tasks)]))
        reads = self.do(TimePassed())
        assert all(isinstance(read, Read) for read in reads)
        self.do(StreamOpened(stream, worker, range(self.tasks)))


def the_only(instructions: list[Instruction]) -> Instruction:
    (instruction,) = instructions
    return instruction


def test_log_of_a_task_that_succeeds_is_read_from_one_stream_to_its_end() -> None:
    driven = Driven()
    assert driven.do(TimePassed()) == []
    running = task("RUNNING", "RUNNING")
    driven.do(TasksChanged([running]))
    assert driven.do(TimePassed()) == [Read(0, running.attempts[0], Position())]
    driven.do(StreamOpened(1, WORKER, [0]))
    assert driven.do(TimePassed()) == [], "the attempt is being read"
    assert driven.do(MessageReceived(1), ChunkReceived(1, chunk())) == [Deliver(1, chunk(), running.attempts[0])]
    assert driven.do(ChunkReceived(1, last_chunk())) == [Deliver(1, last_chunk(), running.attempts[0])]
    assert not driven.follow.is_over, "a retry may follow"
    driven.do(StreamEnded(1, None), TasksChanged([task("SUCCEEDED", "SUCCEEDED")]))
    assert driven.follow.is_over


def test_log_reader_announces_and_reads_the_next_attempt_of_a_retried_task() -> None:
    driven = Driven()
    driven.open()
    retried = task("RUNNING", "FAILED", "RUNNING")
    driven.do(TasksChanged([retried]))
    delivered, announced = driven.do(ChunkReceived(1, last_chunk()))
    assert isinstance(delivered, Deliver)
    assert announced == NextAttempt(0, retried.attempts[0])
    assert driven.do(TimePassed()) == [Read(0, retried.attempts[1], Position(1))]


def test_following_a_killed_task_without_attempts_ends_at_once() -> None:
    driven = Driven()
    killed = task("KILLED")
    assert driven.do(TasksChanged([killed])) == [NoAttempt(killed)]
    assert driven.follow.is_over


def test_broken_log_stream_is_opened_again_after_growing_pauses() -> None:
    driven = Driven()
    driven.open()
    pauses = []
    for stream in range(1, 12):
        began = driven.now
        retry = the_only(driven.do(StreamEnded(stream, UnavailableError("gone"))))
        assert isinstance(retry, Retry)
        assert (retry.tries, retry.failure, retry.worker) == (stream, Failure.UNREACHABLE, WORKER)
        assert driven.do(TimePassed()) == [], "the pause is not over"
        assert isinstance(the_only(driven.wait()), Read)
        pauses.append(driven.now - began)
        driven.do(StreamOpened(stream + 1, WORKER, [0]))
    assert pauses[:3] == pytest.approx([0.02, 0.04, 0.08])
    assert pauses[-2:] == pytest.approx([5.0, 5.0])
    assert driven.follow.has_outage
    driven.do(MessageReceived(12), ChunkReceived(12, chunk()))
    assert not driven.follow.has_outage
    retry = the_only(driven.do(StreamEnded(12, UnavailableError("gone"))))
    assert isinstance(retry, Retry)
    assert retry.tries == 1


def test_log_reader_gives_up_when_its_patience_is_over() -> None:
    driven = Driven(replace(CLIENT, retry=replace(CLIENT.retry, patience_s=1.0)))
    driven.open()
    instructions, stream = driven.do(StreamEnded(1, UnavailableError("gone"))), 1
    while isinstance(the_only(instructions), Retry):
        driven.wait()
        stream += 1
        driven.do(StreamOpened(stream, WORKER, [0]))
        instructions = driven.do(StreamEnded(stream, UnavailableError("gone")))
    given_up = the_only(instructions)
    assert isinstance(given_up, GiveUp)
    assert (given_up.task_index, given_up.attempt_id, str(given_up.error)) == (0, 0, "gone")
    assert 1.0 <= driven.now - 1000.0 < 3.0
    assert driven.follow.is_over


def test_stream_that_ended_with_an_expired_token_is_reopened_at_once() -> None:
    driven = Driven(replace(CLIENT, retry=replace(CLIENT.retry, patience_s=0.0)))
    driven.open()
    assert driven.do(StreamEnded(1, UnavailableError("expired"), is_token_renewed=True)) == []
    assert isinstance(the_only(driven.wait()), Read)


def test_following_a_log_ends_with_an_error_that_a_retry_cannot_change() -> None:
    driven = Driven()
    driven.open()
    error = NotFoundError("no such job")
    assert driven.do(StreamEnded(1, error)) == [Fail(error)]


def test_relaying_controller_reports_a_broken_stream_to_its_reader_if_records_were_sent() -> None:
    driven = Driven(RELAY, tasks=2)
    driven.open()
    driven.do(MessageReceived(1), ChunkReceived(1, chunk(0)))
    interrupted, retry = driven.do(StreamEnded(1, UnavailableError("gone")))
    assert isinstance(interrupted, Interrupted)
    assert interrupted.task_index == 0
    assert isinstance(retry, Retry), "nothing of task 1 was delivered, so the relay starts again"
    assert retry.task_index == 1


def test_relaying_controller_reports_an_outage_to_its_reader_after_two_seconds_without_data() -> None:
    driven = Driven(RELAY)
    driven.open()
    driven.now += 3.0
    assert isinstance(the_only(driven.do(StreamEnded(1, UnavailableError("gone")))), GiveUp)


def test_relaying_controller_without_follow_reports_an_outage_after_three_failed_tries() -> None:
    rules = replace(RELAY, follow=False, retry=replace(RELAY.retry, max_tries=3))
    driven = Driven(rules)
    driven.open()
    for stream in (1, 2):
        assert isinstance(the_only(driven.do(StreamEnded(stream, UnavailableError("gone")))), Retry)
        driven.wait()
        driven.do(StreamOpened(stream + 1, WORKER, [0]))
    assert isinstance(the_only(driven.do(StreamEnded(3, UnavailableError("gone")))), GiveUp)


def test_log_request_to_a_worker_that_does_not_know_the_attempt_is_repeated_forever() -> None:
    driven = Driven(RELAY)
    driven.open()
    for stream in range(1, 30):
        retry = the_only(driven.do(MessageReceived(stream), ChunkReceived(stream, chunk(error="not here"))))
        assert isinstance(retry, Retry)
        assert retry.failure is Failure.NOT_YET
        driven.do(StreamEnded(stream, None))
        driven.wait()
        driven.do(StreamOpened(stream + 1, WORKER, [0]))
    assert driven.now > 1000.0 + RELAY.retry.patience_s


def test_log_that_its_worker_no_longer_has_is_read_from_another_server() -> None:
    driven = Driven()
    driven.open()
    driven.do(TasksChanged([task("FAILED", "FAILED")]))
    assert driven.do(ChunkReceived(1, chunk(error="not here"))) == [ReadElsewhere(0, 0)]
    assert isinstance(the_only(driven.wait()), Read)


def test_log_reader_gives_up_on_a_log_that_the_controller_cannot_get() -> None:
    driven = Driven(replace(CLIENT, retry=replace(CLIENT.retry, patience_s=1.0)))
    driven.open(worker=None)
    instructions, stream = driven.do(MessageReceived(1), ChunkReceived(1, chunk(error="not now"))), 1
    while isinstance(the_only(instructions), Retry):
        driven.do(StreamEnded(stream, None))
        driven.wait()
        stream += 1
        driven.do(StreamOpened(stream, None, [0]))
        instructions = driven.do(MessageReceived(stream), ChunkReceived(stream, chunk(error="not now")))
    assert isinstance(the_only(instructions), GiveUp)


def test_log_reader_without_follow_skips_an_attempt_that_the_worker_does_not_know() -> None:
    driven = Driven(replace(RELAY, follow=False))
    driven.open()
    assert driven.do(ChunkReceived(1, chunk(error="not here"))) == [NothingYet(0, 0)]
    assert driven.follow.is_over


def test_log_request_without_an_available_server_is_repeated() -> None:
    driven = Driven()
    driven.do(TasksChanged([task("RUNNING", "RUNNING")]), TimePassed())
    assert isinstance(the_only(driven.do(NoServer(0, UnavailableError("nobody")))), Retry)
    assert isinstance(the_only(driven.wait()), Read)


def test_log_request_to_a_stopping_server_is_repeated_at_once() -> None:
    driven = Driven()
    driven.open()
    assert isinstance(the_only(driven.do(ChunkReceived(1, last_chunk(complete=False)))), Deliver)
    assert isinstance(the_only(driven.do(TimePassed())), Read)


def test_silent_stream_of_a_lost_worker_is_closed() -> None:
    driven = Driven()
    driven.open()
    driven.do(TasksChanged([task("PENDING", "WORKER_FAILED", lost=True)]))
    assert driven.follow.streams_of_lost_workers() == [1]
    driven.do(WorkerLost(1))
    assert driven.follow.streams_of_lost_workers() == [], "it was reported"
    driven.now += LOST_WORKER_SILENCE_S / 2
    assert driven.do(TimePassed()) == []
    driven.do(MessageReceived(1), ChunkReceived(1, chunk()))
    driven.now += LOST_WORKER_SILENCE_S / 2
    assert driven.do(TimePassed()) == [], "it is not silent"
    closed, elsewhere, retry = driven.wait()
    assert (closed, elsewhere) == (CloseStream(1), ReadElsewhere(0, 0))
    assert isinstance(retry, Retry)
    assert driven.do(ChunkReceived(1, chunk())) == [], "another stream reads the task"
    assert driven.do(StreamEnded(1, UnavailableError("closed"))) == []


def test_silent_stream_of_a_lost_worker_stays_open_without_another_server() -> None:
    driven = Driven(replace(CLIENT, has_other_server=False))
    driven.open()
    driven.do(TasksChanged([task("PENDING", "WORKER_FAILED", lost=True)]))
    assert driven.follow.streams_of_lost_workers() == []


def test_restart_request_of_a_reader_opens_a_new_stream_for_the_task() -> None:
    driven = Driven(tasks=2)
    driven.open()
    assert driven.do(RestartRequested(1, 0)) == []
    assert isinstance(the_only(driven.do(TimePassed())), Read)
    driven.do(StreamOpened(2, WORKER, [0]))
    assert driven.do(ChunkReceived(1, chunk(0))) == []
    assert isinstance(the_only(driven.do(ChunkReceived(2, chunk(0)))), Deliver)
    assert driven.do(RestartRequested(1, 1)) == [CloseStream(1)], "the stream carries nothing any more"
    assert driven.do(RestartRequested(1, 1)) == []


def test_log_reader_continues_with_the_next_attempt_if_an_attempt_was_abandoned() -> None:
    driven = Driven()
    driven.open()
    driven.do(StreamEnded(1, UnavailableError("gone")))
    retried = task("RUNNING", "WORKER_FAILED", "RUNNING")
    driven.do(TasksChanged([retried]))
    assert driven.do(AttemptAbandoned(0)) == [NextAttempt(0, retried.attempts[0])]
    assert driven.do(TimePassed()) == [Read(0, retried.attempts[1], Position(1))]


# --- in any order of events


@dataclass
class Reader:
    """A driver and its reader, with what they got.

    Attributes:
        open: The streams, with the tasks that they carry.
        read: By task: the attempts that were read to their end.
    """

    driven: Driven
    open: dict[int, set[int]] = field(default_factory=dict)
    read: dict[int, list[int]] = field(default_factory=dict)
    streams: int = 0

    def report(self, event: Event) -> None:
        for instruction in self.driven.do(event):
            match instruction:
                case Read(index, attempt, position):
                    assert position.attempt_id == attempt.attempt_id == len(self.read.get(index, []))
                    assert not any(index in tasks for tasks in self.open.values()), "one stream reads a task"
                    self.streams += 1
                    self.open[self.streams] = {index}
                    self.report(StreamOpened(self.streams, WORKER, [index]))
                case CloseStream(stream):
                    self.open.pop(stream, None)
                case Deliver(stream, delivered, _):
                    assert delivered.task_index in self.open[stream]
                    if delivered.end.complete:
                        self.read.setdefault(delivered.task_index, []).append(delivered.attempt_id)
                    if delivered.HasField("end"):
                        self.open[stream].discard(delivered.task_index)
                case GiveUp(_, _, error) | Fail(error):
                    raise AssertionError(f"the follow gave up: {error}")


@for_each_seed(60)
def test_following_a_log_with_random_failures_reads_every_attempt_once_in_order(seed: int) -> None:
    chance = random.Random(seed)
    attempts = {index: chance.randint(1, 4) for index in range(chance.randint(1, 3))}
    reader = Reader(Driven(tasks=len(attempts)))
    driven = reader.driven
    known = dict.fromkeys(attempts, 0)
    for step in range(3000):
        if driven.follow.is_over:
            break
        breaks = step < 300  # then the servers work
        index = chance.choice(list(attempts))
        if known[index] < attempts[index] and chance.random() < 0.2:
            known[index] += 1
        names = ["FAILED"] * (known[index] - 1) + ["RUNNING"] * bool(known[index])
        is_final = known[index] == attempts[index] and chance.random() < 0.5
        if is_final:
            names[-1] = "SUCCEEDED"
        reader.report(TasksChanged([task("SUCCEEDED" if is_final else "RUNNING", *names, index=index)]))
        for stream, tasks in list(reader.open.items()):
            reader.report(MessageReceived(stream))
            event = chance.choice(["data", "break", "refuse", "stop", "lost", "end"] if breaks else ["data", "end"])
            for carried in sorted(tasks):
                number = len(reader.read.get(carried, []))
                if event == "data":
                    reader.report(ChunkReceived(stream, chunk(carried, number)))
                elif event == "refuse":
                    tasks.discard(carried)
                    reader.report(ChunkReceived(stream, chunk(carried, number, error="not here")))
                elif event == "stop":
                    reader.report(ChunkReceived(stream, last_chunk(carried, number, complete=False)))
                elif event == "end" and (
                    number + 1 < known[carried] or is_final or known[carried] == attempts[carried]
                ):
                    reader.report(ChunkReceived(stream, last_chunk(carried, number)))
            if event == "lost":
                reader.report(WorkerLost(stream))
            if event == "break" or not tasks:
                reader.open.pop(stream, None)
                reader.report(StreamEnded(stream, UnavailableError("gone")))
        driven.now += chance.choice([0.0, 0.01, 0.3])
        reader.report(TimePassed())
    for index, count in attempts.items():
        reader.report(TasksChanged([task("SUCCEEDED", *["FAILED"] * (count - 1), "SUCCEEDED", index=index)]))
    assert driven.follow.is_over
    assert reader.read == {index: list(range(count)) for index, count in attempts.items()}
