"""`iris events` and `iris webhooks`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from iris.cli.commands.events.event_lines import details_of, subject_of
from iris.event_kinds import EVENT_KINDS
from iris.rpc import cluster_pb2 as pb

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "events.md"


def test_events_command_prints_lines_or_json_and_continues_after_an_event_id(remote_iris: Iris) -> None:
    job = remote_iris.detach("exit 4")
    remote_iris("wait", job, code=4)
    lines = remote_iris("events", job).stdout.splitlines()
    assert remote_iris("events", "--job", job).stdout.splitlines() == lines
    assert lines[0].split()[1] == "job.submitted"
    assert lines[-1].split()[1:] == ["job.failed", job, "EXIT_CODE:", "exit", "code", "4"]
    assert "on local-0: exit code 4" in lines[-2] or "on local-1: exit code 4" in lines[-2]
    documents = [json.loads(line) for line in remote_iris("events", "--job", job, "--json").stdout.splitlines()]
    assert len(documents) == len(lines)
    assert (documents[-1]["kind"], documents[-1]["reason"], documents[-1]["task_index"]) == (
        "job.failed",
        "EXIT_CODE",
        None,
    )
    later = remote_iris("events", "--job", job, "--cursor", documents[1]["id"], "--json").stdout.splitlines()
    assert [json.loads(line) for line in later] == documents[2:]
    chosen = remote_iris("events", "--job", job, "--kind", "task.failed,job.*", "-n", "2").stdout.splitlines()
    assert [line.split()[1] for line in chosen] == ["task.failed", "job.failed"]


def test_events_command_with_follow_prints_new_events_until_ctrl_c(remote_iris: Iris) -> None:
    job = remote_iris.detach("exec sleep 600")
    follow = remote_iris.start("events", "-f", "--job", job, "--kind", "job.killed", "--json")
    remote_iris("kill", job)
    assert json.loads(follow.line())["kind"] == "job.killed"
    follow.interrupt()
    assert follow.exit_code() == 130


def test_events_command_refuses_invalid_kinds_cursors_and_options(remote_iris: Iris) -> None:
    assert "did you mean 'job.failed'" in remote_iris("events", "--kind", "job.fail", code=2).stderr
    assert "or a group: contents.*" in remote_iris("events", "--kind", "", code=2).stderr
    refused = remote_iris("events", "--cursor", "x", code=2).stderr
    assert "--cursor must be the cursor of an earlier event, got 'x'" in refused
    assert "mutually exclusive" in remote_iris("events", "--all", "-n", "3", code=2).stderr
    assert "got the argument 'a' and --job 'b'" in remote_iris("events", "a", "--job", "b", code=2).stderr
    assert "no such events" in remote_iris("events", "--kind", "events.dropped").stderr


def test_webhooks_command_without_webhooks_says_how_to_send_events(remote_iris: Iris) -> None:
    assert "iris up --webhook URL" in remote_iris("webhooks").stdout
    assert json.loads(remote_iris("webhooks", "--json").stdout) == {"webhooks": []}


def test_line_of_an_event_names_its_task_and_its_details() -> None:
    event = pb.Controller.Event(
        job_id="a/b", task_index=2, attempt_id=1, worker_id="w", reason="SIGNAL", text="killed\nby 9", fields={"x": "1"}
    )
    assert subject_of(event) == "a/b/task-2"
    assert details_of(event) == "SIGNAL, attempt 1, on w, x=1: killed by 9"
    assert subject_of(pb.Controller.Event(worker_id="w")) == "w"


def test_line_of_an_event_names_the_user_who_caused_the_event_but_no_tunnel_id() -> None:
    fields = {"command": "sort", "role": "admin", "tunnel_id": "0123456789abcdef"}
    event = pb.Controller.Event(name="exec.used", job_id="a", task_index=0, attempt_id=0, owner="root", fields=fields)
    assert details_of(event) == "by root, command=sort"
    assert details_of(pb.Controller.Event(name="job.running", job_id="a", owner="root")) == ""


def test_documentation_page_of_events_lists_exactly_the_existing_kinds() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.+?) \|", PAGE.read_text(), re.MULTILINE))
    assert rows == EVENT_KINDS
