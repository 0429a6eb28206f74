"""The pauses of a watch between streams that break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iris.cluster.client.operations.steps import ItemOperation, NextMessage, OpenStream, Pause
from iris.cluster.client.operations.watches.event_watching import watch_events
from iris.cluster.client.operations.watches.job_watching import watch_job
from iris.cluster.client.operations.watches.list_watching import watch_jobs
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2 as pb

RUNNING = pb.Controller.WatchJobResponse(job=pb.JobStatus(job_id="job", state=pb.JOB_STATE_RUNNING))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        pytest.param(lambda: watch_job("job"), RUNNING, id="job"),
        pytest.param(lambda: watch_jobs(), pb.Controller.WatchJobsResponse(), id="jobs"),
        pytest.param(lambda: watch_events(), pb.Controller.WatchEventsResponse(), id="events"),
    ],
)
def test_pauses_of_a_watch_grow_while_each_stream_breaks_soon_after_its_first_message(
    start: Callable[[], ItemOperation[Any, None]], message: Any
) -> None:
    assert pauses_of(start(), message, 8)[-1] > 2.0


def pauses_of(watch: ItemOperation[Any, None], message: Any, count: int) -> list[float]:
    """Return the first pauses of a watch, in seconds. Each stream of the watch breaks after one message."""
    pauses_s: list[float] = []
    has_message = False
    step = next(watch)
    while len(pauses_s) < count:
        if isinstance(step, NextMessage) and has_message:
            step = watch.throw(UnavailableError("the connection was cut"))
            continue
        if isinstance(step, Pause):
            pauses_s.append(step.seconds)
        has_message = isinstance(step, NextMessage) or (has_message and not isinstance(step, OpenStream))
        step = watch.send(message if isinstance(step, NextMessage) else None)
    return pauses_s
