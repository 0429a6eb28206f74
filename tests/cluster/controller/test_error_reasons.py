"""The controller's errors carry reasons, so that programs need not read the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.controller_thread import serving
from support.fake_engine import FakeEngine

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.quotas import Quota
from iris.errors import IrisError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

Controller = cluster_pb2.Controller


@pytest.fixture(scope="module")
def client() -> Iterator[RemoteClusterClient]:
    """A client of a controller with one queued job, `taken`, and a quota of four tasks."""
    engine = FakeEngine()
    engine.granting = False
    with (
        serving(engine, Store(None), quota=Quota(tasks=4)) as running,
        RemoteClusterClient(running.address) as client,
    ):
        client.launch_job(Controller.LaunchJobRequest(name="taken", command=["true"]))
        yield client


def submit(client: RemoteClusterClient, **fields: object) -> str:
    fields = {"name": "new", "command": ["true"], **fields}
    return client.launch_job(Controller.LaunchJobRequest(**fields))  # type: ignore[arg-type]


ERRORS: list[tuple[ErrorReason, Callable[[RemoteClusterClient], object], dict[str, str]]] = [
    (ErrorReason.JOB_NOT_FOUND, lambda client: client.get_job_status("none"), {"job_id": "none"}),
    (
        ErrorReason.TASK_NOT_FOUND,
        lambda client: client.get_task_status("taken", 7),
        {"job_id": "taken", "task_index": "7"},
    ),
    (ErrorReason.JOB_EXISTS, lambda client: submit(client, name="taken"), {"job_id": "taken"}),
    (ErrorReason.WORKSPACE_NEEDED, lambda client: submit(client, bundle_hash="ab" * 32), {"bundle_hash": "ab" * 32}),
    (
        ErrorReason.QUOTA_EXCEEDED,
        lambda client: submit(client, resources=cluster_pb2.ResourceSpecProto(replicas=5)),
        {"user": "tests", "limit": "4"},
    ),
    (ErrorReason.TOO_LARGE, lambda client: submit(client, ports=[f"p{number}" for number in range(101)]), {}),
    (ErrorReason.ENDPOINT_NOT_FOUND, lambda client: client.lookup_endpoint("none"), {"name": "none"}),
    (ErrorReason.JOB_NOT_ENDED, lambda client: client.forget_job("taken"), {"job_id": "taken"}),
    (
        ErrorReason.NO_STDIN,
        lambda client: client.write_stdin("taken", b"x", position=0),
        {"job_id": "taken"},
    ),
]


@pytest.mark.parametrize(("reason", "call", "metadata"), ERRORS, ids=[row[0].value for row in ERRORS])
def test_error_of_a_call_has_a_reason_code_and_metadata(
    client: RemoteClusterClient,
    reason: ErrorReason,
    call: Callable[[RemoteClusterClient], object],
    metadata: dict[str, str],
) -> None:
    with pytest.raises(IrisError) as caught:
        call(client)
    assert caught.value.reason == reason
    assert {key: caught.value.metadata.get(key) for key in metadata} == metadata
