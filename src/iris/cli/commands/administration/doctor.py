"""`iris doctor`."""

from __future__ import annotations

import click

from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import address_option, given_context, json_option
from iris.cli.output.printer import Output

_HELP = """\
Check a cluster and the way to it, and say what to do about each problem: versions, clocks, disks, file descriptors,
TLS, the token, the engine, and whether each worker can be reached from the controller and from this machine.

\b
  iris doctor
  iris --context lab doctor
  iris doctor --json | jq -r '.findings[] | select(.status != "ok") | [.subject, .text] | @tsv'

Each line begins with "ok", "warn" (the cluster works, but something should be changed), "FAIL" (something does not
work), or "?" (this could not be checked, or need not be changed). The command also works if the controller cannot be
reached, and then says what it could find out. The exit code is 1 if a line begins with "FAIL", and 0 otherwise.
"""


@click.command(help=_HELP, short_help="Check a cluster, and say what to do about problems.")
@json_option()
@address_option
def doctor(*, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    from iris.cli.doctor.examination import examine
    from iris.cli.doctor.findings import findings_document, findings_text, has_problem

    context = given_context()
    if address and context:
        raise click.UsageError("--address and --context exclude each other: each of them names the cluster")
    output = Output(as_json=as_json)
    output.set_status("checking…")
    findings = list(examine(address or None, context))
    output.set_status("")
    output.answer(findings_document(findings), lambda: findings_text(findings))
    return EXIT_ERROR if has_problem(findings) else 0
