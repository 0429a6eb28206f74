"""The lines about changes of states in the event log of the controller."""

from __future__ import annotations

import asyncio
import logging

import pytest

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_events import TransitionLog
from iris.cluster.controller.jobs.job_state import Transition
from iris.rpc import cluster_pb2

pytestmark = pytest.mark.anyio
RUNNING = cluster_pb2.JOB_STATE_RUNNING


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def write(log: TransitionLog, name: str, count: int) -> None:
    """Write changes of the state of a job."""
    log.write(Job.new(name, 1, 0), [Transition(RUNNING)] * count)


def jobs(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.fields["job_id"] for record in caplog.records]  # type: ignore[attr-defined]


async def test_many_state_changes_are_logged_in_steps_and_before_later_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "iris")
    log = TransitionLog()
    write(log, "small", 3)
    assert jobs(caplog) == ["small"] * 3
    write(log, "large", 1000)
    write(log, "later", 1)
    seen = [len(caplog.records)]
    while "later" not in jobs(caplog)[-1:]:
        await asyncio.sleep(0)
        seen.append(len(caplog.records))
    assert len(seen) > 5, "the loop has done no other work"
    assert jobs(caplog) == ["small"] * 3 + ["large"] * 1000 + ["later"]
    await asyncio.sleep(0)
    write(log, "last", 2)
    assert jobs(caplog)[-2:] == ["last"] * 2


async def test_waiting_state_changes_are_logged_when_the_event_log_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iris")
    log = TransitionLog()
    write(log, "large", 1000)
    log.close()
    assert jobs(caplog) == ["large"] * 1000
