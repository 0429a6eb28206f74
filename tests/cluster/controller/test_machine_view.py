"""The queued gangs that `iris machines` and the page show first."""

from __future__ import annotations

from iris.cluster.controller.overview.machine_view import longest_waiting
from iris.cluster.controller.scheduling.queue import QueuedGang
from iris.cluster.engine.base import GangRequest, Resources
from iris.rpc.serving.steps import finish


def gangs(*since_s: float) -> list[QueuedGang]:
    return [
        QueuedGang(GangRequest(f"gang-{number}", 1, Resources.of(cpu=1)), since, "job")
        for number, since in enumerate(since_s)
    ]


def test_longest_waiting_gangs_of_a_long_queue_are_found_in_several_steps() -> None:
    waiting = gangs(*(float(number * 7919 % 3500) for number in range(3500)))
    finding = longest_waiting(waiting, 5)
    steps = sum(1 for _ in finding)
    assert steps > 3
    assert [gang.since_s for gang in finish(longest_waiting(waiting, 5))] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_longest_waiting_gangs_with_equal_times_keep_their_order() -> None:
    waiting = gangs(2.0, 1.0, 1.0, *[3.0] * 1500, 1.0)
    found = finish(longest_waiting(waiting, 4))
    assert [gang.gang.gang_id for gang in found] == ["gang-1", "gang-2", "gang-1503", "gang-0"]


def test_empty_queue_has_no_longest_waiting_gangs() -> None:
    assert finish(longest_waiting([], 4)) == []
