"""The terminal: `iris up`, `run`, `ps`, `status`, `logs`, `kill`, `down`.

`program.py` is the tree of commands, `commands/` has one file for each. They answer through `printer.py`, which alone
prints, in one of two voices: for people, and JSON. `connect.py` finds the cluster that is meant.
"""

from __future__ import annotations

import sys

from iris.errors import MissingExtraError
from iris.system.inherited import open_standard_descriptors


def main() -> None:
    """The program `iris`."""
    open_standard_descriptors()  # before anything else is opened: a daemon may have closed them
    try:
        import click  # noqa: F401
        import rich  # noqa: F401 - the package alone: what is in it is loaded when a table is shown
    except ImportError:
        sys.exit(f"iris: {MissingExtraError('The command iris', 'cli')}")
    try:
        from iris.cli.program import run_program
    except KeyboardInterrupt:
        sys.exit(130)  # loading takes a tenth of a second, in which somebody may think again
    sys.exit(run_program())
