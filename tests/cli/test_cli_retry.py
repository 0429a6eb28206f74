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


def test_run_with_a_taken_name_shows_the_earlier_job_with_reuse_and_replaces_it_with_replace(remote_iris: Iris) -> None:
    name = unique("again")
    remote_iris("run", "--name", name, "--", "echo", "first")
    assert remote_iris("run", "--name", name, "--reuse", "--", "echo", "second").stdout == "first\n"
    refused = remote_iris("run", "--name", name, "--", "echo", "second", code=125)
    assert all(words in refused.stderr for words in ("choose another name", "--replace", "--reuse"))
    assert remote_iris("run", "--name", name, "--replace", "--", "echo", "second").stdout == "second\n"
    wide = unique("wide")
    remote_iris("run", "--name", wide, "-n", "2", "--", "echo", "first")
    shown = remote_iris("run", "--name", wide, "--reuse", "--", "echo", "second").stdout
    assert sorted(shown.splitlines()) == ["task-0 | first", "task-1 | first"]
    assert "--reuse needs --name" in remote_iris("run", "--reuse", "true", code=2).stderr


def editor(iris: Iris, script: str) -> dict[str, str]:
    """Return the variables that make a shell script the editor. The script gets the file as `$1`."""
    path = iris.folder / "editor"
    path.write_text(f'#!/bin/sh\ncp "$1" {iris.folder}/seen.$$\n{script}\n')
    path.chmod(0o755)
    return {"EDITOR": str(path), "VISUAL": ""}


def seen(iris: Iris) -> list[str]:
    """Return the texts that the editor was opened with, in order, and forget them."""
    files = sorted(iris.folder.glob("seen.*"), key=lambda file: file.stat().st_mtime_ns)
    texts = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    return texts


def test_rerun_with_edit_submits_the_changes_and_keeps_secret_variables(remote_iris: Iris) -> None:
    options = ("-n", "2", "--independent", "--memory", "64MiB", "-e", "SECRET=hidden", "-e", "LR=1")
    first = remote_iris.detach('echo "$SECRET $LR $MORE $IRIS_NUM_TASKS"', *options)
    remote_iris("wait", first)
    script = """sed -i 's/^replicas = 2/replicas = 1/; s/"LR"/"LR=2", "MORE=3"/; s/64MiB/32MiB/' "$1" """
    done = remote_iris("rerun", first, "--edit", "--name", f"{first}-b", **editor(remote_iris, script))
    assert done.stdout == "hidden 2 3 1\n"
    (text,) = seen(remote_iris)
    assert "hidden" not in text
    assert 'memory = "64MiB"' in text
    submission = remote_iris.json("describe", f"{first}-b")["submission"]
    assert (submission["replicas"], submission["memory_bytes"], submission["independent"]) == (1, 32 << 20, True)
    assert {"LR", "MORE", "SECRET"} <= set(submission["environment"])


def test_rerun_with_an_edited_file_that_is_not_utf8_is_refused(remote_iris: Iris) -> None:
    name = remote_iris.detach("true")
    script = """printf '# \\377\n' >> "$1" """
    refused = remote_iris("retry", name, "--edit", code=125, **editor(remote_iris, script)).stderr
    assert "no job was submitted, because the edited file is not UTF-8: byte 0xff at position" in refused


def test_editor_that_changes_nothing_submits_nothing(remote_iris: Iris) -> None:
    name = remote_iris.detach("true")
    for script in ("true", 'echo "# a comment" >> "$1"'):
        done = remote_iris("retry", name, "--edit", **editor(remote_iris, script))
        assert done.stdout == ""
        assert "nothing was changed, so no job was submitted" in done.stderr


def test_error_in_the_edited_file_opens_the_editor_again_with_the_message(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo again $X")
    script = """
    if grep -q '^#! Error' "$1"; then sed -i 's/^memory.*/memory = "1GiB"/' "$1"
    else echo 'memory = "lots"' >> "$1"; fi
    """
    again = f"{name}-again"
    assert remote_iris("retry", name, "--edit", "--name", again, **editor(remote_iris, script)).stdout == "again\n"
    first, second = seen(remote_iris)
    assert "Error" not in first
    assert "#! Error" in second
    assert "lots" in second
    broken = 'grep -q Error "$1" || echo "replicas = many = 1" >> "$1"'
    failed = remote_iris("retry", name, "--edit", code=125, **editor(remote_iris, broken))
    assert "no job was submitted: the file is not valid TOML" in failed.stderr
    for line, message in (
        ('workspace = "."', "workspace cannot be changed here"),
        ('env = ["NOPE"]', "the earlier job has no variable 'NOPE'"),
        ("colour = 1", "'colour' is not a key of a job file"),
    ):
        script = f"""grep -q Error "$1" || {{ sed -i '/^env/,/^]/d' "$1"; echo '{line}' >> "$1"; }}"""
        assert message in remote_iris("retry", name, "--edit", code=125, **editor(remote_iris, script)).stderr


def test_edit_option_without_an_editor_and_a_terminal_is_refused(remote_iris: Iris) -> None:
    name = unique("edited")
    remote_iris("run", "--name", name, "--", "true")
    refused = remote_iris("retry", name, "--edit", code=125, EDITOR="", VISUAL="")
    assert "--edit needs a terminal, or a program in VISUAL or EDITOR" in refused.stderr
