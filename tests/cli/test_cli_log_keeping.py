"""`iris up` with options for logs: invalid values are refused, and valid values take effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from iris.cluster.logs.segments import list_segments

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--keep-logs", ("soon", "0", "-1d", "unlimited", "")),
        ("--keep-log-bytes", ("much", "0", "-5", "forever")),
        ("--max-log-bytes", ("much", "0", "0.2", "unlimited")),
        ("--log-location", ("", " ")),
    ],
)
def test_error_for_an_invalid_log_option_names_the_option(iris: Iris, option: str, values: tuple[str, ...]) -> None:
    for value in values:
        assert f"Invalid value for '{option}': " in iris("up", "--port", "0", f"{option}={value}", code=2).stderr
    assert iris.json("down")["stopped"] is False


def test_unusable_log_location_is_refused_with_its_reason(iris: Iris) -> None:
    (iris.folder / "file").touch()
    for url, text in {
        "nosuch://bucket": "nosuch",
        "s3://bucket/logs": "s3fs",  # which is not installed
        f"file://{iris.folder}/file/logs": "Not a directory",
    }.items():
        said = iris("up", "--port", "0", "--log-location", url, code=1).stderr
        assert re.search(rf"--log-location: .*{re.escape(url)}.*{text}", said), said
        assert iris.json("down")["stopped"] is False


def test_up_with_other_log_options_than_the_running_cluster_is_refused(iris: Iris) -> None:
    up = iris.json("up", "--port", "0", "--keep-logs", "12h", "--max-log-bytes", "1GB")
    assert [up[name] for name in ("keep_logs", "keep_log_bytes", "max_log_bytes", "log_location")] == [
        "12h",
        "50GB",
        "1GB",
        "",
    ]
    assert iris.json("up", "--keep-logs", "12h")["started"] is False
    assert "with --keep-logs 12h;" in iris("up", "--keep-logs", "1h", code=1).stderr
    refused = iris("up", "--keep-log-bytes", "1GB", code=1).stderr
    assert "with the default of --keep-log-bytes;" in refused
    assert "iris up --keep-log-bytes 1GB" in refused
    assert "Invalid value for '--keep-logs'" in iris("up", "--keep-logs", "soon", code=2).stderr


def test_log_over_the_limit_keeps_its_end_and_shows_the_gap(iris: Iris) -> None:
    iris("up", "--port", "0", "--max-log-bytes", "200kB")
    line = "x" * 92
    name = iris.detach(f"i=0; while [ $i -lt 20000 ]; do printf '%06d {line}\\n' $i; i=$((i+1)); done")
    assert iris.wait_for(name, "SUCCEEDED")
    shown = iris("logs", name, code=1)
    lines = shown.stdout.splitlines()
    written = [f"{number:06} {line}" for number in range(20_000 - len(lines), 20_000)]
    assert lines[1:] == written[1:]
    assert written[0].endswith(lines[0]), "it may be cut"
    assert 50_000 < len(shown.stdout) < 200_000
    assert re.search(
        r"task 0: [0-9,]+ bytes of stdout are missing here: the oldest records were dropped, .* limit of 200000",
        shown.stderr,
    )
    gap, *rest = iris.lines(name, code=1)
    assert len(rest) == len(lines)
    assert gap["missing_bytes"] + len(shown.stdout) == 2_000_000


def test_logs_are_moved_to_the_log_location_and_removed_there_when_keep_logs_has_passed(
    iris: Iris, tmp_path: Path
) -> None:
    """A sweep comes each minute, and at the start."""
    there, here = tmp_path / "there", iris.home / "state" / "iris" / "logs"
    options = ("--port", "0", "--log-location", f"file://{there}")
    iris("up", *options)
    iris("run", "--name", "job", "--", "echo", "to be kept")
    iris("down")
    (log,) = here.glob("*/0")
    (segment,) = list_segments(log)
    data = (log / segment.segment_name).read_bytes()

    iris("up", *options, "--keep-log-bytes", "1")
    wait_until(lambda: not list_segments(log), "the log to go from here")
    (stored,) = there.glob("*/0")
    assert (stored / segment.segment_name).read_bytes() == data
    assert iris("logs", "job").stdout == "to be kept\n"
    iris("down")

    iris("up", *options, "--keep-logs", "0.001s")
    wait_until(lambda: not list_segments(log) and not list(stored.iterdir()), "the log to go from everywhere")
    shown = iris("logs", "job", code=1)
    assert shown.stdout == ""
    assert "11 bytes of stdout are missing here: removed: logs are kept for 0.001 s" in shown.stderr
