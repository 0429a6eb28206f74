"""The contract of low-level clients. Each kind of client runs these tests: local, remote, and remote over HTTP/2.

A test module imports these functions and brings a fixture `cluster_client`.
"""

from __future__ import annotations

import pytest
from support.cluster import launch, shell, unique, wait_for_end, wait_for_state
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.records import decode
from iris.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2


def test_get_task_status_returns_the_outcome_of_a_task(cluster_client: RemoteClusterClient) -> None:
    job_id = launch(cluster_client, shell("exit $((IRIS_TASK_INDEX * 3))"), replicas=3, max_task_failures=3)
    wait_for_end(cluster_client, job_id)
    for index, exit_code in enumerate((0, 3, 6)):
        task = cluster_client.get_task_status(job_id, index)
        assert task.task_id == f"{job_id}/task-{index}"
        assert (task.job_id, task.task_index) == (job_id, index)
        assert task.state == (cluster_pb2.TASK_STATE_FAILED if exit_code else cluster_pb2.TASK_STATE_SUCCEEDED)
        assert task.HasField("exit_code")
        assert task.exit_code == exit_code
        assert task.current_attempt_id == 0
        assert task.worker_id
        assert task.worker_address.startswith("http://")
        assert 0 < task.started_at_ms <= task.finished_at_ms
        (attempt,) = task.attempts
        assert (attempt.attempt_id, attempt.exit_code, attempt.worker_id) == (0, exit_code, task.worker_id)
    with pytest.raises(NotFoundError, match=r"no task 3: its tasks are 0 to 2"):
        cluster_client.get_task_status(job_id, 3)
    with pytest.raises(NotFoundError, match="no-such-job"):
        cluster_client.get_task_status("no-such-job", 0)


def test_list_tasks_returns_all_tasks_of_a_job(cluster_client: RemoteClusterClient) -> None:
    job_id = launch(cluster_client, shell("exec sleep 300"), replicas=5)
    try:
        wait_for_state(cluster_client, job_id, cluster_pb2.JOB_STATE_RUNNING)
        tasks = cluster_client.list_tasks(job_id)
        assert [task.task_index for task in tasks] == [0, 1, 2, 3, 4]
        assert {task.task_id for task in tasks} == {f"{job_id}/task-{index}" for index in range(5)}
    finally:
        cluster_client.terminate_job(job_id)
    job = wait_for_end(cluster_client, job_id)
    assert job.state == cluster_pb2.JOB_STATE_KILLED
    assert {task.state for task in cluster_client.list_tasks(job_id)} == {cluster_pb2.TASK_STATE_KILLED}
    with pytest.raises(NotFoundError, match="no-such-job"):
        cluster_client.list_tasks("no-such-job")


def test_fetch_task_logs_returns_the_lines_of_a_task(cluster_client: RemoteClusterClient) -> None:
    script = 'for i in 0 1 2 3 4; do echo "line $i of $IRIS_TASK_INDEX"; done; echo oops >&2'
    job_id = launch(cluster_client, shell(script), replicas=2)
    wait_for_end(cluster_client, job_id)
    for index in range(2):
        entries = cluster_client.fetch_task_logs(f"{job_id}/task-{index}")
        assert [e.data for e in entries if e.source == "stdout"] == [f"line {i} of {index}" for i in range(5)]
        assert [e.data for e in entries if e.source == "stderr"] == ["oops"]
        times = [entry.timestamp_ms for entry in entries]
        assert times == sorted(times)
        assert all(time > 0 for time in times)
    task_id = f"{job_id}/task-0"
    entries = cluster_client.fetch_task_logs(task_id)
    assert cluster_client.fetch_task_logs(task_id, max_lines=2) == entries[:2]
    first_ms = entries[0].timestamp_ms
    assert cluster_client.fetch_task_logs(task_id, start_ms=first_ms) == [
        e for e in entries if e.timestamp_ms > first_ms
    ]
    assert cluster_client.fetch_task_logs(task_id, start_ms=first_ms - 1) == entries
    assert cluster_client.fetch_task_logs(task_id, start_ms=entries[-1].timestamp_ms) == []


