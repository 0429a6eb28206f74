"""What a gang's job of Slurm says of itself, in its comment: what it can tell to whoever looks at the queue.

Slurm knows a job and its machines, not which of its processes is where, nor which has ended. The program on the job's
first machine does (batch_job.py), and keeps the comment up to date.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_MARK = "iris:"
_MAX_COMMENT = 1000  # Slurm takes 1,024 bytes
_MAX_WHY = 300
_COUNT, _SPAN = r"\d{1,6}x\d{1,6}", r"\d{1,6}(-\d{1,6})?"
_FORM = re.compile(
    rf"{_MARK}(?P<counts>({_COUNT}(,{_COUNT})*)?);(?P<lost>({_SPAN}(,{_SPAN})*)?);(?P<why>.*)", re.ASCII | re.DOTALL
)
_NOT_PLAIN = re.compile(r"[^\w ./:'=,()+@-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Comment:
    """What is known of a gang's slots.

    Attributes:
        counts: How many are on each of the job's machines, in the order in which Slurm names these; the slots are in
            that order, too. Empty until all have begun.
        lost: Those whose workers have ended, with all that they ran.
        why: What was said last by one that ended, or could not begin.
    """

    counts: tuple[int, ...] = ()
    lost: frozenset[int] = frozenset()
    why: str = ""

    def to_text(self) -> str:
        """As Slurm keeps it. Where it would become too long, fewer are said to be lost."""
        counts = ",".join(f"{count}x{len(list(group))}" for count, group in itertools.groupby(self.counts))
        why = _NOT_PLAIN.sub("_", self.why)[-_MAX_WHY:]
        lost = _ranges(self.lost)
        while len(text := f"{_MARK}{counts};{','.join(lost)};{why}") > _MAX_COMMENT and lost:
            lost.pop()
        return text

    @classmethod
    def read(cls, text: str) -> Comment | None:
        """None: it is none of ours, or somebody has written into it."""
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
        """The machine of each slot; `nodes` as Slurm names those of the job."""
        return [name for name, count in zip(expand(nodes), self.counts, strict=False) for _ in range(count)]


def count_slots(where: Iterable[str], nodes: str) -> tuple[int, ...]:
    """How many slots each of the job's machines has.

    Raises:
        ValueError: They are not in the order of the machines.
    """
    names = expand(nodes)
    numbers = [names.index(name) for name in where]
    if numbers != sorted(numbers):
        raise ValueError(f"the slots are not in the order of the machines {nodes}")
    return tuple(numbers.count(number) for number in range(len(names)))


def expand(nodes: str) -> list[str]:
    """The names in a list of machines as Slurm writes it: `n[0-2,05-07],gpu1`, `r[1-2]n[0-3]`."""
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
