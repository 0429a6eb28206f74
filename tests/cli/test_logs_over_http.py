"""The log route shows the same lines as `iris logs` with the same filters."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any
from urllib.parse import quote

import pytest

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.

# Each task writes one line of each source in turn, and the first attempt of task 1 fails. The pauses give each line a
# time of its own, so that the order of all lines is certain.
_SCRIPT = """
for i in 1 2 3; do
  sleep 0.0$IRIS_TASK_INDEX; echo "out $IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID.$i"; sleep 0.05
  echo "err $IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID.$i" >&2; sleep 0.05
done
printf 'no newline\\033[2Jé'
[ $IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID != 1.0 ]
"""


@pytest.fixture(scope="module")
def jobs() -> dict[str, str]:
    """The job that all tests of this module read; the first test submits it."""
    return {}


@pytest.fixture
def job(remote_iris: Iris, jobs: dict[str, str]) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if not jobs:
        jobs["name"] = remote_iris.detach(_SCRIPT, "--replicas", "3", "--independent", "--retries", "1")
        remote_iris.wait_for(jobs["name"], "SUCCEEDED")
    return jobs["name"]


def curl(iris: Iris, job: str, query: str, accept: str) -> str:
    """Return the body of the log route."""
    address, token = iris.env["IRIS_CONTROLLER_ADDRESS"], iris.env["IRIS_TOKEN"]
    words = ["curl", "-sSf", "-H", f"Authorization: Bearer {token}", "-H", f"Accept: {accept}"]
    url = f"{address}/v1/jobs/{quote(job, safe='')}/logs?{query}"
    return subprocess.run([*words, url], capture_output=True, timeout=60, check=True).stdout.decode()


def without_cursors(documents: list[Any]) -> list[Any]:
    return [{name: value for name, value in one.items() if name != "cursor"} for one in documents]


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ("", ""),
        ("-f", "follow=1"),
        ("--task 1", "task=1"),
        ("--task 1 -f", "task=1&follow"),
        ("--task 2 --task 0", "task=2&task=0"),
        ("--attempt 0 --task 1", "attempt=0&task=1"),
        ("--tail 4 -f", "tail=4&follow=1"),
        ("--tail 3 --task 1", "tail=3&task=1"),
        ("--tail 0", "tail=0"),
        ("--grep out.*[12]$", "grep=out.*%5B12%5D%24"),
        ("--source stderr --source stdout --grep 2$", "source=stderr&source=stdout&grep=2%24"),
        ("--since @1 --until @4000000000", "since=@1&until=@4000000000"),
        ("--timestamps --task 0", "timestamps=1&task=0"),
    ],
)
def test_text_of_the_log_route_is_what_iris_logs_prints(remote_iris: Iris, job: str, words: str, query: str) -> None:
    printed = remote_iris("logs", job, *words.split())
    # `iris logs` prints messages and the preparation of tasks to stderr; the log route has only one stream.
    aside = printed.stderr.splitlines()
    body = curl(remote_iris, job, query, "text/plain").split("\n")
    assert [line for line in body if line and line not in aside and not line.startswith("iris: ")] == [
        line for line in printed.stdout.split("\n") if line
    ]
    assert set(aside) <= set(body)
    ends = [line for line in body if line.startswith("iris: ") and " ended as SUCCEEDED" in line]
    assert bool(ends) == ("follow" in query)


@pytest.mark.parametrize(
    ("words", "query"),
    [("-f", "follow=1"), ("--tail 5", "tail=5"), ("--grep err --attempt 1", "grep=err&attempt=1")],
)
def test_json_objects_of_the_log_route_equal_the_objects_of_iris_logs(
    remote_iris: Iris, job: str, words: str, query: str
) -> None:
    printed = [json.loads(line) for line in remote_iris("logs", job, "--json", *words.split()).stdout.splitlines()]
    found = [json.loads(line) for line in curl(remote_iris, job, query, "application/x-ndjson").splitlines()]
    assert found[-1]["event"] == "ended"
    # The next test continues at cursors. Two cursors of one place may differ: the end of an attempt, and the beginning
    # of the next one.
    assert without_cursors([one for one in found if "event" not in one]) == without_cursors(printed)


def test_log_route_continues_after_a_cursor_of_iris_logs(remote_iris: Iris, job: str) -> None:
    printed = remote_iris.lines(job)
    for number in (0, 4, len(printed) - 1):
        query = f"cursor={printed[number]['cursor']}&source=stdout&source=stderr"
        found = [json.loads(line) for line in curl(remote_iris, job, query, "application/x-ndjson").splitlines()]
        rest = [(one["task"], one["attempt"], one["message"]) for one in printed[number + 1 :]]
        assert [(one["task"], one["attempt"], one["message"]) for one in found if "event" not in one] == rest


def test_raw_bytes_of_the_log_route_equal_the_raw_output_of_iris_logs(remote_iris: Iris, job: str) -> None:
    printed = remote_iris("logs", job, "--raw", "--task", "1", "--source", "stdout").stdout
    assert curl(remote_iris, job, "task=1&source=stdout", "application/octet-stream") == printed
