"""`iris proto export`."""

from __future__ import annotations

from pathlib import Path

import click

from iris.cli.lazy_group import SuggestingGroup
from iris.cli.options import CONTEXT, json_option
from iris.cli.output.printer import Output
from iris.errors import FailedPreconditionError

_HELP = """\
Get the schema of the wire, for clients in other languages.

\b
  iris proto export schema
"""
_EXPORT_HELP = """\
Write the proto files of this release below a folder. Code generators and tools such as buf read these files.

\b
  iris proto export schema
  iris proto export schema --json | jq -r '.files[]'
  buf curl --schema schema …

The command creates the folder if it does not exist, and replaces proto files of an earlier release.
"""


@click.group(
    cls=SuggestingGroup,
    help=_HELP,
    short_help="Get the schema for clients in other languages.",
    context_settings=CONTEXT,
)
def proto() -> None:
    """See `_HELP`."""


@proto.command(help=_EXPORT_HELP, short_help="Write the proto files below a folder.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@json_option()
def export(*, directory: Path, as_json: bool) -> None:
    """See `_EXPORT_HELP`."""
    from iris.rpc.schema import schema_files

    files = schema_files()
    for name, data in files.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise FailedPreconditionError(f"cannot write {path}: {error.strerror}; name another folder") from error
    document = {"path": str(directory.absolute()), "files": sorted(files)}
    Output(as_json=as_json).answer(document, lambda: "\n".join(str(directory / name) for name in sorted(files)))
