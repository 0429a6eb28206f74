"""Who may call what: every call of both services, on a real cluster, with a token of each role and without."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from connectrpc.errors import ConnectError
from google.protobuf.message_factory import GetMessageClass
from support.cluster import launch, shell, unique, wait_for_end, wait_for_state
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import IrisError, PermissionDeniedError, UnauthenticatedError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.auth.tokens import SigningKey
from iris.rpc.calls import call
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.peer import Peer

SERVICES = cluster_pb2.DESCRIPTOR.services_by_name

# Written down once more, and not taken from the table that is tested. T: a task's, for a request that names its job.
CONTROLLER = {
    "LaunchJob": "admin user T",
    "GetSubmission": "admin user reader T",
    "ResubmitJob": "admin user",
    "GetJobStatus": "admin user reader T",
    "TerminateJob": "admin user",
    "TerminateTask": "admin user",
    "ForgetJob": "admin user",
    "WriteStdin": "admin user",
    "CheckCluster": "admin user reader",
    "DescribeCluster": "admin user reader T",
    "ListJobs": "admin user reader",
    "GetTaskStatus": "admin user reader T",
    "ListTasks": "admin user reader T",
    "WatchJob": "admin user reader T",
    "StreamResults": "admin user reader T",
    "StreamTaskLogs": "admin user reader T",
    "FetchTaskLogs": "admin user reader T",
    "FetchLogParts": "admin user reader T",
    "ListTaskFiles": "admin user reader T",
    "ReadTaskFile": "admin user reader T",
    "WriteTaskFile": "admin user",
    "OpenTunnel": "admin user T",
    "WriteTunnel": "admin user T",
    "ReadStacks": "admin user T",
    "SampleStacks": "admin user T",
    "OpenExec": "admin user",
    "WriteExec": "admin user",
    "RegisterEndpoint": "admin user T",
    "UnregisterEndpoint": "admin user T",
    "LookupEndpoint": "admin user reader T",
    "ListEndpoints": "admin user reader T",
    "GetUsage": "admin user reader T",
    "ListMachines": "admin user reader",
    "WatchCluster": "admin user reader",
    "WatchEvents": "admin user reader T",
    "ListWebhooks": "admin",
    "WatchJobs": "admin user reader",
    "ListWorkers": "admin user reader",
    "RegisterWorker": "admin worker",
    "ReportTaskState": "admin worker",
    "ReportTaskStates": "admin worker",
    "StoreLogs": "admin worker",
    "StoreOutputs": "admin worker",
    "ListOutputs": "admin user reader T",
    "FetchBundle": "admin worker",
    "FetchInput": "admin worker",
    "CreateToken": "admin",
    "ListTokens": "admin",
    "RevokeToken": "admin",
    "CreateSignInCode": "admin user reader",
    "SignOut": "admin user reader",
}
WORKER = {
    "RunTask": "controller",
    "RunTasks": "controller",
    "ForgetJob": "controller",
    "KillTask": "controller",
    "Drain": "controller",
    "WriteStdin": "controller",
    "GetTaskStatus": "admin user reader controller",
    "ListTasks": "admin user reader controller",
    "FetchTaskLogs": "admin user reader controller T",
    "StreamTaskLogs": "admin user reader controller T",
    "FetchLogParts": "admin user reader controller T",
    "ListTaskFiles": "admin user reader controller T",
    "ReadTaskFile": "admin user reader controller T",
    "WriteTaskFile": "admin user controller",
    "OpenTunnel": "controller",
    "WriteTunnel": "controller",
    "ReadStacks": "controller",
    "SampleStacks": "controller",
    "OpenExec": "controller",
    "WriteExec": "controller",
}
# A user may make these calls for the user's own jobs only. A job that does not exist is no other user's.
NEED_OWNER = (
    "WriteStdin",
    "ResubmitJob",
    "ForgetJob",
    "OpenTunnel",
    "WriteTunnel",
    "ReadStacks",
    "SampleStacks",
    "OpenExec",
    "WriteExec",
)
ROLES = ("admin", "user", "reader", "worker", "task", "controller")


class Caller:
    """Makes any call of a service, with any token or header."""

    def __init__(self, service: str, address: str) -> None:
        self._service = SERVICES[service]
        self._address = address
        self._transport = HttpTransport(address)
        self._stub = getattr(cluster_connect, f"{service}ClientSync")

    def call(self, method: str, shown: str | None, **fields: Any) -> str:
        """What becomes of a call: ok, or the code of the error."""
        request_class = GetMessageClass(self._service.methods_by_name[method].input_type)
        known = {name: value for name, value in fields.items() if name in request_class.DESCRIPTOR.fields_by_name}
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method).lstrip("_")
        stub = self._stub(
            self._address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(lambda: shown),),
            http_client=self._transport.connect_client(),
        )
        try:
            answer = getattr(stub, name)
            if self._service.methods_by_name[method].server_streaming:
                with closing(answer(request_class(**known))) as messages:
                    next(messages)
            else:
                call(answer, request_class(**known), Peer(self._address, "it"))
        except Exception as error:  # noqa: BLE001 - the code is what is looked at
            code: Any = getattr(error, "code", None)
            return str(getattr(code, "value", code))
        return "ok"

    def open_logs(self, shown: str, job_id: str) -> Any:
        """Follow a job at a worker with any token."""
        stub = cluster_connect.WorkerServiceClientSync(
            self._address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(lambda: shown),),
            http_client=self._transport.connect_client(),
        )
        positions = [cluster_pb2.LogPosition(task_index=0, attempt_id=0)]
        return stub.stream_task_logs(cluster_pb2.StreamTaskLogsRequest(job_id=job_id, positions=positions, follow=True))

    def close(self) -> None:
        self._transport.close()


@pytest.fixture(scope="module")
def running(shared_cluster: LocalServer) -> Iterator[str]:
    """The job of a task that runs."""
    with RemoteClusterClient(shared_cluster.address) as cluster:
        job_id = launch(cluster, shell("echo hello; sleep 1000"))
        wait_for_state(cluster, job_id, cluster_pb2.JOB_STATE_RUNNING)
        yield job_id
        cluster.terminate_job(job_id)
        wait_for_end(cluster, job_id)


def token_of(role: str, job_id: str, worker_id: str) -> str:
    if role == "task":
        return token(role, job_id=job_id, task_index=0, attempt_id=0)
    return token(role, worker_id=worker_id if role in ("worker", "controller") else "")


def fields_for(job_id: str, worker_id: str) -> dict[str, Any]:
    """Requests that name the job, and that otherwise lack so much that none of them does anything."""
    return {
        "job_id": job_id,
        "parent_job_id": job_id,
        "task_id": f"{job_id}/task-0",
        "worker_id": worker_id,
        "endpoint_id": "nobody's",
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("method", [name for name in SERVICES["ControllerService"].methods_by_name if name != "SignIn"])
def test_every_controller_call_checks_the_role_of_its_caller(
    shared_cluster: LocalServer, running: str, method: str, role: str
) -> None:
    with closing(Caller("ControllerService", shared_cluster.address)) as caller:
        fields = fields_for(running, "nobody")
        if method.startswith("Terminate") or method in NEED_OWNER:
            fields["job_id"] = running if role == "task" else "nobody's"
        if method == "WriteTaskFile" and role != "task":
            fields["task_id"] = "nobody's/task-0"
        got = caller.call(method, token_of(role, running, "nobody"), **fields)
    may = CONTROLLER[method].split()
    if role in may or (role == "task" and "T" in may):
        assert got not in ("unauthenticated", "permission_denied")
    else:
        assert got == "permission_denied"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("method", sorted(WORKER))
def test_every_worker_call_checks_the_role_of_its_caller(
    cluster: RemoteClusterClient, running: str, method: str, role: str
) -> None:
    task = cluster.get_task_status(running, 0)
    fields = fields_for(running, task.worker_id)
    if (method, role) == ("Drain", "controller"):
        return  # a worker that is drained takes nothing any more; who may do so is tried in test_slot_workers.py
    if method in ("RunTask", "KillTask") or (method == "WriteTaskFile" and role != "task"):
        fields["task_id"] = "no task id"
    with closing(Caller("WorkerService", task.worker_address)) as caller:
        got = caller.call(method, token_of(role, running, task.worker_id), **fields)
    may = WORKER[method].split()
    if role in may or (role == "task" and "T" in may):
        assert got not in ("unauthenticated", "permission_denied")
    else:
        assert got == "permission_denied"


@pytest.mark.parametrize("service", ["ControllerService", "WorkerService"])
def test_call_without_a_token_is_refused_unless_the_call_is_public(
    cluster: RemoteClusterClient, running: str, service: str
) -> None:
    task = cluster.get_task_status(running, 0)
    address = cluster.controller_address if service == "ControllerService" else task.worker_address
    other = SigningKey.new()
    with closing(Caller(service, address)) as caller:
        for method in SERVICES[service].methods:
            # SignIn is public, but only the page itself may make it (test_sign_in.py).
            expected = {"HealthCheck": "ok", "SignIn": "permission_denied"}.get(method.name, "unauthenticated")
            for shown in (None, "nonsense", token("admin", key=other), token("admin", ttl_s=-100)):
                assert caller.call(method.name, shown, **fields_for(running, task.worker_id)) == expected, method.name


def test_controller_token_for_one_worker_is_refused_by_another(cluster: RemoteClusterClient) -> None:
    wait_until(lambda: len(cluster.list_workers()) >= 2, "the workers")
    one, other = cluster.list_workers()[:2]
    with closing(Caller("WorkerService", other.address)) as caller:
        assert caller.call("ListTasks", token("controller", worker_id=one.worker_id)) == "permission_denied"
        assert caller.call("ListTasks", token("controller", worker_id=other.worker_id)) == "ok"


def test_worker_token_is_refused_for_another_worker(shared_cluster: LocalServer) -> None:
    with closing(Caller("ControllerService", shared_cluster.address)) as caller:
        shown = token("worker", worker_id="w-1")
        for method in ("RegisterWorker", "ReportTaskState", "ReportTaskStates", "StoreLogs"):
            assert caller.call(method, shown, worker_id="local-0") == "permission_denied", method
        report = cluster_pb2.Controller.ReportTaskStateRequest(worker_id="local-0")
        assert caller.call("ReportTaskStates", shown, worker_id="w-1", reports=[report]) == "permission_denied"
        assert caller.call("ReportTaskStates", shown, worker_id="w-1") == "ok"


def test_error_of_a_call_refused_for_its_role_names_the_permitted_roles(shared_cluster: LocalServer) -> None:
    with RemoteClusterClient(shared_cluster.address, token=token("reader", name="bob")) as bob:
        with pytest.raises(PermissionDeniedError) as caught:
            bob.terminate_job("x")
        assert (
            str(caught.value)
            == "the role 'reader' of this token may not call TerminateJob; accepted roles: admin, task, user"
        )
        assert (caught.value.reason, caught.value.metadata) == ("PERMISSION_DENIED", {"role": "reader"})
        assert bob.list_jobs() is not None
    with (
        RemoteClusterClient(shared_cluster.address, token="nonsense") as nobody,
        pytest.raises(
            UnauthenticatedError, match=r"not a token of Iris; set IRIS_TOKEN.*iris token create.*iris up"
        ) as refused,
    ):
        nobody.list_jobs()
    assert "nonsense" not in str(refused.value)


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer", "token"])
def test_malformed_authorization_header_is_refused(shared_cluster: LocalServer, header: str) -> None:
    import httpx

    answer = httpx.post(
        f"{shared_cluster.address}/iris.cluster.ControllerService/ListJobs",
        json={},
        headers={"authorization": header},
    )
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert "IRIS_TOKEN" in answer.json()["message"]


def test_unauthenticated_request_is_refused_before_its_body_is_read(shared_cluster: LocalServer) -> None:
    import httpx

    answer = httpx.post(
        f"{shared_cluster.address}/iris.cluster.ControllerService/LaunchJob",
        content=b"\xff" * 1000,  # no message at all
        headers={"content-type": "application/proto"},
    )
    assert answer.json()["code"] == "unauthenticated"


def test_unknown_path_gets_an_answer_that_names_the_server(shared_cluster: LocalServer) -> None:
    import httpx

    answer = httpx.get(f"{shared_cluster.address}/nothing")
    assert (answer.status_code, answer.text.startswith("This is Iris.")) == (404, True)


# A task's token.


def test_task_token_is_valid_for_its_own_job_and_the_child_jobs(cluster: RemoteClusterClient, running: str) -> None:
    child = launch(cluster, shell("sleep 1000"), name="child", parent_job_id=running)
    grandchild = launch(cluster, shell("sleep 1000"), name="grand", parent_job_id=child)
    other = launch(cluster, shell("true"))
    endpoint = cluster.register_endpoint(f"{other}-endpoint", "h:1", "", {})
    own = token("task", job_id=running, task_index=0, attempt_id=0)
    with closing(Caller("ControllerService", cluster.controller_address)) as caller:
        for method in ("GetJobStatus", "ListTasks", "GetTaskStatus", "WatchJob", "StreamResults", "StreamTaskLogs"):
            for job_id in (running, child, grandchild):
                assert caller.call(method, own, job_id=job_id) == "ok", (method, job_id)
            for job_id in (other, "", f"{running}x", "no such job"):
                assert caller.call(method, own, job_id=job_id) == "permission_denied", (method, job_id)
        assert caller.call("FetchTaskLogs", own, task_id=f"{child}/task-0") == "ok"
        assert caller.call("FetchTaskLogs", own, task_id=f"{other}/task-0") == "permission_denied"
        assert caller.call("FetchTaskLogs", own, task_id="x") == "invalid_argument"
        launched = {"name": "x", "command": ["true"]}
        for parent in ("", other):
            assert caller.call("LaunchJob", own, parent_job_id=parent, **launched) == "permission_denied"
        assert caller.call("LaunchJob", own, parent_job_id=child, **launched) == "ok"
        assert caller.call("RegisterEndpoint", own, name=f"{running}-e", address="h:1", job_id=running) == "ok"
        for job_id in ("", child, other):
            got = caller.call("RegisterEndpoint", own, name=f"{running}-f", address="h:1", job_id=job_id)
            assert got == "permission_denied", job_id
        assert caller.call("UnregisterEndpoint", own, endpoint_id=endpoint) == "permission_denied"
        mine = cluster.lookup_endpoint(f"{running}-e").endpoint_id
        assert caller.call("UnregisterEndpoint", own, endpoint_id=mine) == "ok"
        assert caller.call("UnregisterEndpoint", own, endpoint_id=mine) == "ok"  # again: no effect
        assert caller.call("UnregisterEndpoint", own, endpoint_id="no such endpoint") == "not_found"
        for job_id in (running, other):
            assert caller.call("TerminateJob", own, job_id=job_id) == "permission_denied"
        assert caller.call("TerminateJob", own, job_id=grandchild) == "ok"
        assert caller.call("TerminateJob", own, job_id=child) == "ok"
    wait_for_end(cluster, child)
    cluster.unregister_endpoint(endpoint)


def test_only_owner_and_admins_can_write_standard_input(cluster: RemoteClusterClient) -> None:
    with closing(Caller("ControllerService", cluster.controller_address)) as caller:
        job = {"name": unique("reads"), "command": ["cat"], "stdin": True}
        owner, other = (token("user", name=name) for name in ("owner", "other"))
        assert caller.call("LaunchJob", owner, **job) == "ok"
        fields = {"job_id": job["name"], "data": b"x", "position": 0}
        assert caller.call("WriteStdin", other, **fields) == "permission_denied"
        assert caller.call("WriteStdin", owner, **fields) == "ok"
        assert caller.call("WriteStdin", token("admin"), **fields | {"end": True}) == "ok"
        assert caller.call("WriteStdin", owner, **fields | {"job_id": "no such job"}) == "not_found"
    status = wait_for_end(cluster, job["name"])
    assert status.state == cluster_pb2.JOB_STATE_SUCCEEDED
    assert [line.data for line in cluster.fetch_task_logs(f"{job['name']}/task-0")] == ["x"]


def test_task_token_is_refused_after_the_attempt_has_ended(cluster: RemoteClusterClient) -> None:
    # The first attempt fails, the second goes on: a child of the first must not go on submitting.
    job_id = launch(cluster, shell('[ "$IRIS_ATTEMPT_ID" = 0 ] && exit 1; sleep 1000'), max_retries_failure=1)
    with closing(Caller("ControllerService", cluster.controller_address)) as caller:
        wait_for_state(cluster, job_id, cluster_pb2.JOB_STATE_RUNNING)

        def may(attempt_id: int, task_index: int = 0) -> str:
            own = token("task", job_id=job_id, task_index=task_index, attempt_id=attempt_id)
            return caller.call("GetJobStatus", own, job_id=job_id)

        while cluster.get_task_status(job_id, 0).current_attempt_id == 0:
            next(cluster.watch_job(job_id))
        assert may(0) == "unauthenticated"
        wait_for_state(cluster, job_id, cluster_pb2.JOB_STATE_RUNNING)
        assert may(1) == "ok"
        assert may(2) == may(1, task_index=1) == may(-1) == "unauthenticated"
        cluster.terminate_job(job_id)
        wait_for_end(cluster, job_id)
        assert may(1) == "unauthenticated"
    with (
        RemoteClusterClient(
            cluster.controller_address, token=token("task", job_id=job_id, task_index=0, attempt_id=1)
        ) as task,
        pytest.raises(UnauthenticatedError, match=f"attempt 1 of task 0 of job '{job_id}'.* has ended"),
    ):
        task.get_job_status(job_id)


def test_task_token_is_refused_by_every_worker_after_the_attempt_has_ended(
    cluster: RemoteClusterClient, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = f'while [ ! -e {gate} ]; do sleep 0.05; done; [ "$IRIS_ATTEMPT_ID" = 0 ] && exit 1; sleep 1000'
    job_id = launch(cluster, shell(script), max_retries_failure=1)
    wait_for_state(cluster, job_id, cluster_pb2.JOB_STATE_RUNNING)
    child = launch(cluster, shell("echo hello; sleep 1000"), name="child", parent_job_id=job_id)
    wait_for_state(cluster, child, cluster_pb2.JOB_STATE_RUNNING)
    own = token("task", job_id=job_id, task_index=0, attempt_id=0)
    never = token("task", job_id=job_id, task_index=0, attempt_id=7)
    ran_on, child_on = (cluster.get_task_status(each, 0).worker_address for each in (job_id, child))
    with ExitStack() as opened:
        callers = {
            worker.address: opened.enter_context(closing(Caller("WorkerService", worker.address)))
            for worker in cluster.list_workers()
        }
        assert len(callers) > 1

        def may(shown: str, address: str) -> str:
            return callers[address].call("FetchTaskLogs", shown, task_id=f"{job_id}/task-0")

        assert {may(own, address) for address in callers} == {"ok", "not_found"}, "only one of the two has the log"
        assert {may(never, address) for address in callers} == {"unauthenticated"}
        stream = opened.enter_context(closing(callers[child_on].open_logs(own, child)))
        next(stream)

        gate.touch()
        while cluster.get_task_status(job_id, 0).current_attempt_id == 0:
            next(cluster.watch_job(job_id))
        assert may(own, ran_on) == "unauthenticated", "whoever ran it knows at once"
        with pytest.raises(ConnectError, match="has ended") as caught:
            for _ in stream:
                pass
        assert caught.value.code.value == "unauthenticated"
        for address in callers:
            wait_until(
                lambda address=address: may(own, address) == "unauthenticated", f"the end of a token at {address}"
            )
        assert cluster.get_job_status(child).state == cluster_pb2.JOB_STATE_RUNNING
    cluster.terminate_job(job_id)
    wait_for_end(cluster, job_id)


def test_owner_of_a_job_also_owns_its_child_jobs(cluster: RemoteClusterClient, running: str) -> None:
    with RemoteClusterClient(cluster.controller_address, token=token("user", name="ana")) as ana:
        job_id = launch(ana, shell("sleep 1000"))
        wait_for_state(ana, job_id, cluster_pb2.JOB_STATE_RUNNING)
        own = token("task", job_id=job_id, task_index=0, attempt_id=0)
        with RemoteClusterClient(cluster.controller_address, token=own) as task:
            child = launch(task, shell("true"), name="child", parent_job_id=job_id)
        assert ana.get_job_status(job_id).owner == "ana"
        assert ana.get_job_status(child).owner == "ana"
        assert {job.owner for job in ana.list_jobs() if job.job_id in (job_id, child)} == {"ana"}
        ana.terminate_job(job_id)
        wait_for_end(ana, job_id)
    assert cluster.get_job_status(running).owner == "tests"


@pytest.mark.parametrize("role", ["admin", "user", "reader"])
def test_describe_cluster_returns_the_identity_of_its_caller(shared_cluster: LocalServer, role: str) -> None:
    shown = token(role, name="ana", token_id="0123456789abcdef", ttl_s=3600)
    with RemoteClusterClient(shared_cluster.address, token=shown) as client:
        known = client.describe_cluster().caller
    assert (known.name, known.role, known.token_id) == ("ana", role, "0123456789abcdef")
    assert 0 < known.expires_at_ms / 1000 - time.time() <= 3600


def test_unknown_call_is_refused_for_every_role(shared_cluster: LocalServer) -> None:
    import httpx

    answer = httpx.post(f"{shared_cluster.address}/iris.cluster.ControllerService/Nothing", json={})
    assert answer.status_code == 404


def test_refused_call_raises_an_iris_error(shared_cluster: LocalServer) -> None:
    with (
        RemoteClusterClient(shared_cluster.address, token="") as client,
        pytest.raises(IrisError, match="returned no token"),
    ):
        client.list_jobs()
