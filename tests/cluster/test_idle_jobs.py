"""Jobs that seem to hang say so in their status, and end if they were submitted with this wish."""

from __future__ import annotations

import pytest
from support.cluster import shell, unique
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.controller.hangs.hang_watch import check_hang_action
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2 as pb

# Task 1 waits, and the other tasks write output.
GANG = """
if [ "$IRIS_TASK_INDEX" = 1 ]; then exec sleep 1000; fi
while true; do echo step; sleep 0.3; done
"""


def is_task_1_alone_idle(status: pb.JobStatus) -> bool:
    idle = [task.task_index for task in status.tasks if task.idle_ms >= 2000]
    return idle == list(status.hang.task_indices) == [1]


def test_status_names_the_task_that_is_idle_while_the_others_continue(client: IrisClient) -> None:
    job = client.run(shell(GANG), name=unique("hangs"), replicas=3, watch_hang=2)
    watched = client.cluster.watch_job(job.job_id)
    next(status for status in watched if status.HasField("hang"))
    watched.close()
    # On a busy machine, the other tasks may also be idle for two seconds now and then.
    status = wait_until(lambda: is_task_1_alone_idle(found := job.status()) and found, "the idle task 1")
    assert status.hang.reason == pb.HANG_REASON_SOME_TASKS_IDLE
    assert status.started_at_ms <= status.hang.since_ms
    assert status.hang.text == status.status_message
    assert f"iris stack {job.job_id}" in status.status_message
    assert status.state == pb.JOB_STATE_RUNNING
    job.terminate()
    ended = client.wait(job.job_id)
    assert not ended.HasField("hang")
    assert [task.idle_ms for task in ended.tasks] == [0, 0, 0]


def test_job_with_the_hang_action_end_fails_without_a_retry_when_it_seems_to_hang(client: IrisClient) -> None:
    job = client.run(["sleep", "1000"], name=unique("hangs"), watch_hang=1, hang_action="end", max_retries_failure=3)
    status = job.wait(raise_on_failure=False)
    assert (status.state, status.failure_reason) == (pb.JOB_STATE_FAILED, pb.FAILURE_REASON_HUNG)
    assert "seems to hang" in status.error
    assert len(status.tasks[0].attempts) == 1  # A retry would hang again.


def test_ending_a_job_on_a_hang_is_refused_if_hangs_are_not_detected(client: IrisClient) -> None:
    for watch_hang in (None, 0):
        with pytest.raises(InvalidArgumentError, match="hang_action 'end' needs watch_hang"):
            client.run(["true"], name=unique("hangs"), watch_hang=watch_hang, hang_action="end")
    check_hang_action(pb.Controller.LaunchJobRequest(hang_action=pb.HANG_ACTION_END), default_s=600)


def test_job_without_hang_detection_reports_only_how_long_it_is_idle(client: IrisClient) -> None:
    job = client.run(["sleep", "1000"], name=unique("idle"))
    wait_until(lambda: job.status().tasks[0].idle_ms > 1000, "an idle task", timeout_s=60)
    assert not job.status().HasField("hang")
    job.terminate()
    client.wait(job.job_id)
