"""The clocks: what steps of the wall clock change, and what they do not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import iris
from iris.system.clock import VARIABLE, ms_since, now_ms, stamp

SOURCE = Path(iris.__file__).parent
HOUR_MS = 3_600_000

_STEPS = """
import sys
from iris.system.clock import ms_since, now_for_ages_ms, now_ms, stamp
before, mark = now_ms(), stamp()
open(sys.argv[1], "w").write(sys.argv[2])
print(now_ms() - before, now_for_ages_ms() - before, ms_since(mark, before))
"""


def stepped(tmp_path: Path, seconds: int) -> list[int]:
    """In a program whose wall clock is set: the hours by which it moves, the time for ages does, and a span does."""
    file = tmp_path / "clock"
    command = [sys.executable, "-c", _STEPS, str(file), str(seconds)]
    environment = {**os.environ, VARIABLE: str(file)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "the wall clock is moved" in ended.stderr
    return [round(int(word) / HOUR_MS) for word in ended.stdout.split()]


def test_wall_clock_set_ahead_changes_no_measured_age(tmp_path: Path) -> None:
    assert stepped(tmp_path, 30 * 3600) == [30, 0, 0]


def test_wall_clock_set_back_changes_no_measured_age(tmp_path: Path) -> None:
    assert stepped(tmp_path, -3600) == [-1, -1, 0]


_AGES = """
import sys
from pathlib import Path
from iris.system.clock import keep_ages_in, now_for_ages_ms
keep_ages_in(Path(sys.argv[1]))
print(now_for_ages_ms())
"""


def test_process_started_under_a_wrong_clock_measures_the_same_ages(tmp_path: Path) -> None:
    file, anchor = tmp_path / "clock", tmp_path / "ages"

    def now_of_a_process(moved_s: int) -> float:
        file.write_text(str(moved_s))
        command = [sys.executable, "-c", _AGES, str(anchor)]
        environment = {**os.environ, VARIABLE: str(file)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return round((int(ended.stdout) - now_ms()) / HOUR_MS)

    assert now_of_a_process(0) == 0
    assert now_of_a_process(40 * 24 * 3600) == 0
    assert now_of_a_process(-3600) == -1
    boot, _, rest = anchor.read_text().partition(" ")
    anchor.write_text(f"another-{boot} {rest}")  # the machine has been started again since
    assert now_of_a_process(40 * 24 * 3600) == 40 * 24


def test_age_of_a_stamp_of_this_boot_ignores_the_wall_clock() -> None:
    assert ms_since(stamp(), now_ms() - 30 * HOUR_MS) < HOUR_MS


def test_age_of_a_stamp_of_another_boot_comes_from_the_wall_clock() -> None:
    for then in ("another-boot:5", "", "nonsense"):
        assert HOUR_MS <= ms_since(then, now_ms() - HOUR_MS) < 2 * HOUR_MS
        assert ms_since(then, now_ms() + HOUR_MS) == 0


def test_only_the_clock_module_reads_the_wall_clock() -> None:
    reads = re.compile(r"\btime\.(?:time|time_ns)\b|datetime\.now\(\)")
    found = [path.name for path in SOURCE.rglob("*.py") if path.name != "clock.py" and reads.search(path.read_text())]
    assert found == []
