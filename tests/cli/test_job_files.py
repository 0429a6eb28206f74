"""Job files: `iris run -f` reads one, `iris run --save` writes one, and the schema is complete."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique

from iris.cli.commands.submission.run import run
from iris.cli.job_files.job_file import defaults_of, keys_of, read_job_file, write_job_file
from iris.cli.job_files.schema import schema_text
from iris.errors import InvalidArgumentError

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
DOCS = Path(__file__).parents[2] / "docs"


def test_schema_in_the_package_and_in_the_documentation_has_every_option() -> None:
    packaged = resources.files("iris.cli.job_files").joinpath("job-file.schema.json").read_text()
    published = (DOCS / "reference" / "job-file.schema.json").read_text()
    assert packaged == published == schema_text(run), "write both with: python -m iris.cli.job_files"
    options = {option for parameter in run.params for option in parameter.opts if option.startswith("--")}
    named = {f"--{key.replace('_', '-')}" for key in json.loads(packaged)["properties"]}
    assert options - named == {"--file", "--save"}
    assert named - options == {"--command"}


def test_each_key_of_a_job_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    values = {"command": '["a"]', "env": "{ A = 1 }", "constraint": '{ zone = "a" }'}
    for key, parameter in keys_of(run).items():
        is_flag = getattr(parameter, "is_flag", False)
        several = getattr(parameter, "multiple", False)
        file.write_text(f"{key} = {values.get(key) or ('true' if is_flag else '[1]' if several else '1')}\n")
        entries = read_job_file(file, run)
        assert set(entries) == {key}
        assert set(defaults_of(entries, run)) == ({parameter.name} if key != "env" else set())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("replica = 2", "'replica' is not a key of a job file: did you mean replicas"),
        ("replicas = true", "replicas: expected a text or a number, got True"),
        ("spread = 1", "spread: expected true or false, got 1"),
        ("env = 'A=b'", "env: expected a list or a table, got 'A=b'"),
        ("port = { a = 1 }", "port: expected a list, got"),
        ("command = [[1]]", "command: expected a text or a number"),
        ("replicas", "is not valid TOML"),
    ],
)
def test_error_for_a_mistake_in_a_job_file_names_the_key(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(InvalidArgumentError) as caught:
        read_job_file(tmp_path / "job.toml", run)
    assert problem in str(caught.value)


def test_texts_written_to_a_job_file_are_read_back_unchanged(tmp_path: Path) -> None:
    odd = ["\x7f \\ \" ' \n \t é 😀", "", "007"]
    write_job_file(tmp_path / "job.toml", {"command": odd, "replicas": "12", "spread": True, "name": "007"})
    assert tomllib.loads((tmp_path / "job.toml").read_text()) == {
        "command": odd,
        "replicas": 12,
        "spread": True,
        "name": "007",
    }


def test_relative_paths_in_a_job_file_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('workspace = "code"\nenv_file = ["job.env", "/etc/job.env"]\n')
    entries = read_job_file(tmp_path / "job.toml", run)
    assert entries == {"workspace": f"{tmp_path}/code", "env_file": [f"{tmp_path}/job.env", "/etc/job.env"]}


def test_paths_saved_to_a_job_file_start_at_the_folder_of_the_command(remote_iris: Iris) -> None:
    for name in ("code", "sub"):
        (remote_iris.folder / name).mkdir()
    (remote_iris.folder / "code" / "hello").write_text("hello\n")
    remote_iris("run", "--save", "sub/job.toml", "--workspace", "code", "--", "cat", "hello")
    assert remote_iris("run", "-f", "sub/job.toml").stdout == "hello\n"


def test_saved_job_file_runs_the_same_job_and_the_command_line_overrides_it(remote_iris: Iris) -> None:
    script = "echo $IRIS_NUM_TASKS $A $B $C"
    options = ("-n", "2", "-e", "A=file", "-e", "B", "--independent", "--retries", "1")
    saved = remote_iris("run", "--save", "job.toml", *options, "--", "sh", "-c", script, B="written")
    assert saved.stdout == ""
    text = (remote_iris.folder / "job.toml").read_text()
    assert "written" not in text, "the value of the shell is not written"
    assert tomllib.loads(text) == {
        "replicas": 2,
        "env": ["A=file", "B"],
        "retries": 1,
        "independent": True,
        "command": ["sh", "-c", script],
    }
    name = unique("from-file")
    lines = remote_iris("run", "-f", "job.toml", "--name", name, B="shell").stdout.splitlines()
    assert sorted(lines) == ["task-0 | 2 file shell", "task-1 | 2 file shell"]
    assert remote_iris.json("describe", name)["submission"]["max_retries_failure"] == 1
    changed = ("-n", "1", "-e", "C=added", "-e", "A=line")
    assert remote_iris("run", "-f", "job.toml", *changed, B="shell").stdout == "1 line shell added\n"
    assert remote_iris("run", "-f", "job.toml", "-n", "1", "echo", "other", B="shell").stdout == "other\n"
    assert "'B' is not set in this shell" in remote_iris("run", "-f", "job.toml", code=2).stderr
    assert "Missing argument 'COMMAND...'" in remote_iris("run", "-n", "1", code=2).stderr
