"""Answers that Iris did not give, over real sockets: each is told with its server, its code, its cause and the cure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.answering_server import Server, http

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.errors import (
    ControllerUnreachableError,
    InternalError,
    IrisError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.http.client.foreign_answers import describe_answer
from iris.rpc.peer import Peer

PAGE = b"<html><head><title>no</title></head></html>"


@contextmanager
def cluster_behind(
    status: str, headers: dict[str, str], content_type: str = "text/html"
) -> Iterator[RemoteClusterClient]:
    """A client of what answers all calls with a page."""
    with (
        contextlib.closing(Server([http(status, PAGE, content_type, headers=headers)])) as server,
        RemoteClusterClient(server.address, token="any") as client,
    ):
        yield client


def error_of_upload(client: RemoteClusterClient) -> str:
    request = cluster_pb2.Controller.LaunchJobRequest(
        name="large", command=["true"], bundle_hash="0" * 64, bundle_blob=bytes(3 * 1024**2), submission_id="1"
    )
    with pytest.raises(ResourceExhaustedError) as caught:
        client.launch_job(request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("server", "setting"),
    [
        ("nginx/1.22.1", "the setting of nginx for that: client_max_body_size 200m;"),
        ("Apache/2.4.62 (Debian)", "LimitRequestBody 209715200"),
        ("cloudflare", "its limit is part of the plan"),
        ("", "nginx: client_max_body_size 200m;"),
    ],
)
def test_upload_too_large_for_a_proxy_names_the_setting_to_change(server: str, setting: str) -> None:
    headers = {"Server": server} if server else {}
    with cluster_behind("413 Request Entity Too Large", headers) as client:
        text = error_of_upload(client)
        assert client.controller_address in text
    assert "answered 413" in text
    assert (repr(server) if server else "a server that gives no name") in text
    assert setting in text
    assert "is the address right" not in text


@pytest.mark.parametrize(
    ("status", "headers", "kind", "said"),
    [
        ("301 Moved Permanently", {"Location": "HTTPS"}, InternalError, "the address to give begins with https://"),
        ("302 Found", {"Location": "https://login.example/?next=x"}, InternalError, "https://login.example, which may"),
        ("308 Permanent Redirect", {"Location": "/login"}, InternalError, "redirects to /login"),
        ("302 Found", {}, InternalError, "redirects to nowhere"),
        ("400 Bad Request", {}, InternalError, "https://"),
        ("401 Unauthorized", {"WWW-Authenticate": "Basic"}, UnauthenticatedError, "no such login"),
        ("403 Forbidden", {}, IrisError, "a firewall"),
        ("404 Not Found", {}, IrisError, "check host, port and path"),
        ("405 Method Not Allowed", {}, IrisError, "another program listens there"),
        ("407 Proxy Authentication Required", {}, ControllerUnreachableError, "http://user:password@host:port"),
        ("500 Internal Server Error", {}, InternalError, "is the address right?"),
        ("502 Bad Gateway", {}, ControllerUnreachableError, "is the controller running?"),
        ("503 Service Unavailable", {}, ControllerUnreachableError, "is the controller running?"),
        ("504 Gateway Timeout", {}, ControllerUnreachableError, "proxy_read_timeout"),
        ("511 Network Authentication Required", {}, IrisError, "open a web page"),
        ("200 OK", {}, InternalError, "a login page is in the way"),
        ("299 Odd", {}, InternalError, "299"),
    ],
)
@pytest.mark.parametrize("kind_of_call", ["unary", "stream"])
def test_error_for_a_foreign_answer_names_server_code_and_cause(
    status: str, headers: dict[str, str], kind: type[IrisError], said: str, kind_of_call: str
) -> None:
    with contextlib.closing(Server([http("500 Later")])) as server:
        location = {"Location": f"https://{server.address[7:]}/x"} if headers.get("Location") == "HTTPS" else {}
        answer = http(status, PAGE, headers={"Server": "nginx/1.22.1", **headers, **location})
        server.answers[:] = [answer]
        with RemoteClusterClient(server.address, token="any") as client:
            calls = {"unary": client.list_jobs, "stream": lambda: list(client.watch_job("any", patience_s=0.0))}
            with pytest.raises(kind) as caught:
                calls[kind_of_call]()
    text = str(caught.value)
    assert not isinstance(caught.value, ValueError), "the caller has given nothing that is wrong"
    assert f"a server that calls itself 'nginx/1.22.1' answered {status.split()[0]}" in text
    assert server.address in text
    assert said in text


def test_error_of_a_worker_for_a_foreign_answer_names_server_code_and_cause() -> None:
    """Workers call by another transport than clients, and may have a proxy between them and the controller."""

    async def store_logs(address: str) -> None:
        stub = cluster_connect.ControllerServiceClient(address, accept_compression=(), send_compression=None)
        await call_async(stub.store_logs, cluster_pb2.Controller.StoreLogsRequest(), Peer(address, "the controller"))

    answer = http("413 Request Entity Too Large", PAGE, headers={"Server": "nginx/1.22.1"})
    with contextlib.closing(Server([answer])) as server, pytest.raises(ResourceExhaustedError) as caught:
        asyncio.run(store_logs(server.address))
    assert "'nginx/1.22.1' answered 413" in str(caught.value)
    assert "client_max_body_size" in str(caught.value)


def test_name_of_a_foreign_server_cannot_control_the_terminal() -> None:
    with cluster_behind("404 Not Found", {"Server": "evil\x1b[2J"}) as client, pytest.raises(IrisError) as caught:
        client.list_jobs()
    assert "\x1b" not in str(caught.value)


def test_foreign_json_answer_without_an_error_code_names_the_foreign_server() -> None:
    with (
        cluster_behind("404 Not Found", {"Server": "gateway"}, "application/json") as client,
        pytest.raises(IrisError, match="'gateway' answered 404"),
    ):
        client.list_jobs()


@pytest.mark.parametrize(
    ("server", "setting"),
    [
        ("nginx", "the setting of nginx for that: proxy_read_timeout 1h;"),
        ("envoy", "the setting of envoy for that: timeout: 0s (in the route)"),
        ("", "haproxy: timeout server 1h"),
    ],
)
def test_timeout_answer_of_a_proxy_names_the_setting_to_change(server: str, setting: str) -> None:
    assert setting in describe_answer(504, {"server": server}, "http://proxy.example")


def test_error_for_a_redirect_that_keeps_the_path_names_the_new_address() -> None:
    location = "http://new.example:1/base/iris.cluster.ControllerService/ListJobs"
    text = describe_answer(301, {"location": location}, "http://old.example/base")
    assert "it redirects to http://new.example:1: give that as the address" in text


def test_password_in_a_redirect_is_not_shown() -> None:
    text = describe_answer(302, {"Location": "https://user:secret@login.example/"}, "http://old.example")
    assert "login.example" in text
    assert "secret" not in text
