"""Reads the proofs that tasks have written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

Key = tuple[str, int, int]  # job id, task index, attempt id


@dataclass(slots=True)
class Run:
    """One run of an attempt, according to its proof. All times are seconds of the monotonic clock.

    Attributes:
        ancestors: The process that started it, and the parent of this process. One of the two is its worker: a worker
            starts tasks itself or through its launcher.
        began: None: it was killed before it could say so.
        seen: When it was alive for the last time, as far as is known.
        lines: When each line had been printed.
        exit_code: What it was about to end with; None: it was killed.
        children: Jobs that it has submitted.
    """

    ancestors: tuple[int, ...] = ()
    began: float | None = None
    seen: float = 0.0
    lines: list[float] = field(default_factory=list)
    exit_code: int | None = None
    children: list[str] = field(default_factory=list)


def read_proofs(directory: Path) -> tuple[dict[Key, Run], list[str]]:
    """Return the runs by attempt, and the names of the proofs that were written by a second run of the same attempt."""
    runs, again = {}, []
    for path in directory.iterdir():
        if ".again." in path.name:
            again.append(path.name)
            continue
        job, index, attempt = path.name.rsplit(".", 2)
        runs[job.replace("~", "/"), int(index), int(attempt)] = _read(path.read_text())
    return runs, again


def _read(text: str) -> Run:
    run = Run()
    for line in text.splitlines():
        nanoseconds, what, *rest = line.split(" ")
        run.seen = int(nanoseconds) / 1e9
        if what == "start":
            run.began, run.ancestors = run.seen, tuple(map(int, rest[1:]))
        elif what == "line":
            run.lines.append(run.seen)
        elif what == "child":
            run.children.append(rest[0])
        elif what == "end":
            run.exit_code = int(rest[0])
    return run
