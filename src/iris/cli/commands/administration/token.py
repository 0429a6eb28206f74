"""`iris token create`, `list`, `revoke`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.lazy_group import SuggestingGroup
from iris.cli.options import CONTEXT, DURATION, address_option, json_option, refused_options
from iris.cli.output.printer import Output
from iris.durations import write_span
from iris.rpc.auth.caller import GIVEN_ROLES, MAX_TTL_S, USER

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_HELP = """\
Create, list and revoke tokens, with which people and programs may call a cluster. 'iris up' makes a token for the user
who starts the cluster, and the commands on that machine find that token by themselves. Only an admin can use these
commands.

\b
  iris token create ana
  iris token list
  iris token revoke 4f1d2c3b5a697887
"""
_CREATE_HELP = """\
Create a token, and print it. The token cannot be shown again. Whoever has the token may call the cluster. NAME is the
name of its holder.

\b
  iris token create ana                           for IRIS_TOKEN, or IrisClient.remote(…, token=…)
  iris token create dashboard --role reader --ttl 365d

The roles: a 'user' may submit, terminate and read all jobs; a 'reader' may only read; a 'worker' serves as the worker
NAME on another machine; an 'admin' may do everything, and create and revoke tokens.
"""
_LIST_HELP = """\
Show the tokens: the name of each token's holder, its role, and when it expires.

\b
  iris token list
  iris token list --json | jq -r '.tokens[] | select(.name == "ana") | .token_id'
"""
_REVOKE_HELP = """\
Revoke a token for good. The controller ends the token's open streams at once, and workers
end them within seconds. 'iris token list' shows the IDs.

\b
  iris token revoke 4f1d2c3b5a697887
"""


@click.group(
    cls=SuggestingGroup,
    aliases={"ls": "list"},
    help=_HELP,
    short_help="Create, show and revoke tokens.",
    context_settings=CONTEXT,
)
def token() -> None:
    """See `_HELP`."""


@token.command(help=_CREATE_HELP, short_help="Create a token.")
@click.option(
    "--role",
    type=click.Choice(GIVEN_ROLES),
    default=USER,
    help="The role of the token, which decides what its holder may do. Default: user.",
)
@click.option(
    "--ttl", type=DURATION, default=30 * 86400.0, help="How long the token is valid, such as 12h or 365d. Default: 30d."
)
@json_option()
@address_option
@click.argument("name", metavar="NAME")
def create(*, name: str, role: str, ttl: float, as_json: bool, address: str | None) -> None:
    """See `_CREATE_HELP`."""
    if not 0 < ttl <= MAX_TTL_S:
        longest = write_span(MAX_TTL_S)
        raise click.BadParameter(
            f"expected a time longer than 0 and at most {longest}, such as '30d'", param_hint="--ttl"
        )
    output = Output(as_json=as_json)
    with connect(address) as connection, refused_options():
        made = connection.client.cluster.create_token(name, role, ttl_seconds=math.ceil(ttl))
    output.answer({**_document(made.token), "secret": made.secret}, lambda: made.secret)
    output.note(f"the token is shown only this once; to revoke it: iris token revoke {made.token.token_id}")


@token.command("list", help=_LIST_HELP, short_help="Show the tokens.")
@json_option()
@address_option
def list_tokens(*, as_json: bool, address: str | None) -> None:
    """See `_LIST_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        tokens = connection.client.cluster.list_tokens()
    output.answer({"tokens": [_document(known) for known in tokens]}, lambda: _table(tokens))


@token.command(help=_REVOKE_HELP, short_help="Revoke a token.")
@json_option()
@address_option
@click.argument("token_id", metavar="ID")
def revoke(*, token_id: str, as_json: bool, address: str | None) -> None:
    """See `_REVOKE_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        connection.client.cluster.revoke_token(token_id)
    output.answer({"token_id": token_id, "revoked": True}, lambda: f"token {token_id} is revoked")


def _document(known: cluster_pb2.Controller.Token) -> dict[str, Any]:
    return {
        "token_id": known.token_id,
        "name": known.name,
        "role": known.role,
        "created_at_ms": known.created_at_ms,
        "expires_at_ms": known.expires_at_ms,
        "revoked_at_ms": known.revoked_at_ms or None,
    }


def _table(tokens: list[cluster_pb2.Controller.Token]) -> str | RenderableType:
    from iris.cli.output.tables import tokens_table

    return tokens_table(tokens) if tokens else "no tokens yet"
