"""A real cluster, and somebody who means it harm.

After each attack: a right error, nothing crashed, memory bounded, and another client, who follows a log all the while,
is unhurt.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from support.cluster import launch, running_cluster, shell, unique, wait_for_end, wait_for_state
from support.tokens import controller_token, token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2

CONTROLLER = "/iris.cluster.ControllerService/"
WORKER = "/iris.cluster.WorkerService/"
# Generous: what matters is that no attack takes what it likes.
MAX_GROWTH_BYTES = 300 * 1024**2
MAX_ERROR_CHARACTERS = 5000
OUR_FAULT = {"internal", "unknown", "data_loss"}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

HOSTILE_NAMES = {
    "empty": "",
    "path": "../../x",
    "slash": "a/b",
    "dots": "..",
    "long": "x" * 10_000,
    "long of controls": "\x1b" * 10_000,
    "emoji": "👩‍🚀" * 3,
    "escape": "\x1b]0;pwned\x07\x1b[2J",
    "right to left": "a\u202etxt.exe",
    "lines": "a\nb\r\u2028c",
    "NUL": "a\0b",
    "surrogate": "a\ud800b",
    "task": "x/task-99999999999999999999",
    "sql": "'; DROP TABLE jobs; --",
    "format": "{0.__class__}%s%n${HOME}",
}


class Target:
    """A cluster, its processes, and a client of it that follows a log."""

    def __init__(self, address: str, pid: int, pipe: Path, client: IrisClient, job_id: str) -> None:
        self.address = address
        self.server = psutil.Process(pid)
        (self.worker,) = self.server.children()
        self.worker_address = client.cluster.list_workers()[0].address
        self.client = client
        self.job_id = job_id
        self._pipe = pipe.open("w")
        self._count = 0
        self._seen: list[str] = []
        self._following = threading.Thread(target=self._follow, daemon=True)
        self._following.start()
        self.assert_unhurt()
        self._before = self.memory()

    def _follow(self) -> None:
        for line in self.client.stream_task_logs(self.job_id, task_index=0, follow=True):
            self._seen.append(line.message)

    def memory(self) -> dict[int, int]:
        return {process.pid: process.memory_info().rss for process in (self.server, self.worker)}

    def assert_unhurt(self) -> None:
        """A line that the task writes now comes to who has followed since before, calls are answered, and nothing has
        crashed or grown."""
        self._count += 1
        self._pipe.write(f"line {self._count}\n")
        self._pipe.flush()
        wait_until(lambda: f"line {self._count}" in self._seen, "the line that was just written")
        assert self._seen == [f"line {number + 1}" for number in range(self._count)]
        assert self.client.cluster.get_task_status(self.job_id, 0).state == cluster_pb2.TASK_STATE_RUNNING
        assert self.server.is_running()
        assert self.worker.is_running()

    def assert_not_grown(self) -> None:
        grown = {pid: now - self._before[pid] for pid, now in self.memory().items()}
        assert max(grown.values()) < MAX_GROWTH_BYTES

    def close(self) -> None:
        self._pipe.close()
        wait_for_end(self.client.cluster, self.job_id)
        self._following.join(30)
        assert not self._following.is_alive()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("hostile")
    with running_cluster(directory / "cluster") as server, IrisClient.remote(server.address) as client:
        pipe = directory / "pipe"
        os.mkfifo(pipe)
        job_id = launch(client.cluster, shell(f"exec cat {pipe}"), name="followed")
        wait_for_state(client.cluster, job_id, cluster_pb2.JOB_STATE_RUNNING)
        running = Target(server.address, server.process.pid, pipe, client, job_id)
        yield running
        running.close()
    complaints = (directory / "cluster" / "server.log").read_text()
    complaints += (directory / "cluster" / "workers" / "local-0.log").read_text()
    assert "Traceback" not in complaints, complaints[-5000:]


@pytest.fixture(autouse=True)
def unhurt(target: Target) -> Iterator[None]:
    yield
    target.assert_unhurt()
    target.assert_not_grown()


def connect(address: str) -> socket.socket:
    url = urlsplit(address)
    return socket.create_connection((url.hostname, url.port), timeout=30)


def ask(
    address: str,
    path: str,
    body: bytes,
    content_type: str = "application/json",
    method: str = "POST",
    first_message_only: bool = False,
    **headers: str,
) -> tuple[int, bytes]:
    """Make a request, and return the status and the body of the answer, or the first message of a stream."""
    url = urlsplit(address)
    with closing(http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        # One that lets in: what is tried is what lies behind the gate.
        named.setdefault(
            "authorization", f"Bearer {controller_token('local-0') if path.startswith(WORKER) else token()}"
        )
        connection.request(method, path, body, {"content-type": content_type, **named})
        response = connection.getresponse()
        if first_message_only and response.status == 200:
            head = response.read(5)
            return 200, head + response.read(int.from_bytes(head[1:], "big"))
        return response.status, response.read()


def error_of(
    answer: tuple[int, bytes], content_type: str = "application/json", endless: bool = False
) -> dict[str, Any]:
    """Return the error in an answer, or {} if there is none. Only the first message of an endless stream was read."""
    status, body = answer
    if content_type.startswith("application/connect+"):
        if status != 200:
            return {"code": "unimplemented", "message": ""}
        at = 0
        while at < len(body):
            flags, length = struct.unpack_from(">BI", body, at)
            if flags & 2:
                found: dict[str, Any] = json.loads(body[at + 5 : at + 5 + length]).get("error", {})
                return found
            at += 5 + length
            if endless:
                return {}
        raise AssertionError(f"a stream without an end: {body!r}")
    if status == 200:
        return {}
    error: dict[str, Any] = json.loads(body) if body else {"code": f"http-{status}", "message": ""}
    return error


def assert_right(error: dict[str, Any], what: str) -> None:
    assert error.get("code") not in OUR_FAULT, f"{what}: {error}"
    message = error.get("message", "")
    assert "a bug of Iris" not in message, what
    assert len(message) < MAX_ERROR_CHARACTERS, what
    assert not CONTROL.search(message), f"{what}: {message!r}"


def envelope(body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(body)) + body


# Names, in every field of every call that takes text.


def text_fields(message: Descriptor, way: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The ways to all fields of text below a message; those in messages that contain themselves once."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (*way, field)
        elif field.message_type is not None and field.message_type not in [step.message_type for step in way]:
            yield from text_fields(field.message_type, (*way, field))


def filled(way: tuple[FieldDescriptor, ...], value: str | int, base: dict[str, Any]) -> dict[str, Any]:
    """A request in JSON with a value at the end of a way, above what the call needs otherwise."""
    inner: Any = value
    for field in reversed(way):
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            inner = {inner.get("key", "k"): inner.get("value", "v")}
        elif field.is_repeated:
            inner = [inner]
        inner = {field.json_name: inner}
    merged: dict[str, Any] = merge(base, inner)
    return merged


def merge(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    if isinstance(base, list) and isinstance(over, list) and base and isinstance(base[0], dict):
        return [merge(base[0], over[0])]
    return over


# What a call needs to come as far as the field that is attacked.
BASES: dict[str, dict[str, Any]] = {
    "LaunchJob": {"name": "hostile", "command": ["true"]},
    "RegisterWorker": {"workerId": "hostile", "address": "http://127.0.0.1:9", "incarnation": "1"},
    "RegisterEndpoint": {"name": "hostile", "address": "127.0.0.1:9"},
    "ReportTaskState": {"workerId": "nobody", "taskId": "followed/task-0", "jobId": "followed"},
    "ReportTaskStates": {
        "workerId": "local-0",
        "reports": [{"workerId": "local-0", "taskId": "followed/task-0", "jobId": "followed"}],
    },
    "StoreLogs": {"workerId": "local-0", "pieces": [{"taskId": "followed/task-0"}]},
    "FetchTaskLogs": {"taskId": "followed/task-0"},
    "StreamTaskLogs": {"jobId": "followed", "positions": [{"taskIndex": 0}]},
    "FetchLogParts": {"jobId": "followed", "reads": [{"taskIndex": 0, "sourceByte": {"source": "stdout"}}]},
    "RunTask": {"jobId": "hostile", "taskId": "hostile/task-0", "numTasks": 1, "command": ["true"]},
    "RunTasks": {"shared": {"jobId": "hostile", "numTasks": 1, "command": ["true"]}, "places": [{"taskIndex": 0}]},
}


# These streams never end by themselves.
ENDLESS = ("WatchJobs", "WatchCluster", "WatchEvents")


def methods() -> list[MethodDescriptor]:
    services = cluster_pb2.DESCRIPTOR.services_by_name
    return [method for name in ("ControllerService", "WorkerService") for method in services[name].methods]


def attack(target: Target, method: MethodDescriptor, request: dict[str, Any], what: str) -> None:
    address = target.address if method.containing_service.name == "ControllerService" else target.worker_address
    path = f"/{method.containing_service.full_name}/{method.name}"
    text = json.dumps(request).encode()
    content_type = "application/connect+json" if method.server_streaming else "application/json"
    body = envelope(text) if method.server_streaming else text
    endless = method.name in ENDLESS
    error = error_of(ask(address, path, body, content_type, first_message_only=endless), content_type, endless)
    assert_right(error, what)
    if "ud800" in text.decode():
        assert error["code"] == "invalid_argument", what


@pytest.mark.parametrize("method", methods(), ids=lambda method: f"{method.containing_service.name[:6]}-{method.name}")
def test_calls_with_hostile_names_are_refused_or_answered_correctly(target: Target, method: MethodDescriptor) -> None:
    base = BASES.get(method.name, {})
    count = 0
    for way in text_fields(method.input_type):
        for name, value in HOSTILE_NAMES.items():
            what = f"{method.name}.{'.'.join(field.name for field in way)} = {name}"
            if method.name == "LaunchJob":  # each a job of its own
                base = {**base, "name": f"hostile-{os.urandom(6).hex()}"}
            attack(target, method, filled(way, value, base), what)
            count += 1
    assert count or not list(text_fields(method.input_type))


def numbers(message: Descriptor, way: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The ways to all whole numbers below a message; those in messages that contain themselves once."""
    for field in message.fields:
        if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
            yield (*way, field)
        elif field.message_type is not None and field.message_type not in [step.message_type for step in way]:
            yield from numbers(field.message_type, (*way, field))


