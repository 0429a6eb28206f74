"""Environment variables for jobs: `--env` and `--env-file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iris.cli.environment_options import all_variables, read_env_file, read_variable
from iris.errors import InvalidArgumentError

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_variable_without_a_value_gets_the_value_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_SHELL", "a=b")
    assert read_variable("OF_SHELL") == ("OF_SHELL", "a=b")
    assert read_variable("OF_SHELL=") == ("OF_SHELL", "")
    with pytest.raises(InvalidArgumentError, match="the variable 'NOT_SET_HERE' is not set in this shell"):
        read_variable("NOT_SET_HERE")
    with pytest.raises(InvalidArgumentError, match="NAME=VALUE or NAME, got '=x'"):
        read_variable("=x")


def test_file_of_variables_has_one_variable_in_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_SHELL", "'quoted'")
    file = tmp_path / "job.env"
    file.write_text("# comment\n\nA=1\nexport B = two words \nC='quoted # = '\nD=\"\nE=\nOF_SHELL\nF=it's\n")
    assert read_env_file(str(file)) == {
        "A": "1",
        "B": "two words",
        "C": "quoted # = ",
        "D": '"',
        "E": "",
        "OF_SHELL": "'quoted'",
        "F": "it's",
    }


def test_error_for_an_invalid_line_in_a_file_of_variables_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "job.env"
    file.write_text("A=1\nNOT_SET_HERE\n")
    with pytest.raises(InvalidArgumentError, match=r"line 2 of '.*job.env': the variable 'NOT_SET_HERE' is not set"):
        read_env_file(str(file))
    file.write_bytes(b"A=\xff\n")
    with pytest.raises(InvalidArgumentError, match="cannot read the variables in"):
        read_env_file(str(file))
    with pytest.raises(InvalidArgumentError, match="No such file"):
        read_env_file(str(tmp_path / "missing"))


def test_variables_of_later_files_override_earlier_files_and_options_override_files() -> None:
    assert all_variables([{"A": "1", "B": "1"}, {"A": "2"}], [("B", "3")]) == {"A": "2", "B": "3"}


def test_run_passes_variables_of_options_files_and_the_shell(remote_iris: Iris) -> None:
    (remote_iris.folder / "job.env").write_text("A=file\nB=file\n")
    words = ("-e", "A=option", "-e", "OF_SHELL", "--env-file", "job.env")
    done = remote_iris("run", *words, "--", "sh", "-c", "echo $A $B $OF_SHELL", OF_SHELL="shell")
    assert done.stdout == "option file shell\n"
    assert "Invalid value for '--env-file'" in remote_iris("run", "--env-file", "nothing", "true", code=2).stderr
