"""The decisions of a scheduling pass: which gangs start, which wait, and for which reason."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.seeds import for_each_seed

from iris.cluster.controller.jobs.gang import job_id_of_gang
from iris.cluster.controller.scheduling.capacity import FreeCapacity, GangKind, MachineSet
from iris.cluster.controller.scheduling.queue import (
    FIRST_TURN_S,
    HEAD_START_S,
    MAX_SUBMITTED,
    Allocation,
    Queue,
    QueuedGang,
    is_reserved,
)
from iris.cluster.controller.scheduling.queue import plan as plan_queue
from iris.cluster.controller.scheduling.waiting.reason_text import cause_text
from iris.cluster.controller.scheduling.waiting.reasons import Cause
from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources
from iris.cluster.engine.placement import choose_machines
from iris.reasons import Shortage, ShortageCode

GIB = 2**30


def gang(
    name: str,
    slots: int = 1,
    *,
    cpu: int = 0,
    memory: int = 0,
    gpu: int = 0,
    placement: Placement = Placement.ANY,
    **labels: str,
) -> GangRequest:
    need = Resources.of(cpu, memory, gpu)
    return GangRequest(f"{name}@0", slots, need, placement, tuple(sorted(labels.items())))


def machine(
    name: str = "m0",
    *,
    cpu: int = 4,
    memory: int = 8 * GIB,
    gpu: int = 0,
    used: Resources | None = None,
    alive: bool = True,
    **labels: str,
) -> Machine:
    total = Resources.of(cpu, memory, gpu)
    free = total - (used or Resources())
    return Machine(name, total, free, labels=tuple(sorted(labels.items())), alive=alive)


def waiting_since(entry: GangRequest, since_s: float) -> QueuedGang:
    return QueuedGang(entry, since_s, job_id_of_gang(entry.gang_id))


def text_of(cause: Cause | None) -> str:
    return "" if cause is None else cause_text(cause)


@dataclass
class Plan:
    """The decisions of a plan, by gang."""

    submit: list[GangRequest]
    reasons: dict[str, str]
    impossible: dict[str, str]
    withdraw: list[str]
    reserved_for: str


def plan(
    waiting: Sequence[QueuedGang],
    held: Sequence[Allocation],
    machines: Sequence[Machine],
    now_s: float,
    asked: Sequence[QueuedGang] = (),
) -> Plan:
    """Return the plan for queued gangs that have arrived in this order."""
    queue = Queue(waiting)
    found = plan_queue(queue, held, machines, now_s, asked)
    for entry in found.submit:
        queue.remove(entry.gang_id)
    kind_of = {entry.gang.gang_id: queue.kind_of(entry.gang.gang_id) for entry in queue}

    def texts(kinds: Set[GangKind]) -> dict[str, str]:
        return {gang_id: text_of(found.cause_of(kind)) for gang_id, kind in kind_of.items() if kind in kinds}

    return Plan(
        found.submit,
        texts(found.kinds() - found.impossible),
        texts(found.impossible),
        found.withdraw,
        found.reserved_for,
    )


def decide(waiting: Sequence[GangRequest], machines: Sequence[Machine], held: Sequence[Allocation] = ()) -> Plan:
    """Return the plan for gangs that have just arrived, in this order."""
    return plan([waiting_since(entry, 100.0) for entry in waiting], held, machines, 100.0)


def submitted(result: Plan) -> list[str]:
    return [entry.gang_id.removesuffix("@0") for entry in result.submit]


# Capacity.

EMPTY = [machine()]
TWO = [machine("m0"), machine("m1")]


@pytest.mark.parametrize(
    ("wanted", "machines", "expected"),
    [
        (gang("a"), EMPTY, "submit"),  # asks for no resources
        (gang("a", 1000), EMPTY, "submit"),
        (gang("a", cpu=4), EMPTY, "submit"),
        (gang("a", cpu=5), EMPTY, "impossible"),
        (gang("a", 4, cpu=1), EMPTY, "submit"),
        (gang("a", 5, cpu=1), EMPTY, "impossible"),
        (gang("a", cpu=8), TWO, "impossible"),  # eight cores in total, but on two machines
        (gang("a", 2, cpu=4), TWO, "submit"),
        (gang("a", 3, cpu=3), TWO, "impossible"),  # nine of eight cores
        (gang("a", 2, cpu=3), TWO, "submit"),
        (gang("a", memory=8 * GIB), EMPTY, "submit"),
        (gang("a", memory=8 * GIB + 1), EMPTY, "impossible"),
        (gang("a", gpu=1), EMPTY, "impossible"),
        (gang("a", gpu=1), [machine(gpu=1)], "submit"),
        (gang("a", 2, cpu=1, gpu=1), [machine(gpu=1)], "impossible"),
        (gang("a"), [], "impossible"),
        (gang("a", cpu=2), [machine(used=Resources.of(cpu=2))], "submit"),
        (gang("a", cpu=3), [machine(used=Resources.of(cpu=2))], "wait"),
        (gang("a", 2, cpu=3), [machine("m0", used=Resources.of(cpu=2)), machine("m1")], "wait"),
        (gang("a", memory=5 * GIB), [machine(used=Resources(memory_bytes=4 * GIB))], "wait"),
        (gang("a", gpu=1), [machine(gpu=2, used=Resources(gpu=2))], "wait"),
        (gang("a", cpu=1), [machine(used=Resources.of(cpu=4, memory_bytes=GIB))], "wait"),
        (gang("a"), [machine(used=Resources.of(cpu=4))], "submit"),
    ],
)
def test_scheduling_plan_submits_queues_or_rejects_a_gang_according_to_its_size(
    wanted: GangRequest, machines: list[Machine], expected: str
) -> None:
    result = decide([wanted], machines)
    found = {"submit": submitted(result), "wait": list(result.reasons), "impossible": list(result.impossible)}
    assert [name for name, value in found.items() if value] == [expected]


# The text of a reason: what the gang needs, and how much of it is free.
REASONS = [
    (gang("a", cpu=3), [machine(used=Resources.of(cpu=2))], ["needs 3 cpu", "free now: 2 of 4 cpu"]),
    (gang("a", 4, cpu=1), [machine(used=Resources.of(cpu=1))], ["needs 4 x (1 cpu)", "free now: 3 of 4 cpu"]),
    (gang("a", cpu=1), [machine(used=Resources.of(cpu=4))], ["needs 1 cpu", "free now: 0 of 4 cpu"]),
    (
        gang("a", memory=6 * GIB),
        [machine(used=Resources(memory_bytes=4 * GIB))],
        ["needs 6.0 GiB memory", "free now: 4.0 GiB of 8.0 GiB memory"],
    ),
    (
        gang("a", memory=8 * GIB),
        [machine(used=Resources(memory_bytes=8 * GIB - 200 * 2**20))],
        ["needs 8.0 GiB memory", "free now: 200 MiB of 8.0 GiB memory"],
    ),
    (gang("a", gpu=2), [machine(gpu=2, used=Resources(gpu=1))], ["needs 2 gpu", "free now: 1 of 2 gpu"]),
    # Only scarce resources are shown as free.
    (
        gang("a", cpu=1, memory=GIB, gpu=1),
        [machine(gpu=1, used=Resources(gpu=1))],
        ["needs 1 cpu, 1.0 GiB memory, 1 gpu", "free now: 0 of 1 gpu"],
    ),
    (
        gang("a", 2, cpu=3),
        [machine("m0", used=Resources.of(cpu=2)), machine("m1")],
        ["needs 2 x (3 cpu)", "2 of 4 cpu on m0", "4 cpu on m1"],
    ),
    # Each resource is free, but no machine has both.
    (
        gang("a", cpu=4, gpu=1),
        [machine("m0", gpu=1, used=Resources.of(cpu=1)), machine("m1")],
        ["needs 4 cpu, 1 gpu", "3 of 4 cpu, 1 gpu on m0", "4 cpu, 0 gpu on m1"],
    ),
    (
        gang("a", 6, cpu=4),
        [machine("m0", used=Resources.of(cpu=1)), *(machine(f"m{i}") for i in range(1, 6))],
        ["free now: 3 of 4 cpu on m0", "4 cpu on m3", "and 2 more machines"],
    ),
]


@pytest.mark.parametrize(("wanted", "machines", "words"), REASONS)
def test_waiting_reason_states_the_needs_of_the_gang_and_the_free_resources(
    wanted: GangRequest, machines: list[Machine], words: list[str]
) -> None:
    (reason,) = decide([wanted], machines).reasons.values()
    assert [word for word in words if word not in reason] == [], reason


def test_waiting_reason_omits_resources_that_are_not_scarce() -> None:
    (reason,) = decide([gang("a", cpu=1, memory=GIB)], [machine(used=Resources.of(cpu=4))]).reasons.values()
    assert "memory" not in reason.split("free now:")[1]


@pytest.mark.parametrize(
    ("wanted", "machines", "words"),
    [
        (gang("a", cpu=5), EMPTY, ["needs 5 cpu", "there are only 4 cpu"]),
        (gang("a", gpu=1), EMPTY, ["needs 1 gpu", "there are only 0 gpu"]),
        (gang("a", memory=9 * GIB), EMPTY, ["needs 9.0 GiB memory", "there are only 8.0 GiB memory"]),
        (gang("a", 3, cpu=3), TWO, ["needs 3 x (3 cpu)", "4 cpu on m0; 4 cpu on m1"]),
        (gang("a", cpu=1), [], ["needs 1 cpu", "there is no machine"]),
        # The reason depends on the total, not on what is free.
        (gang("a", cpu=5), [machine(used=Resources.of(cpu=4))], ["there are only 4 cpu"]),
    ],
)
def test_reason_why_a_gang_can_never_fit_contains_the_capacity_of_the_machines(
    wanted: GangRequest, machines: list[Machine], words: list[str]
) -> None:
    (reason,) = decide([wanted], machines).impossible.values()
    assert [word for word in words if word not in reason] == [], reason


# Placement rules, labels, and machines that are not alive.

SPREAD, TOGETHER = Placement.SPREAD, Placement.TOGETHER
ZONES = [machine("m0", zone="a"), machine("m1", zone="b", used=Resources.of(cpu=3)), machine("m2", zone="b")]


@pytest.mark.parametrize(
    ("wanted", "machines", "expected"),
    [
        (gang("a", 3, cpu=1, placement=SPREAD), ZONES, "submit"),
        (gang("a", 3, cpu=2, placement=SPREAD), ZONES, "wait"),
        (gang("a", 4, cpu=1, placement=SPREAD), ZONES, "impossible"),
        (gang("a", 4, cpu=1, placement=TOGETHER), ZONES, "submit"),
        (gang("a", 5, cpu=1, placement=TOGETHER), ZONES, "impossible"),
        (gang("a", 2, cpu=2, placement=TOGETHER, zone="b"), ZONES, "submit"),
        (gang("a", 2, cpu=3, zone="b"), ZONES, "wait"),
        (gang("a", 2, cpu=3, zone="a"), ZONES, "impossible"),
        (gang("a", zone="c"), ZONES, "impossible"),
        (gang("a", zone="a", rack="1"), ZONES, "impossible"),
        (gang("a", cpu=1), [machine(alive=False)], "wait"),  # the machine may become alive again
        (gang("a", cpu=5), [machine(alive=False)], "impossible"),
        (gang("a", 2, cpu=4), [machine("m0"), machine("m1", alive=False)], "wait"),
        (gang("a", cpu=4), [machine("m0"), machine("m1", alive=False)], "submit"),
    ],
)
def test_placement_rules_and_labels_limit_where_a_gang_fits(
    wanted: GangRequest, machines: list[Machine], expected: str
) -> None:
    result = decide([wanted], machines)
    found = {"submit": submitted(result), "wait": list(result.reasons), "impossible": list(result.impossible)}
    assert [name for name, value in found.items() if value] == [expected]


@pytest.mark.parametrize(
    ("wanted", "machines", "expected"),
    [
        (
            gang("a", 3, cpu=2, placement=SPREAD),
            ZONES,
            "needs 3 x (2 cpu), each on a machine of its own; free now: 4 cpu on m0; 1 of 4 cpu on m1; 4 cpu on m2",
        ),
        (
            gang("a", 2, cpu=3, zone="b"),
            ZONES,
            "needs 2 x (3 cpu), on machines with zone=b; free now: 1 of 4 cpu on m1; 4 cpu on m2",
        ),
        (
            gang("a", 5, cpu=1, placement=TOGETHER),
            ZONES,
            "needs 5 x (1 cpu), all on one machine; there are only 4 cpu on m0; 4 cpu on m1; 4 cpu on m2",
        ),
        (
            gang("a", 3, placement=SPREAD, zone="b"),
            ZONES,
            "needs 3 slots, each on a machine of its own, on machines with zone=b; there are only 2 of them",
        ),
        (gang("a", 4, cpu=1, placement=SPREAD), ZONES, "each on a machine of its own; there are only 3 machines"),
        (gang("a", zone="c"), ZONES, "needs machines with zone=c; there are only machines with zone=a, zone=b"),
        (gang("a", rack="1"), ZONES, "needs machines with rack=1; there are only machines without rack"),
        (
            gang("a", zone="a", rack="2"),
            [machine("m0", zone="a", rack="1"), machine("m1", zone="b", rack="2")],
            "needs machines with rack=2, zone=a; there are only machines with some of these labels, none with all",
        ),
        (
            gang("a", 2, cpu=4),
            [machine("m0"), machine("m1", alive=False)],
            "needs 2 x (4 cpu); there are only 4 cpu (1 machine is not alive)",
        ),
        (
            gang("a", cpu=5),
            [machine(f"m{number}", used=Resources.of(cpu=number % 5)) for number in range(500)],
            "needs 5 cpu; there are only 4 cpu on m0; 4 cpu on m1; 4 cpu on m2; 4 cpu on m3 and 496 more machines;"
            " 2000 cpu in all",
        ),
        (
            gang("a", 201, cpu=4),
            [machine(f"m{number}", used=Resources.of(cpu=number % 2)) for number in range(400)],
            "3 of 4 cpu on m3 and 396 more machines; 1400 of 1600 cpu in all; users outside this cluster hold 200 cpu",
        ),
    ],
)
def test_waiting_reason_names_machines_labels_and_placement_rules(
    wanted: GangRequest, machines: list[Machine], expected: str
) -> None:
    result = decide([wanted], machines)
    (reason,) = (result.reasons | result.impossible).values()
    assert expected in reason


def test_gang_that_no_live_machine_can_hold_gets_no_reservation() -> None:
    machines = [machine("m0", used=Resources.of(cpu=2)), machine("m1", cpu=64, alive=False)]
    waiting = [
        waiting_since(gang("away", cpu=8), 0.0),
        waiting_since(gang("huge", cpu=99), 0.0),
        waiting_since(gang("a", cpu=2), 40.0),
    ]
    result = plan(waiting, [], machines, 45.0)
    assert submitted(result) == ["a"]
    assert (list(result.reasons), list(result.impossible)) == (["away@0"], ["huge@0"])
    assert result.reserved_for == ""


# Gangs that wait at the engine.


def test_requested_gang_that_fits_counts_as_allocated() -> None:
    asked = [waiting_since(gang("asked", cpu=3), 0.0)]
    result = plan([waiting_since(gang("a", cpu=2), 0.0), waiting_since(gang("b", cpu=1), 0.0)], [], EMPTY, 1.0, asked)
    assert submitted(result) == ["b"]
    assert "free now: 0 of 4 cpu" in result.reasons["a@0"]
    assert result.withdraw == []


def test_requested_gang_that_does_not_fit_gets_a_reservation() -> None:
    """Without a reservation, small gangs would start before it forever, because others use the machine."""
    asked = [waiting_since(gang("asked", cpu=4), 0.0)]
    busy = [machine(used=Resources.of(cpu=2))]
    result = plan([waiting_since(gang("small", cpu=1), 5.0)], [], busy, 45.0, asked)
    assert (submitted(result), result.withdraw, result.reserved_for) == ([], [], "asked@0")
    assert "reserved for job 'asked'" in result.reasons["small@0"]
    assert submitted(plan([waiting_since(gang("small", cpu=1), 5.0)], [], busy, 20.0, asked)) == ["small"]


def test_requested_gang_in_the_way_of_a_reservation_is_withdrawn() -> None:
    large, busy = (
        waiting_since(gang("large", cpu=4), 0.0),
        [machine("m0", used=Resources.of(cpu=2)), machine("m1", cpu=1)],
    )
    asked = [waiting_since(gang("asked", cpu=3), 5.0), waiting_since(gang("fits", cpu=1), 5.0)]
    result = plan([large], [], busy, 45.0, asked)
    assert (result.withdraw, result.reserved_for) == (["asked@0"], "large@0")
    assert plan([large], [], busy, 20.0, asked).withdraw == [], "not before it is kept"
    elsewhere = [waiting_since(gang("asked", cpu=3, zone="b"), 5.0)]
    zones = [machine("m0", zone="a", used=Resources.of(cpu=2)), machine("m1", zone="b", used=Resources.of(cpu=4))]
    large = waiting_since(gang("large", cpu=4, zone="a"), 0.0)
    assert plan([large], [], zones, 45.0, elsewhere).withdraw == [], "its machines are others"


def test_gang_that_lost_its_allocation_returns_to_its_old_position() -> None:
    queue = Queue([waiting_since(gang(name, cpu=4), since) for name, since in (("a", 3.0), ("b", 5.0), ("c", 1.0))])
    for expected in ("c", "a", "b"):
        (first,) = plan_queue(queue, [], EMPTY, 6.0).submit
        assert first.gang_id == f"{expected}@0"
        queue.remove(first.gang_id)


def test_scheduling_pass_submits_at_most_max_submitted_gangs_and_reports_more() -> None:
    queue = Queue([waiting_since(gang(f"{number}"), 0.0) for number in range(MAX_SUBMITTED + 1)])
    result = plan_queue(queue, [], EMPTY, 0.0)
    assert (len(result.submit), result.has_more) == (MAX_SUBMITTED, True)
    for entry in result.submit:
        queue.remove(entry.gang_id)
    result = plan_queue(queue, [], EMPTY, 0.0, (), result.machine_set)
    assert (len(result.submit), result.has_more) == (1, False)


def test_reason_to_wait_names_the_present_shortage_of_an_avoided_machine() -> None:
    def avoided(text: str, code: ShortageCode) -> list[Machine]:
        return [replace(machine(alive=False), why_avoided=Shortage(text, code))]

    queue = Queue([waiting_since(entry := gang("a", cpu=1), 0.0)])
    first = plan_queue(queue, [], avoided("the disk is full", ShortageCode.DISK_SPACE), 0.0)
    later = plan_queue(queue, [], avoided("no memory is left", ShortageCode.MEMORY), 1.0, (), first.machine_set)
    assert "the disk is full" in text_of(first.cause_of(GangKind.of(entry)))
    assert "no memory is left" in text_of(later.cause_of(GangKind.of(entry)))


# `FreeCapacity` gives the same answers as a visit to each machine.


def some_gang(chance: random.Random, name: str) -> GangRequest:
    labels = chance.choice(({}, {}, {"zone": "a"}, {"zone": "b"}, {"zone": "b", "disk": "ssd"}))
    need = Resources.of(chance.randint(0, 4), chance.randint(0, 3), chance.choice((0, 0, 1)))
    return GangRequest(
        f"{name}@0", chance.randint(1, 6), need, chance.choice(list(Placement)), tuple(sorted(labels.items()))
    )


def some_machines(chance: random.Random, count: int) -> list[Machine]:
    return [
        Machine(
            f"m{i}",
            total := Resources.of(chance.randint(1, 8), chance.randint(1, 8), chance.randint(0, 2)),
            Resources(*(chance.randint(-1, amount) for amount in total.amounts())),
            chance.randint(0, 3),
            chance.choice(((), (("zone", "a"),), (("zone", "b"),), (("disk", "ssd"), ("zone", "b")))),
            alive=chance.random() > 0.1,
        )
        for i in range(count)
    ]


@for_each_seed(200)
def test_free_capacity_finds_the_same_machines_as_choose_machines(seed: int) -> None:
    chance = random.Random(seed)
    machines = some_machines(chance, chance.randint(0, 6))
    room = FreeCapacity(MachineSet(machines), [known.free for known in machines], [known.tasks for known in machines])
    for number in range(30):
        wanted = some_gang(chance, str(number))
        expected = choose_machines(wanted, machines)
        assert room.find(wanted) == expected
        assert room.fits(wanted) == (expected is not None)
        if expected is not None and chance.random() < 0.7:
            room.allocate(wanted, expected)
            for spot in expected:
                known = machines[spot]
                machines[spot] = replace(known, free=known.free - wanted.need, tasks=known.tasks + 1)


# The order of gangs, backfill and reservations.


def test_gangs_start_in_the_order_of_their_arrival() -> None:
    result = decide([gang("a", cpu=2), gang("b", cpu=2), gang("c", cpu=1)], EMPTY)
    assert submitted(result) == ["a", "b"]
    assert list(result.reasons) == ["c@0"]


def test_small_gang_starts_before_an_older_gang_that_does_not_fit() -> None:
    result = decide([gang("large", cpu=4), gang("small", cpu=1)], [machine(used=Resources.of(cpu=1))])
    assert submitted(result) == ["small"]
    assert list(result.reasons) == ["large@0"]


def test_impossible_gang_blocks_no_other_gang() -> None:
    result = decide([gang("huge", cpu=99), gang("a", cpu=4)], EMPTY)
    assert submitted(result) == ["a"]
    assert list(result.impossible) == ["huge@0"]


def test_submitted_gang_reduces_the_free_capacity_for_later_gangs() -> None:
    result = decide([gang("a", cpu=3), gang("b", cpu=3), gang("c", cpu=3)], TWO)
    assert submitted(result) == ["a", "b"]
    assert "1 of 4 cpu on m0; 1 of 4 cpu on m1" in result.reasons["c@0"]


def test_function_plan_does_not_change_its_arguments() -> None:
    machines = [machine(used=Resources.of(cpu=1))]
    before = list(machines)
    decide([gang("a", cpu=3), gang("b", cpu=3)], machines)
    assert machines == before


@pytest.mark.parametrize(
    ("waited_s", "reserved"),
    [
        (0, False),
        (29.9, False),
        (30, True),  # for 30 s
        (59.9, True),
        (60, False),  # the turn of the other gangs, for 60 s
        (119.9, False),
        (120, True),  # for 60 s
        (179.9, True),
        (180, False),  # for 120 s
        (299.9, False),
        (300, True),  # for 120 s
        (419.9, True),
        (420, False),
        (660, True),
    ],
)
def test_oldest_gang_has_alternating_turns_with_and_without_a_reservation(waited_s: float, reserved: bool) -> None:
    assert FIRST_TURN_S == 30
    assert is_reserved(waited_s) is reserved


def held_since(since_s: float, entry: GangRequest, *machines: str) -> Allocation:
    return Allocation(entry, since_s, machines)


def test_reservation_blocks_later_gangs_and_its_reason_names_the_job() -> None:
    running = held_since(0.0, gang("before", cpu=2), "m0")
    busy = [machine(used=Resources.of(cpu=2))]
    waiting = [waiting_since(gang("large", cpu=4), 10.0), waiting_since(gang("small", cpu=1), 35.0)]
    before, within = plan(waiting, [running], busy, 39.9), plan(waiting, [running], busy, 40.0)
    assert submitted(before) == ["small"]
    assert submitted(within) == []
    reason = within.reasons["small@0"]
    assert "reserved for job 'large'" in reason
    assert "needs 4 cpu" in reason


def test_gang_that_respects_the_reservation_starts() -> None:
    running = held_since(0.0, gang("before", cpu=2), "m0")
    busy = [machine(used=Resources.of(cpu=2))]
    waiting = [
        waiting_since(gang("large", cpu=3), 10.0),
        waiting_since(gang("one", cpu=1), 35.0),
        waiting_since(gang("two", cpu=1), 36.0),
    ]
    result = plan(waiting, [running], busy, 45.0)
    assert submitted(result) == ["one"]  # after a second one, only two cores would be left for the oldest
    assert list(result.reasons) == ["large@0", "two@0"]


def test_oldest_gang_that_does_not_fit_gets_the_reservation() -> None:
    running = held_since(0.0, gang("before", cpu=2), "m0")
    waiting = [
        waiting_since(gang("oldest", cpu=4), 10.0),
        waiting_since(gang("another", cpu=3), 40.0),  # has not waited long enough for a reservation
        waiting_since(gang("small", cpu=1), 41.0),
    ]
    result = plan(waiting, [running], [machine(used=Resources.of(cpu=2))], 45.0)
    assert submitted(result) == []
    assert "reserved for job 'oldest'" in result.reasons["small@0"]


def test_waiting_reason_of_a_reservation_contains_the_full_job_id() -> None:
    request = GangRequest("parent/a@b@3", 1, Resources.of(cpu=4))
    waiting = [waiting_since(request, 0.0), waiting_since(gang("small", cpu=1), 1.0)]
    held = [held_since(0.0, gang("before", cpu=2), "m0")]
    result = plan(waiting, held[:0], [machine(used=Resources.of(cpu=2))], 45.0)
    assert "reserved for job 'parent/a@b'" in result.reasons["small@0"]


# Which gangs a pass visits.


class Looked:
    """A queued gang that counts how often it is visited."""

    since_s = 100.0
    position = (100.0, 100.0)
    job_id = "job"
    looks = 0

    def __init__(self, request: GangRequest) -> None:
        self._request = request

    @property
    def gang(self) -> GangRequest:
        Looked.looks += 1
        return self._request


@pytest.mark.parametrize("now_s", [100.0, 145.0], ids=["before a reservation", "with a reservation"])
def test_scheduling_pass_visits_submitted_gangs_and_one_more_gang_of_each_kind(now_s: float) -> None:
    looks = []
    for count in (10, 5000):
        waiting: list[Any] = [Looked(gang(f"{cpu}-{number}", cpu=cpu)) for number in range(count) for cpu in (4, 3, 1)]
        queue = Queue(waiting)
        Looked.looks = 0
        result = plan_queue(
            queue, [held_since(99.0, gang("runs", cpu=1), "m0")], [machine(used=Resources.of(cpu=1))], now_s
        )
        assert [entry.gang_id for entry in result.submit] == ["3-0@0"] * (now_s == 100.0)
        assert sorted(need.cpu for _, need, _, _ in result.kinds()) == [1, 3, 4]
        looks.append(Looked.looks)
    assert looks[0] == looks[1] < 20


# Simulated time.


@dataclass
class Cluster:
    """Machines and a queue in simulated time, with gangs that run for a given time."""

    machines: list[Machine]
    now_s: float = 0.0
    waiting: list[QueuedGang] = field(default_factory=list)
    held: dict[str, Allocation] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    runs_s: dict[str, float] = field(default_factory=dict)
    ends: list[tuple[float, str]] = field(default_factory=list)

    def come(self, entry: GangRequest, runs_s: float = math.inf, tree_since_s: float = math.inf) -> None:
        self.waiting.append(QueuedGang(entry, self.now_s, job_id_of_gang(entry.gang_id), tree_since_s))
        self.runs_s[entry.gang_id] = runs_s

    def decide(self) -> None:
        result = plan(self.waiting, list(self.held.values()), self.machines, self.now_s)
        for entry in result.submit:
            spots = choose_machines(entry, self.machines)
            assert spots is not None, "the queue submits only what fits"
            self._use(entry, spots, +1)
            self.held[entry.gang_id] = Allocation(entry, self.now_s, tuple(self.machines[spot].name for spot in spots))
            self.started_s[entry.gang_id] = self.now_s
            heapq.heappush(self.ends, (self.now_s + self.runs_s[entry.gang_id], entry.gang_id))
        taken = {entry.gang_id for entry in result.submit}
        self.waiting = [entry for entry in self.waiting if entry.gang.gang_id not in taken]
        assert {entry.gang.gang_id for entry in self.waiting} == {*result.reasons, *result.impossible}

    def pass_time(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        while self.ends and self.ends[0][0] <= self.now_s:
            entry = self.held.pop(heapq.heappop(self.ends)[1])
            position = {machine.name: i for i, machine in enumerate(self.machines)}
            self._use(entry.gang, [position[name] for name in entry.machines], -1)
        self.decide()

    def until(self, condition: Callable[[], bool], limit_s: float, each_second: Callable[[], None]) -> None:
        while not condition():
            assert self.now_s < limit_s, f"still waiting: {[entry.gang.gang_id for entry in self.waiting]}"
            each_second()
            self.pass_time()

    def _use(self, entry: GangRequest, spots: Sequence[int], sign: int) -> None:
        for spot in spots:
            known = self.machines[spot]
            free = known.free - entry.need if sign > 0 else known.free + entry.need
            self.machines[spot] = replace(known, free=free, tasks=known.tasks + sign)

    def possible(self, entry: GangRequest) -> bool:
        return (
            choose_machines(entry, [replace(known, free=known.total, tasks=0) for known in self.machines]) is not None
        )


def names(prefix: str) -> Iterator[str]:
    return (f"{prefix}{n}" for n in itertools.count())


@pytest.mark.parametrize("runs_s", [3, 20, 45, 100])
@pytest.mark.parametrize("machines", [1, 3])
def test_stream_of_small_gangs_does_not_starve_a_large_gang(machines: int, runs_s: int) -> None:
    cluster = Cluster([machine(f"m{i}") for i in range(machines)])
    name = names("small")

    def more() -> None:
        while len(cluster.waiting) < 8 * machines:  # a small gang that fits is always queued
            cluster.come(gang(next(name), cpu=1), runs_s)

    cluster.until(lambda: not cluster.machines[0].free.cpu, 60, more)
    came_s = cluster.now_s
    cluster.come(gang("large", machines, cpu=4), 10)
    cluster.until(lambda: "large@0" in cluster.started_s, 3000, more)
    # One turn of the large gang was then longer than all gangs that ran when the turn began. Turns last 30 s from 30 s
    # on, 60 s from 120 s on, and 120 s from 300 s on.
    assert cluster.started_s["large@0"] - came_s <= 300 + runs_s


def test_large_gangs_start_in_the_order_of_their_arrival() -> None:
    cluster = Cluster([machine()])
    name = names("small")

    def one_more() -> None:
        cluster.come(gang(next(name), cpu=1), 7)

    for _ in range(10):
        one_more()
    cluster.decide()
    cluster.come(gang("first", cpu=4), 20)
    cluster.come(gang("second", cpu=4), 20)
    cluster.until(lambda: "second@0" in cluster.started_s, 3000, one_more)
    assert cluster.started_s["first@0"] < cluster.started_s["second@0"]


def test_small_gangs_start_although_a_large_gang_waits_for_an_endless_service() -> None:
    """Reservations may delay the small gangs, but at least a third of them must have started after two hours."""
    cluster = Cluster([machine()])
    cluster.come(gang("service", cpu=1))
    cluster.decide()
    cluster.pass_time()
    cluster.come(gang("large", cpu=4), 10)
    name = names("small")
    came = 0
    while cluster.now_s < 7200:
        cluster.come(gang(next(name), cpu=1), 10)
        came += 1
        for _ in range(4):
            cluster.pass_time(5.0)
    started = len(cluster.started_s) - 1
    assert "large@0" not in cluster.started_s
    assert started >= came / 3, f"only {started} of {came} have started"


def test_gang_that_fits_beside_a_reservation_and_an_endless_service_never_waits() -> None:
    cluster = Cluster([machine(cpu=8)])
    cluster.come(gang("service", cpu=4))
    cluster.decide()
    cluster.pass_time()
    cluster.come(gang("large", cpu=6), 10)
    name = names("small")
    for _ in range(600):
        cluster.come(gang(next(name), cpu=2), 1)
        cluster.decide()
        cluster.pass_time()
    assert len(cluster.started_s) == 601  # every gang started at once, because 6 and 2 cores fit on the machine


@pytest.mark.parametrize("seed", range(6))
def test_every_gang_that_can_be_placed_starts_eventually(seed: int) -> None:
    """Gangs of all kinds start on labelled machines, although small gangs arrive all the time."""
    chance = random.Random(seed)
    labels: list[dict[str, str]] = [{"zone": "a"}, {"zone": "b"}, {"zone": "b", "disk": "ssd"}, {}]
    cluster = Cluster(
        [machine(f"m{i}", cpu=chance.randint(2, 8), gpu=chance.randint(0, 2), **labels[i]) for i in range(4)]
    )
    empty = list(cluster.machines)
    possible = set()
    for number in range(30):
        wanted = some_gang(chance, f"job{number}")
        wanted = replace(wanted, need=replace(wanted.need, memory_bytes=0))
        if cluster.possible(wanted):
            possible.add(wanted.gang_id)
        cluster.come(wanted, chance.randint(1, 90))
        for _ in range(chance.choice([0, 0, 1, 5])):
            cluster.pass_time()
    name = names("small")

    def one_more() -> None:
        if len(cluster.waiting) < 60:
            cluster.come(gang(next(name), cpu=1), chance.randint(1, 20))

    cluster.until(lambda: possible <= set(cluster.started_s), 60 * 600, one_more)
    assert {entry.gang.gang_id for entry in cluster.waiting if not entry.gang.gang_id.startswith("small")} == {
        f"job{number}@0" for number in range(30)
    } - possible
    cluster.until(
        lambda: not cluster.held and len(cluster.started_s) >= len(possible), cluster.now_s + 600, lambda: None
    )
    assert cluster.machines == empty


@pytest.mark.parametrize(("placement", "slots", "cpu"), [(SPREAD, 3, 4), (SPREAD, 2, 3), (TOGETHER, 4, 1)])
def test_stream_of_small_gangs_does_not_starve_a_gang_with_placement_rules(
    placement: Placement, slots: int, cpu: int
) -> None:
    zone = "a" if slots < 3 else ""
    where = {"zone": zone} if zone else {}
    cluster = Cluster([machine("m0", zone="a"), machine("m1", zone="a"), machine("m2", zone="b")])
    name = names("small")

    def more() -> None:
        while len(cluster.waiting) < 20:
            cluster.come(gang(next(name), cpu=1), 20)

    cluster.until(lambda: not any(known.free.cpu for known in cluster.machines), 60, more)
    came_s = cluster.now_s
    cluster.come(gang("large", slots, cpu=cpu, placement=placement, **where), 10)
    cluster.until(lambda: "large@0" in cluster.started_s, 3000, more)
    assert cluster.started_s["large@0"] - came_s <= 320
    before = len(cluster.started_s)
    cluster.until(lambda: len(cluster.started_s) > before + 10, cluster.now_s + 100, more)


# Trees of jobs.


def in_tree(name: str, since_s: float, tree_since_s: float, cpu: int = 1) -> QueuedGang:
    return QueuedGang(gang(name, cpu=cpu), since_s, name, tree_since_s)


@pytest.mark.parametrize(
    ("root_since_s", "child_since_s", "expected"),
    [
        (1000.0, 1001.0, ["child", "root"]),
        (1000.0, 1000.0 + HEAD_START_S - 1, ["child", "root"]),
        (1000.0, 1000.0 + HEAD_START_S + 1, ["root", "child"]),  # The other root job has waited for too long.
        (80.0, 81.0, ["root", "child"]),  # The other root job arrived before the tree.
    ],
)
def test_child_gang_starts_before_later_root_jobs_within_its_head_start(
    root_since_s: float, child_since_s: float, expected: list[str]
) -> None:
    waiting = [in_tree("root", root_since_s, math.inf), in_tree("child", child_since_s, 90.0)]
    for order in (waiting, waiting[::-1]):
        first = plan(order, [], [machine(cpu=1)], child_since_s)
        assert submitted(first) == expected[:1]
        assert submitted(plan(order, [], [machine(cpu=2)], child_since_s)) == expected


def test_child_gangs_of_one_tree_start_in_the_order_of_their_arrival() -> None:
    waiting = [in_tree("b", 202.0, 90.0), in_tree("c", 203.0, 90.0, cpu=2), in_tree("a", 201.0, 90.0)]
    assert submitted(plan(waiting, [], [machine()], 210.0)) == ["a", "b", "c"]


def test_head_start_of_a_child_gang_does_not_lengthen_its_waiting_time() -> None:
    """The turns of a reservation depend on the time for which the gang itself has waited."""
    for since_s, reserved_for in ((9999.0, ""), (10_000 - FIRST_TURN_S, "child@0")):
        full = machine(used=Resources.of(cpu=4))
        assert plan([in_tree("child", since_s, 90.0)], [], [full], 10_000.0).reserved_for == reserved_for


def test_endless_tree_of_child_jobs_does_not_starve_a_later_root_job() -> None:
    cluster = Cluster([machine()])
    name = names("child")

    def more() -> None:
        while len(cluster.waiting) < 8:  # A child job that would fit is always queued.
            cluster.come(gang(next(name), cpu=1), 20, tree_since_s=0.0)

    cluster.until(lambda: not cluster.machines[0].free.cpu, 60, more)
    came_s = cluster.now_s
    cluster.come(gang("small", cpu=1), 10)
    cluster.come(gang("large", cpu=4), 10)
    cluster.until(lambda: "small@0" in cluster.started_s, came_s + HEAD_START_S + 30, more)
    assert cluster.started_s["small@0"] - came_s >= HEAD_START_S
    cluster.until(lambda: "large@0" in cluster.started_s, came_s + HEAD_START_S + 2000, more)


@for_each_seed(10)
def test_order_of_the_queue_equals_a_sort_by_position_and_arrival(seed: int) -> None:
    """The model: a list that is sorted again after each change."""
    chance = random.Random(seed)
    queue, model = Queue(), list[tuple[float, float, int, str]]()
    for number in range(300):
        if model and chance.random() < 0.3:
            gone = chance.choice(model)
            model.remove(gone)
            assert queue.remove(gone[3]) is not None
        since_s, tree_since_s = chance.uniform(0, 8000), chance.choice([math.inf, chance.uniform(0, 8000)])
        queue.add(in_tree(str(number), since_s, tree_since_s))
        ahead_s = since_s if tree_since_s > since_s else max(tree_since_s, since_s - 3600)
        model.append((ahead_s, since_s, number, f"{number}@0"))
        if chance.random() < 0.2:
            ((_, gangs),) = queue.by_kind().items()
            assert list(gangs) == [gang_id for _, _, _, gang_id in sorted(model)]


# `choose_machines` assigns the slots of one gang to machines.


@pytest.mark.parametrize(
    ("slots", "machines", "spots"),
    [
        (0, 2, []),
        (1, 2, [0]),
        (2, 2, [0, 1]),
        (4, 2, [0, 1, 0, 1]),
        (5, 2, [0, 1, 0, 1, 0]),
        (3, 3, [0, 1, 2]),
        (1, 0, None),
    ],
)
def test_slots_of_a_gang_are_distributed_evenly_over_machines(
    slots: int, machines: int, spots: list[int] | None
) -> None:
    assert choose_machines(gang("a", slots), [machine(f"m{i}") for i in range(machines)]) == spots


def test_machine_with_the_fewest_tasks_gets_the_first_slot() -> None:
    machines = [replace(machine("m0"), tasks=3), replace(machine("m1"), tasks=1), replace(machine("m2"), tasks=2)]
    assert choose_machines(gang("a", 4, cpu=1), machines) == [1, 1, 2, 0]


def test_resource_that_a_gang_does_not_ask_for_never_excludes_a_machine() -> None:
    machines = [machine("m0", used=Resources.of(cpu=4)), machine("m1")]
    assert choose_machines(gang("a", 2, cpu=2), machines) == [1, 1]
    assert choose_machines(gang("a", 2), machines) == [0, 1]
    # More is allocated than the machine has, for example because the machine has shrunk. A gang that does not ask for
    # this resource still fits.
    shrunk = [machine("m0", used=Resources.of(cpu=9))]
    assert choose_machines(gang("a", memory=GIB), shrunk) == [0]
    assert choose_machines(gang("a", cpu=1), shrunk) is None


@for_each_seed(100)
def test_choose_machines_finds_every_fit_and_distributes_slots_evenly(seed: int) -> None:
    chance = random.Random(seed)
    machines = [
        Machine(
            f"m{i}",
            Resources(4, 4, 2),
            Resources(chance.randint(0, 4), chance.randint(0, 4), chance.randint(0, 2)),
            chance.randint(0, 3),
        )
        for i in range(chance.randint(1, 3))
    ]
    need = Resources(chance.randint(0, 2), chance.randint(0, 2), chance.randint(0, 1))
    request = GangRequest("a@0", chance.randint(1, 5), need)
    answers = [
        spots
        for spots in itertools.product(range(len(machines)), repeat=request.slots)
        if all(
            machines[i].free.covers(Resources(*(spots.count(i) * amount for amount in need.amounts())))
            for i in range(len(machines))
        )
    ]
    spots = choose_machines(request, machines)
    if not answers:
        assert spots is None
        return
    assert spots is not None
    assert tuple(spots) in answers

    def unevenness(chosen: Sequence[int]) -> int:
        return sum((known.tasks + list(chosen).count(i)) ** 2 for i, known in enumerate(machines))

    assert unevenness(spots) == min(map(unevenness, answers))