@pytest.mark.parametrize("method", methods(), ids=lambda method: f"{method.containing_service.name[:6]}-{method.name}")
def test_calls_with_extreme_numbers_are_refused_or_answered_correctly(target: Target, method: MethodDescriptor) -> None:
    base = BASES.get(method.name, {})
    for way in numbers(method.input_type):
        edge = 2**31 if way[-1].cpp_type == FieldDescriptor.CPPTYPE_INT32 else 2**63
        for number in (-1, -edge, edge - 1):
            if method.name == "LaunchJob":
                base = {**base, "name": f"hostile-{os.urandom(6).hex()}"}
            what = f"{method.name}.{'.'.join(field.name for field in way)} = {number}"
            attack(target, method, filled(way, number, base), what)


@pytest.mark.parametrize(
    ("filter_", "words"),
    [
        ({"regex": "("}, "expected RE2"),
        ({"regex": "(a{1000}){1000}"}, "expected RE2"),
        ({"regex": "a" * 1_000_000}, "at most 10,000 characters, got 1,000,000"),
        ({"regex": "\x1b[31m("}, "\\x1b[31m("),
        ({"regex": "\ud800"}, "Unpaired surrogate"),
        ({"startLine": str(-(2**63))}, None),
        ({"startLine": str(2**63 - 1)}, None),
        ({"maxLines": 2**31 - 1, "sources": ["stdout"] * 100_000}, None),
        ({"sources": ["x" * 100_000]}, "sources"),
        ({"startMs": str(2**63 - 1), "endMs": "1"}, None),
    ],
)
def test_log_filter_that_is_invalid_is_refused_with_an_explanation(
    target: Target, filter_: dict[str, Any], words: str | None
) -> None:
    for address, path in ((target.address, CONTROLLER), (target.worker_address, WORKER)):
        text = json.dumps({"taskId": "followed/task-0", "filter": filter_}).encode()
        error = error_of(ask(address, path + "FetchTaskLogs", text))
        assert_right(error, str(filter_)[:100])
        assert (words or "") in error.get("message", "")
        assert bool(error) == (words is not None)


