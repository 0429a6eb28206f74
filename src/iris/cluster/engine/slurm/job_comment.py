"""Writes and parses the comment of a gang's Slurm job. The comment records where the gang's slots are, and which of the
slots have ended.

Slurm knows the machines of a job. It does not know which process runs on which machine, or which process has ended. The
program on the job's first machine (gang_process.py) knows these facts, and writes them into the job's comment. All
users who can see Slurm's queue can read the comment.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_MARK = "iris:"
_MAX_COMMENT = 1000  # Slurm accepts 1,024 bytes.
_MAX_WHY = 300
_COUNT, _SPAN = r"\d{1,6}x\d{1,6}", r"\d{1,6}(-\d{1,6})?"
_FORM = re.compile(
    rf"{_MARK}(?P<counts>({_COUNT}(,{_COUNT})*)?);(?P<lost>({_SPAN}(,{_SPAN})*)?);(?P<why>.*)", re.ASCII | re.DOTALL
)
_NOT_PLAIN = re.compile(r"[^\w ./:'=,()+@-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Comment:
    """The state of a gang's slots.

    Attributes:
        counts: The number of slots on each of the job's machines, in the order in which Slurm lists the machines. The
            slots are numbered in the order of these machines. The tuple is empty until all slots have started.
        lost: The positions of slots whose worker has ended with all its processes.
        why: The last message of a worker that has ended or could not start.
    """

    counts: tuple[int, ...] = ()
    lost: frozenset[int] = frozenset()
    why: str = ""

    def to_text(self) -> str:
        """Return the comment as text for Slurm. If the text would be too long, the text names only some of the lost
        slots.
        """
        counts = ",".join(f"{count}x{len(list(group))}" for count, group in itertools.groupby(self.counts))
        why = _NOT_PLAIN.sub("_", self.why)[-_MAX_WHY:]
        lost = _ranges(self.lost)
        while len(text := f"{_MARK}{counts};{','.join(lost)};{why}") > _MAX_COMMENT and lost:
            lost.pop()
        return text

    @classmethod
    def read(cls, text: str) -> Comment | None:
        """Parse the comment of a Slurm job. Return None if Iris has not written the comment, or if somebody has edited
        the comment.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            return None
        counts: list[int] = []
        for part in filter(None, match["counts"].split(",")):
            count, _, times = part.partition("x")
            counts += [int(count)] * int(times)
        lost: set[int] = set()
        for part in filter(None, match["lost"].split(",")):
            first, _, last = part.partition("-")
            lost |= set(range(int(first), int(last or first) + 1))
        return cls(tuple(counts), frozenset(lost), match["why"])

    def machines(self, nodes: str) -> list[str]:
        """Return the machine of each slot. `nodes` is the job's machine list as Slurm writes it."""
        return [name for name, count in zip(expand(nodes), self.counts, strict=False) for _ in range(count)]


def count_slots(where: Iterable[str], nodes: str) -> tuple[int, ...]:
    """Return the number of slots on each of the job's machines.

    Args:
        where: The name of the machine of each slot.
        nodes: The job's machine list as Slurm writes it.

    Raises:
        ValueError: A slot is on a machine that is not in the list, or the slots are not in the order of the machines.
    """
    names = expand(nodes)
    numbers = []
    for name in where:
        if name not in names:
            raise ValueError(f"a slot runs on {name}, which is not one of the job's machines {nodes}")
        numbers.append(names.index(name))
    if numbers != sorted(numbers):
        raise ValueError(f"the slots are not in the order of the machines {nodes}")
    return tuple(numbers.count(number) for number in range(len(names)))


def expand(nodes: str) -> list[str]:
    """Return the names in a machine list as Slurm writes it, for example `n[0-2,05-07],gpu1` or `r[1-2]n[0-3]`."""
    names = []
    for part in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", nodes):
        pieces = re.split(r"\[([^\]]*)\]", part)
        choices = [[piece] if i % 2 == 0 else _numbers(piece) for i, piece in enumerate(pieces)]
        names += ["".join(chosen) for chosen in itertools.product(*choices)]
    return names


def _numbers(ranges: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return found


def _ranges(numbers: Iterable[int]) -> list[str]:
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]
