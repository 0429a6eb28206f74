"""`iris completion`: which words a shell offers."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import Any

import pytest
from support.cluster import unique

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def offered(iris: Iris, *words: str) -> list[str]:
    """The words that zsh offers for the last word of a command line."""
    done = iris(_IRIS_COMPLETE="zsh_complete", COMP_WORDS=shlex.join(["iris", *words]), COMP_CWORD=str(len(words)))
    assert done.stderr == ""
    return done.stdout.splitlines()[1::3]  # Each word has three lines: a type, the word and a help text.


def test_commands_options_and_choices_are_completed(remote_iris: Iris) -> None:
    assert offered(remote_iris, "at") == ["attach"]
    assert offered(remote_iris, "token", "c") == ["create"]
    assert "--env-file" in offered(remote_iris, "run", "--en")
    assert offered(remote_iris, "logs", "--source", "std") == ["stdout", "stderr"]
    assert offered(remote_iris, "ps", "--state", "failed,ki") == ["failed,killed"]


def test_ids_of_jobs_and_tasks_are_completed(remote_iris: Iris) -> None:
    base = unique("complete")
    for number, script in enumerate(("exec sleep 600", "true")):
        remote_iris(
            "run",
            "-d",
            "--name",
            f"{base}-{number}",
            "-n",
            "2",
            "--independent",
            "--cpu",
            "0",
            "--",
            "sh",
            "-c",
            script,
        )
    remote_iris("wait", f"{base}-1")
    for command in ("status", "logs", "wait", "kill", "attach"):
        assert offered(remote_iris, command, f"{base}-") == [f"{base}-0", f"{base}-1"], "the job that runs comes first"
    assert offered(remote_iris, "logs", f"{base}-1/") == [f"{base}-1/task-0", f"{base}-1/task-1"]
    assert offered(remote_iris, "attach", f"{base}-1/") == []
    remote_iris("kill", f"{base}-0")


def test_completion_without_a_cluster_offers_nothing_and_prints_no_error(iris: Iris) -> None:
    assert offered(iris, "status", "x") == []
    assert offered(iris, "--address", "127.0.0.1:9", "status", "x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_program_and_is_valid_for_its_shell(iris: Iris, shell: str) -> None:
    script = iris("completion", shell).stdout
    assert f"_IRIS_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_a_command_with_the_script(iris: Iris) -> None:
    program = iris.folder / "iris"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(iris.command())} "$@"\n')
    program.chmod(0o755)
    script = f"""
{iris("completion", "bash").stdout}
COMP_WORDS=(iris wa); COMP_CWORD=1; _iris_completion {program}
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=iris.env)
    assert done.stdout.splitlines()[-1] == "wait"