# Messages.

MESSAGES: dict[str, tuple[str, bytes, str]] = {
    "deep JSON list": ("ListJobs", b"[" * 1_000_000, "invalid_argument"),
    "deep JSON object": ("LaunchJob", b'{"coscheduling":' * 100_000, "invalid_argument"),
    "deep JSON in an unknown field": ("ListJobs", b'{"x":' * 100_000 + b"1" + b"}" * 100_000, "invalid_argument"),
    "huge number": ("GetTaskStatus", b'{"jobId":"x","taskIndex":' + b"9" * 100_000 + b"}", "invalid_argument"),
    "huge exponent": ("GetTaskStatus", b'{"jobId":"x","taskIndex":1e999}', "invalid_argument"),
    "half a surrogate": ("GetJobStatus", b'{"jobId":"\\ud800"}', "invalid_argument"),
    "no UTF-8": ("GetJobStatus", b'{"jobId":"\xff"}', "invalid_argument"),
    "no JSON": ("ListJobs", b"<xml/>", "invalid_argument"),
    "nothing": ("ListJobs", b"", "invalid_argument"),
    "wrong type": ("GetJobStatus", b'{"jobId":{"a":[1,2]}}', "invalid_argument"),
    "unknown field": ("ListJobs", b'{"noSuchField":{"a":[1,2]}}', ""),
    "unknown word": ("LaunchJob", b'{"name":"x","command":["true"],"placement":"SPREAD"}', "invalid_argument"),
    "misplaced field": ("LaunchJob", b'{"name":"x","command":["true"],"replicas":4}', "invalid_argument"),
    "misspelt field in a large request": (
        "LaunchJob",
        b'{"name":"x","command":["true"],"submissionID":"%s"}' % (b"a" * 100_000),
        "invalid_argument",
    ),
    "unknown number": ("LaunchJob", b'{"name":"x","command":["true"],"placement":9}', "invalid_argument"),
    "a field twice": ("LaunchJob", b'{"name":"x","name":"y","command":["true"]}', "invalid_argument"),
    "wrong base64": ("LaunchJob", b'{"name":"x","bundleBlob":"****"}', "invalid_argument"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_hostile_json_message_has_the_expected_error_code(target: Target, name: str) -> None:
    method, body, code = MESSAGES[name]
    error = error_of(ask(target.address, CONTROLLER + method, body))
    assert error.get("code", "") == code
    assert_right(error, name)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x0a\x01\xff", id="no UTF-8"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="a length of 4 GB"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="a length of 2**64"),
        pytest.param(b"\x0b" * 1_000_000, id="deep groups"),
        pytest.param(b"\xff" * 1000, id="garbage"),
        pytest.param(b"\x08", id="cut off"),
    ],
)
def test_malformed_binary_message_is_refused(target: Target, body: bytes) -> None:
    for address, path in ((target.address, CONTROLLER + "GetJobStatus"), (target.worker_address, WORKER + "RunTasks")):
        error = error_of(ask(address, path, body, "application/proto"))
        assert error["code"] == "invalid_argument"
        assert_right(error, "binary")


