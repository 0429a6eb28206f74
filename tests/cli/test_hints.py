"""The hints for people who type commands and options of kubectl, docker, Slurm, Modal and Ray."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from iris.cli.hints.foreign_words import ANY, COMMANDS, OPTIONS
from iris.cli.program import program

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def command_named(name: str) -> click.Command | None:
    """Return a command of `iris`."""
    return program.get_command(click.Context(program), name)


def options_of(name: str) -> set[str]:
    """Return all options of a command of `iris`."""
    command = command_named(name)
    assert command is not None, name
    return {text for option in command.params for text in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("scale web --replicas 3", "'iris retry web --edit' submits it with other replicas"),
        ("rollout restart deployment/web", "'iris retry web' submits an ended job again"),
        ("rollout restart deployment web", "'iris retry web'"),
        ("stats", "'iris top' shows the tasks that run"),
        ("start web", "'iris retry web' submits a job again"),
        ("images", "Iris has no images"),
        ("rmi ubuntu", "Iris has no images"),
        ("volume ls", "Iris has no volumes"),
        ("secret create token", "'iris run -e NAME' passes a variable of this shell"),
        ("salloc -n 4", "'iris run -n 4 --cpu 2 -- COMMAND' runs a job on reserved resources"),
        ("app list", "'iris ps' lists jobs"),
        ("app logs web", "'iris logs -f web' follows the lines of a job"),
        ("port-forward pod/web 8000:9000", "'iris forward web 9000:8000'"),
        ("delete job web", "'iris kill web' ends a job"),
        ("describe pod web", "'iris describe web' shows a job"),
        ("run -it bash", "no such option '-i': tasks have no terminal"),
        ("run -ti bash", "tasks have no terminal"),
        ("run -p 9000:80 server", "'iris forward JOB web:9000' reaches it from this machine"),
        ("run --ntasks 4 true", "no such option '--ntasks': use '-n 4'"),
        ("run --ntasks=4 true", "use '-n 4'"),
        ("run --rm true", "'iris rm JOB' removes a job"),
        ("run --time 2:30:00 true", "use '--timeout 2h30m'"),
        ("run --time 1-0 true", "use '--timeout 1d'"),
        ("run --time 90 true", "use '--timeout 90m'"),
        ("run --mem 4G true", "use '--memory 4GiB'"),
        ("run --mem 500 true", "use '--memory 500MiB'"),
        ("ps -o json", "no such option '-o': use '--json'"),
        ("status web -o yaml", "use '--json'"),
        ("ps -A", "use '--all'"),
        ("logs web --previous", "use '--attempt N'"),
        ("logs web -n 20", "use '--tail 20'"),
        ("wait --for=condition=complete web", "'iris wait' waits for the end"),
        ("kill -9 web", "no other signal can be sent"),
        ("cp -r web:out .", "leave the option out"),
        ("health", "'iris doctor' checks a cluster"),
        ("metrics", "'iris up --metrics-port PORT'"),
        ("version", "'iris --version' shows the version"),
        ("requeue web", "'iris retry web' submits an ended job again"),
        ("scontrol requeue web", "'iris retry web'"),
        ("exec web -c main -- ls", "'iris exec JOB/task-N' names one of several tasks"),
        ("exec --container main web -- ls", "a task has no containers"),
        ("exec --task 2 web -- ls", "'iris exec JOB/task-2'"),
        ("exec web --task=2 -- ls", "'iris exec JOB/task-2'"),
        ("shell web -c main", "'iris shell JOB/task-N'"),
        ("stack web --task 7", "'iris stack JOB/task-7'"),
        ("profile web --seconds 30", "no such option '--seconds': use '--duration 30'"),
        ("profile web -d 30", "use '--duration 30'"),
        ("run --export ALL true", "use '--env NAME'"),
        ("run -a 0-9 true", "no such option '-a': use '--array 0-9'"),
        ("tasks web", "'iris status web' shows each task"),
        ("launch job.yaml", "'iris run -d -- COMMAND' submits a job"),
        ("system prune", "'iris rm JOB' removes an ended job"),
        ("whoami", "'iris context show' shows the cluster"),
        ("run --mem 2Gi true", "use '--memory 2GiB'"),
        ("run --cwd /data true", "use '--workspace /data'"),
        ("run --secret KEY true", "use '--env NAME'"),
        ("run --concurrency 4 true", "use '--max-parallel 4'"),
        ("run --exclusive true", "use '--spread'"),
        ("run --wait true", "leave the option out"),
        ("kill web --force", "no other signal can be sent"),
        ("wait --all web", "leave the option out"),
        ("events --limit 3", "use '--tail 3'"),
    ],
)
def test_command_line_of_another_tool_gets_a_hint_with_the_matching_iris_command(line: str, hint: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        program.main(line.split(), prog_name="iris", standalone_mode=False)
    assert hint in caught.value.format_message()
    assert "{" not in caught.value.format_message()


@pytest.mark.parametrize(
    ("line", "usage"),
    [("help", "iris [OPTIONS] COMMAND"), ("help run", "iris run [OPTIONS]"), ("help context use", "iris context use")],
)
def test_word_help_before_a_command_shows_the_help_of_the_command(
    line: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(line.split(), prog_name="iris", standalone_mode=False) == 0
    assert f"Usage: {usage}" in capsys.readouterr().out


def test_resource_of_kubectl_that_is_not_a_job_gets_a_hint(remote_iris: Iris) -> None:
    assert "'iris top' shows the tasks that run" in remote_iris("top", "pods", code=1).stderr


def test_tables_of_hints_contain_no_command_or_option_that_is_valid_in_iris() -> None:
    assert [word for word in COMMANDS if command_named(word)] == []
    assert [key for key in OPTIONS if key[0] != ANY and key[1] in options_of(key[0])] == []


def test_hints_name_only_commands_and_options_that_exist() -> None:
    for hint in [*COMMANDS.values(), *OPTIONS.values()]:
        for text in re.findall(r"['\"](iris [^'\"|]*)", hint):
            _, name, *words = text.split()
            if name.startswith("-"):
                assert name in {option for parameter in program.params for option in parameter.opts}, text
                continue
            assert {word for word in words if word.startswith("-") and word != "--"} <= options_of(name), text
    for (command, _), hint in OPTIONS.items():
        for option in re.findall(r"use '(-[\w-]+)", hint):
            assert command == ANY or option in options_of(command), (command, hint)
