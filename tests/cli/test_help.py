"""The help of each command: it has examples, and each option is explained in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from iris.cli.program import program


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """`iris` and all its commands, with their full names."""
    yield name, command
    if isinstance(command, click.Group):
        for word, below in command.commands.items():
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