def test_unknown_enum_numbers_in_binary_are_refused(target: Target) -> None:
    request = cluster_pb2.Controller.LaunchJobRequest(name="hostile", command=["true"], placement=9)
    body = request.SerializeToString()
    error = error_of(ask(target.address, CONTROLLER + "LaunchJob", body, "application/proto"))
    assert error["code"] == "invalid_argument"
    assert "placement=9 is not a Placement" in error["message"]
    shared = cluster_pb2.Worker.RunTaskRequest(job_id="hostile", num_tasks=1, command=["true"], rendezvous=9)
    body = cluster_pb2.Worker.RunTasksRequest(shared=shared).SerializeToString()
    error = error_of(ask(target.worker_address, WORKER + "RunTasks", body, "application/proto"))
    assert error["code"] == "invalid_argument"


def test_unknown_fields_in_a_binary_message_are_ignored(target: Target) -> None:
    body = cluster_pb2.Controller.GetJobStatusRequest(job_id="followed").SerializeToString() + b"\xfa\x3f\x03abc"
    assert ask(target.address, CONTROLLER + "GetJobStatus", body, "application/proto")[0] == 200


STREAM = "application/connect+json"
FRAMES: dict[str, tuple[bytes, str]] = {
    "4 GB declared": (b"\0\xff\xff\xff\xff{}", "resource_exhausted"),
    "cut off": (b"\0\0\0\0\x50{}", "invalid_argument"),
    "cut off in its head": (b"\0\0", "invalid_argument"),
    "unknown flags": (b"\xf0\0\0\0\2{}", "invalid_argument"),
    "an end where a message belongs": (envelope(b"{}", 2), "invalid_argument"),
    # Of what is said to be compressed without a word of how, the protocol itself demands this code.
    "compressed by nothing": (envelope(b"{}", 1), "internal"),
    "none": (b"", "unimplemented"),
    "two": (envelope(b"{}") * 2, "unimplemented"),
    "garbage inside": (envelope(b"\xff\xff"), "invalid_argument"),
    "deep inside": (envelope(b'{"filter":' * 100_000), "invalid_argument"),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("method", ["StreamTaskLogs", "WatchJob"])
def test_malformed_stream_frames_have_the_expected_error_code(target: Target, method: str, name: str) -> None:
    frames, code = FRAMES[name]
    error = error_of(ask(target.address, CONTROLLER + method, frames, STREAM), STREAM)
    assert error["code"] == code
    assert "a bug of Iris" not in error["message"]
    if method == "StreamTaskLogs":
        error = error_of(ask(target.worker_address, WORKER + method, frames, STREAM), STREAM)
        assert error["code"] == code


@cache
def bomb() -> bytes:
    """Return a small gzip stream that grows to 100 MiB."""
    return gzip.compress(b'{"x":"' + bytes(100 * 1024**2) + b'"}', compresslevel=1)


@pytest.mark.parametrize(
    ("encoding", "make_body", "code"),
    [
        pytest.param("gzip", bomb, "resource_exhausted", id="bomb"),
        pytest.param("gzip", lambda: b"no gzip", "invalid_argument", id="no-gzip"),
        pytest.param("gzip", lambda: bomb()[:1000], "invalid_argument", id="truncated"),
        pytest.param("br", bomb, "unimplemented", id="br"),
        pytest.param("deflate", bytes, "unimplemented", id="deflate"),
        pytest.param("x" * 1000, bytes, "unimplemented", id="long-name"),
    ],
)
def test_compressed_request_that_is_large_malformed_or_unknown_is_refused(
    target: Target, encoding: str, make_body: Callable[[], bytes], code: str
) -> None:
    body = make_body()
    error = error_of(ask(target.address, CONTROLLER + "ListJobs", body, content_encoding=encoding))
    assert error["code"] == code
    assert_right(error, encoding)
    answer = ask(target.address, CONTROLLER + "WatchJob", envelope(body, 1), STREAM, connect_content_encoding=encoding)
    assert error_of(answer, STREAM)["code"] == code


def test_request_that_is_compressed_with_gzip_is_understood(target: Target) -> None:
    answer = ask(target.address, CONTROLLER + "ListJobs", gzip.compress(b"{}"), content_encoding="gzip")
    assert answer[0] == 200
    assert "jobs" in json.loads(answer[1]) or json.loads(answer[1]) == {}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_method_other_than_post_is_refused_for_a_call_that_changes_something(target: Target, method: str) -> None:
    assert ask(target.address, CONTROLLER + "LaunchJob", b"{}", method=method)[0] == 405


def test_invalid_path_content_type_or_header_is_refused(target: Target) -> None:
    for path in (
        "/x",
        "//",
        CONTROLLER,
        CONTROLLER + "NoSuchMethod",
        CONTROLLER + "../x",
        "/%00%ff",
        WORKER + "RunTask",
    ):
        assert ask(target.address, path, b"{}")[0] == 404
    assert ask(target.address, "/", b"{}")[0] == 405  # the page is at this path
    for content_type in ("text/html", "application/x-www-form-urlencoded", "application/jsonx", "", "x" * 1000):
        assert ask(target.address, CONTROLLER + "ListJobs", b"{}", content_type)[0] == 415
    assert ask(target.address, CONTROLLER + "ListJobs", b"{}", STREAM)[0] == 415
    assert ask(target.address, CONTROLLER + "WatchJob", b"{}")[0] == 415
    for timeout in ("abc", "-5", "9" * 100, "1e3", "", "0x1"):
        error = error_of(ask(target.address, CONTROLLER + "ListJobs", b"{}", connect_timeout_ms=timeout))
        assert error.get("code", "invalid_argument") == "invalid_argument"
    error = error_of(ask(target.address, CONTROLLER + "ListJobs", b"{}", connect_protocol_version="7"))
    assert error["code"] == "invalid_argument"


# Sizes.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "x" * 201}, "over the limit of 200"),
        ({"name": "é" * 101}, "202 bytes in UTF-8"),
        ({"parentJobId": "x/" * 600}, "the job's id is too large"),
        ({"command": ["x" * 200_000]}, "a word of the command is too large"),
        ({"command": ["x" * 100_000] * 10}, "the command is too large"),
        ({"environment": {"envVars": {"A": "x" * 200_000}}}, "the environment variable 'A' is too large"),
        ({"environment": {"envVars": {f"A{i}": "x" * 100_000 for i in range(10)}}}, "the environment is too large"),
        ({"ports": [f"p{i}" for i in range(101)]}, "up to 100 ports, got 101"),
        ({"submissionId": "x" * 1000}, "submission_id is too large"),
        ({"workingDirectory": "/" + "x" * 5000}, "working_directory is too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_submission_over_a_size_limit_is_refused(target: Target, fields: dict[str, Any], words: str) -> None:
    body = json.dumps({"name": "hostile", "command": ["true"], **fields}).encode()
    error = error_of(ask(target.address, CONTROLLER + "LaunchJob", body))
    assert error["code"] == "resource_exhausted"
    assert words in error["message"]
    assert_right(error, words)


def test_memory_of_refused_workspaces_is_freed(target: Target) -> None:
    large = cluster_pb2.Controller.LaunchJobRequest(name="hostile", command=["true"], bundle_hash="0" * 64)
    large.bundle_blob = bytes(111 * 1024**2)
    body = large.SerializeToString()
    for _ in range(2):
        error = error_of(ask(target.address, CONTROLLER + "LaunchJob", body, "application/proto"))
        assert error["code"] == "resource_exhausted"
        assert "the packed workspace is too large: 116,391,936 bytes" in error["message"]
        error = error_of(ask(target.address, CONTROLLER + "LaunchJob", body[:-1], "application/proto"))
        assert error["code"] == "invalid_argument"  # it is cut off


def test_callable_over_the_size_limit_is_refused(target: Target) -> None:
    large = cluster_pb2.Controller.LaunchJobRequest(name="hostile", serialized_entrypoint=bytes(65 * 1024**2))
    answer = ask(target.address, CONTROLLER + "LaunchJob", large.SerializeToString(), "application/proto")
    assert error_of(answer)["code"] == "resource_exhausted"
    assert "the pickled callable is too large" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("method", "mebibytes", "content_type"),
    [
        ("ListJobs", 5, "application/proto"),
        ("LaunchJob", 17, "application/json"),
        ("LaunchJob", 161, "application/proto"),
    ],
)
def test_message_over_the_size_limit_is_refused(target: Target, method: str, mebibytes: int, content_type: str) -> None:
    with connect(target.address) as connection:
        head = f"POST {CONTROLLER}{method} HTTP/1.1\r\ncontent-type: {content_type}\r\ncontent-length: "
        connection.sendall(f"{head}{mebibytes * 1024**2}\r\n\r\n".encode())  # nothing of it has to be sent
        status, _, answer = connection.makefile("rb").read().partition(b"\r\n\r\n")
        error = error_of((int(status.split()[1]), answer))
        assert error["code"] == "resource_exhausted"
        assert "the request is too large" in error["message"]


# Connections.


def test_server_answers_despite_thousands_of_idle_and_many_slow_connections(target: Target) -> None:
    with ExitStack() as opened:
        for number in range(2000):
            connection = opened.enter_context(connect(target.address))
            if number % 4 == 1:
                connection.sendall(b"POST / HTTP/1.1\r\nx: ")
            if number % 4 == 2:
                connection.sendall(f"POST {CONTROLLER}ListJobs HTTP/1.1\r\ncontent-length: 9\r\n\r\n".encode())
        target.assert_unhurt()
        with RemoteClusterClient(target.address) as another:
            assert another.list_jobs()


def test_server_answers_despite_a_flood_of_pipelined_requests(target: Target) -> None:
    request = (
        f"POST {CONTROLLER}ListWorkers HTTP/1.1\r\nauthorization: Bearer {token()}\r\n"
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    with connect(target.address) as connection:
        sender = threading.Thread(target=connection.sendall, args=(request.encode() * 3000,))
        sender.start()
        seen = b""
        while seen.count(b"HTTP/1.1 200 OK") < 3000:
            chunk = connection.recv(65536)
            assert chunk
            seen += chunk
        sender.join()


def test_clients_that_disconnect_during_a_request_leak_no_memory(target: Target) -> None:
    text = json.dumps({"jobId": "followed", "follow": True, "positions": [{"taskIndex": 0}]}).encode()
    body = envelope(text)
    head = (
        f"POST {CONTROLLER}StreamTaskLogs HTTP/1.1\r\nauthorization: Bearer {token()}\r\n"
        f"content-type: {STREAM}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    whole = head.encode() + body
    for cut in range(1, len(whole), 7):
        with connect(target.address) as connection:
            connection.sendall(whole[:cut])
    for _ in range(50):
        with connect(target.address) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(whole)
            assert connection.recv(10)
    wait_until(
        lambda: len([c for c in target.server.net_connections("tcp") if c.status == "CLOSE_WAIT"]) == 0,
        "the connections of those who left to be closed",
    )


def test_server_and_worker_processes_survived_all_hostile_calls(target: Target) -> None:
    assert target.server.is_running()

    def local_0() -> cluster_pb2.Controller.WorkerHealthStatus:
        (worker,) = [worker for worker in target.client.cluster.list_workers() if worker.worker_id == "local-0"]
        return worker

    wait_until(lambda: local_0().healthy, "the worker to be healthy")
    assert local_0().address == target.worker_address
    odd = target.client.run(["true"], name=unique("odd and harmless: ä 日本 $(x)"))
    jobs = target.client.list_jobs()
    assert odd.job_id in [job.job_id for job in jobs]
    assert not [job.job_id for job in jobs if CONTROL.search(job.job_id)]
