"""Makes a short chaos run in a separate process. `poe chaos` makes long runs. Each run has another seed, which the text
of a failure contains."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster import RUN_VARIABLE


@pytest.mark.timeout(240)
def test_random_kills_of_a_loaded_cluster_violate_no_invariant(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--minutes", "0.25", "--directory", str(tmp_path)]
    ended = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, RUN_VARIABLE: secrets.token_hex(8)},  # what is left of it is its own affair, and an error
        capture_output=True,
        text=True,
        timeout=230,  # Chaos itself waits up to 180 s for the ends of all jobs, and then names the unfinished jobs.
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (counts,) = re.findall(r"^1 runs, 0 with something wrong; (.*)", ended.stdout, re.MULTILINE)
    assert sum(int(number) for number in re.findall(r"\d+", counts)) > 3, counts
