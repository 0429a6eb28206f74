"""`iris retry`: a job runs again under a new name."""

from __future__ import annotations

import json
from typing import Any

from support.cluster import unique

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_retry_shows_the_lines_of_the_new_job_and_exits_with_its_code(remote_iris: Iris) -> None:
    name = unique("retried")
    script = "echo $WORD $IRIS_TASK_INDEX; exit $((IRIS_TASK_INDEX + 4))"
    options = ("--name", name, "-n", "2", "--independent", "--max-task-failures", "2", "-e", "WORD=hello")
    remote_iris("run", *options, "--", "sh", "-c", f"[ $IRIS_TASK_INDEX = 0 ] || {{ {script}; }}")
    done = remote_iris("retry", name, "--failed")
    assert done.stdout == "hello 1\n"
    assert f"repeats job {name}" in done.stderr
    assert remote_iris("retry", name, "--name", f"{name}-b", "-d").stdout == f"{name}-b\n"
    assert remote_iris("wait", f"{name}-b").stdout == f"{name}-b ended: SUCCEEDED\n"
    broken = remote_iris.detach("exit 7")
    events = [json.loads(line) for line in remote_iris("retry", broken, "--json", code=7).stdout.splitlines()]
    assert [event["event"] for event in events if "event" in event] == ["submitted", "ended"]
    assert events[0]["retry_of"] == broken
    assert "no job named" in remote_iris("retry", "§", code=125).stderr


def test_taken_name_is_used_again_with_replace_and_its_job_is_shown_with_reuse(remote_iris: Iris) -> None:
    name = unique("again")
    remote_iris("run", "--name", name, "--", "echo", "first")
    assert remote_iris("run", "--name", name, "--reuse", "--", "echo", "second").stdout == "first\n"
    refused = remote_iris("run", "--name", name, "--", "echo", "second", code=125)
    assert all(words in refused.stderr for words in ("choose another name", "--replace", "--reuse"))
    assert remote_iris("run", "--name", name, "--replace", "--", "echo", "second").stdout == "second\n"
    assert "--reuse needs --name" in remote_iris("run", "--reuse", "true", code=2).stderr
