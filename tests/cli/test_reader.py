"""A closed output pipe is told apart from a closed connection, which raises the same signal."""

from __future__ import annotations

import subprocess
import sys


def test_closed_network_connection_is_not_mistaken_for_a_closed_pipe() -> None:
    program = (
        "import signal\n"
        "from iris.cli.output.closed_reader import leave_with_reader\n"
        "with leave_with_reader():\n"
        "    signal.raise_signal(signal.SIGPIPE)  # as a write to a closed socket does\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "still here\n"), done
