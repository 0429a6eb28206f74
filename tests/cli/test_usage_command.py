"""`iris usage`: what a job has used over time, as small plots and as JSON."""

from __future__ import annotations

from typing import Any

import pytest
from support.waiting import wait_until

from iris.cli.commands.measurements.usage import sparkline

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_usage_command_shows_the_sum_over_the_job_and_each_task(remote_iris: Iris) -> None:
    name = remote_iris.detach("exec sleep 600", "-n", "2", "--cpu", "0.5", "--independent")
    wait_until(lambda: any(2 in one["num_tasks"] for one in remote_iris.json("usage", name)["series"]), "measurements")
    document = remote_iris.json("usage", name, "--tasks")
    assert document["job_id"] == name
    assert [series["task_index"] for series in document["series"]] == [None, 0, 1]
    total = document["series"][0]
    assert max(total["requested_cpu_millicores"]) == 1000
    assert len(total["times_ms"]) == len(total["memory_mb"]) == len(total["cpu_millicores"])
    rows = remote_iris("usage", name, "--tasks").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["TASK", "all", "0", "1"]
    assert [series["task_index"] for series in remote_iris.json("usage", f"{name}/task-1")["series"]] == [1]
    remote_iris("kill", "--wait", name)
    assert remote_iris.json("usage", f"{name}/task-1")["series"][0]["times_ms"]


def test_usage_command_for_a_waiting_job_says_that_nothing_was_measured(remote_iris: Iris) -> None:
    name = remote_iris.detach("true", "--gpu", "64")
    assert "nothing was measured" in remote_iris("usage", name).stdout
    assert remote_iris.json("usage", name)["series"] == []
    assert "did you mean" in remote_iris("usage", f"{name}x", code=1).stderr
    remote_iris("kill", "--wait", name)


@pytest.mark.parametrize(
    ("times", "values", "plot"),
    [
        ([], [], ""),
        ([5], [0], "▁"),
        ([0, 1, 2, 3], [0, 1, 4, 8], "▁▂▅█"),
        ([0, 1, 2, 3, 100], [8, 8, 8, 8, 4], "█   ▅"),
        (list(range(1000)), [1] * 1000, "█" * 10),
    ],
)
def test_small_plot_shows_the_largest_value_of_each_interval(times: list[int], values: list[int], plot: str) -> None:
    assert sparkline(times, values, 10) == plot
