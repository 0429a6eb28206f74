"""`iris debug bundle`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from iris.cli.cluster.cluster_record import read_record
from iris.cli.cluster.connect import connect
from iris.cli.lazy_group import SuggestingGroup
from iris.cli.options import CONTEXT, address_option, given_context, json_option
from iris.cli.output.printer import Output
from iris.cluster.client.contexts.choose_cluster import find_cluster
from iris.errors import FailedPreconditionError
from iris.rpc.address import parse_address

_HELP = """\
Find out what is wrong with a cluster.

\b
  iris debug bundle
"""
_BUNDLE_HELP = """\
Write one file with the facts that somebody needs to find the cause of a problem of a cluster: versions, the
configuration, the last events, how many jobs and tasks are in which state, and the machines. The file contains no
tokens, keys or passwords, no code, and no output of tasks.

\b
  iris debug bundle
  iris debug bundle --output trouble.tar.gz
  iris debug bundle --json | jq -r '.notes[]'

You can also make the bundle of a cluster on this machine after its server has died. The bundle of a cluster on another
machine contains only versions, states and machines.
"""


@click.group(
    cls=SuggestingGroup,
    help=_HELP,
    short_help="Collect information about a cluster that has a problem.",
    context_settings=CONTEXT,
)
def debug() -> None:
    """See `_HELP`."""


@debug.command(help=_BUNDLE_HELP, short_help="Write a file for whoever looks into a problem.")
@click.option(
    "--output",
    "-o",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write, a .tar.gz archive. Default: iris-debug-DATE-TIME.tar.gz in the current folder.",
)
@json_option()
@address_option
def bundle(*, path: Path | None, as_json: bool, address: str | None) -> None:
    """See `_BUNDLE_HELP`."""
    from iris.cli.cluster.support_bundle import collect

    output = Output(as_json=as_json)
    record = read_record()
    if record is not None and _names_another_cluster(address, record.address):
        record = None
    output.set_status("collecting…")
    files = collect(record, lambda: connect(address).client)
    output.set_status("")
    path = path or Path(time.strftime("iris-debug-%Y%m%d-%H%M%S.tar.gz"))
    try:
        files.write(path)
    except OSError as error:
        raise FailedPreconditionError(
            f"cannot write {path}: {error.strerror}; name another file with --output"
        ) from error
    document = {"path": str(path.absolute()), "files": sorted(files.files), "notes": files.notes}
    output.answer(document, lambda: str(path))
    if not as_json:
        for note in files.notes:
            output.note(f"not in the bundle: {note}")


def _names_another_cluster(address: str | None, local: str) -> bool:
    """Return whether the options or the environment variables select another cluster than the cluster of `iris up`.
    `local` is the address of the cluster of `iris up`.
    """
    try:
        chosen = find_cluster(address or None, given_context())
    except FailedPreconditionError:
        return False  # If the server of `iris up` was killed, the bundle contains the files of this server.
    return chosen is not None and parse_address(chosen.address) != local