def test_fetch_log_parts_reads_logs_of_running_and_ended_tasks_from_given_positions(
    cluster_client: RemoteClusterClient,
) -> None:
    job_id = launch(
        cluster_client,
        shell("seq 1000; [ $IRIS_TASK_INDEX = 1 ] || exec sleep 300"),
        replicas=2,
        independent_tasks=True,
    )
    reads = [cluster_pb2.FetchLogPartsRequest.Read(task_index=index, backwards=True) for index in range(2)]
    reads.append(cluster_pb2.FetchLogPartsRequest.Read(attempt_id=7))
    try:
        wait_until(
            lambda: (
                cluster_client.get_task_status(job_id, 1).state == cluster_pb2.TASK_STATE_SUCCEEDED
                and cluster_client.fetch_task_logs(f"{job_id}/task-0")
            ),
            "the output of both tasks",
        )
        running, ended, missing = cluster_client.fetch_log_parts(
            cluster_pb2.FetchLogPartsRequest(job_id=job_id, reads=reads)
        ).parts
        for part in (running, ended):
            assert text_of(part) == b"".join(b"%d\n" % number for number in range(1, 1001))
            assert (part.begin, part.end, part.at_end) == (0, part.size, True)
        assert (running.complete, ended.complete) == (False, True)
        assert missing.error_reason == cluster_pb2.ERROR_REASON_ATTEMPT_NOT_FOUND
        (chunk,) = [
            chunk
            for message in cluster_client.stream_task_logs(cluster_pb2.StreamTaskLogsRequest(job_id=job_id))
            for chunk in message.chunks
            if chunk.task_index == 1 and chunk.records
        ]
        assert chunk.position == ended.size
        rest = cluster_pb2.FetchLogPartsRequest(
            job_id=job_id,
            reads=[
                cluster_pb2.FetchLogPartsRequest.Read(
                    source_byte=cluster_pb2.FetchLogPartsRequest.SourceByte(source="stdout", offset=100)
                )
            ],
            filter=cluster_pb2.Worker.FetchLogsFilter(regex="^99.$"),
        )
        assert text_of(cluster_client.fetch_log_parts(rest).parts[0]).split()[:2] == [b"990", b"991"]
    finally:
        cluster_client.terminate_job(job_id)
    wait_for_end(cluster_client, job_id)
    with pytest.raises(NotFoundError, match="no-such-job"):
        cluster_client.fetch_log_parts(cluster_pb2.FetchLogPartsRequest(job_id="no-such-job", reads=reads))


def text_of(part: cluster_pb2.FetchLogPartsResponse.Part) -> bytes:
    assert not part.error
    return b"".join(record.payload for record in decode(part.records) if record.kind == 0)


def test_logs_of_a_task_that_no_worker_has_had_are_empty(cluster_client: RemoteClusterClient) -> None:
    job_id = launch(cluster_client, ["true"], resources=cluster_pb2.ResourceSpecProto(cpu=100_000))
    wait_for_end(cluster_client, job_id)
    assert cluster_client.fetch_task_logs(f"{job_id}/task-0") == []


@pytest.mark.parametrize("task_id", ["", "x/task-", "x/task--1", "x/task-1.5", "x/7", "task-0"])
def test_fetch_task_logs_of_an_invalid_task_id_raises_a_value_error(
    cluster_client: RemoteClusterClient, task_id: str
) -> None:
    with pytest.raises(ValueError) as caught:
        cluster_client.fetch_task_logs(task_id)
    assert repr(task_id) in str(caught.value)
    assert "{job_id}/task-{index}" in str(caught.value)


def test_fetch_task_logs_of_an_unknown_task_raises_not_found(cluster_client: RemoteClusterClient) -> None:
    job_id = launch(cluster_client, ["true"])
    for task_id in (f"{job_id}/task-1", "no-such-job/task-0"):
        with pytest.raises(NotFoundError):
            cluster_client.fetch_task_logs(task_id)


