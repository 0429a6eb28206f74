"""Makes the page of the command line from the commands of `iris`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from docsite.reference.markdown import HEADER, cell, page_link, prose, table, wrapped
from docsite.reference.see_also import COMMANDS
from iris.cli.exit_codes import JOB_EXIT_CODES, JobCodeCommand
from iris.cli.lazy_group import LazyGroup, SuggestingGroup
from iris.cli.program import program

_EXAMPLE_WIDTH = 100  # In a wider block of examples, each remark stands above its command.
_COMMON = ("address", "context")
_CONNECTED = "This command also takes [`--address` and `--context`](#which-cluster)."


def command_line_page() -> str:
    """Return the text of docs/reference/cli.md."""
    assert isinstance(program, LazyGroup)
    context = click.Context(program, info_name="iris")
    found = list(_commands(program, context))
    parts = [
        "# Command line",
        HEADER,
        *_paragraphs(program.help or ""),
        *_paragraphs(program.epilog or ""),
        "See also: " + ", ".join(page_link(page) for page in COMMANDS["iris"]) + ".",
        table(
            ("command", "what it does"),
            [
                (f"[`{name}`](#{name.replace(' ', '-')})", cell(prose(command.get_short_help_str(200))))
                for name, command, _ in found
                if not isinstance(command, click.Group)
            ],
        ),
        table(
            ("other name", "command"),
            [(f"`{alias}`", f"`{name}`") for alias, name in _aliases(found, context)],
        ),
        "## Which cluster",
        "These options may stand before or after the command.",
        _options(program, context),
        "## Exit codes",
        wrapped(
            "All commands exit with 0 after success, with 2 if the command line is invalid, with 130 after Ctrl-C, and"
            " with 141 if the reader of their output has closed the pipe. All other errors give 1, except in the"
            f" commands that exit with the code of a job: {_job_code_commands(found)}. Their codes are:"
        ),
        table(("exit code", "meaning"), [(code, cell(prose(meaning))) for code, meaning in JOB_EXIT_CODES]),
        wrapped(
            "With several jobs, the exit code is the code of the first job on the command line that did not succeed."
        ),
    ]
    for name, command, inner in found:
        parts += _section(name, command, inner)
    return "\n\n".join(parts) + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Return each command with its full name and a context, in the order of help. A group comes before its commands."""
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if command.hidden:
            continue
        inner = click.Context(command, info_name=word, parent=context)
        yield inner.command_path, command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _aliases(
    found: list[tuple[str, click.Command, click.Context]], context: click.Context
) -> Iterator[tuple[str, str]]:
    """Return the full name of each alias, and the full name of its command."""
    for group_name, group, _ in [("iris", program, context), *found]:
        if isinstance(group, SuggestingGroup):
            for alias, name in group.aliases.items():
                yield f"{group_name} {alias}", f"{group_name} {name}"


def _job_code_commands(found: list[tuple[str, click.Command, click.Context]]) -> str:
    names = [
        f"`{name} -f`" if any(parameter.name == "follow" for parameter in command.params) else f"`{name}`"
        for name, command, _ in found
        if isinstance(command, JobCodeCommand)
    ]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _section(name: str, command: click.Command, context: click.Context) -> list[str]:
    level = "#" * len(name.split())
    usage = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "[options]")
    parts = [f"{level} {name}"]
    if not isinstance(command, click.Group):
        parts.append(f"```text\n{name} {usage}\n```")
    parts += _paragraphs(command.help or "")
    if options := _options(command, context):
        parts.append(options)
    if any(parameter.name == "address" for parameter in command.params):
        parts.append(_CONNECTED)
    if isinstance(command, JobCodeCommand):
        parts.append("[Exit codes](#exit-codes) lists the exit codes.")
    if pages := COMMANDS.get(name):
        parts.append(wrapped("See also: " + ", ".join(page_link(*page.partition("#")[::2]) for page in pages) + "."))
    return parts


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a help text. A paragraph that begins with a backspace is an example of the shell."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("\b"):
            found.append(f"```sh\n{_examples(paragraph)}\n```")
        else:
            found.append(wrapped(prose(paragraph)))
    return found


def _examples(paragraph: str) -> str:
    """Return the examples of a help text as lines for a shell, in which the remarks are comments."""
    lines = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in paragraph.splitlines()[1:]]
    width = max((len(line[0]) for line in lines if len(line) > 1), default=0)
    beside = [line[0] if len(line) == 1 else f"{line[0]:{width}}   # {line[1]}" for line in lines]
    if max(map(len, beside)) <= _EXAMPLE_WIDTH:
        return "\n".join(beside)
    above = [line[0] if len(line) == 1 else f"# {line[1][:1].upper()}{line[1][1:]}\n{line[0]}" for line in lines]
    return "\n".join(above)


def _options(command: click.Command, context: click.Context) -> str:
    common = () if context.parent is None else _COMMON
    rows = []
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden and parameter.name not in common:
            record = parameter.get_help_record(context)
            if record is not None and "--help" not in parameter.opts and "--version" not in parameter.opts:
                rows.append((_names(parameter, context), cell(_meaning(parameter))))
    return table(("option", "meaning"), rows) if rows else ""


def _names(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {_value_name(option, context)}"
    short_first = sorted(option.opts, key=len)
    names = [*short_first[:-1], f"{short_first[-1]}{cell(value)}", *option.secondary_opts]
    return ", ".join(f"`{name}`" for name in names)


def _value_name(option: click.Option, context: click.Context) -> str:
    name = option.make_metavar(context)
    return name[1:-1] if re.fullmatch(r"\[[^\[]*\]", name) else name  # A choice is in brackets: [local|ray|slurm]


def _meaning(option: click.Option) -> str:
    """Return the help of an option. The default is a part of the help text of each option that has one."""
    return prose(option.help or "")
