"""`iris down`."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import click

from iris.cli.options import json_option
from iris.cli.output import Output
from iris.cli.record import Record, exclusive, find_running, is_running, remove_record

# The server gives its workers 15 s to end what they run (engine/local.py), and needs a little for itself.
_STOP_S = 60.0
_PAUSE_S = 0.02
_HELP = """\
End the cluster that 'iris up' started on this machine, with all that runs in it.

\b
  iris down

What jobs there were is remembered in its state directory.
"""


@click.command(help=_HELP, short_help="End the cluster that 'iris up' started.")
@json_option()
def down(*, as_json: bool) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with exclusive():
        record = find_running()
        if record is not None:
            output.set_status(f"ending the cluster at {record.address}…")
            _stop(record)
        remove_record()
    output.set_status("")
    if record is None:
        output.answer({"stopped": False, "address": None}, lambda: "no cluster is up")
    else:
        address = record.address
        output.answer({"stopped": True, "address": address}, lambda: f"the cluster at {address} has ended")


def _stop(record: Record) -> None:
    """SIGTERM, and SIGKILL when that has not ended it after a long time. Returns when it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        end = time.monotonic() + _STOP_S
        while is_running(record):
            if time.monotonic() > end:
                break
            time.sleep(_PAUSE_S)
        else:
            return
