"""Starts real workers without an engine."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.tokens import keep_credentials

_STOP_S = 30.0


@contextmanager
def running_worker(
    controller: str, directory: Path, *options: str, worker_id: str = "w"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker process in a separate directory. Its event log stays beside the directory as evidence."""
    with directory.with_suffix(".log").open("ab") as messages:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "iris.cluster.worker"),
                *("--worker-id", worker_id),
                *("--controller", controller),
                *("--credentials", str(keep_credentials(directory.with_suffix(".credentials"), worker_id))),
                *("--directory", str(directory)),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
