"""`iris web`: it opens a link in the user's browser, or prints the link."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.tokens import token
from support.web_session_client import SessionClient

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
NO_DISPLAY = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": "", "SSH_CONNECTION": ""}


def signed_in(link: str) -> str:
    """Sign in with a link, and return the view that the link shows."""
    parts = urlsplit(link)
    path, _, query = parts.fragment.partition("?")
    found = parse_qs(query)
    assert path == "/signin"
    with SessionClient(f"{parts.scheme}://{parts.netloc}") as browser:
        browser.sign_in(code=found["code"][0])
        assert browser.call("DescribeCluster")["caller"]["name"]
    return found["next"][0]


def test_sign_in_link_is_printed_on_a_machine_without_a_browser(remote_iris: Iris) -> None:
    printed = remote_iris("web", **NO_DISPLAY)
    assert signed_in(printed.stdout.strip()) == "jobs"
    assert "works once, within five minutes" in printed.stderr
    assert "ssh" not in printed.stderr


def test_sign_in_link_printed_over_ssh_comes_with_the_command_that_forwards_the_port(remote_iris: Iris) -> None:
    printed = remote_iris("web", "--print", **{**NO_DISPLAY, "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"})
    port = urlsplit(printed.stdout).port
    assert f"ssh -L {port}:localhost:{port} HOST" in printed.stderr


def test_sign_in_link_leads_to_a_job_or_to_the_log_of_a_task(remote_iris: Iris) -> None:
    job = remote_iris("run", "--detach", "--", "true").stdout.strip()
    found = remote_iris.json("web", job[:-1])
    assert found.keys() == {"url", "expires_at_ms"}
    assert 0 < found["expires_at_ms"] / 1000 - time.time() <= 300
    assert signed_in(found["url"]) == f"jobs/{job}"
    assert signed_in(remote_iris.json("web", "@/task-0")["url"]) == f"jobs/{job}/logs?task=0"
    assert "no-such-job" in remote_iris("web", "no-such-job", code=1).stderr


def test_sign_in_link_is_opened_in_the_browser_of_the_user_and_not_printed(remote_iris: Iris, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    program.chmod(0o755)
    printed = remote_iris("web", **{**NO_DISPLAY, "BROWSER": f"{program} %s"})
    assert printed.stdout == ""
    link = opened.read_text().strip()
    assert signed_in(link) == "jobs"
    assert parse_qs(urlsplit(link).fragment)["/signin?code"][0] not in printed.stderr
    assert "iris web --print" in printed.stderr


def test_sign_in_link_is_printed_if_the_browser_fails_to_start(remote_iris: Iris) -> None:
    printed = remote_iris("web", **{**NO_DISPLAY, "BROWSER": "false %s"})
    assert signed_in(printed.stdout.strip()) == "jobs"


def test_sign_in_link_is_printed_and_no_text_browser_starts_if_the_browser_fails(
    remote_iris: Iris, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    text_browser = tmp_path / "www-browser"
    text_browser.write_text(f"#!/bin/sh\ntouch {started}\n")
    text_browser.chmod(0o755)
    environment = {**NO_DISPLAY, "BROWSER": "false %s", "TERM": "xterm", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert signed_in(remote_iris("web", **environment).stdout.strip()) == "jobs"
    assert not started.exists()


def test_task_cannot_create_a_sign_in_link(remote_iris: Iris) -> None:
    assert (
        "accepted roles: admin, reader, user"
        in remote_iris("web", code=1, IRIS_TOKEN=token("worker", worker_id="w")).stderr
    )
