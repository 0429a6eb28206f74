"""`iris down`."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import click

from iris.cli.cluster.cluster_record import Record, exclusive, is_running, read_record, remove_record
from iris.cli.options import json_option
from iris.cli.output.printer import Output
from iris.counts import counted, word_for
from iris.errors import UnavailableError
from iris.system.process_identity import identify_process

# The time to wait for the end of the server. Its workers have about 20 s to end their attempts, and the server and its
# engine need a few seconds more.
_STOP_S = 60.0
_PAUSE_S = 0.02
_LEFT = "{}; attempts that still run there end with their lease"
_HELP = """\
End the cluster that 'iris up' started on this machine, and everything that runs in it.

\b
  iris down

The state directory keeps the jobs. Jobs that have not ended continue with the next 'iris up'. If the server of the
cluster was killed, 'iris down' ends the workers and attempts that still run.
"""


@click.command(help=_HELP, short_help="End the cluster that 'iris up' started.")
@json_option()
def down(*, as_json: bool) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with exclusive():
        left = read_record()
        record = left if left is not None and is_running(left) else None
        workers = 0
        was_killed = record is None
        if record is not None:
            output.set_status(f"ending the cluster at {record.address}…")
            was_killed = not _stop(record)
            if not was_killed:
                _note_what_is_left(record, output)
        # If the server was killed, its workers may still run. Therefore this command ends the workers itself.
        if left is not None and was_killed:
            workers = _end_workers(left, output)
        remove_record()
    output.set_status("")
    address = record.address if record is not None else None
    document = {"stopped": record is not None, "address": address, "workers_ended": workers}
    if record is not None:
        text = f"the cluster at {address} has ended"
    elif workers:
        verb = word_for(workers, "has", "have")
        text = f"no cluster is up; {counted(workers, 'worker')} of one whose server was killed {verb} ended"
    else:
        text = "no cluster is up"
    output.answer(document, lambda: text)


def _end_workers(left: Record, output: Output) -> int:
    """End the surviving workers of a killed server, with their attempts, and return the number of these workers."""
    from iris.cluster.controller.storage.state_copies import detect_copy
    from iris.cluster.controller.storage.state_dir import lock_state_dir
    from iris.cluster.engine.engines import end_left_workers, engine_directory

    if not engine_directory(left.config.engine, left.state_dir).is_dir():
        return 0
    output.set_status("ending the workers that are left…")
    with lock_state_dir(left.state_dir):
        # The workers named in a copied state directory belong to the original cluster, and must not be ended.
        detect_copy(left.state_dir)
        try:
            return end_left_workers(left.config, left.state_dir)
        except UnavailableError as error:
            output.note(_LEFT.format(error))
            return 0


def _note_what_is_left(record: Record, output: Output) -> None:
    """Print a note if the server could not end all attempts."""
    from iris.cluster.controller.storage.state_dir import LEFT_FILE

    with contextlib.suppress(FileNotFoundError):
        output.note(_LEFT.format((record.state_dir / LEFT_FILE).read_text()))


def _stop(record: Record) -> bool:
    """End the server with SIGTERM, or with SIGKILL after 60 seconds. Return whether SIGTERM was enough."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        end = time.monotonic() + _STOP_S
        # An ending process has no command line for a moment, but still has its port and its locks. Therefore the
        # command line is not compared here.
        while identify_process(record.pid) == record.process:
            if time.monotonic() > end:
                break
            time.sleep(_PAUSE_S)
        else:
            return number == signal.SIGTERM
    return False
