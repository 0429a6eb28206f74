"""The standard services of gRPC on a controller and a worker: health without a token, reflection with a token."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from support.plain_http import Answer, ask
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.rpc import cluster_pb2

SERVICES = ["iris.cluster.ControllerService", "iris.cluster.WorkerService"]
HEALTH = "/grpc.health.v1.Health/"
VERSIONS = ["v1", "v1alpha"]


@pytest.fixture(scope="module")
def addresses(shared_cluster: LocalServer) -> dict[str, str]:
    """The addresses of a controller and a worker, by the name of the service."""
    with RemoteClusterClient(shared_cluster.address) as client:
        workers = wait_until(client.list_workers, "a worker")
        return dict(zip(SERVICES, (shared_cluster.address, workers[0].address), strict=True))


def check_health(address: str, service: str) -> Answer:
    body = json.dumps({"service": service}).encode()
    return ask(address, "POST", HEALTH + "Check", body, content_type="application/json", authorization="")


def reflect(address: str, version: str, *requests: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    """Send requests to the reflection service; return the messages of the answer with the end message."""
    bodies = [json.dumps(request).encode() for request in requests]
    body = b"".join(struct.pack(">BI", 0, len(one)) + one for one in bodies)
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    data = ask(address, "POST", path, body, content_type="application/connect+json", **headers).body
    messages = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        messages.append(json.loads(data[5 : 5 + size]))
        data = data[5 + size :]
    return messages


@pytest.mark.parametrize("service", SERVICES)
def test_health_of_a_server_and_its_services_needs_no_token(addresses: dict[str, str], service: str) -> None:
    for asked in ("", service, "grpc.health.v1.Health"):
        answer = check_health(addresses[service], asked)
        assert (answer.status, answer.document) == (200, {"status": "SERVING"})


@pytest.mark.parametrize("service", SERVICES)
def test_health_of_an_unknown_service_is_not_found(addresses: dict[str, str], service: str) -> None:
    answer = check_health(addresses[service], "x.Y")
    assert (answer.status, answer.document["code"], answer.reason) == (404, "not_found", "NOT_FOUND")
    assert answer.document["message"] == "this server has no service 'x.Y'"


def test_health_can_be_checked_with_plain_get(addresses: dict[str, str]) -> None:
    answer = ask(addresses[SERVICES[0]], "GET", HEALTH + "Check?encoding=json&message={}", authorization="")
    assert (answer.status, answer.document) == (200, {"status": "SERVING"})


def test_health_check_of_a_worker_works_with_get_and_without_a_token(addresses: dict[str, str]) -> None:
    path = "/iris.cluster.WorkerService/HealthCheck?encoding=json&message={}"
    answer = ask(addresses[SERVICES[1]], "GET", path, authorization="")
    assert (answer.status, answer.document["healthy"]) == (200, True)


def test_health_answer_in_binary_has_the_enum_numbers_of_grpc(addresses: dict[str, str]) -> None:
    answer = ask(addresses[SERVICES[0]], "POST", HEALTH + "Check", b"", content_type="application/proto")
    assert answer.body == b"\x08\x01"  # field 1, SERVING


def test_health_cannot_be_watched_without_a_token(addresses: dict[str, str]) -> None:
    answer = ask(addresses[SERVICES[0]], "POST", HEALTH + "Watch", b"\0" * 5, content_type="application/connect+proto")
    assert (answer.status, answer.document["code"]) == (404, "unimplemented")


def test_health_request_that_is_too_large_is_refused(addresses: dict[str, str]) -> None:
    answer = check_health(addresses[SERVICES[0]], "x" * 5000)
    assert (answer.status, answer.reason) == (429, "TOO_LARGE")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("service", SERVICES)
def test_reflection_lists_the_services_of_a_server(addresses: dict[str, str], service: str, version: str) -> None:
    answer, end = reflect(addresses[service], version, {"listServices": ""})
    names = {one["name"] for one in answer["listServicesResponse"]["service"]}
    reflection = {f"grpc.reflection.{each}.ServerReflection" for each in VERSIONS}
    assert (names, end) == ({service, "grpc.health.v1.Health", *reflection}, {})


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_returns_the_schema_that_this_release_was_generated_from(
    addresses: dict[str, str], version: str
) -> None:
    symbols = [f"{SERVICES[0]}.LaunchJob", "grpc.health.v1.HealthCheckRequest", "google.rpc.ErrorInfo"]
    *answers, end = reflect(addresses[SERVICES[0]], version, *({"fileContainingSymbol": each} for each in symbols))
    files = {}
    for answer in answers:
        for packed in answer["fileDescriptorResponse"]["fileDescriptorProto"]:
            file = FileDescriptorProto.FromString(base64.b64decode(packed))
            files[file.name] = file
    assert end == {}
    assert files.keys() == {"iris/rpc/cluster.proto", "grpc/health/v1/health.proto", "google/rpc/error_details.proto"}
    assert [one.name for one in files["iris/rpc/cluster.proto"].service] == [
        one.name for one in cluster_pb2.DESCRIPTOR.services_by_name.values()
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_reflection_needs_a_token_of_any_role(addresses: dict[str, str], service: str) -> None:
    for authorization in ("", "Bearer x"):
        (end,) = reflect(addresses[service], "v1", {"listServices": ""}, authorization=authorization)
        assert end["error"]["code"] == "unauthenticated"
    answer, end = reflect(addresses[service], "v1", {"listServices": ""}, authorization=f"Bearer {token('reader')}")
    assert ("listServicesResponse" in answer, end) == (True, {})
