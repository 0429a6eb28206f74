"""Processes that ended attempts have left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster import is_alive

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of other users")

# A worker of the user `nobody` that inherits a process of root, as it happens after `sudo` in a task.
NOBODY = """
import asyncio, os, subprocess, sys
from pathlib import Path
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.supervision.reaper import become_subreaper, orphans
from iris.cluster.worker.supervision.strays import StrayProcesses
become_subreaper()
subprocess.run(["sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1 &"])
(orphan,) = orphans(set())
print(orphan, flush=True)
registry = AttemptRegistry("w", WorkerDir(Path(sys.argv[1])))
os.setgid(65534)
os.setuid(65534)
asyncio.run(StrayProcesses(registry, "token", ()).kill())
"""


@as_root
def test_process_of_another_user_that_an_attempt_has_left_is_ignored(tmp_path: Path) -> None:
    worker = [sys.executable, "-c", NOBODY, str(tmp_path / "worker")]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=60, check=False)
    orphan = int(done.stdout)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert is_alive(orphan)
    finally:
        os.kill(orphan, 9)
