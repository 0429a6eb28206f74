"""The commands `iris context list`, `use`, `show` and `remove`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.commands.contexts.login import note_variables, remove_context
from iris.cli.completion import complete_context
from iris.cli.lazy_group import SuggestingGroup
from iris.cli.options import CONTEXT, given_context, json_option
from iris.cli.output.context_texts import context_document, local_document, source_text
from iris.cli.output.printer import Output
from iris.cluster.client.contexts.choose_cluster import ChosenCluster, find_cluster
from iris.cluster.client.contexts.context_file import LOCAL, Contexts, change_contexts, read_contexts
from iris.errors import FailedPreconditionError

if TYPE_CHECKING:
    from rich.console import RenderableType

_HELP = """\
Show, choose and remove contexts. A context is a cluster with a name; 'iris login' makes one. The context 'local' always
exists: it is the cluster that 'iris up' has started on this machine.

\b
  iris context list
  iris context use prod
  iris --context staging ps          one command on another cluster
"""
_LIST_HELP = """\
Show the contexts, without their tokens. '*' marks the current context.

\b
  iris context list
  iris context list --json | jq -r '.contexts[].name'
"""
_USE_HELP = """\
Choose the context of the cluster that commands and IrisClient.remote() call if nothing else names a cluster.

\b
  iris context use prod
  iris context use local             the cluster of 'iris up' on this machine
"""
_SHOW_HELP = """\
Show a context without its token. Without NAME, show the cluster that commands call now, and whether a variable, a
context or 'iris up' names this cluster.

\b
  iris context show
  iris context show prod --json
"""
_REMOVE_HELP = """\
Remove a context with its token. The token stays valid until it expires. 'iris token revoke ID' revokes it earlier.

\b
  iris context remove staging
"""


# Hints for users who type a subcommand of kubectl or docker after `iris context`.
_FOREIGN = {
    **dict.fromkeys(("get-contexts",), "'iris context list' shows the contexts"),
    **dict.fromkeys(("current", "current-context", "inspect"), "'iris context show' shows the current context"),
    **dict.fromkeys(("delete", "delete-context"), "'iris context remove NAME' removes a context"),
    **dict.fromkeys(("switch", "set", "use-context"), "'iris context use NAME' chooses a context"),
    **dict.fromkeys(("create", "add", "set-context"), "'iris login ADDRESS --name NAME' makes a context"),
}


@click.group(
    cls=SuggestingGroup,
    hint=lambda words: _FOREIGN.get(words[0], ""),
    aliases={"ls": "list", "rm": "remove"},
    help=_HELP,
    short_help="Show and choose clusters by name.",
    context_settings=CONTEXT,
)
def context() -> None:
    """See `_HELP`."""


@context.command("list", help=_LIST_HELP, short_help="Show the contexts.")
@json_option()
def list_contexts(*, as_json: bool) -> None:
    """See `_LIST_HELP`."""
    output = Output(as_json=as_json)
    contexts = read_contexts()
    current = contexts.current or LOCAL
    documents = [
        local_document(_running_address(), is_current=current == LOCAL),
        *(context_document(one, is_current=name == current) for name, one in sorted(contexts.known.items())),
    ]
    output.answer({"current": current, "contexts": documents}, lambda: _table(documents))


@context.command(help=_USE_HELP, short_help="Choose the current context.")
@json_option()
@click.argument("name", metavar="NAME", shell_complete=complete_context)
def use(*, name: str, as_json: bool) -> None:
    """See `_USE_HELP`."""
    output = Output(as_json=as_json)
    contexts = change_contexts(lambda contexts: contexts.with_current(name))
    current = contexts.current or LOCAL
    output.answer({"current": current}, lambda: f"the current context is {current}")
    note_variables(output)


@context.command(help=_SHOW_HELP, short_help="Show the cluster that commands call.")
@json_option()
@click.argument("name", metavar="NAME", required=False, shell_complete=complete_context)
def show(*, name: str | None, as_json: bool) -> None:
    """See `_SHOW_HELP`."""
    output = Output(as_json=as_json)
    contexts = read_contexts()
    chosen = find_cluster(context=name or given_context())
    if chosen is None:
        if name == LOCAL:
            raise FailedPreconditionError("no cluster of 'iris up' runs on this machine: start one with 'iris up'")
        raise FailedPreconditionError(
            "commands find no cluster: start one on this machine with 'iris up', or run 'iris login ADDRESS'"
        )
    document = _document(chosen, contexts)
    output.answer(document, lambda: _facts(document))


@context.command(help=_REMOVE_HELP, short_help="Remove a context.")
@json_option()
@click.argument("name", metavar="NAME", shell_complete=complete_context)
def remove(*, name: str, as_json: bool) -> None:
    """See `_REMOVE_HELP`."""
    output = Output(as_json=as_json)
    if name == LOCAL:
        raise FailedPreconditionError("the context 'local' always exists: 'iris down' ends its cluster")
    remove_context(name, output)


def _document(chosen: ChosenCluster, contexts: Contexts) -> dict[str, object]:
    if chosen.context is not None:
        known = context_document(chosen.context, is_current=chosen.context.name == contexts.current)
    elif chosen.source == "running":
        known = local_document(chosen.address, is_current=not contexts.current)
    else:
        known = {"name": None, "address": chosen.address}
    return {**known, "source": chosen.source}


def _facts(document: dict[str, object]) -> str | RenderableType:
    from iris.cli.output.columns import facts
    from iris.cli.output.context_texts import words_of_expiry
    from iris.cli.output.tables import plain

    pairs = [
        ("context", document["name"]),
        ("address", document["address"]),
        ("named by", source_text(str(document["source"]))),
        ("user", document.get("user")),
        ("role", document.get("role")),
        ("token", words_of_expiry(document)),
        ("ca", document.get("ca")),
        ("cert", document.get("cert")),
    ]
    return facts([(name, plain(str(value))) for name, value in pairs if value])


def _table(documents: list[dict[str, object]]) -> str | RenderableType:
    from iris.cli.output.columns import Columns
    from iris.cli.output.context_texts import words_of_expiry
    from iris.cli.output.tables import plain

    table = Columns("CONTEXT", "ADDRESS", "USER", "ROLE", "TOKEN")
    for one in documents:
        table.add_row(
            plain(f"{one['name']}{' *' if one['current'] else ''}"),
            plain(str(one["address"] or "(not running)")),
            plain(str(one["user"] or "")),
            plain(str(one["role"] or "")),
            plain(words_of_expiry(one)),
        )
    return table


def _running_address() -> str | None:
    """Return the address of the cluster of `iris up` on this machine, or None if none runs."""
    try:
        chosen = find_cluster(context=LOCAL)
    except FailedPreconditionError:
        return None  # `iris up` is not running, or its record cannot be trusted.
    return None if chosen is None else chosen.address