def test_second_job_with_the_same_name_is_refused(cluster_client: RemoteClusterClient) -> None:
    name = unique("taken")
    request = cluster_pb2.Controller.LaunchJobRequest(name=name, command=["true"], submission_id="one")
    assert cluster_client.launch_job(request) == name
    assert cluster_client.launch_job(request) == name  # the same submission, as after a lost reply
    request.submission_id = "two"
    with pytest.raises(AlreadyExistsError, match=name):
        cluster_client.launch_job(request)
    wait_for_end(cluster_client, name)
    with pytest.raises(AlreadyExistsError, match="SUCCEEDED"):
        cluster_client.launch_job(request)


@pytest.mark.parametrize("name", ["", "a/b", "new\nline"])
def test_job_with_an_invalid_name_is_refused(cluster_client: RemoteClusterClient, name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        launch(cluster_client, ["true"], name=name)


def test_watch_job_reports_each_state_and_ends_with_the_final_state(cluster_client: RemoteClusterClient) -> None:
    job_id = launch(cluster_client, shell("read line < /dev/zero"), replicas=2)
    states = []
    for job in cluster_client.watch_job(job_id, timeout=60, include_tasks=True):
        states.append(job.state)
        if job.state == cluster_pb2.JOB_STATE_RUNNING and states.count(job.state) == 1:
            cluster_client.terminate_job(job_id)
    assert states[-1] == cluster_pb2.JOB_STATE_KILLED
    assert cluster_pb2.JOB_STATE_RUNNING in states
    assert states == sorted(states)


def test_watch_job_raises_after_its_timeout(cluster_client: RemoteClusterClient) -> None:
    job_id = launch(cluster_client, ["sleep", "300"])
    try:
        with pytest.raises(TimeoutError, match=job_id):
            list(cluster_client.watch_job(job_id, timeout=0.3))
    finally:
        cluster_client.terminate_job(job_id)


def test_list_jobs_returns_jobs_in_order_and_without_tasks(cluster_client: RemoteClusterClient) -> None:
    job_ids = [launch(cluster_client, ["true"], replicas=2) for _ in range(3)]
    jobs = [job for job in cluster_client.list_jobs() if job.job_id in job_ids]
    assert [job.job_id for job in jobs] == job_ids
    assert all(job.num_tasks == 2 and not job.tasks for job in jobs)


def test_list_workers_returns_the_workers_of_the_cluster(cluster_client: RemoteClusterClient) -> None:
    workers = cluster_client.list_workers()
    assert workers
    assert all(worker.healthy and worker.address.startswith("http://") for worker in workers)


def test_terminated_task_is_killed(cluster_client: RemoteClusterClient) -> None:
    no_cores = cluster_pb2.ResourceSpecProto(cpu=0)
    job_id = launch(cluster_client, ["sleep", "300"], replicas=3, independent_tasks=True, resources=no_cores)
    for _ in range(2):
        cluster_client.terminate_task(job_id, 1)
    for index in (0, 2):
        assert cluster_client.get_task_status(job_id, index).state < cluster_pb2.TASK_STATE_SUCCEEDED
        cluster_client.terminate_task(job_id, index)
    job = wait_for_end(cluster_client, job_id)
    assert job.state == cluster_pb2.JOB_STATE_KILLED
    assert [task.error for task in job.tasks] == ["terminated by a user"] * 3
    cluster_client.terminate_task(job_id, 1)
    with pytest.raises(NotFoundError, match=r"no task 3: its tasks are 0 to 2"):
        cluster_client.terminate_task(job_id, 3)
    with pytest.raises(NotFoundError, match="no-such-job"):
        cluster_client.terminate_task("no-such-job", 0)


def test_terminating_an_unknown_job_is_not_found(cluster_client: RemoteClusterClient) -> None:
    with pytest.raises(NotFoundError, match="no-such-job"):
        cluster_client.terminate_job("no-such-job")
