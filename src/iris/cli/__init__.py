"""The command line: `iris up`, `run`, `ps`, `status`, `logs`, `kill`, `machines`, `down`, and `token`.

`program.py` assembles the commands, and `commands/` has one file for each. `output/` prints all answers, as text or as
JSON. `cluster/` finds the cluster that a command means. Nothing imports this package.
"""

from __future__ import annotations

import sys

from iris.errors import MissingExtraError
from iris.system.inherited import open_standard_descriptors


def main() -> None:
    """Run the program `iris`."""
    open_standard_descriptors()  # first, because a daemon may have closed them and other files would get their numbers
    try:
        import click  # noqa: F401
        import rich  # noqa: F401 - only the package; its modules are loaded when a table is shown
    except ImportError:
        sys.exit(f"iris: {MissingExtraError('The command iris', 'cli')}")
    try:
        from iris.cli.program import run_program
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C during the imports, which take about 0.1 s
    sys.exit(run_program())
