"""Output that is interrupted by Ctrl-C."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Lines are written to a pipe that nobody reads, until it is full; then comes a Ctrl-C.
PROGRAM = """
import fcntl, os, signal, sys, termios, threading
from iris.cli.output.printer import Output
from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry

reads, writes = os.pipe()
os.dup2(writes, 1)
output = Output()
lines = [LogEntry(b"x" * 200_000, 200_001, EntryOrigin("job", 0, 0, 0, 0, (0, 0, 0)))]

def is_full():
    return int.from_bytes(fcntl.ioctl(reads, termios.FIONREAD, bytes(4)), sys.byteorder) >= 65536

def interrupt(times):
    while not is_full():
        pass
    for _ in range(times):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        signalled.wait(0.05)  # two signals in the same moment are one

signalled = threading.Event()
try:
    with output.interrupted_between_writes():
        if sys.argv[1] == "another thread writes":
            threading.Thread(target=output.show_lines, args=[lines], daemon=True).start()
            interrupt(1)
            while True:
                pass
        threading.Thread(target=interrupt, args=[20], daemon=True).start()
        output.show_lines(lines)
except KeyboardInterrupt:
    os.write(2, b"interrupted")
    os._exit(0)
"""


@pytest.mark.parametrize("who", ["another thread writes", "the main thread writes"])
def test_ctrl_c_ends_a_write_to_a_pipe_that_is_not_read(who: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, who], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "interrupted")
