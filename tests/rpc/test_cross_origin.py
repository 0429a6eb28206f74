"""Calls from web pages: preflight requests, the headers of answers, and the origins of a cluster's configuration."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.cluster import launch, running_cluster, shell, wait_for_end
from support.plain_http import Answer, ask
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.config import ClusterConfig
from iris.errors import InvalidArgumentError

ALLOWED, OTHER = "https://app.example.com", "https://evil.example.com"
LIST_JOBS = "/iris.cluster.ControllerService/ListJobs"
JSON = "application/json"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster that lets pages of two origins call it."""
    origins = (f"{ALLOWED}/", "http://LOCALHOST:5173")
    with running_cluster(tmp_path_factory.mktemp("origins"), allow_origins=origins) as server:
        yield server


@pytest.fixture
def client(cluster: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(cluster.address) as client:
        yield client


def preflight(address: str, path: str, origin: str, **headers: str) -> Answer:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    # No token: browsers send none with a preflight request.
    return ask(address, "OPTIONS", path, origin=origin, authorization="", **asked | headers)


PATHS = [LIST_JOBS, "/v1/jobs/train/logs", "/iris.cluster.ControllerService/WatchJob", "/anything"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", [ALLOWED, "http://localhost:5173"])
def test_preflight_of_an_allowed_origin_is_answered_without_a_token(
    cluster: LocalServer, path: str, origin: str
) -> None:
    answer = preflight(cluster.address, path, origin)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-private-network" not in answer.headers


def test_preflight_from_a_public_page_to_a_private_network_is_allowed(cluster: LocalServer) -> None:
    answer = preflight(cluster.address, LIST_JOBS, ALLOWED, access_control_request_private_network="true")
    assert answer.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", [OTHER, "https://app.example.com:8443", "http://app.example.com"])
def test_preflight_of_another_origin_is_refused_with_the_option_that_allows_it(
    cluster: LocalServer, path: str, origin: str
) -> None:
    answer = preflight(cluster.address, path, origin)
    assert answer.status == 403
    assert f"--allow-origin {origin}".encode() in answer.body
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["null", "file:///page.html", "https://a.example https://b.example"])
def test_preflight_of_an_origin_that_no_option_allows_says_what_can_be_allowed(
    cluster: LocalServer, origin: str
) -> None:
    answer = preflight(cluster.address, LIST_JOBS, origin)
    assert answer.status == 403
    assert answer.body.decode() == (
        f"pages of {origin} may not call this cluster: only origins such as https://app.example.com can be allowed:"
        " serve the page with http or https\n"
    )


def test_answer_names_an_allowed_origin_and_the_headers_that_a_page_may_read(cluster: LocalServer) -> None:
    answer = ask(cluster.address, "POST", LIST_JOBS, b"{}", content_type=JSON, origin=ALLOWED)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    for name in ("grpc-status", "grpc-message", "grpc-status-details-bin", "connect-content-encoding"):
        assert name in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", [None, OTHER])
def test_answer_to_a_page_that_is_not_allowed_has_only_the_header_vary(
    cluster: LocalServer, origin: str | None
) -> None:
    given = {} if origin is None else {"origin": origin}
    answer = ask(cluster.address, "POST", LIST_JOBS, b"{}", content_type=JSON, **given)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["vary"] == "origin"


def test_page_can_read_why_its_call_was_refused(cluster: LocalServer) -> None:
    without_token = ask(cluster.address, "POST", LIST_JOBS, b"{}", content_type=JSON, origin=ALLOWED, authorization="")
    large = ask(cluster.address, "POST", LIST_JOBS, b" " * 5_000_000, content_type=JSON, origin=ALLOWED)
    unknown = ask(cluster.address, "GET", "/v1/jobs/nobody/logs", origin=ALLOWED)
    assert (without_token.status, large.status, unknown.status) == (401, 429, 404)
    for answer in (without_token, large, unknown):
        assert answer.headers["access-control-allow-origin"] == ALLOWED


def test_refusal_of_an_unreadable_request_names_no_allowed_origin(cluster: LocalServer) -> None:
    url = urlsplit(cluster.address)
    with socket.create_connection((url.hostname or "", url.port or 0), 30) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"access-control" not in answer


def test_log_route_and_grpc_web_answer_web_pages_of_an_allowed_origin(
    cluster: LocalServer, client: RemoteClusterClient
) -> None:
    job = launch(client, shell("echo one"))
    wait_for_end(client, job)
    log = ask(cluster.address, "GET", f"/v1/jobs/{job}/logs", origin=ALLOWED)
    assert (log.status, log.body) == (200, b"one\n")
    assert log.headers["access-control-allow-origin"] == ALLOWED
    empty_message = b"\0\0\0\0\0"
    grpc_web = ask(
        cluster.address, "POST", LIST_JOBS, empty_message, content_type="application/grpc-web+proto", origin=ALLOWED
    )
    assert grpc_web.status == 200
    assert grpc_web.headers["access-control-allow-origin"] == ALLOWED
    assert b"grpc-status: 0" in grpc_web.body


def test_worker_allows_pages_of_the_same_origins_as_its_controller(client: RemoteClusterClient) -> None:
    (worker,) = wait_until(client.list_workers, "a worker")
    path = "/iris.cluster.WorkerService/StreamTaskLogs"
    assert preflight(worker.address, path, ALLOWED).status == 204
    assert preflight(worker.address, path, OTHER).status == 403


def test_server_without_allowed_origins_answers_no_preflight_request(shared_cluster: LocalServer) -> None:
    answer = preflight(shared_cluster.address, LIST_JOBS, ALLOWED)
    assert answer.status != 204
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "vary" not in answer.headers


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:5173", "http://[::1]:5173"),
    ],
)
def test_allowed_origin_is_stored_in_the_form_that_browsers_send(given: str, kept: str) -> None:
    assert ClusterConfig(allow_origins=[given]).allow_origins == (kept,)


@pytest.mark.parametrize(
    "given",
    ["*", "null", "", "app.example.com", "localhost:5173", "https://a.example/page", "ftp://a.example", "file:///x",
     "https://*.example.com", "https://user@a.example", "https://a.example?x=1"],
)  # fmt: skip
def test_text_that_is_not_an_origin_is_refused_with_the_accepted_forms(given: str) -> None:
    accepted = "expected origins of pages, such as 'https://app.example.com'"
    with pytest.raises(InvalidArgumentError, match=re.escape(accepted)) as refused:
        ClusterConfig(allow_origins=[given])
    assert str(refused.value).startswith("--allow-origin: ")
    assert "'*' is not accepted, because any page" in str(refused.value)


def test_page_in_node_reads_a_log_with_the_functions_of_the_docs(
    cluster: LocalServer, client: RemoteClusterClient, tmp_path: Path
) -> None:
    """The docs show a page that reads a log with fetch, because EventSource cannot send a token."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    page = Path(__file__).parents[2] / "docs" / "how-to" / "read-logs-with-curl.md"
    (module,) = re.findall(r"```js\n(.*?)```", page.read_text(), re.DOTALL)
    job = launch(client, shell("echo one; echo two; exit 3"))
    program = tmp_path / "page.mjs"
    program.write_text(
        module
        + f"\nconst log = followLog({cluster.address!r}, {job!r}, {os.environ['IRIS_TOKEN']!r});"
        + "\nfor await (const entry of log) console.log(entry.event ?? entry.message, entry.job?.exit_code ?? '');\n"
    )
    done = subprocess.run([node, program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-3:] == ["one ", "two ", "ended 3"]
