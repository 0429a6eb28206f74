"""The command line `iris`.

`program.py` assembles the commands. `commands/` has a file for nearly every command, in folders by subject, for example
the submission of jobs, existing jobs, and the administration of clusters. `output/` prints all answers, as text or as
JSON. `cluster/` finds the cluster and the jobs that a command addresses. `job_files/` reads and writes job files. No
other package imports `iris.cli`.
"""

from __future__ import annotations

import sys

from iris.errors import MissingExtraError
from iris.interpreter import pause_collector, prepare_quick_exit, quick_exit, resume_collector
from iris.system.inherited import open_standard_descriptors


def main() -> None:
    """Run the program `iris`."""
    prepare_quick_exit()
    pause_collector()
    # A daemon may start `iris` with closed standard descriptors. They are opened here. Otherwise the next files that
    # `iris` opens would get their numbers.
    open_standard_descriptors()
    try:
        import click  # noqa: F401 - The import finds out whether click is installed.
        import rich  # noqa: F401 - The import finds out whether rich is installed.
    except ImportError:
        sys.exit(f"iris: {MissingExtraError('The command iris', 'cli')}")
    try:
        from iris.cli.program import run_program
    except KeyboardInterrupt:
        # The imports are inside the `try`, because the user may press Ctrl-C during the 0.1 s that the imports take.
        sys.exit(130)
    resume_collector()
    quick_exit(run_program())
