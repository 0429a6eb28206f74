"""Reads the memory profile that memray has written while an attempt ran (option `profile_memory`). This module needs
the extra [memory].
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from iris.counts import counted
from iris.errors import FailedPreconditionError, MissingExtraError

_SHOWN = 40
_SHOWN_PART = 100  # The table shows the functions whose `total_bytes` is at least 1/100 of the peak.
_Frame = tuple[str, str, int]
# The modules that run before the program of a task starts.
_START_PARTS = (
    "/memray/commands/",
    "/memray/__main__.py",
    "/iris/cluster/worker/process/start_callable.py",
    "/iris/cluster/worker/process/run_callable.py",
    "/runpy.py",
)
_START_FILES = ("<frozen runpy>", "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_START: _Frame = ("(start of the program)", "", 0)


class MemoryFunction(NamedTuple):
    """A function that has allocated memory.

    Attributes:
        function: The name of the function.
        file: The path of the source file.
        line: The line of the allocation, or of the call that led to it.
        self_bytes: The bytes that the function itself holds at the peak.
        total_bytes: The bytes that the function and the functions that it called hold at the peak.
    """

    function: str
    file: str
    line: int
    self_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class MemoryProfile:
    """The memory of an attempt at the peak: the moment when its process had allocated the most memory.

    Attributes:
        path: The path of the file that memray has written.
        peak_bytes: The bytes that the process had allocated at the peak, without the memory of the interpreter itself.
        allocations: The number of allocations at the peak.
        stacks: The bytes that each call stack had allocated at the peak. The outermost frame of a stack is first.
    """

    path: Path
    peak_bytes: int
    allocations: int
    stacks: dict[tuple[_Frame, ...], int]

    def functions(self) -> list[MemoryFunction]:
        """Return the functions that held memory at the peak, and the functions that had called them.

        The list of functions has two parts. First come the functions whose `total_bytes` is at least 1 % of the peak,
        and then all other functions. Each part is sorted by `self_bytes`, the largest first.
        """
        own: Counter[_Frame] = Counter()
        total: Counter[_Frame] = Counter()
        for stack, size in self.stacks.items():
            own[stack[-1]] += size
            for frame in set(stack):
                total[frame] += size
        found = [MemoryFunction(*frame, own[frame], size) for frame, size in total.items()]
        peak = self.peak_bytes

        def rank(one: MemoryFunction) -> tuple[bool, int, int, str, int]:
            return one.total_bytes * _SHOWN_PART < peak, -one.self_bytes, -one.total_bytes, one.file, one.line

        return sorted(found, key=rank)

    def collapsed(self) -> str:
        """Return one line for each call stack, with the bytes that the stack had allocated, in the format that
        flamegraph.pl reads.
        """
        lines = [
            f"{';'.join(_label(*frame, ' ({})') for frame in stack)} {size}\n"
            for stack, size in sorted(self.stacks.items())
        ]
        return "".join(lines)

    def flamegraph(self, to: Path) -> None:
        """Write a flame graph as a web page, which needs no network.

        Raises:
            FailedPreconditionError: Memray cannot write the page.
        """
        # With -P, Python does not import modules from the current folder. Otherwise a file there could hide a module
        # that memray needs.
        command = [sys.executable, "-P", "-m", "memray", "flamegraph", "--force", "--no-web"]
        command += ["--output", str(to), str(self.path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            raise FailedPreconditionError(f"memray cannot write the flame graph: {last}")

    def __str__(self) -> str:
        functions = self.functions()
        shown = [one for one in functions if one.total_bytes * _SHOWN_PART >= self.peak_bytes][:_SHOWN]
        lines = [f"peak: {_size(self.peak_bytes)} in {self.allocations:,} allocations"]
        if functions:
            lines += ["", f"{'own':>10} {'with calls':>10}  function"]
        for one in shown:
            label = _label(one.function, one.file, one.line, "  {}")
            lines.append(f"{_size(one.self_bytes):>10} {_size(one.total_bytes):>10}  {label}")
        if len(functions) > len(shown):
            lines.append(f"… and {counted(len(functions) - len(shown), 'further function')}")
        return "\n".join(lines)


def read_memory_profile(path: Path) -> MemoryProfile:
    """Return the profile in a file that memray has written. The file is readable even if the process was killed before
    it could complete the file.

    Raises:
        MissingExtraError: Memray is not installed here.
        FailedPreconditionError: The file cannot be read, for example because a newer memray has written it.
    """
    try:
        from memray import FileReader
    except ImportError as error:
        raise MissingExtraError(what="Reading a memory profile", extra="memory") from error
    stacks: Counter[tuple[_Frame, ...]] = Counter()
    allocations = 0
    try:
        with FileReader(str(path)) as reader:
            for record in reader.get_high_watermark_allocation_records(merge_threads=True):
                frames = tuple(reversed(record.stack_trace()))
                stacks[_own_frames(frames)] += record.size
                allocations += record.n_allocations
    # The reader of memray raises any of these errors if the file is damaged.
    except (OSError, ValueError, RuntimeError) as error:
        raise FailedPreconditionError(f"the memory profile cannot be read: {error}") from error
    return MemoryProfile(path, sum(stacks.values()), allocations, dict(stacks))


def _own_frames(frames: tuple[_Frame, ...]) -> tuple[_Frame, ...]:
    """Return a stack without its outermost frames, in which memray, Python or Iris starts the program. A stack that has
    only such frames becomes one frame.
    """
    first = 0
    while first < len(frames) and _starts_program(frames[first][1]):
        first += 1
    return frames[first:] or (_START if frames else ("(unknown)", "", 0),)


def _starts_program(file: str) -> bool:
    return file in _START_FILES or any(part in file for part in _START_PARTS)


def _label(function: str, file: str, line: int, form: str) -> str:
    """Return the name of a function, followed by its file and line. An example of the argument `form` is `" ({})"`."""
    return function + (form.format(f"{file}:{line}") if file else "")


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
