"""Why gangs wait, in words: what one needs, and what there is of what is short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iris.cluster.controller.scheduling.capacity import FreeCapacity
from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources

_SHOWN = 4  # machines that are named, and values of a label
_NAMES = (("cpu", 0), ("memory", 1), ("gpu", 2))
_PLACES = {
    Placement.ANY: "",
    Placement.SPREAD: ", each on a machine of its own",
    Placement.TOGETHER: ", all on one machine",
}
Labels = tuple[tuple[str, str], ...]


def needs(gang: GangRequest) -> str:
    """What a gang asks for: `needs 4 x (2 cpu), each on a machine of its own, on machines with zone=a`."""
    need = gang.need.amounts()
    each = ", ".join(_quantity(name, need[index]) for name, index in _NAMES if need[index])
    amount = f"{gang.slots} x ({each})" if each and gang.slots > 1 else each or _places(gang.slots)
    where = _PLACES[gang.placement] if gang.slots > 1 else ""
    labels = f", on machines with {_labels(gang.labels)}" if gang.labels else ""
    return f"needs {amount}{where}{labels}"


def _places(slots: int) -> str:
    """What those ask for that ask for nothing in particular."""
    return f"{slots} places" if slots > 1 else "a place"


class Reasons:
    """The words for what waits after a pass. What is the same for all that ask for the same labels is found out once.

    Args:
        room: What is free: now before the pass, and after it when words are asked for.
        held: What gangs of this cluster hold: on each machine named, so much. The rest is held by others who use the
            engine.
    """

    def __init__(self, room: FreeCapacity, held: Iterable[tuple[Resources, Sequence[str]]]) -> None:
        self._room = room
        self._empty = room.machine_set.empty
        self._seen = [room.free(i) for i in range(len(room.machine_set.machines))]
        self._held = held
        self._others: list[Resources] | None = None
        self._sums: dict[tuple[Labels, bool], Resources] = {}
        self._others_of: dict[Labels, Resources] = {}

    def too_little_free(self, gang: GangRequest) -> str:
        """`needs 4 x (2 cpu); free now: 3 of 4 cpu`, for a gang that would fit if nothing was held."""
        short = _short(gang, self._room)
        others = self._held_by_others(gang).amounts()
        held = ", ".join(_quantity(name, others[index]) for name, index in short if others[index] > 0)
        what = f"; others than this cluster hold {held}" if held else ""
        return f"{needs(gang)}; free now: {self._shown(gang, self._room, short)}{what}"

    def too_little_there(self, gang: GangRequest) -> str:
        """`needs 5 cpu; there are only 4 cpu`, for a gang that would not fit either if nothing was held."""
        machines, members = self._empty.machine_set.machines, self._empty.members(gang)
        down = _down(machines)
        if not any(machine.alive for machine in machines):
            is_avoided = any(machine.why_avoided for machine in machines)
            return f"{needs(gang)}; {'no machine takes anything new' if is_avoided else 'there is no machine'}{down}"
        if not members:
            labels = _labels(gang.labels)
            return f"needs machines with {labels}; there are only {_other_labels(gang, machines)}{down}"
        if gang.placement is Placement.SPREAD and len(members) < gang.slots:
            what = "of them" if gang.labels else "machines" if len(members) > 1 else "machine"
            return f"{needs(gang)}; there {'are' if len(members) > 1 else 'is'} only {len(members)} {what}{down}"
        return f"{needs(gang)}; there are only {self._shown(gang, self._empty, _short(gang, self._empty))}{down}"

    def _shown(self, gang: GangRequest, room: FreeCapacity, short: Sequence[tuple[str, int]]) -> str:
        members = room.members(gang)
        shown = [_of_machine(room.machine_set.machines[i], room.free(i), short, len(members)) for i in members[:_SHOWN]]
        text = "; ".join(shown) or "no machine"
        if len(members) <= _SHOWN:
            return text
        free = self._sum(gang.labels, room, members).amounts()
        total = self._sum(gang.labels, self._empty, members).amounts()
        sums = ", ".join(_of_total(free[index], total[index], name) for name, index in short)
        return f"{text} and {len(members) - _SHOWN} more machines; {sums} in all"

    def _sum(self, labels: Labels, room: FreeCapacity, members: Sequence[int]) -> Resources:
        key = (labels, room is self._empty)
        if key not in self._sums:
            free = [room.free(i).amounts() for i in members]
            self._sums[key] = Resources(*(sum(amounts) for amounts in zip(*free, strict=True)))
        return self._sums[key]

    def _held_by_others(self, gang: GangRequest) -> Resources:
        """What others hold of the machines that may serve the gang."""
        if gang.labels not in self._others_of:
            others = self._rest()
            held = [others[i].amounts() for i in self._room.members(gang)] or [(0, 0, 0)]
            self._others_of[gang.labels] = Resources(*(sum(amounts) for amounts in zip(*held, strict=True)))
        return self._others_of[gang.labels]

    def _rest(self) -> list[Resources]:
        """What is not free on each machine, and not ours."""
        if self._others is None:
            layout = self._room.machine_set
            used = [machine.total - free for machine, free in zip(layout.machines, self._seen, strict=True)]
            rest = FreeCapacity(layout, used)
            rest.subtract(self._held)
            everywhere = (rest.free(i).amounts() for i in range(len(used)))
            self._others = [Resources(*(max(0, amount) for amount in amounts)) for amounts in everywhere]
        return self._others


def _down(machines: Sequence[Machine]) -> str:
    """Which machines take nothing new, and why, in brackets; empty: all do."""
    dead = sum(not machine.alive and not machine.why_avoided for machine in machines)
    words = [f"{dead} {'machines are' if dead > 1 else 'machine is'} not alive"] if dead else []
    avoided = [machine for machine in machines if machine.why_avoided]
    words += [f"{machine.name} takes nothing new: {machine.why_avoided}" for machine in avoided[:1]]
    if len(avoided) > 1:
        words.append(f"nor do {len(avoided) - 1} more")
    return f" ({'; '.join(words)})" if words else ""


def _short(gang: GangRequest, room: FreeCapacity) -> list[tuple[str, int]]:
    """What alone is too little; where nothing is, and only all of it together is not to be had, what is asked for."""
    asked = [(name, index) for name, index in _NAMES if gang.need.amounts()[index]]
    return [(name, index) for name, index in asked if room.lacks(gang, index)] or asked


def _of_machine(machine: Machine, free: Resources, short: Sequence[tuple[str, int]], machines: int) -> str:
    amounts = ", ".join(_of_total(free.amounts()[i], machine.total.amounts()[i], name) for name, i in short)
    return f"{amounts} on {machine.name}" if machines > 1 else amounts


def _other_labels(gang: GangRequest, machines: Sequence[Machine]) -> str:
    """What the machines are labelled with instead."""
    for key, value in gang.labels:
        values = sorted({v for machine in machines if machine.alive for k, v in machine.labels if k == key})
        if not values:
            return f"machines without {key}"
        if value not in values:
            more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
            return f"machines with {', '.join(f'{key}={one}' for one in values[:_SHOWN])}{more}"
    return "machines with some of these labels, none with all"


def _labels(labels: Labels) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels)


def _of_total(free: int, total: int, name: str) -> str:
    if free == total:
        return _quantity(name, total)
    return f"{_quantity(name, max(free, 0)).removesuffix(f' {name}')} of {_quantity(name, total)}"


def _quantity(name: str, value: int) -> str:
    if name != "memory":
        return f"{value} {name}"
    if value >= 2**30:
        return f"{value / 2**30:.1f} GiB memory"
    return f"{value / 2**20:.0f} MiB memory"
