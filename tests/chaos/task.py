"""The program of a task of the load, which writes a proof of its run. It imports only the standard library, so that it
starts fast.

    python task.py PROOFS SECONDS FAILURES

The proof of a run is a file with the name of its attempt, which must not exist before. While the task runs, it appends
lines. Each line has the monotonic time in nanoseconds and an event.

    start PID PARENT GRANDPARENT   line NUMBER, after it was printed   child JOB_ID   end EXIT_CODE
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

PAUSE_S = 0.03
FAILED = 3


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Proof:
    """The proof of the run of this process."""

    def __init__(self, directory: str) -> None:
        job, index, attempt = (os.environ[f"IRIS_{name}"] for name in ("JOB_ID", "TASK_INDEX", "ATTEMPT_ID"))
        self._directory = directory
        self._task = f"{job.replace('/', '~')}.{index}."
        path = os.path.join(directory, self._task + attempt)
        try:
            self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        except FileExistsError:
            os.close(os.open(f"{path}.again.{os.getpid()}", os.O_CREAT, 0o600))
            raise
        self.note(f"start {os.getpid()} {os.getppid()} {_parent_of(os.getppid())}")
        signal.signal(signal.SIGTERM, self._told_to_end)

    def note(self, what: str) -> None:
        """Adds a line."""
        os.write(self._file, f"{time.monotonic_ns()} {what}\n".encode())

    def failures(self) -> int:
        """Return how many earlier runs of this task have failed."""
        count = 0
        for name in os.listdir(self._directory):
            if name.startswith(self._task):
                with open(os.path.join(self._directory, name)) as file:
                    count += file.read().endswith(f"end {FAILED}\n")
        return count

    def _told_to_end(self, number: int, frame: Any) -> None:
        self.note(f"end {128 + number}")
        os._exit(128 + number)


def run(directory: str, seconds: float, failures: str, more: Any = None) -> list[int]:
    """Print numbered lines for some time, and end with a failure as often as requested.

    Args:
        directory: For proofs.
        seconds: How long it takes.
        failures: How many runs are to fail before one succeeds: for each task, with commas between.
        more: Called with the proof after the start.

    Returns:
        Index and attempt: the result where this is a callable.
    """
    proof = Proof(directory)
    end = time.monotonic() + seconds
    if more is not None:
        more(proof)
    number = 0
    while time.monotonic() < end or number == 0:
        os.write(1, b"%d\n" % number)
        proof.note(f"line {number}")
        number += 1
        time.sleep(PAUSE_S)
    if proof.failures() < int(failures.split(",")[int(os.environ["IRIS_TASK_INDEX"])]):
        proof.note(f"end {FAILED}")
        os._exit(FAILED)
    proof.note("end 0")
    return [int(os.environ["IRIS_TASK_INDEX"]), int(os.environ["IRIS_ATTEMPT_ID"])]


if __name__ == "__main__":
    run(sys.argv[1], float(sys.argv[2]), sys.argv[3])
