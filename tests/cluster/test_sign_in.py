"""Signing in to the page, calls in a web session, and what other pages and other users are refused, over real HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.cluster import launch, running_cluster, shell, unique, wait_for_end, wait_for_state
from support.ports import free_port
from support.tokens import token
from support.waiting import wait_until
from support.web_session_client import SERVICE, SessionClient

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import FailedPreconditionError, PermissionDeniedError
from iris.rpc import cluster_pb2 as pb

CHECKED = ("DescribeCluster", "ListJobs", "TerminateJob", "SignOut")


@pytest.fixture
def browser(shared_cluster: LocalServer) -> Iterator[SessionClient]:
    """A browser that has signed in as a user."""
    with SessionClient(shared_cluster.address) as signed_in:
        signed_in.sign_in(token=token("user", name="ana"))
        yield signed_in


def reason_of(answer: httpx.Response) -> str:
    reason: str = answer.json()["details"][0]["debug"]["reason"]
    return reason


@pytest.mark.parametrize("role", ["admin", "user", "reader"])
def test_sign_in_code_works_once_with_the_role_of_its_creator(shared_cluster: LocalServer, role: str) -> None:
    with RemoteClusterClient(shared_cluster.address, token=token(role, name="ana")) as client:
        code = client.create_sign_in_code().code
    with SessionClient(shared_cluster.address) as browser, SessionClient(shared_cluster.address) as second:
        signed_in = browser.sign_in(code=code)["caller"]
        assert (signed_in["name"], signed_in["role"]) == ("ana", role)
        assert browser.call("DescribeCluster")["caller"] == signed_in
        refused = second.sign_in_answer(code=code)
        assert (refused.status_code, reason_of(refused)) == (401, "SIGN_IN_CODE_INVALID")
        assert "set-cookie" not in refused.headers
        assert browser.post("CreateToken", {"name": "x", "role": "user"}).status_code == (
            200 if role == "admin" else 403
        )


def test_cookie_is_limited_to_the_path_of_its_session_and_hidden_from_scripts(browser: SessionClient) -> None:
    name, *attributes = browser.set_cookie.split("; ")
    assert name == f"iris_session={browser.cookie}"
    assert {one.partition("=")[0] for one in attributes} == {"Path", "Max-Age", "HttpOnly", "SameSite"}
    assert f"Path=/{browser.session_path}/" in attributes
    assert "SameSite=Strict" in attributes
    answer = browser.sign_out()
    assert answer.status_code == 200
    assert answer.headers["set-cookie"].startswith(f"iris_session=; Path=/{browser.session_path}/; Max-Age=0;")


def test_cookie_of_a_page_behind_a_proxy_is_secure_and_below_its_prefix(shared_cluster: LocalServer) -> None:
    with SessionClient(shared_cluster.address) as browser:
        behind = {"origin": "https://iris.example.org", "host": "iris.example.org"}
        answer = browser.sign_in_answer(behind, token=token(), page_path="/clusters/one/")
        assert answer.status_code == 200
        session = answer.json()["sessionPath"]
        assert answer.headers["set-cookie"].endswith("; Secure")
        assert f"; Path=/clusters/one/{session}/;" in answer.headers["set-cookie"]


@pytest.mark.parametrize("path", ["", "x", "/x", "x/", "/a;b/", "/a b/", "//\n/", "/" + "a" * 500 + "/"])
def test_sign_in_with_an_invalid_page_path_is_refused(shared_cluster: LocalServer, path: str) -> None:
    with SessionClient(shared_cluster.address) as browser:
        answer = browser.sign_in_answer(token=token(), page_path=path)
    assert answer.status_code == 400
    assert "page_path must be the path of the page" in answer.json()["message"]


FOREIGN: list[dict[str, str]] = [
    {"origin": ""},
    {"origin": "null"},
    {"origin": "http://evil.example.org"},
    {"host": "evil.example.org"},
    {"origin": "http://evil.example.org:1", "host": "evil.example.org:1"},  # DNS rebinding
    {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", CHECKED)
def test_call_with_the_cookie_from_another_page_is_refused(
    browser: SessionClient, method: str, headers: dict[str, str]
) -> None:
    answer = browser.post(method, {}, headers)
    assert answer.status_code in (403, 415)
    assert browser.post("DescribeCluster").status_code == 200, "the session has not ended"


@pytest.mark.parametrize("headers", [one for one in FOREIGN if one.get("host") != "evil.example.org:1"])
def test_sign_in_from_another_page_is_refused(shared_cluster: LocalServer, headers: dict[str, str]) -> None:
    with SessionClient(shared_cluster.address) as browser:
        answer = browser.sign_in_answer(headers, token=token())
    assert answer.status_code in (403, 415)
    assert "set-cookie" not in answer.headers


def test_cookie_is_ignored_outside_of_its_web_session(browser: SessionClient, shared_cluster: LocalServer) -> None:
    cookie = {"cookie": f"iris_session={browser.cookie}", "origin": browser.origin}
    for path in (f"{SERVICE}/ListJobs", f"session/{'0' * 32}/{SERVICE}/ListJobs", f"session//{SERVICE}/ListJobs"):
        answer = httpx.post(f"{shared_cluster.address}/{path}", json={}, headers=cookie)
        assert answer.status_code == 401, path
    with SessionClient(shared_cluster.address) as other:
        other.sign_in(token=token("reader", name="bob"))
        other.cookie = browser.cookie
        assert other.post("DescribeCluster").status_code == 401


def test_token_in_the_header_of_a_call_in_a_web_session_is_ignored(browser: SessionClient) -> None:
    answer = browser.post("ListTokens", {}, {"authorization": f"Bearer {token('admin')}"})
    assert answer.status_code == 403, "the session is a user's"
    answer = browser.post("ListJobs", {}, {"authorization": f"Bearer {token('admin')}", "cookie": ""})
    assert answer.status_code == 401


def test_calls_with_get_are_refused_in_a_web_session(browser: SessionClient) -> None:
    assert browser.get(f"{SERVICE}/ListJobs?encoding=json&message=%7B%7D").status_code == 403
    assert browser.get("session/x/y").status_code == 404
    assert browser.get("grpc.health.v1.Health/Check").status_code == 404


def test_log_is_downloaded_in_a_session_but_never_shown_as_a_page(
    browser: SessionClient, cluster: RemoteClusterClient
) -> None:
    job_id = launch(cluster, shell("echo '<script>alert(1)</script>'"))
    wait_for_end(cluster, job_id)
    answer = browser.get(f"v1/jobs/{job_id}/logs?format=raw")
    assert answer.content == b"<script>alert(1)</script>\n"
    assert "html" not in answer.headers["content-type"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"host": "evil.example.org"}):
        assert browser.get(f"v1/jobs/{job_id}/logs", headers).status_code == 403
    assert browser.get(f"v1/jobs/{job_id}/logs", {"cookie": ""}).status_code == 401


def test_web_session_and_its_streams_end_when_its_token_is_revoked(
    shared_cluster: LocalServer, cluster: RemoteClusterClient
) -> None:
    made = cluster.create_token(unique("ana"), "user")
    job_id = launch(cluster, shell("echo hello; sleep 1000"))
    wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    with SessionClient(shared_cluster.address) as browser:
        browser.sign_in(token=made.secret)
        lines: list[str] = []
        follow = threading.Thread(
            target=lambda: lines.append(browser.get(f"v1/jobs/{job_id}/logs?follow=1&format=sse").text)
        )
        follow.start()
        with SessionClient(shared_cluster.address) as watching:
            watching.session_path, watching.cookie = browser.session_path, browser.cookie
            assert watching.post("DescribeCluster").status_code == 200
            cluster.revoke_token(made.token.token_id)
            answer = watching.post("DescribeCluster")
        assert (answer.status_code, reason_of(answer)) == (401, "SESSION_ENDED")
        follow.join(60)
        assert not follow.is_alive()
    cluster.terminate_job(job_id)


def test_sign_out_ends_the_web_session_and_its_streams(
    shared_cluster: LocalServer, cluster: RemoteClusterClient
) -> None:
    job_id = launch(cluster, shell("echo hello; sleep 1000"))
    wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    with SessionClient(shared_cluster.address) as browser, SessionClient(shared_cluster.address) as other:
        browser.sign_in(token=token("user", name="ana"))
        other.sign_in(token=token("user", name="ana"))
        with httpx.stream(
            "GET",
            f"{browser.base}/{browser.session_path}/v1/jobs/{job_id}/logs?follow=1&format=sse",
            headers={"cookie": f"iris_session={browser.cookie}"},
            timeout=60,
        ) as stream:
            lines = stream.iter_lines()
            wait_until(lambda: "hello" in next(lines), "the first line")
            assert browser.sign_out().status_code == 200
            assert "unauthenticated" in "\n".join(lines)
        assert reason_of(browser.post("DescribeCluster")) == "SESSION_ENDED"
        assert other.post("DescribeCluster").status_code == 200
    cluster.terminate_job(job_id)


def test_page_cannot_make_sign_in_links(browser: SessionClient) -> None:
    answer = browser.post("CreateSignInCode")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


def test_sign_out_with_a_token_is_refused_with_advice(shared_cluster: LocalServer) -> None:
    answer = httpx.post(
        f"{shared_cluster.address}/{SERVICE}/SignOut", json={}, headers={"authorization": f"Bearer {token()}"}
    )
    assert answer.json()["code"] == FailedPreconditionError.code
    assert "RevokeToken" in answer.json()["message"]


@pytest.mark.parametrize("role", ["task", "worker"])
def test_token_of_a_task_or_worker_cannot_sign_in(
    shared_cluster: LocalServer, cluster: RemoteClusterClient, role: str
) -> None:
    job_id = launch(cluster, shell("sleep 1000"))
    wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    more: dict[str, Any] = (
        {"job_id": job_id, "task_index": 0, "attempt_id": 0} if role == "task" else {"worker_id": "w"}
    )
    with SessionClient(shared_cluster.address) as browser:
        answer = browser.sign_in_answer(token=token(role, **more))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    with (
        RemoteClusterClient(shared_cluster.address, token=token(role, **more)) as client,
        pytest.raises(PermissionDeniedError),
    ):
        client.create_sign_in_code()
    cluster.terminate_job(job_id)


@pytest.mark.parametrize("fields", [{}, {"token": ""}, {"token": "nonsense"}, {"code": ""}, {"code": "nonsense"}])
def test_sign_in_with_a_wrong_token_or_code_is_refused(shared_cluster: LocalServer, fields: dict[str, str]) -> None:
    with SessionClient(shared_cluster.address) as browser:
        answer = browser.sign_in_answer(**fields)
    assert answer.status_code == 401
    assert "nonsense" not in answer.text


# A program of another user of this machine, which has stolen a cookie or a code. It imports nothing after it has
# changed its user, because that user cannot read the installation.
THIEF = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[1]))
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as server:
    server.sendall(sys.argv[3].encode())
    answer = b""
    while chunk := server.recv(65536):
        answer += chunk
sys.stdout.buffer.write(answer)
"""


