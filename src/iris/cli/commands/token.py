"""`iris token create`, `list`, `revoke`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.options import CONTEXT, DURATION, address_option, json_option
from iris.cli.output.printer import Output
from iris.rpc.auth.caller import GIVEN_ROLES, USER

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_HELP = """\
Tokens, by which others may call a cluster. 'iris up' makes one for whoever starts it, which is found by itself on
that machine; for all of this it takes an admin's.
"""
_CREATE_HELP = """\
Make a token and print it, once: whoever has it may call the cluster. NAME says whose it is.

\b
  iris token create ana                           for IRIS_TOKEN, or IrisClient.remote(…, token=…)
  iris token create dashboard --role reader --ttl 365d

What a role may do: 'user' submit, end and read all jobs; 'reader' only read; 'worker' serve as the worker NAME, on
another machine; 'admin' all of this, and make and revoke tokens.
"""
_LIST_HELP = """\
Show the tokens that were made: whose they are, what they may do, and until when.

\b
  iris token list
  iris token list --json | jq -r '.tokens[] | select(.name == "ana") | .token_id'
"""
_REVOKE_HELP = """\
Let nobody in with a token any more. What is open by it is ended: at once at the controller, at workers within
seconds.

\b
  iris token revoke 4f1d2c3b5a697887
"""


@click.group(help=_HELP, short_help="Make, show and revoke tokens.", context_settings=CONTEXT)
def token() -> None:
    """See `_HELP`."""


@token.command(help=_CREATE_HELP, short_help="Make a token.")
@click.option("--role", type=click.Choice(GIVEN_ROLES), default=USER, help="Default user.")
@click.option("--ttl", type=DURATION, default=30 * 86400.0, help="How long it is good: 12h, 30d, 365d; default 30d.")
@json_option()
@address_option
@click.argument("name", metavar="NAME")
def create(*, name: str, role: str, ttl: float, as_json: bool, address: str | None) -> None:
    """See `_CREATE_HELP`."""
    if ttl <= 0:
        raise click.BadParameter("expected a time, as '30d'", param_hint="--ttl")
    output = Output(as_json=as_json)
    with connect(address) as connection:
        made = connection.client.cluster.create_token(name, role, ttl_seconds=math.ceil(ttl))
    output.answer({**_document(made.token), "secret": made.secret}, lambda: made.secret)
    output.note(f"it is shown only now; to take it back: iris token revoke {made.token.token_id}")


@token.command("list", help=_LIST_HELP, short_help="Show the tokens.")
@json_option()
@address_option
def list_tokens(*, as_json: bool, address: str | None) -> None:
    """See `_LIST_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        tokens = connection.client.cluster.list_tokens()
    output.answer({"tokens": [_document(known) for known in tokens]}, lambda: _table(tokens))


@token.command(help=_REVOKE_HELP, short_help="Let nobody in with a token any more.")
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
