"""Each call of both services has the same outcome if the request or the answer is lost.

A request or an answer is lost once, or more often than a call is tried. The outcome is one job, one run of each
attempt, the right states, each endpoint once, and each line once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from connectrpc.errors import ConnectError
from support.cluster import unique, wait_for_end, wait_for_state
from support.log_keeping import read
from support.lossy_proxy import Way
from support.lossy_world import Case, LossyWorld, launch_request, lossy_world
from support.tokens import token
from support.waiting import wait_until
from support.web_session_client import SessionClient
from support.worker_process import running_worker

from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.records import decode
from iris.cluster.logs.segments import has_end
from iris.cluster.task_inputs import pack_items
from iris.cluster.types import is_job_finished
from iris.errors import FailedPreconditionError, NotFoundError
from iris.rpc import cluster_connect
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import TRIES

CASES: dict[str, Callable[[Case], None]] = {}


def case(of: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enters a function as the case of a call."""

    def enter(function: Callable[[Case], None]) -> Callable[[Case], None]:
        CASES[of] = function
        return function

    return enter


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LossyWorld]:
    with lossy_world(tmp_path_factory.mktemp("lost")) as made:
        yield made


def test_each_controller_call_has_a_test_case_for_a_lost_answer() -> None:
    calls = {
        f"{service.name}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(CASES) == calls


@pytest.mark.parametrize(
    ("way", "times"),
    [
        ("request", 1),
        pytest.param("request", TRIES + 1, marks=pytest.mark.long),
        ("response", 1),
        ("response", TRIES + 1),
    ],
)
def test_repeated_call_after_a_lost_answer_has_the_same_outcome(way: Way, times: int, world: LossyWorld) -> None:
    def run(name: str) -> str:
        lost = world.case(name, way, times)
        try:
            CASES[name](lost)
            wait_until(lambda: not lost.is_losing(), "the last loss, before which nothing is shown", 5)
        except Exception as error:  # noqa: BLE001 - all of them are reported, by name
            return f"{name}: {type(error).__name__}: {error}"
        return "" if lost.losses else f"{name}: its case loses nothing"

    # All at once, since most of the time is spent in waiting: each loses only its own calls.
    with ThreadPoolExecutor(len(CASES)) as pool:
        failures = [failure for failure in pool.map(run, sorted(CASES)) if failure]
    assert failures == []


def test_call_repeated_after_a_controller_restart_has_the_same_outcome(tmp_path: Path) -> None:
    request = launch_request("parent", ["sleep", "300"])
    child = launch_request("child", ["sleep", "300"], parent_job_id="parent")
    with lossy_world(tmp_path) as world:
        lost = world.case("ControllerService/LaunchJob", "response", 2 * TRIES)
        lost.lose()
        for one in (request, child):
            with pytest.raises(ConnectionError):
                world.lossy.launch_job(one)
        kept, gone = (world.direct.register_endpoint(name, "a:1", "parent", {}) for name in ("kept", "gone"))
        world.direct.unregister_endpoint(gone)
    with lossy_world(tmp_path) as world:
        assert [world.lossy.launch_job(one) for one in (request, child)] == ["parent", "parent/child"]
        assert [job.job_id for job in world.direct.list_jobs()] == ["parent", "parent/child"]
        assert world.direct.register_endpoint("kept", "a:1", "parent", {}) == kept
        world.direct.unregister_endpoint(gone)
        with pytest.raises(NotFoundError):
            world.direct.unregister_endpoint("never given")
        assert [endpoint.name for endpoint in world.direct.list_endpoints()] == ["kept"]
        world.direct.terminate_job("parent")
        wait_until(lambda: not world.direct.list_endpoints(), "the end of its names")
        assert [wait_for_end(world.direct, name).state for name in ("parent", "parent/child")] == [
            pb.JOB_STATE_KILLED
        ] * 2


def wait_for(gate: Path) -> str:
    """For the shell."""
    return f"while [ ! -e {gate} ]; do sleep 0.05; done"


# Jobs.


@case("ControllerService/LaunchJob")
def _launch_job(lost: Case) -> None:
    request = launch_request(lost.unique(), lost.command("true"))
    lost.lose(request.name)
    assert lost.ask(request).job_id == request.name
    assert wait_for_end(lost.world.direct, request.name).state == pb.JOB_STATE_SUCCEEDED
    assert lost.runs(request.name) == [1]
    assert [job.job_id for job in lost.world.direct.list_jobs()].count(request.name) == 1


@case("ControllerService/GetSubmission")
def _get_submission(lost: Case) -> None:
    job_id = lost.launch("true")
    lost.lose(job_id)
    answer = lost.ask(pb.Controller.GetSubmissionRequest(job_id=job_id))
    assert answer == lost.world.direct.get_submission(job_id)


@case("ControllerService/ResubmitJob")
def _resubmit_job(lost: Case) -> None:
    earlier = launch_request(lost.unique(), lost.command("true"))
    lost.world.direct.launch_job(earlier)
    submission = lost.world.direct.get_submission(earlier.name).submission
    submission.name = submission.submission_id = lost.unique()
    lost.lose(submission.name)
    assert lost.ask(pb.Controller.ResubmitJobRequest(job_id=earlier.name, submission=submission)).job_id == (
        submission.name
    )
    assert wait_for_end(lost.world.direct, submission.name).state == pb.JOB_STATE_SUCCEEDED
    assert [job.job_id for job in lost.world.direct.list_jobs()].count(submission.name) == 1


@case("ControllerService/GetJobStatus")
def _get_job_status(lost: Case) -> None:
    job_id = lost.launch("true")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    job = lost.ask(pb.Controller.GetJobStatusRequest(job_id=job_id)).job
    assert job == lost.world.direct.get_job_status(job_id)


@case("ControllerService/TerminateJob")
def _terminate_job(lost: Case) -> None:
    with _told_once(lost) as job_id:
        lost.lose(job_id)
        lost.ask(pb.Controller.TerminateJobRequest(job_id=job_id))


@case("ControllerService/TerminateTask")
def _terminate_task(lost: Case) -> None:
    with _told_once(lost) as job_id:
        lost.lose(job_id)
        lost.ask(pb.Controller.TerminateTaskRequest(job_id=job_id, task_index=0))


@case("ControllerService/WriteStdin")
def _write_stdin(lost: Case) -> None:
    job_id = lost.launch("cat", stdin=True)
    lost.lose(job_id)
    request = pb.Controller.WriteStdinRequest(job_id=job_id, data=b"once\n", end=True)
    answer = lost.ask(request)
    assert answer.closed or answer.position == 5, "closed: the task had ended when the call was repeated"
    wait_for_end(lost.world.direct, job_id)
    assert [line.data for line in lost.world.direct.fetch_task_logs(f"{job_id}/task-0")] == ["once"]


@case("WorkerService/WriteStdin")
def _write_stdin_at_a_worker(lost: Case) -> None:
    job_id = lost.launch("cat", stdin=True)
    lost.lose(job_id)
    answer = pb.Controller.WriteStdinResponse()
    # The answer is closed and without a position if the job has ended before the call was repeated.
    while answer.position < 5 and not answer.closed:
        data = b"once\n"[answer.position :]
        answer = lost.world.direct.write_stdin(job_id, data, position=answer.position, end=True)
    wait_for_end(lost.world.direct, job_id)
    assert [line.data for line in lost.world.direct.fetch_task_logs(f"{job_id}/task-0")] == ["once"]


@case("ControllerService/DescribeCluster")
def _describe_cluster(lost: Case) -> None:
    lost.lose()
    answer, direct = lost.ask(pb.Controller.DescribeClusterRequest()), lost.world.direct.describe_cluster()
    assert (answer.engine, answer.place, answer.caller.name) == (direct.engine, direct.place, direct.caller.name)


@case("ControllerService/CheckCluster")
def _check_cluster(lost: Case) -> None:
    lost.lose()
    answer, direct = lost.ask(pb.Controller.CheckClusterRequest()), lost.world.direct.check_cluster()
    # The cases of other calls register further workers meanwhile.
    for checked in (answer, direct):
        assert "w" in [check.worker.worker_id for check in checked.workers]
    assert answer.status.engine == direct.status.engine


@case("ControllerService/GetUsage")
def _get_usage(lost: Case) -> None:
    job_id = lost.launch("true")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    answer = lost.ask(pb.Controller.GetUsageRequest(job_id=job_id, task_indices=[0]))
    assert list(answer.series) == lost.world.direct.get_usage(job_id, [0])


@case("ControllerService/CreateToken")
def _create_token(lost: Case) -> None:
    name = unique("somebody")
    lost.lose(name)
    request = pb.Controller.CreateTokenRequest(name=name, role="reader", request_id=unique("request"))
    made = lost.ask(request)
    tokens = [known for known in lost.world.direct.list_tokens() if known.name == name]
    assert tokens == [made.token]


@case("ControllerService/ListTokens")
def _list_tokens(lost: Case) -> None:
    token_id = lost.world.direct.create_token(unique("somebody"), "reader").token.token_id
    lost.lose()
    assert [known.token_id for known in lost.ask(pb.Controller.ListTokensRequest()).tokens].count(token_id) == 1


@case("ControllerService/RevokeToken")
def _revoke_token(lost: Case) -> None:
    token_id = lost.world.direct.create_token(unique("somebody"), "reader").token.token_id
    lost.lose(token_id)
    lost.ask(pb.Controller.RevokeTokenRequest(token_id=token_id))
    (known,) = [known for known in lost.world.direct.list_tokens() if known.token_id == token_id]
    assert known.revoked_at_ms


@case("ControllerService/WatchCluster")
def _watch_cluster(lost: Case) -> None:
    lost.lose()
    request = pb.Controller.WatchClusterRequest(include_status=True, include_machines=True)
    first = None
    while first is None:  # As the page does, which opens a broken stream again.
        with contextlib.suppress(ConnectError), closing(lost.stream(request)) as messages:
            first = next(message for message in messages if message.complete)  # A beat may come first.
    assert (first.complete, first.status.engine) == (True, "fake")
    assert [machine.name for machine in first.machines] == ["w"]


@case("ControllerService/WatchEvents")
def _watch_events(lost: Case) -> None:
    job_id = lost.world.direct.launch_job(launch_request(unique("events"), ["true"]))
    wait_for_end(lost.world.direct, job_id)
    expected = list(lost.world.direct.watch_events(job_id))
    lost.lose()
    assert list(lost.world.lossy.watch_events(job_id)) == expected
    assert expected[-1].name == "job.succeeded"


@case("ControllerService/ListWebhooks")
def _list_webhooks(lost: Case) -> None:
    lost.lose()
    assert list(lost.ask(pb.Controller.ListWebhooksRequest()).webhooks) == []


@case("ControllerService/CreateSignInCode")
def _create_sign_in_code(lost: Case) -> None:
    lost.lose()
    code = lost.ask(pb.Controller.CreateSignInCodeRequest()).code
    with SessionClient(lost.world.controller.address) as browser:
        browser.sign_in(code=code)
        assert browser.call("DescribeCluster")["caller"]["name"] == "tests"


@case("ControllerService/SignIn")
def _sign_in(lost: Case) -> None:
    code = lost.world.direct.create_sign_in_code().code
    with SessionClient(lost.world.controller_proxy.address) as browser:
        lost.lose(code)
        request_id = lost.unique()
        browser.until_answered(lambda: browser.sign_in(code=code, request_id=request_id))
        # The proxy may lose DescribeCluster for another case.
        described = browser.until_answered(lambda: browser.call("DescribeCluster"))
        assert described["caller"]["name"] == "tests"


@case("ControllerService/SignOut")
def _sign_out(lost: Case) -> None:
    with SessionClient(lost.world.controller_proxy.address) as browser:
        browser.sign_in(token=token(name=lost.unique()))
        lost.lose()
        assert browser.until_answered(browser.sign_out).status_code in (200, 401), "401: it has ended before"
        assert browser.until_answered(lambda: browser.post("DescribeCluster")).status_code == 401


@case("ControllerService/ListJobs")
def _list_jobs(lost: Case) -> None:
    job_id = lost.launch("true")
    lost.lose()
    assert [job.job_id for job in lost.ask(pb.Controller.ListJobsRequest()).jobs].count(job_id) == 1


@case("ControllerService/StreamResults")
def _stream_results(lost: Case) -> None:
    for messages in (0, 1):
        job_id = lost.launch("true")
        wait_for_end(lost.world.direct, job_id)
        lost.lose(job_id, messages=messages)
        with closing(lost.world.lossy.stream_results(job_id)) as results:
            tasks = [one.task_index for one in results if isinstance(one, pb.TaskStatus)]
        assert tasks == [0]


@case("ControllerService/WatchJob")
def _watch_job(lost: Case) -> None:
    for messages in (0, 1):
        gate = lost.world.directory / unique("gate")
        job_id = lost.launch(wait_for(gate))
        wait_for_state(lost.world.direct, job_id, pb.JOB_STATE_RUNNING)
        lost.lose(job_id, messages=messages)
        states = []
        with closing(lost.world.lossy.watch_job(job_id, longest_pause_s=0.1)) as watched:
            for job in watched:
                states.append(job.state)
                if not lost.is_losing():
                    gate.touch()
        assert is_job_finished(states[-1])
        assert states == sorted(states)


@case("ControllerService/WatchJobs")
def _watch_jobs(lost: Case) -> None:
    for messages in (0, 1):
        gate = lost.world.directory / unique("gate")
        job_id = lost.launch(wait_for(gate))
        wait_for_state(lost.world.direct, job_id, pb.JOB_STATE_RUNNING)
        lost.lose(messages=messages)
        with closing(lost.world.lossy.watch_jobs(id_prefix=job_id)) as lists:
            for newest in lists:
                if not lost.is_losing():
                    gate.touch()
                if newest.counts == {"SUCCEEDED": 1}:
                    break
        assert [job.job_id for job in newest.jobs] == [job_id]


# Tasks.


@case("ControllerService/GetTaskStatus")
def _get_task_status(lost: Case) -> None:
    job_id = lost.launch("true")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    task = lost.ask(pb.Controller.GetTaskStatusRequest(job_id=job_id, task_index=0)).task
    assert task == lost.world.direct.get_task_status(job_id, 0)


@case("ControllerService/ListTasks")
def _list_tasks(lost: Case) -> None:
    job_id = lost.launch("true", replicas=3)
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    tasks = lost.ask(pb.Controller.ListTasksRequest(job_id=job_id)).tasks
    assert list(tasks) == lost.world.direct.list_tasks(job_id)


# Workers, for the controller.


@case("ControllerService/RegisterWorker")
def _register_worker(lost: Case) -> None:
    worker_id = unique("late")
    lost.lose(worker_id)
    directory = lost.world.directory / worker_id
    with running_worker(lost.world.controller_proxy.address, directory, worker_id=worker_id):
        wait_until(lambda: not lost.is_losing(), "the losses")
        wait_until(lambda: _workers(lost).count(worker_id) == 1, "the worker")


@case("ControllerService/ListWorkers")
def _list_workers(lost: Case) -> None:
    lost.lose()
    workers = lost.ask(pb.Controller.ListWorkersRequest()).workers
    assert [worker.worker_id for worker in workers].count("w") == 1


@case("ControllerService/ListMachines")
def _list_machines(lost: Case) -> None:
    job_id = lost.launch("exec sleep 300")
    wait_for_state(lost.world.direct, job_id, pb.JOB_STATE_RUNNING)
    lost.lose()
    (machine,) = lost.ask(pb.Controller.ListMachinesRequest()).machines
    assert [holding.task_indices for holding in machine.holdings if holding.job_id == job_id] == [[0]]
    lost.world.direct.terminate_job(job_id)


@case("ControllerService/ReportTaskState")
def _report_task_state(lost: Case) -> None:
    job_id = lost.launch("exec sleep 300", max_retries_failure=1)
    wait_for_state(lost.world.direct, job_id, pb.JOB_STATE_RUNNING)
    wait_until(lambda: lost.runs(job_id) == [1], "the first attempt, which is stopped when the report has come")
    lost.lose(job_id)
    report = pb.Controller.ReportTaskStateRequest(
        worker_id="w", task_id=f"{job_id}/task-0", job_id=job_id, state=pb.TASK_STATE_FAILED, exit_code=7
    )
    lost.ask(report)
    wait_until(lambda: lost.runs(job_id) == [1, 1], "the next attempt, which is charged for nothing")
    lost.world.direct.terminate_job(job_id)
    task = wait_for_end(lost.world.direct, job_id).tasks[0]
    assert (task.failure_count, [one.state for one in task.attempts]) == (
        1,
        [pb.TASK_STATE_FAILED, pb.TASK_STATE_KILLED],
    )


@case("ControllerService/ReportTaskStates")
def _report_task_states(lost: Case) -> None:
    name = lost.unique()
    lost.lose(f"{name}/task-0")
    job_id = lost.launch("exit $((3 * (1 - IRIS_ATTEMPT_ID)))", name=name, max_retries_failure=1)
    task = wait_for_end(lost.world.direct, job_id).tasks[0]
    assert [one.exit_code for one in task.attempts] == [3, 0]
    assert (task.state, task.failure_count) == (pb.TASK_STATE_SUCCEEDED, 1)
    assert lost.runs(job_id) == [1, 1]


@case("ControllerService/FetchBundle")
def _fetch_bundle(lost: Case) -> None:
    packed = io.BytesIO()
    content = unique("content").encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    lost.lose(digest)
    job_id = lost.launch(f"grep {content.decode()} file", bundle_blob=packed.getvalue(), bundle_hash=digest)
    assert wait_for_end(lost.world.direct, job_id).state == pb.JOB_STATE_SUCCEEDED
    assert lost.runs(job_id) == [1]


@case("ControllerService/FetchInput")
def _fetch_input(lost: Case) -> None:
    blob = pack_items([unique("input").encode()])
    digest = hashlib.sha256(blob).hexdigest()
    lost.lose(digest)
    inputs = {"inputs_blob": blob, "inputs_hash": digest, "num_inputs": 1, "inputs_per_task": 1}
    job_id = lost.launch("[ $IRIS_INPUT ]", independent_tasks=True, **inputs)
    assert wait_for_end(lost.world.direct, job_id).state == pb.JOB_STATE_SUCCEEDED
    assert lost.runs(job_id) == [1]


@case("ControllerService/StoreLogs")
def _store_logs(lost: Case) -> None:
    name = lost.unique()
    lost.lose(f"{name}/task-0")
    lost.launch("seq 100; sleep 1; seq 101 200", name=name)
    wait_for_end(lost.world.direct, name)
    kept = LogDirectories(lost.world.directory / "kept").attempt(f"{name}/task-0", 0)
    wait_until(lambda: has_end(kept), "all of its log in the controller's keeping")
    assert read(kept).data.split() == [b"%d" % number for number in range(1, 201)]
    assert read(kept).missing == 0


# Endpoints.


@case("ControllerService/RegisterEndpoint")
def _register_endpoint(lost: Case) -> None:
    name = unique("endpoint")
    lost.lose(name)
    endpoint_id = lost.ask(pb.Controller.RegisterEndpointRequest(name=name, address="a:1")).endpoint_id
    (endpoint,) = lost.world.direct.list_endpoints(name)
    assert endpoint.endpoint_id == endpoint_id


@case("ControllerService/UnregisterEndpoint")
def _unregister_endpoint(lost: Case) -> None:
    name = unique("endpoint")
    endpoint_id = lost.world.direct.register_endpoint(name, "a:1", "", {})
    lost.lose(endpoint_id)
    lost.ask(pb.Controller.UnregisterEndpointRequest(endpoint_id=endpoint_id))
    with pytest.raises(NotFoundError):
        lost.world.direct.lookup_endpoint(name)


@case("ControllerService/LookupEndpoint")
def _lookup_endpoint(lost: Case) -> None:
    name = unique("endpoint")
    lost.world.direct.register_endpoint(name, "a:1", "", {})
    lost.lose(name)
    assert lost.ask(pb.Controller.LookupEndpointRequest(name=name)).endpoint.address == "a:1"


@case("ControllerService/ListEndpoints")
def _list_endpoints(lost: Case) -> None:
    name = unique("endpoint")
    lost.world.direct.register_endpoint(name, "a:1", "", {})
    lost.lose(name)
    endpoints = lost.ask(pb.Controller.ListEndpointsRequest(prefix=name)).endpoints
    assert [endpoint.name for endpoint in endpoints] == [name]


# Logs.


@case("ControllerService/StreamTaskLogs")
def _stream_task_logs(lost: Case) -> None:
    _follow(lost, "controller")


@case("WorkerService/StreamTaskLogs")
def _stream_task_logs_of_worker(lost: Case) -> None:
    _follow(lost, "worker")


@case("ControllerService/FetchTaskLogs")
@case("WorkerService/FetchTaskLogs")
def _fetch_task_logs(lost: Case) -> None:
    job_id = lost.launch("seq 100")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    page = lost.ask(pb.Worker.FetchTaskLogsRequest(task_id=f"{job_id}/task-0"))
    assert [entry.data for entry in page.logs] == [str(number) for number in range(1, 101)]


@case("ControllerService/FetchLogParts")
@case("WorkerService/FetchLogParts")
def _fetch_log_parts(lost: Case) -> None:
    job_id = lost.launch("seq 100")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    (part,) = lost.ask(pb.FetchLogPartsRequest(job_id=job_id, reads=[pb.FetchLogPartsRequest.Read()])).parts
    text = b"".join(record.payload for record in decode(part.records) if record.kind == 0)
    assert text.split() == [b"%d" % number for number in range(1, 101)]


# The calls of a worker.


@case("WorkerService/RunTasks")
def _run_tasks(lost: Case) -> None:
    name = lost.unique()
    gate = lost.world.directory / unique("gate")
    lost.lose(name)
    job_id = lost.launch(wait_for(gate), name=name)
    wait_until(lambda: not lost.is_losing(), "the losses: with its end it would be told no more")
    gate.touch()
    task = wait_for_end(lost.world.direct, job_id).tasks[0]
    assert (task.state, len(task.attempts)) == (pb.TASK_STATE_SUCCEEDED, 1)
    assert lost.runs(job_id) == [1]


@case("WorkerService/RunTask")
def _run_task(lost: Case) -> None:
    job_id = lost.unique()
    task_id = f"{job_id}/task-0"
    lost.lose(job_id)
    lost.ask(pb.Worker.RunTaskRequest(job_id=job_id, task_id=task_id, num_tasks=1, command=lost.command("true")))
    status = wait_until(lambda: (one := _of_worker(lost, task_id)) and one.finished_at_ms and one, "its end")
    assert status.current_attempt_id == 0
    assert sum(lost.runs(job_id)) <= 1  # none where it was stopped at once: the controller does not know the job


@case("WorkerService/KillTask")
def _kill_task(lost: Case) -> None:
    with _told_once(lost) as job_id:
        lost.lose(f"{job_id}/task-0")
        lost.world.direct.terminate_job(job_id)


@case("ControllerService/ForgetJob")
def _forget_job(lost: Case) -> None:
    job_id = lost.launch("true")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    request = pb.Controller.ForgetJobRequest(job_id=job_id, request_id=unique("request"))
    assert list(lost.ask(request).job_ids) == [job_id]
    with pytest.raises(NotFoundError):
        lost.world.direct.get_job_status(job_id)


@case("WorkerService/ForgetJob")
def _forget_job_at_a_worker(lost: Case) -> None:
    job_id = lost.launch("true")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    lost.ask(pb.Worker.ForgetJobRequest(job_id=job_id, num_tasks=1, job_submitted_at_ms=1))
    assert lost.runs(job_id) == [1]


@case("WorkerService/Drain")
def _drain(lost: Case) -> None:
    with lossy_world(lost.world.directory / unique("drained")) as world:  # a worker that takes nothing more
        own = Case(world, lost.call, lost.way, lost.times, lost.losses)
        gate = world.directory / "gate"
        job_id = own.launch(f"{wait_for(gate)}; seq 100")
        wait_for_state(world.direct, job_id, pb.JOB_STATE_RUNNING)
        own.lose()
        gate.touch()
        own.ask(pb.Worker.DrainRequest())
        assert world.direct.get_job_status(job_id).state == pb.JOB_STATE_SUCCEEDED, "its end is known"
        kept = LogDirectories(world.directory / "kept").attempt(f"{job_id}/task-0", 0)
        assert read(kept).data.split() == [b"%d" % number for number in range(1, 101)]
        assert has_end(kept)
        assert own.runs(job_id) == [1]


@case("WorkerService/GetTaskStatus")
def _get_task_status_of_worker(lost: Case) -> None:
    job_id = lost.launch("exit 3")
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    assert lost.ask(pb.Worker.GetTaskStatusRequest(task_id=f"{job_id}/task-0")).exit_code == 3


@case("WorkerService/ListTasks")
def _list_tasks_of_worker(lost: Case) -> None:
    job_id = lost.launch("true", replicas=3)
    wait_for_end(lost.world.direct, job_id)
    lost.lose()
    tasks = lost.ask(pb.Worker.ListTasksRequest()).tasks
    assert sorted(task.task_index for task in tasks if task.job_id == job_id) == [0, 1, 2]


@case("WorkerService/HealthCheck")
def _health_check(lost: Case) -> None:
    lost.lose()
    assert lost.ask(pb.Empty()).worker_id == "w"


def _read_files(lost: Case) -> None:
    job_id = lost.launch("echo hello > file; touch ready; sleep 300")
    wait_until(lambda: _has_file(lost, job_id, "ready"), "the files")
    lost.lose(job_id)
    if lost.call.endswith("ListTaskFiles"):
        answer = lost.ask(pb.ListTaskFilesRequest(task_id=f"{job_id}/task-0", recursive=True))
        assert [file.path for file in answer.files] == ["", "file", "ready"]
    else:
        assert lost.ask(pb.ReadTaskFileRequest(task_id=f"{job_id}/task-0", path="file")).data == b"hello\n"
    lost.world.direct.terminate_job(job_id)


def _write_file(lost: Case) -> None:
    job_id = lost.launch("touch ready; sleep 300")
    wait_until(lambda: _has_file(lost, job_id, "ready"), "the file")
    lost.lose(job_id)
    request = pb.WriteTaskFileRequest(
        task_id=f"{job_id}/task-0",
        file=pb.TaskFile(path="sent", type=pb.FILE_TYPE_REGULAR),
        transfer_id="a" * 32,
        data=b"hello",
    )
    assert lost.ask(request).offset == 5
    request.offset, request.end, request.sha256 = 5, True, hashlib.sha256(b"hello!").hexdigest()
    request.data = b"!"
    assert lost.ask(request).offset == 6
    read = pb.ReadTaskFileRequest(task_id=f"{job_id}/task-0", path="sent")
    assert lost.world.direct.read_task_file(read).data == b"hello!"
    lost.world.direct.terminate_job(job_id)


for _service in ("ControllerService", "WorkerService"):
    case(f"{_service}/ListTaskFiles")(_read_files)
    case(f"{_service}/ReadTaskFile")(_read_files)
    case(f"{_service}/WriteTaskFile")(_write_file)


def _read_stacks(lost: Case) -> None:
    job_id = lost.launch("echo up; exec sleep 300")
    wait_until(lambda: _has_line(lost, job_id), "the task")
    lost.lose(job_id)
    attempt = pb.Worker.StackedAttempt(task_id=f"{job_id}/task-0")
    is_controller = lost.call.startswith("Controller")
    if lost.call.endswith("ReadStacks"):
        read = pb.Controller.ReadStacksRequest(job_id=job_id)
        (task,) = lost.ask(read if is_controller else pb.Worker.ReadStacksRequest(attempts=[attempt])).tasks
        assert [process.reason for process in task.processes] == [pb.STACK_REASON_NOT_PYTHON]
    else:
        sample = pb.Controller.SampleStacksRequest(job_id=job_id, seconds=1)
        of_worker = pb.Worker.SampleStacksRequest(attempts=[attempt], seconds=1)
        (sampled,) = lost.ask(sample if is_controller else of_worker).tasks
        assert sampled.reason == pb.STACK_REASON_NOT_PYTHON
    lost.world.direct.terminate_job(job_id)


for _service in ("ControllerService", "WorkerService"):
    case(f"{_service}/ReadStacks")(_read_stacks)
    case(f"{_service}/SampleStacks")(_read_stacks)


def _forward(lost: Case) -> None:
    program = Path(__file__).parents[1] / "support" / "port_server.py"
    job_id = lost.launch(f"exec {sys.executable} {program} sink", ports=["sink"])
    wait_until(lambda: _has_line(lost, job_id), "the server of the task")
    lost.lose(job_id)

    def send() -> bytes:
        with (
            lost.world.client.forward(job_id, "sink") as forward,
            socket.create_connection(("127.0.0.1", forward.local_port)) as connection,
        ):
            connection.sendall(b"once")
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read()

    assert lost.again(send) == f"4 {hashlib.sha256(b'once').hexdigest()}\n".encode()
    lost.world.direct.terminate_job(job_id)


for _service in ("ControllerService", "WorkerService"):
    case(f"{_service}/OpenTunnel")(_forward)
    case(f"{_service}/WriteTunnel")(_forward)


def _exec(lost: Case) -> None:
    job_id = lost.launch("sleep 600")
    wait_for_state(lost.world.direct, job_id, pb.JOB_STATE_RUNNING)
    lost.lose(job_id)
    count = ["sh", "-c", "cat; echo x >> count; wc -l < count"]
    result = lost.again(lambda: lost.world.client.exec(job_id, count, stdin=b"once "))
    assert (result.exit_code, result.stdout) == (0, b"once 1\n")
    lost.world.direct.terminate_job(job_id)


for _service in ("ControllerService", "WorkerService"):
    case(f"{_service}/OpenExec")(_exec)
    case(f"{_service}/WriteExec")(_exec)


def _has_line(lost: Case, job_id: str) -> bool:
    try:
        return bool(lost.world.direct.fetch_task_logs(f"{job_id}/task-0"))
    except NotFoundError:
        return False


@case("ControllerService/StoreOutputs")
def _store_outputs(lost: Case) -> None:
    job_id = lost.unique()
    lost.lose(job_id)
    assert lost.launch("seq 100000 > out/numbers", name=job_id, outputs=["out"]) == job_id
    assert wait_for_end(lost.world.direct, job_id).state == pb.JOB_STATE_SUCCEEDED
    (outputs,) = lost.world.direct.list_outputs(job_id)
    assert [(file.path, file.size) for file in outputs.files] == [("out", 0), ("out/numbers", 588895)]
    assert lost.runs(job_id) == [1]


@case("ControllerService/ListOutputs")
def _list_outputs(lost: Case) -> None:
    job_id = lost.launch("echo x > out/x", outputs=["out"])
    wait_for_end(lost.world.direct, job_id)
    lost.lose(job_id)
    (outputs,) = lost.ask(pb.Controller.ListOutputsRequest(job_id=job_id)).outputs
    assert [file.path for file in outputs.files] == ["out", "out/x"]


def _has_file(lost: Case, job_id: str, path: str) -> bool:
    try:
        return bool(lost.world.direct.list_task_files(f"{job_id}/task-0", path))
    except (NotFoundError, FailedPreconditionError):
        return False


@contextmanager
def _told_once(lost: Case) -> Iterator[str]:
    """A job that goes on when it is told to end, until nothing is lost any more: it must have been told once."""
    told, ready, gate = (lost.world.directory / unique(name) for name in ("told", "ready", "gate"))
    # Without the last word it would exit as the last pause did, which the signal may have ended as well.
    job_id = lost.launch(f"trap 'echo >> {told}' TERM; touch {ready}; {wait_for(gate)}; exit 0")
    wait_until(ready.exists, "the job to be ready")
    yield job_id
    wait_until(lambda: told.exists() and not lost.is_losing(), "the losses")
    gate.touch()
    task = wait_for_end(lost.world.direct, job_id).tasks[0]
    (attempt,) = task.attempts
    assert (task.state, attempt.exit_code) == (pb.TASK_STATE_KILLED, 0), "it was stopped, and ended by itself"
    assert told.read_text() == "\n"


def _follow(lost: Case, route: str) -> None:
    for messages in (0, 1):
        gate = lost.world.directory / unique("gate")
        job_id = lost.launch(f"seq 100; while [ ! -e {gate} ]; do echo .; sleep 0.05; done; echo end")
        wait_for_state(lost.world.direct, job_id, pb.JOB_STATE_RUNNING)
        lost.lose(job_id, messages=messages)
        lines = []
        with closing(lost.world.client.stream_task_logs(job_id, 0, route=route, on_notice=lambda text: None)) as stream:
            for line in stream:
                lines.append(line.message)
                if not lost.is_losing():
                    gate.touch()
        told = [line.data for line in lost.world.direct.fetch_task_logs(f"{job_id}/task-0")]
        assert lines == told
        assert [line for line in lines if line != "."] == [*(str(number) for number in range(1, 101)), "end"]


def _workers(lost: Case) -> list[str]:
    return [worker.worker_id for worker in lost.world.direct.list_workers()]


def _of_worker(lost: Case, task_id: str) -> pb.TaskStatus | None:
    stub = cluster_connect.WorkerServiceClientSync(
        lost.world.worker_address, send_compression=None, interceptors=(BearerInterceptor(token),)
    )
    return next((task for task in stub.list_tasks(pb.Worker.ListTasksRequest()).tasks if task.task_id == task_id), None)
