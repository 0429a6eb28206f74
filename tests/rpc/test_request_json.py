"""Requests in JSON say what their sender meant, or are refused with what was probably meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.serving.request_enums import check_enums
from iris.rpc.serving.request_json import parse_request

LAUNCH = pb.Controller.LaunchJobRequest


def parse(document: Any, message_class: type[Message] = LAUNCH) -> Message:
    return parse_request(json.dumps(document).encode(), message_class)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"placement": "SPREAD"}, "placement='SPREAD' is not a Placement: did you mean 'PLACEMENT_SPREAD'?"),
        ({"placement": "spread"}, "did you mean 'PLACEMENT_SPREAD'"),
        ({"placement": "placement_together"}, "did you mean 'PLACEMENT_TOGETHER'"),
        ({"placement": "PLACEMENT_SPRED"}, "did you mean 'PLACEMENT_SPREAD'"),
        ({"placement": "anything"}, "expected one of PLACEMENT_UNSPECIFIED, PLACEMENT_SPREAD, PLACEMENT_TOGETHER"),
        ({"placement": ""}, "placement='' is not a Placement"),
        ({"rendezvous": "torch"}, "did you mean 'RENDEZVOUS_TORCH'"),
        (
            {"constraints": [{"key": "a", "op": "EQ"}]},
            r"constraints\[0\].op='EQ' is not a ConstraintOp.*CONSTRAINT_OP_EQ",
        ),
        ({"replicas": 4}, "no field 'replicas': did you mean 'resources.replicas'?"),
        ({"gpu": {"count": 1}}, "did you mean 'resources.device.gpu'"),
        ({"resources": {"gpu": {"count": 1}}}, "'resources.gpu': did you mean 'resources.device.gpu'"),
        ({"env_vars": {"A": "b"}}, "did you mean 'environment.envVars'"),
        ({"resources": {"replicsa": 4}}, "no field 'resources.replicsa': did you mean 'resources.replicas'"),
        ({"max_retries_failures": 4}, "did you mean 'maxRetriesFailure'"),
        ({"timeoutSecond": 4}, "did you mean 'timeoutSeconds'"),
        ({"constraints": [{"kye": "a"}]}, r"'constraints\[0\].kye': did you mean 'constraints\[0\].key'"),
        ({"zzz": 1}, "LaunchJobRequest has no field 'zzz': expected one of name, serializedEntrypoint"),
        ({"maxTaskFailures": 1, "max_task_failures": 2}, "are the same field"),
        ({"name": 5}, "the request is not a valid LaunchJobRequest"),
        ([], r"\[\] is not a LaunchJobRequest: expected a JSON object"),
        ({"resources": [1]}, r"resources: \[1\] is not a ResourceSpecProto"),
        ({"ports": "http"}, "the request is not a valid LaunchJobRequest"),
    ],
)
def test_json_request_with_a_mistake_is_refused_with_the_nearest_name(document: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words.replace("?", r"\?")):
        parse(document)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the request is not valid JSON: [A-Z]"),
        (b"<xml/>", "not valid JSON"),
        (b"null", "None is not a LaunchJobRequest"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"name":"a","name":"b"}', "'name' twice"),
        (b'{"environment":' * 200 + b"1" + b"}" * 200, "did you mean|has no field"),
    ],
)
def test_request_with_invalid_json_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        parse_request(text, LAUNCH)


def test_json_request_with_fields_in_camel_case_or_snake_case_is_accepted() -> None:
    document = {
        "name": "job",
        "max_retries_failure": 0,
        "maxTaskFailures": "3",
        "placement": "PLACEMENT_SPREAD",
        "rendezvous": 1,
        "environment": {"envVars": {"anyName": "x", "placement": "y"}, "pip_packages": ["a"]},
        "resources": {"device": {"gpu": {"count": 2}}, "memoryBytes": "5"},
        "constraints": [{"key": "k", "op": "CONSTRAINT_OP_EQ", "value": {"stringValue": "v"}}],
        "schedulingTimeoutSeconds": None,
    }
    request = parse(document)
    assert isinstance(request, LAUNCH)
    assert (request.HasField("max_retries_failure"), request.max_task_failures) == (True, 3)
    assert (request.placement, request.rendezvous) == (pb.PLACEMENT_SPREAD, pb.RENDEZVOUS_TORCH)
    assert dict(request.environment.env_vars) == {"anyName": "x", "placement": "y"}
    assert (request.resources.device.gpu.count, request.constraints[0].op) == (2, pb.CONSTRAINT_OP_EQ)


def test_json_request_that_only_reads_ignores_new_fields_and_refuses_misspelt_ones() -> None:
    tasks = pb.Controller.ListTasksRequest
    assert parse({"jobId": "a", "sortedBy": "state"}, tasks) == tasks(job_id="a")
    with pytest.raises(InvalidArgumentError, match="did you mean 'pageSize'"):
        parse({"jobId": "a", "pageSzie": 5}, tasks)
    with pytest.raises(InvalidArgumentError, match=r"did you mean 'filter.regex'"):
        parse({"taskId": "a/task-0", "regex": "x"}, pb.Worker.FetchTaskLogsRequest)


@pytest.mark.parametrize("message_class", [pb.Controller.OpenTunnelRequest, pb.Worker.OpenTunnelRequest])
def test_json_request_that_opens_a_tunnel_with_an_unknown_field_is_refused(message_class: type[Message]) -> None:
    with pytest.raises(InvalidArgumentError, match="OpenTunnelRequest has no field 'zzz': expected one of"):
        parse({"tunnelId": "0123456789abcdef", "zzz": 1}, message_class)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            LAUNCH(placement=7),
            r"placement=7 is not a Placement that this release knows: expected one of 0 \(PLACEMENT_",
        ),
        (LAUNCH(rendezvous=-1), "rendezvous=-1 is not a Rendezvous"),
        (LAUNCH(constraints=[pb.Constraint(op=1), pb.Constraint(op=99)]), "constraints.op=99 is not a ConstraintOp"),
        (pb.Controller.ReportTaskStateRequest(state=9), "state=9 is not a TaskState"),
        (
            pb.Controller.ReportTaskStatesRequest(reports=[pb.Controller.ReportTaskStateRequest(state=77)]),
            "reports.state=77 is not a TaskState",
        ),
        (pb.Worker.RunTasksRequest(shared=pb.Worker.RunTaskRequest(rendezvous=3)), "shared.rendezvous=3"),
        (parse({"placement": 12}), "placement=12"),
        (parse({"placement": "12"}), "placement=12"),
    ],
)
def test_request_with_an_unknown_enum_number_is_refused(request_: Message, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        check_enums(request_)


def test_binary_request_with_unknown_fields_and_known_enums_is_accepted() -> None:
    data = LAUNCH(name="a", placement=pb.PLACEMENT_TOGETHER).SerializeToString() + b"\xfa\x3f\x03abc"
    check_enums(LAUNCH.FromString(data))
    check_enums(pb.Controller.LaunchJobRequest(constraints=[pb.Constraint(key="k")]))
