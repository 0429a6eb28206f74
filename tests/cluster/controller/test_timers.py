"""Timers that a loop asks what is due."""

from __future__ import annotations

import math
import random

from iris.system.timers import Timers


def test_due_timers_are_returned_in_the_order_of_their_times() -> None:
    timers: Timers[str] = Timers()
    assert (timers.next_s(), timers.pop_due(1e9)) == (math.inf, None)
    for key, due_s in (("late", 30.0), ("early", 10.0), ("same", 10.0)):
        timers.set(key, due_s)
    assert timers.pop_due(9.9) is None
    assert timers.next_s() == 10.0
    assert [timers.pop_due(20.0) for _ in range(3)] == ["early", "same", None]
    assert timers.next_s() == 30.0


def test_timer_can_be_replaced_and_cancelled() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 10.0)
    timers.set("a", 50.0)
    timers.set("b", 20.0)
    timers.drop("b")
    timers.drop("never set")
    assert timers.next_s() == 50.0
    timers.set("b", 20.0)  # set again for the same time after a drop
    assert [timers.pop_due(100.0) for _ in range(3)] == ["b", "a", None]


def test_timers_return_the_same_keys_as_a_simple_model_for_any_order_of_calls() -> None:
    chance = random.Random(1)
    for _ in range(200):
        timers: Timers[int] = Timers()
        table: dict[int, float] = {}
        for now in range(60):
            key = chance.randrange(6)
            match chance.randrange(3):
                case 0:
                    table[key] = now + chance.random() * 20
                    timers.set(key, table[key])
                case 1:
                    table.pop(key, None)
                    timers.drop(key)
                case 2:
                    due = min(table, key=table.__getitem__, default=None)
                    expected = due if due is not None and table[due] <= now else None
                    assert timers.pop_due(now) == expected
                    if expected is not None:
                        del table[expected]
            assert timers.next_s() == min(table.values(), default=math.inf)


def test_cancelled_timers_do_not_accumulate_in_memory() -> None:
    timers: Timers[int] = Timers()
    for number in range(10):
        timers.set(-number, number)
    for number in range(10_000):
        timers.set(number + 1, 1e9)
        timers.drop(number + 1)
    assert len(timers) < 100
    assert [timers.pop_due(100) for _ in range(11)] == [*(-number for number in range(10)), None]