def as_user(uid: int, url: str, headers: dict[str, str], body: dict[str, str]) -> str:
    """Make a call as another user of the machine, and return its status and the reason of its error."""
    target, content = urlsplit(url), json.dumps(body)
    head = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    head += [f"host: {target.netloc}", f"content-length: {len(content)}", "connection: close", "", content]
    words = [sys.executable, "-c", THIEF, str(uid), str(target.port), "\r\n".join(head)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout
    reason = re.search(r'"reason": ?"([A-Z_]+)"', answer)
    return " ".join([answer.split()[1], *([reason[1]] if reason else [])])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program of another user")
def test_another_user_of_the_machine_can_use_neither_a_stolen_cookie_nor_a_stolen_code(
    shared_cluster: LocalServer, cluster: RemoteClusterClient
) -> None:
    headers = {"origin": shared_cluster.address, "content-type": "application/json"}
    with SessionClient(shared_cluster.address) as browser:
        browser.sign_in(token=token())
        url = f"{browser.base}/{browser.session_path}/{SERVICE}/DescribeCluster"
        cookie = {**headers, "cookie": f"iris_session={browser.cookie}"}
        assert as_user(0, url, cookie, {}) == "200"
        assert as_user(65534, url, cookie, {}) == "403 FOREIGN_PAGE"
    body = {"code": cluster.create_sign_in_code(same_user=True).code, "pagePath": "/"}
    url = f"{shared_cluster.address}/{SERVICE}/SignIn"
    assert as_user(65534, url, headers, body) == "401 SIGN_IN_CODE_INVALID"
    assert as_user(0, url, headers, body) == "200", "the refused try has not used the code up"
    printed = {"code": cluster.create_sign_in_code().code, "pagePath": "/"}
    assert as_user(65534, url, headers, printed) == "200", "a printed link is for whoever has it"


def test_web_session_survives_a_restart_of_the_controller_without_a_secret_on_disk(tmp_path: Path) -> None:
    directory, port = tmp_path / "state", free_port()
    with running_cluster(directory, workers=1, port=port) as server, SessionClient(server.address) as browser:
        browser.sign_in(token=token("user", name="ana"))
        browser.call("DescribeCluster")
        secret, path = browser.cookie, browser.session_path
        found = [one for one in directory.rglob("*") if one.is_file() and secret.encode() in one.read_bytes()]
        assert found == [], "the secret is on the disk"
    with running_cluster(directory, workers=1, port=port) as server, SessionClient(server.address) as browser:
        browser.session_path, browser.cookie = path, secret
        assert browser.call("DescribeCluster")["caller"]["name"] == "ana"


def test_sign_in_link_of_a_client_names_the_page_and_the_job(client: IrisClient) -> None:
    base = client.cluster.controller_address
    assert client.web_link().startswith(f"{base}/#/signin?code=")
    assert client.web_link("a b/c").endswith("&next=jobs%2Fa%2520b%252Fc")
