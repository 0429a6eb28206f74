"""The log route with curl: formats, live lines, ends, gaps, retries, refusals, slow and leaving readers."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.cluster import launch, shell, wait_for_end
from support.tokens import token
from support.waiting import wait_until

from iris.rpc.auth.caller import READER, TASK

Curl = Any  # tests/plain_http/conftest.py

_WAIT = "while [ ! -e {} ]; do sleep 0.05; done"


def documents(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_log_route_returns_the_same_log_over_http2(curl: Curl) -> None:
    job = curl.ended_job("seq 20000; exit 3")
    over_http1 = curl(job, "follow=1")
    assert curl(job, "follow=1", "--http2-prior-knowledge") == over_http1
    assert over_http1.endswith(f"20000\niris: job {job} ended as FAILED, exit code 3: exit code 3\n".encode())


def test_log_route_returns_the_text_of_one_task(curl: Curl) -> None:
    job = curl.ended_job("echo one; printf 'two\\r\\nthree'")
    assert curl(job) == b"one\ntwo\r\nthree"
    assert curl(job, "format=raw") == b"one\ntwo\r\nthree"
    assert curl(job, "", "-H", "Accept: application/octet-stream") == b"one\ntwo\r\nthree"


def test_followed_log_route_sends_each_line_when_it_is_written_and_reports_the_end(curl: Curl, tmp_path: Path) -> None:
    go = [tmp_path / "0", tmp_path / "1"]
    script = f"echo first; {_WAIT.format(go[0])}; echo second; {_WAIT.format(go[1])}; printf '> '; exit 3"
    job = launch(curl.cluster, shell(script))
    with curl.start(job, "follow=1") as reader:
        assert reader.stdout.readline() == b"first\n"
        go[0].touch()
        assert reader.stdout.readline() == b"second\n"
        go[1].touch()
        assert reader.stdout.read() == f"> \niris: job {job} ended as FAILED, exit code 3: exit code 3\n".encode()
    assert reader.returncode == 0


def test_followed_log_route_shows_a_prompt_at_once(curl: Curl, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = launch(curl.cluster, shell(f"printf 'name? '; {_WAIT.format(go)}"))
    with curl.start(job, "follow=1&since=1h") as reader:
        assert reader.stdout.read(6) == b"name? "
        go.touch()
        assert b"ended as SUCCEEDED" in reader.stdout.read()


@pytest.mark.parametrize("query", ["follow=1", ""])
def test_log_in_ndjson_has_an_object_for_each_line_the_retry_and_the_end(curl: Curl, query: str) -> None:
    script = "echo try $IRIS_ATTEMPT_ID; [ $IRIS_ATTEMPT_ID = 1 ]"
    job = curl.ended_job(script, max_retries_failure=1)
    found = documents(curl(job, query, "-H", "Accept: application/x-ndjson"))
    lines = [one for one in found if one.get("source") == "stdout"]
    assert [(one["attempt"], one["message"]) for one in lines] == [(0, "try 0"), (1, "try 1")]
    (notice,) = [one for one in found if one.get("event") == "notice"]
    assert notice["text"] == "attempt 0 of task 0 ended: exit code 1; attempt 1 follows"
    assert found[-1]["event"] == "ended"
    assert found[-1]["job"] == {"job_id": job, "state": "SUCCEEDED", "exit_code": 0, "error": ""}
    (end,) = found[-1]["tasks"]
    assert (end["task"], end["state"], end["complete"], end["missing_bytes"]) == (0, "SUCCEEDED", True, 0)
    after = documents(curl(job, f"cursor={lines[0]['cursor']}&source=stdout", "-H", "Accept: application/x-ndjson"))
    assert [one["message"] for one in after if "message" in one] == ["try 1"]


def test_log_in_json_is_one_array(curl: Curl) -> None:
    job = curl.ended_job("echo one; echo two")
    found = json.loads(curl(job, "source=stdout", "-H", "Accept: application/json"))
    assert [one.get("message", one.get("event")) for one in found] == ["one", "two", "ended"]
    assert [one["event"] for one in json.loads(curl(job, "format=json&grep=nothing"))] == ["ended"]


def test_log_of_a_live_task_without_follow_ends_and_is_not_complete(curl: Curl, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = launch(curl.cluster, shell(f"echo here; {_WAIT.format(go)}"))
    wait_until(lambda: curl(job) == b"here\n", "the line")
    (end,) = documents(curl(job, "format=ndjson"))[-1]["tasks"]
    assert not end["complete"]
    go.touch()
    wait_for_end(curl.cluster, job)


def test_gap_in_a_log_is_reported_at_its_place(curl: Curl) -> None:
    job = curl.ended_job("seq 200000; echo last", max_log_bytes=100_000)
    text = curl(job).decode()
    assert "iris: task 0: " in text.splitlines()[0]
    assert "bytes of stdout are missing here" in text.splitlines()[0]
    assert text.endswith("\nlast\n")
    first = documents(curl(job, "format=ndjson&source=stdout&max_lines=1"))[0]
    assert first["missing_bytes"] > 0


def test_log_of_a_child_job_is_found_with_a_plain_or_an_encoded_slash(curl: Curl) -> None:
    parent = curl.ended_job("sleep 0")
    wait = f"echo child of {parent}"
    job = launch(curl.cluster, shell(_WAIT.format("/nonexistent")))
    child = launch(curl.cluster, shell(wait), parent_job_id=job, name="inner")
    wait_for_end(curl.cluster, child)
    assert child == f"{job}/inner"
    expected = f"child of {parent}\n"
    for form in (f"{job}/inner", f"{job}%2Finner", f"{job}/inner/task-0"):
        assert curl.status(f"{curl.address}/v1/jobs/{form}/logs")[2] == expected
    curl.cluster.terminate_job(job)


def test_two_accept_headers_count_as_one_list(curl: Curl) -> None:
    url = curl.url(curl.ended_job("echo one"))
    answer = curl.status(url, "-H", "Accept: application/json", "-H", "Accept: text/plain;q=0.1")
    assert answer[1]["content-type"] == "application/json"


def test_parameter_format_chooses_the_format_although_the_accept_header_excludes_it(curl: Curl) -> None:
    url = curl.url(curl.ended_job("echo one"), "format=json")
    status, headers, body = curl.status(url, "-H", "Accept: image/png")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)[0]["message"] == "one"


def test_error_of_the_log_route_names_the_accepted_values(curl: Curl) -> None:
    job = curl.ended_job("echo one")
    url = curl.url(job)
    status, headers, body = curl.status(url, token="")
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="iris"')
    assert "-H 'Authorization: Bearer TOKEN'" in body
    assert curl.status(url, token="wrong")[0] == 401
    status, headers, body = curl.status(f"{url}?tail=many")
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert body.startswith("iris: tail='many' is not accepted: expected a whole number from 0 to 10,000")
    status, headers, body = curl.status(f"{url}?tail=many", "-H", "Accept: application/x-ndjson")
    assert (status, headers["content-type"]) == (400, "application/json")
    assert json.loads(body)["code"] == "invalid_argument"
    assert json.loads(body)["details"][0]["debug"]["reason"] == "INVALID_ARGUMENT"
    assert curl.status(curl.url("unknown-job"))[0] == 404
    assert curl.status(f"{url}?task=1")[0] == 404
    assert curl.status(f"{url}?attempt=1")[0] == 404
    assert curl.status(f"{url}?cursor=abc")[0] == 400
    assert curl.status(f"{curl.address}/v1/jobs")[0] == 404
    assert curl.status(url, "-H", "Accept: image/png")[0] == 406
    status, headers, _ = curl.status(url, "-X", "DELETE")
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert curl.status(url, "-X", "OPTIONS", token="")[0] == 204
    assert curl.status(f"{curl.url('x' * 60_000)}")[0] == 404


def test_head_request_gets_the_answer_of_get_without_a_body(curl: Curl) -> None:
    job = curl.ended_job("echo one")
    status, headers, body = curl.status(curl.url(job, "format=ndjson"), "--head")
    assert (status, headers["content-type"], body) == (200, "application/x-ndjson", "")
    assert headers["x-content-type-options"] == "nosniff"
    assert curl.status(curl.url("unknown-job"), "--head")[::2] == (404, "")


def test_token_of_a_reader_may_read_any_log_and_token_of_a_task_only_its_own_job(curl: Curl) -> None:
    job = curl.ended_job("echo one")
    assert curl.status(curl.url(job), token=token(READER))[0] == 200
    live = launch(curl.cluster, shell(_WAIT.format("/nonexistent")))
    wait_until(lambda: curl.cluster.get_task_status(live, 0).attempts, "an attempt")
    of_task = token(TASK, job_id=live, task_index=0, attempt_id=0)
    assert curl.status(curl.url(job), token=of_task)[0] == 403
    assert curl.status(curl.url("unknown-job"), token=of_task)[0] == 403
    assert curl.status(curl.url(live), token=of_task)[0] == 200
    curl.cluster.terminate_job(live)


def raw_reader(curl: Curl, job: str, query: str) -> socket.socket:
    """Return a connection that has asked for a log, with small buffers, and has read nothing."""
    url = urlsplit(curl.url(job, query))
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((url.hostname, url.port))
    head = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {os.environ['IRIS_TOKEN']}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def test_log_reader_that_pauses_gets_a_bounded_part_and_later_the_rest(curl: Curl) -> None:
    lines = 400_000
    job = curl.ended_job(f"seq {lines}")
    with raw_reader(curl, job, "format=raw") as stopped:
        stopped.recv(1, socket.MSG_PEEK)
        # The controller goes on to answer others, and holds back the stopped reader's bytes: the socket's buffers do
        # not hold the whole log.
        assert curl(job, "tail=1") == f"{lines}\n".encode()
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += stopped.recv(1 << 20)
    assert data.count(b"\n") - data.count(b"\r\n") == lines
