"""Operations of a client whose server accepts connections and does not answer, for example because it was stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from typing import Any

import pytest

from iris.client.waiting import find_endpoint
from iris.cluster.client.operations.logs import ReachableWorkers, fetch_log_page
from iris.cluster.client.operations.results import stream_results
from iris.cluster.client.operations.steps import Call, NextMessage, OpenStream, Pause, Step, StreamNumber
from iris.cluster.client.operations.watches.event_watching import watch_events
from iris.cluster.client.operations.watches.job_watching import watch_job
from iris.cluster.client.operations.watches.list_watching import watch_jobs
from iris.errors import ControllerUnreachableError, DeadlineExceededError
from iris.rpc import cluster_pb2

WATCHES: dict[str, Callable[[], Generator[Any, Any, object]]] = {
    "watch_job": lambda: watch_job("train", patience_s=0),
    "watch_jobs": lambda: watch_jobs(patience_s=0),
    "watch_events": lambda: watch_events(patience_s=0, follow=True),
    "stream_results": lambda: stream_results("train", patience_s=0),
}


def steps_in_silence(operation: Generator[Any, Any, object]) -> Generator[Step]:
    """Yield the steps of an operation. All calls and streams of the operation end because the server is silent."""
    step = next(operation)
    while True:
        yield step
        if isinstance(step, OpenStream):
            step = operation.send(StreamNumber(1))
        elif isinstance(step, Call | NextMessage):
            step = operation.throw(DeadlineExceededError("the controller at http://c:1 did not answer in time"))
        else:
            step = operation.send(None)


@pytest.mark.parametrize("name", WATCHES)
def test_watch_of_a_silent_controller_fails_when_the_patience_is_over(name: str) -> None:
    with pytest.raises(ControllerUnreachableError, match="the controller at http://c:1 did not answer in time"):
        list(itertools.islice(steps_in_silence(WATCHES[name]()), 50))


def test_pauses_of_a_watch_are_at_most_as_long_as_the_poll_interval() -> None:
    steps = itertools.islice(steps_in_silence(watch_job("train", longest_pause_s=0.01)), 60)
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    assert len(pauses) > 10
    assert max(pauses) <= 0.01


def test_lookup_of_an_endpoint_without_a_time_limit_survives_a_silent_controller() -> None:
    steps = list(itertools.islice(steps_in_silence(find_endpoint("name", None)), 10))
    assert [type(step) for step in steps] == [Call, Pause] * 5


def test_lookup_of_an_endpoint_limits_each_call_to_the_time_that_is_left() -> None:
    step = next(find_endpoint("name", 5.0))
    assert isinstance(step, Call)
    assert step.timeout_s <= 5.0


def test_log_page_of_a_silent_worker_is_read_through_the_controller() -> None:
    reachable = ReachableWorkers()
    reachable.known["http://w:1"] = True
    attempt = cluster_pb2.TaskAttempt(worker_id="w", worker_address="http://w:1")
    operation = fetch_log_page(reachable, "train/task-0", attempt, cluster_pb2.Worker.FetchLogsFilter())
    first, second = itertools.islice(steps_in_silence(operation), 2)
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert (first.worker, second.worker) == (("w", "http://w:1"), None)
    assert not reachable.known["http://w:1"]
