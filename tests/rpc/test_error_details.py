"""The detail of an error: the reason and the metadata that each failed call carries to programs."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from iris.errors import ControllerUnreachableError, IrisError, NotFoundError, ResourceExhaustedError, UnavailableError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.calls import call, call_async, stream
from iris.rpc.cluster_connect import (
    ControllerService,
    ControllerServiceASGIApplication,
    ControllerServiceClient,
    ControllerServiceClientSync,
)
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.http.server.asgi_server import HttpServer
from iris.rpc.peer import Peer
from iris.rpc.serving.codecs import CODECS
from iris.rpc.serving.error_interceptors import DetailInterceptor, ErrorInterceptor, ReleaseInterceptor
from iris.system.sockets import bind

Controller = cluster_pb2.Controller


class FailingService(ControllerService):
    """A controller that answers each call with the error that it was given."""

    def __init__(self) -> None:
        self.error: Exception | None = IrisError("not set")

    async def get_job_status(self, request: Any, ctx: Any) -> Any:
        """Fail, or answer never."""
        if self.error is None:
            await asyncio.Event().wait()
        raise self.error

    async def watch_job(self, request: Any, ctx: Any) -> AsyncIterator[Any]:
        """Fail before the first message."""
        if self.error is not None:
            raise self.error
        yield Controller.WatchJobResponse()


class FailingServer:
    """A server on the loopback that answers with the error in `service.error`."""

    def __init__(self) -> None:
        self.service = FailingService()
        listener = bind("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        application = ControllerServiceASGIApplication(
            self.service,
            interceptors=(ReleaseInterceptor(), DetailInterceptor(), ErrorInterceptor()),
            codecs=CODECS,
            compressions=(),
        )
        self._loop = asyncio.new_event_loop()
        self._server = HttpServer({application.path: application}, listener)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._run(self._start())

    async def _start(self) -> None:
        self._server.start()

    def _run(self, awaitable: Any) -> None:
        asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(30)

    def close(self) -> None:
        """Stop the server."""
        self._run(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def server() -> Iterator[FailingServer]:
    with closing(FailingServer()) as server:
        yield server


def peer_of(server: FailingServer) -> Peer:
    return Peer(server.address, "the controller", ControllerUnreachableError)


REQUEST = Controller.GetJobStatusRequest(job_id="train")
ERROR = NotFoundError("no job named 'train'", reason=ErrorReason.JOB_NOT_FOUND, metadata={"job_id": "train"})


def unary(server: FailingServer) -> None:
    with closing(HttpTransport(server.address)) as transport:
        stub = ControllerServiceClientSync(
            server.address, http_client=transport.connect_client(), accept_compression=(), send_compression=None
        )
        call(stub.get_job_status, REQUEST, peer_of(server))


def unary_async(server: FailingServer) -> None:
    async def ask() -> None:
        stub = ControllerServiceClient(server.address, accept_compression=(), send_compression=None)
        await call_async(stub.get_job_status, REQUEST, peer_of(server))

    asyncio.run(ask())


def streamed(server: FailingServer) -> None:
    with closing(HttpTransport(server.address)) as transport:
        stub = ControllerServiceClientSync(
            server.address, http_client=transport.connect_client(), accept_compression=(), send_compression=None
        )
        list(stream(stub.watch_job(Controller.WatchJobRequest(job_id="train")), peer_of(server)))


def test_tracebacks_of_an_error_whose_causes_form_a_circle_are_cleared() -> None:
    error, cause = ConnectError(Code.INTERNAL, "x"), ValueError("y")
    error.__cause__, cause.__context__ = cause, error
    asyncio.run(ReleaseInterceptor().on_end(None, None, error))
    assert (error.__traceback__, cause.__traceback__) == (None, None)


def test_server_answers_other_calls_after_the_deadline_of_a_call_has_passed(server: FailingServer) -> None:
    server.service.error = None
    body = json.dumps({"jobId": "train"}).encode()
    headers = {"content-type": "application/json", "connect-timeout-ms": "50"}
    request = urllib.request.Request(f"{server.address}/iris.cluster.ControllerService/GetJobStatus", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as answer:
        assert json.loads(answer.read())["code"] == "deadline_exceeded"
    server.service.error = ERROR
    with pytest.raises(NotFoundError):
        unary(server)


@pytest.mark.parametrize("ask", [unary, unary_async, streamed])
@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        ResourceExhaustedError("the disk is full", reason=ErrorReason.SHORTAGE),
        IrisError("a class without a code of its own"),
    ],
)
def test_error_of_a_call_keeps_reason_and_metadata(server: FailingServer, ask: Any, error: IrisError) -> None:
    server.service.error = error
    with pytest.raises(IrisError) as caught:
        ask(server)
    assert caught.value.reason == error.reason
    assert caught.value.metadata == error.metadata
    assert str(caught.value) == str(error)


def test_error_of_an_unavailable_server_keeps_its_reason_and_is_an_unreachable_error(server: FailingServer) -> None:
    server.service.error = UnavailableError("the worker is gone", reason=ErrorReason.WORKER_UNREACHABLE)
    with pytest.raises(ControllerUnreachableError) as caught:
        unary(server)
    assert caught.value.reason == ErrorReason.WORKER_UNREACHABLE


def test_error_of_a_bug_has_the_reason_internal(server: FailingServer) -> None:
    server.service.error = KeyError("a bug")
    with pytest.raises(IrisError) as caught:
        unary(server)
    assert (caught.value.code, caught.value.reason) == ("internal", ErrorReason.INTERNAL)


def test_unknown_reason_of_a_newer_server_is_kept_as_text(server: FailingServer) -> None:
    server.service.error = NotFoundError("no such queue", reason="QUEUE_NOT_FOUND", metadata={"queue": "night"})
    with pytest.raises(NotFoundError) as caught:
        unary(server)
    assert (caught.value.reason, caught.value.metadata) == ("QUEUE_NOT_FOUND", {"queue": "night"})


def test_error_in_json_shows_reason_and_metadata_to_curl(server: FailingServer) -> None:
    server.service.error = ERROR
    request = urllib.request.Request(
        f"{server.address}/iris.cluster.ControllerService/GetJobStatus",
        data=b'{"jobId": "train"}',
        headers={"content-type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    answer = json.loads(caught.value.read())
    assert answer["code"] == "not_found"
    (detail,) = answer["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
    assert detail["debug"] == {"reason": "JOB_NOT_FOUND", "domain": "iris", "metadata": {"job_id": "train"}}
    sent = cluster_pb2.ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (sent.reason, sent.domain, dict(sent.metadata)) == ("JOB_NOT_FOUND", "iris", {"job_id": "train"})
