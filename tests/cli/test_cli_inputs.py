"""`iris run --each` and `--array`: a task for each input."""

from __future__ import annotations

from typing import Any

import pytest

from iris.cli.input_options import MAX_INPUTS, read_array
from iris.errors import InvalidArgumentError

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_run_with_option_each_runs_one_task_for_each_line_that_is_not_blank(remote_iris: Iris) -> None:
    (remote_iris.folder / "lines").write_text("a b\n\n  \nc\r\n")
    done = remote_iris("run", "--each", "lines", "--max-parallel", "1", "--", "sh", "-c", "echo $0=$IRIS_INPUT", "<{}>")
    assert sorted(line.rpartition(" | ")[2] for line in done.stdout.splitlines()) == ["<a b>=a b", "<c>=c"]


def test_run_with_option_each_continues_after_a_failed_input_and_exits_with_its_code(remote_iris: Iris) -> None:
    (remote_iris.folder / "codes").write_text("7\n0\n0\n")
    done = remote_iris("run", "--name", "codes", "--each", "codes", "--", "sh", "-c", "exit {}", code=7)
    assert "1 of 3 inputs failed, the first in task 0: exit code 7" in done.stderr
    assert "iris logs codes --task 0" in done.stderr
    for command in (("wait",), ("attach",), ("logs", "-f")):
        assert "1 of 3 inputs failed" in remote_iris(*command, "codes", code=7).stderr
    job = remote_iris.json("status", "codes")
    assert [task["state"] for task in job["tasks"]] == ["FAILED", "SUCCEEDED", "SUCCEEDED"]


def test_run_with_option_array_gives_one_number_to_each_task(remote_iris: Iris) -> None:
    done = remote_iris("run", "--array", "1,4-6:2%2", "--", "echo", "n{}")
    assert sorted(line.rpartition(" | ")[2] for line in done.stdout.splitlines()) == ["n1", "n4", "n6"]


@pytest.mark.parametrize(
    ("text", "numbers", "limit"),
    [
        ("0-3", "0 1 2 3", None),
        ("5", "5", None),
        ("0-59%4", " ".join(map(str, range(60))), 4),
        ("3,1-5:2", "3 1 5", None),
    ],
)
def test_value_of_option_array_is_parsed_into_numbers_and_a_limit_of_parallel_tasks(
    text: str, numbers: str, limit: int | None
) -> None:
    assert read_array(text) == (numbers.split(), limit)


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-1", "1-2-3", "5-1", "1-9:0", "0-9%", "0-9%0", "%4", "0-10000", f"0-{MAX_INPUTS},x"]
)
def test_invalid_value_of_option_array_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--array must"):
        read_array(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--each", "x", "--array", "0-1"], "exclude each other"),
        (["--array", "0-1", "--replicas", "2"], "exclude each other"),
        (["--array", "0-1", "--spread"], "makes independent tasks"),
        (["--array", "0-1%2", "--max-parallel", "2"], "exclude each other"),
        (["--each", "empty"], "at least one line"),
        (["--max-parallel", "2"], "needs --independent"),
    ],
)
def test_options_for_inputs_that_contradict_each_other_are_refused(
    remote_iris: Iris, options: list[str], said: str
) -> None:
    (remote_iris.folder / "x").write_text("1\n")
    (remote_iris.folder / "empty").write_text("\n")
    assert said in remote_iris("run", *options, "--", "true", code=None).stderr
