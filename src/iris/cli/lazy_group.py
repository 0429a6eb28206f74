"""A group of commands for click that imports a command only when the command is used, and suggests similar names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

_SUGGESTIONS = 3
_WORDS_KEY = "iris.words"  # The words of the whole command line are stored in `click.Context.meta` under this key.


def given_words(context: click.Context) -> list[str]:
    """Return the words of the command line that follow the options of the outermost group."""
    words: list[str] = context.meta.get(_WORDS_KEY, [])
    return words


def _no_hint(words: Sequence[str]) -> str:
    return ""


class SuggestingGroup(click.Group):
    """A group that names similar commands in the error about an unknown command. Its commands can have other names.

    Args:
        hint: A function that returns the hint for words of other tools, or an empty string if it knows no hint.
        aliases: The command for each other name of a command. Help lists the other names in a separate section.
        attributes: Keyword arguments that are passed on to `click.Group`.

    Attributes:
        aliases: The name of the command for each alias.
    """

    def __init__(
        self,
        *args: Any,
        hint: Callable[[Sequence[str]], str] = _no_hint,
        aliases: Mapping[str, str] = MappingProxyType({}),
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._hint = hint
        self.aliases = aliases

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name, the command and the remaining words, as `click.Group` does.

        Raises:
            UsageError: There is no such command. The message suggests similar commands.
        """
        ctx.meta.setdefault(_WORDS_KEY, list(args))
        word = args[0]
        if ctx.resilient_parsing or word.startswith("-") or self.get_command(ctx, word) is not None:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"no such command {word!r}: {self._advice(ctx, args)}", ctx)

    def _advice(self, ctx: click.Context, words: Sequence[str]) -> str:
        if hint := self._hint(words):
            return hint
        near = difflib.get_close_matches(words[0], self.accepted_words(ctx), n=_SUGGESTIONS)
        return f"did you mean {' or '.join(near)}?" if near else f"'{ctx.command_path} --help' lists all commands"

    def accepted_words(self, ctx: click.Context) -> list[str]:
        """Return all names that stand for a command of this group."""
        return [*self.list_commands(ctx), *self.aliases]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command with a name or an alias. Return None if there is no such command."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands and the list of aliases into the help of the group."""
        super().format_commands(ctx, formatter)
        if self.aliases:
            with formatter.section("Other names of commands"):
                formatter.write_dl([(alias, f"The same as {name}.") for alias, name in self.aliases.items()])


class LazyGroup(SuggestingGroup):
    """A group whose commands are imported when they are used.

    Args:
        modules: The module of each command, by the name of the command. A variable of the same name in the module
            contains the command. Help lists the commands in this order.
        attributes: Keyword arguments that are passed on to `SuggestingGroup`.
    """

    def __init__(self, modules: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, without aliases."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it. Return None if there is no such command."""
        name = self.aliases.get(cmd_name, cmd_name)
        module = self._modules.get(name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(module), name)
        return command
