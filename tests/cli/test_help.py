"""The help of each command: it has examples, and each option is explained in sentences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from iris.cli.program import program


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """`iris` and all its commands, with their full names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from commands(below, f"{name} {word}")


ALL = dict(commands(program, "iris"))


@pytest.mark.parametrize("name", ALL)
def test_help_of_a_command_has_an_example_of_it(name: str) -> None:
    lines = (ALL[name].help or "").splitlines()
    assert [line for line in lines if line.startswith(f"  {name}")], lines
    assert "\b" in lines, "click would wrap the examples"


@pytest.mark.parametrize("name", ALL)
def test_help_of_each_option_consists_of_sentences(name: str) -> None:
    options = [option for option in ALL[name].params if isinstance(option, click.Option) and option.name != "version"]
    wrong = {option.name: option.help for option in options if not option.help or option.help[-1] != "."}
    lower = {option.name: option.help for option in options if option.help and not option.help[0].isupper()}
    assert wrong | lower == {}


def test_command_is_imported_only_when_it_is_used() -> None:
    script = "import sys; from iris.cli.program import run_program; sys.argv = ['iris', 'ps', '-h']; run_program();"
    script += "print(*[name for name in sys.modules if name.startswith('iris.cli.commands.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ps = "iris.cli.commands.jobs.ps"
    assert done.stdout.splitlines()[-1].split() == ["iris.cli.commands.jobs", f"{ps}_watch", ps]


@pytest.mark.parametrize(("alias", "name"), [("list", "ps"), ("stop", "kill"), ("cancel", "kill"), ("log", "logs")])
def test_alias_stands_for_its_command_and_is_listed_in_help(alias: str, name: str) -> None:
    context = click.Context(program)
    assert program.get_command(context, alias) is ALL[f"iris {name}"]
    assert f"{alias}  " in program.get_help(context)


@pytest.mark.parametrize(
    ("group", "alias", "name"), [("context", "ls", "list"), ("context", "rm", "remove"), ("token", "ls", "list")]
)
def test_alias_in_a_group_stands_for_its_command_and_is_listed_in_help(group: str, alias: str, name: str) -> None:
    command = ALL[f"iris {group}"]
    assert isinstance(command, click.Group)
    context = click.Context(command)
    assert command.get_command(context, alias) is ALL[f"iris {group} {name}"]
    assert f"{alias}  " in command.get_help(context)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["stauts"], "no such command 'stauts': did you mean status"),
        (["cancle"], "did you mean cancel?"),
        (["get"], "'iris ps' lists jobs"),
        (["delete"], "'iris rm JOB' removes an ended job"),
        (["context", "delete"], "'iris context remove NAME' removes a context"),
        (["context", "lst"], "did you mean list or ls?"),
        (["token", "creat"], "did you mean create?"),
        (["qqq"], "'iris --help' lists all commands"),
    ],
)
def test_unknown_command_is_refused_with_similar_commands(words: list[str], advice: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        program.main(words, prog_name="iris", standalone_mode=False)
    assert advice in caught.value.message
