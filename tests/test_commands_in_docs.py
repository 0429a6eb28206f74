"""Each `iris` command line on a page of the documentation names a command and options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.exceptions import BadOptionUsage

from iris.cli.program import program

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> Iterator[str]:
    """Return the `iris` command lines of a page, in blocks for a shell and in the text."""
    lines = [
        line.strip()
        for language, body in _BLOCK.findall(text)
        if language != "python"
        for line in re.sub(r"\\\n\s*", " ", body).splitlines()
    ]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]
    return (line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?iris [a-z-]", line))


def words_of(line: str) -> list[str]:
    """Return the words of a command line up to a comment, a pipe or a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if re.fullmatch(r"[();<>|&]+", word):
            break
        words.append(word)
    return words


def parse(words: list[str]) -> None:
    """Parse the words of a command line as `iris` does.

    Raises:
        UsageError: A command or an option does not exist.
    """
    command: click.Command = program
    context = click.Context(program, info_name="iris")
    rest = words[1:]
    while isinstance(command, click.Group):
        parser = command.make_parser(context)
        parser.allow_interspersed_args = False
        _, rest, _ = parser.parse_args(rest)
        if not rest:
            return
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_parser(context).parse_args(rest)


def test_command_lines_on_documentation_pages_name_commands_and_options_that_exist() -> None:
    wrong = []
    lines = [(page, line) for page in PAGES for line in command_lines(page.read_text())]
    assert len(lines) > 500
    for page, line in lines:
        try:
            parse(words_of(line))
        except BadOptionUsage:
            continue  # A text names an option without its value, such as `iris up --lease`.
        except (click.UsageError, ValueError) as error:
            wrong.append(f"{page.relative_to(ROOT)}: {line}: {error}")
    assert wrong == []


@pytest.mark.parametrize("line", ["iris run --nope -- true", "iris gte", "iris context lst", "iris --nope ps"])
def test_check_of_documentation_finds_unknown_commands_and_options(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(words_of(line))


def test_advice_about_commands_of_other_tools_names_commands_that_exist() -> None:
    context = click.Context(program, info_name="iris")
    for word in ("get", "squeue", "submit", "scancel", "ssh", "apply", "scp", "artifacts", "sacct", "watch", "edit"):
        with pytest.raises(click.UsageError) as raised:
            program.resolve_command(context, [word])
        lines = re.findall(r"'(iris [^']*)'", raised.value.format_message())
        assert lines, word
        for line in lines:
            with suppress(BadOptionUsage):  # An advice may name an option without its value.
                parse(words_of(line))
