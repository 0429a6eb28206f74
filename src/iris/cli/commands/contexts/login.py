"""`iris login` and `iris logout`."""

from __future__ import annotations

import os
import sys
from typing import Any
from urllib.parse import urlsplit

import click

from iris.cli.completion import complete_context
from iris.cli.options import ADDRESS, CONTEXT_NAME, given_context, json_option
from iris.cli.output.context_texts import context_document, words_of_holder
from iris.cli.output.printer import Output
from iris.cluster.client.contexts.choose_cluster import ADDRESS_VARIABLE, CONTEXT_VARIABLE
from iris.cluster.client.contexts.context_file import (
    LOCAL,
    Context,
    Contexts,
    change_contexts,
    check_context_name,
    read_contexts,
)
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.rpc.address import is_loopback, parse_address

_CHECK_S = 15.0  # `iris login` fails if the cluster does not answer within this many seconds.
_LOGIN_HELP = """\
Save the address and the token of a cluster as a context, and call this cluster from now on.

\b
  iris login https://iris.example.org:50051
  iris login https://iris.example.org:50051 --name prod --ca ca.pem
  vault read -field=token secret/iris | iris login https://iris.example.org:50051 --token-stdin

The command asks for the token, which 'iris token create NAME' prints on the cluster's machine, and does not show what
you type. The command calls the cluster with the token before it saves anything. Only you can read the file with the
contexts, ~/.config/iris/contexts.json. Run the command again to replace an expired token.

The saved context becomes the current context, whose cluster all commands call. 'iris context use NAME' chooses another
context, and 'iris context use local' chooses the cluster of 'iris up' on this machine.
"""
_LOGOUT_HELP = """\
Remove a context with its token from this machine. Without NAME, the current context is removed.

The removed token stays valid until it expires. 'iris token revoke ID' revokes it earlier.

\b
  iris logout
  iris logout prod
"""
_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)


@click.command(help=_LOGIN_HELP, short_help="Save the address and the token of a cluster.")
@click.option(
    "--name",
    type=CONTEXT_NAME,
    help="The name of the context in which the cluster is saved. Default: the host of the address.",
)
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input instead of asking for it.")
@click.option(
    "--ca",
    metavar="FILE",
    type=_FILE,
    help="A PEM file with the certificate authority of the cluster. Default: the public certificate authorities.",
)
@click.option(
    "--cert", metavar="FILE", type=_FILE, help="A PEM file with your certificate, if the cluster asks for one."
)
@click.option(
    "--cert-key",
    metavar="FILE",
    type=_FILE,
    help="A PEM file with the private key of your certificate, if the file of --cert has no key.",
)
@click.option("--insecure-no-tls", is_flag=True, help="Send the token without TLS, on a network that you trust.")
@json_option()
@click.argument("address", type=ADDRESS, metavar="ADDRESS")
def login(
    *,
    address: str,
    name: str | None,
    token_stdin: bool,
    ca: str | None,
    cert: str | None,
    cert_key: str | None,
    insecure_no_tls: bool,
    as_json: bool,
) -> None:
    """See `_LOGIN_HELP`."""
    if cert_key and not cert:
        raise click.UsageError("--cert-key needs --cert, the certificate of the key")
    output = Output(as_json=as_json)
    url = parse_address(address)
    _check_exposure(url, insecure=insecure_no_tls)
    name = name or _name_of(url)
    _check_replaced(read_contexts(), name, url)
    context = Context(name, url, _read_token(token_stdin), ca or "", cert or "", cert_key or "")
    _check_with_cluster(context)
    change_contexts(lambda contexts: _check_replaced(contexts, name, url).with_context(context))
    document = context_document(context, is_current=True)
    output.answer(document, lambda: f"logged in to {url} as {words_of_holder(context)}; the context is {name}")
    note_variables(output)


@click.command(help=_LOGOUT_HELP, short_help="Remove the token of a cluster from this machine.")
@json_option()
@click.argument("name", metavar="NAME", required=False, shell_complete=complete_context)
def logout(*, name: str | None, as_json: bool) -> None:
    """See `_LOGOUT_HELP`."""
    output = Output(as_json=as_json)
    name = name or given_context() or read_contexts().current
    if not name or name == LOCAL:
        raise FailedPreconditionError(
            "there is no current context to log out of: 'iris context list' shows the contexts, and"
            " 'iris down' ends the cluster of 'iris up'"
        )
    remove_context(name, output)


def remove_context(name: str, output: Output) -> None:
    """Remove a context from the file of contexts, and print which context was removed. `iris logout` and `iris context
    remove` call this function."""
    removed = read_contexts().find(name)
    left = change_contexts(lambda contexts: contexts.without(name))
    output.answer(
        {"name": name, "removed": True, "current": left.current or LOCAL},
        lambda: f"removed the context {name} for {removed.address}; the current context is {left.current or LOCAL}",
    )


def note_variables(output: Output) -> None:
    """Print a note if an environment variable overrides the current context."""
    for variable in (ADDRESS_VARIABLE, CONTEXT_VARIABLE):
        if value := os.environ.get(variable):
            output.note(f"{variable}={value} is set, and wins over the current context")
            return


def _check_exposure(url: str, *, insecure: bool) -> None:
    """Refuse to send a token over a network without TLS, unless the user accepts it."""
    if url.startswith("https://") or insecure or is_loopback(url):
        return
    encrypted = url.replace("http://", "https://", 1)
    raise FailedPreconditionError(
        f"without TLS, anyone who sees the traffic to {url} can read the token: use {encrypted} if the cluster has a"
        " certificate, or --insecure-no-tls on a network that you trust"
    )


def _check_replaced(contexts: Contexts, name: str, url: str) -> Contexts:
    """Refuse to replace a context of another cluster, because its token would be lost."""
    known = contexts.known.get(name)
    if known is not None and known.address != url:
        raise AlreadyExistsError(
            f"the context {name!r} belongs to {known.address}, not to {url}: choose another name with --name, or run"
            f" 'iris context remove {name}' first"
        )
    return contexts


def _name_of(url: str) -> str:
    try:
        return check_context_name(urlsplit(url).hostname or "")
    except InvalidArgumentError:
        raise click.UsageError(
            f"the host of {url} cannot be the name of a context: give a name with --name NAME"
        ) from None


def _read_token(from_stdin: bool) -> str:
    if from_stdin:
        text = sys.stdin.readline() if sys.stdin is not None else ""
    elif sys.stdin is not None and sys.stdin.isatty():
        text = click.prompt("Token", hide_input=True, err=True)
    else:
        raise click.UsageError(
            "standard input is not a terminal: write the token to standard input, and add --token-stdin"
        )
    token: str = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        # The error does not quote the text, because the text may be a mistyped token.
        raise InvalidArgumentError("the given text is not a token: expected one word, as 'iris token create' prints it")
    return token


def _check_with_cluster(context: Context) -> None:
    """Call the cluster once, so that a wrong address or token is not saved."""
    from iris.cluster.client.remote_client import RemoteClusterClient

    given: dict[str, Any] = {"token": context.token, "ca": context.ca or None, "cert": context.certificate()}
    try:
        with RemoteClusterClient(context.address, timeout_s=_CHECK_S, **given) as cluster:
            cluster.describe_cluster()
    except UnauthenticatedError as error:
        raise UnauthenticatedError(f"nothing was saved: {error}") from error
    except UnavailableError as error:
        raise type(error)(f"nothing was saved: {error}") from error
