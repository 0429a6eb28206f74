"""The contract of engines. Each engine runs these tests.

A test module imports these functions and brings a fixture `world`: an engine that has been started, with knobs for what
befalls it. It has two machines, A and B, of 4 cores, 1 GiB and 2 GPUs each; A is labelled `zone=a`, B `zone=b`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

import pytest

from iris.cluster.engine.base import (
    Engine,
    GangRejectedError,
    GangRequest,
    GangState,
    GangStatus,
    Machine,
    Placement,
    Resources,
)
from iris.errors import UnavailableError

pytestmark = pytest.mark.anyio

LOOK_S = 0.05
# Shorter than pytest's own limit: after that one the teardown of an asynchronous fixture would wait for ever.
PATIENCE_S = 90.0


class World(Protocol):
    """An engine under test, and the faults that a test can cause around the engine.

    Attributes:
        engine: It; another one after `restart`.
        zones: The value of the label `zone` of each machine, by its name.
    """

    engine: Engine
    zones: dict[str, str]

    async def restart(self) -> None:
        """Simulate the kill of the controller: the engine of the next controller replaces this engine."""

    async def end_worker(self, worker_id: str) -> None:
        """Kill the process of a worker."""

    async def go_away(self) -> None:
        """Make the engine unreachable."""

    async def come_back(self) -> None:
        """Make the engine reachable again."""

    def visible_devices(self, worker_id: str) -> tuple[int, ...] | None:
        """Return the GPUs that the worker of a slot sees. None if workers are shared, because then each slot names its
        GPUs."""


def gang(
    gang_id: str,
    slots: int = 1,
    cpu: int = 0,
    memory_bytes: int = 0,
    gpu: int = 0,
    placement: Placement = Placement.ANY,
    **labels: str,
) -> GangRequest:
    need = Resources.of(cpu=cpu, memory_bytes=memory_bytes, gpu=gpu)
    return GangRequest(gang_id, slots, need, placement, tuple(sorted(labels.items())))


async def until(world: World, gang_id: str, state: GangState) -> GangStatus:
    """Return the status of a gang once the gang is in a state."""
    known: GangStatus | None = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                known = (await world.engine.snapshot()).get(gang_id)
                if known is not None and known.state is state:
                    return known
                await world.engine.wait_for_change(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"gang {gang_id} is not {state} after {PATIENCE_S:g} s; last seen: {known}") from None


async def until_gone(world: World, gang_id: str) -> None:
    """Return once the engine does not know a gang any more."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while gang_id in await world.engine.snapshot():
                await world.engine.wait_for_change(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"the engine still knows gang {gang_id} after {PATIENCE_S:g} s") from None


async def until_free(world: World, cpu: int, patience_s: float = PATIENCE_S) -> list[Machine]:
    """Wait until `cpu` cores are free in total, and return the machines. An engine may need a moment to update its
    counts."""
    machines: list[Machine] = []
    try:
        async with asyncio.timeout(patience_s):
            while True:
                machines = list(await world.engine.machines())
                if sum(machine.free.cpu for machine in machines) == cpu:
                    return machines
                await world.engine.wait_for_change(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"not {cpu} cores are free after {patience_s:g} s; last seen: {machines}") from None


def zones_of(world: World, status: GangStatus) -> list[str]:
    return sorted(world.zones[slot.machine] for slot in status.slots)


async def test_machines_and_their_resources_are_listed(world: World) -> None:
    machines = await until_free(world, 8)
    assert sorted(world.zones[machine.name] for machine in machines) == ["a", "b"]
    for machine in machines:
        assert machine.alive
        assert machine.total == machine.free == Resources.of(cpu=4, memory_bytes=2**30, gpu=2)
        assert machine.tasks == 0
        assert ("zone", world.zones[machine.name]) in machine.labels


async def test_a_gang_that_fits_is_held_with_a_slot_for_each_task(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=3, cpu=2))
    status = await until(world, "a@0", GangState.HELD)
    assert len(status.slots) == 3
    assert status.lost == frozenset()
    assert all(slot.worker_id and slot.machine in world.zones for slot in status.slots)
    machines = await until_free(world, 2)
    held = Counter(slot.machine for slot in status.slots)
    assert {machine.name: machine.tasks for machine in machines if machine.tasks} == dict(held)
    assert all(machine.free.cpu == 4 - 2 * held[machine.name] for machine in machines)


async def test_worker_serves_only_one_slot_unless_the_engine_shares_workers(world: World) -> None:
    for gang_id in ("a@0", "b@0"):
        await world.engine.submit(gang(gang_id, slots=2))
    workers = [slot.worker_id for g in ("a@0", "b@0") for slot in (await until(world, g, GangState.HELD)).slots]
    if not world.engine.shared_workers:
        assert len(set(workers)) == 4


async def test_waiting_gang_holds_no_slot(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=3))
    await until(world, "a@0", GangState.HELD)
    await world.engine.submit(gang("b@0", slots=3, cpu=1))  # there is room for two
    status = await until(world, "b@0", GangState.WAITING)
    assert status.slots == ()
    await until_free(world, 2)
    await world.engine.submit(gang("c@0", slots=2, cpu=1))
    await until(world, "c@0", GangState.HELD)
    status = await until(world, "b@0", GangState.WAITING)
    assert status.reason, "by now it is known why"
    await world.engine.release("a@0")
    status = await until(world, "b@0", GangState.HELD)
    assert len(status.slots) == 3


async def test_repeated_submission_of_a_gang_id_has_no_effect(world: World) -> None:
    for _ in range(3):
        await world.engine.submit(gang("a@0", slots=2, cpu=3))
    first = await until(world, "a@0", GangState.HELD)
    await world.engine.submit(gang("a@0", slots=2, cpu=3))
    assert await until(world, "a@0", GangState.HELD) == first
    await until_free(world, 2)


async def test_impossible_gang_is_rejected_or_waits_with_a_reason(world: World) -> None:
    never = [gang("a@0", cpu=5), gang("b@0", slots=3, cpu=3), gang("c@0", memory_bytes=2**31), gang("d@0", gpu=3)]
    never += [gang("e@0", zone="nowhere"), gang("f@0", slots=3, placement=Placement.SPREAD)]
    never += [gang("g@0", slots=5, cpu=1, placement=Placement.TOGETHER), gang("h@0", slots=5, cpu=1, zone="a")]
    for request in never:
        try:
            await world.engine.submit(request)
        except GangRejectedError:
            assert request.gang_id not in await world.engine.snapshot()
            continue
        assert world.engine.elastic, "an engine that gets no more machines rejects what fits on none"
        status = await until(world, request.gang_id, GangState.WAITING)
        while not status.reason:
            await world.engine.wait_for_change(LOOK_S)
            status = await until(world, request.gang_id, GangState.WAITING)
        await world.engine.release(request.gang_id)
        await until_gone(world, request.gang_id)


async def test_spread_placement_gives_each_slot_a_separate_machine(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1, placement=Placement.SPREAD))
    assert zones_of(world, await until(world, "a@0", GangState.HELD)) == ["a", "b"]
    await world.engine.submit(gang("b@0", slots=1, cpu=3, zone="a"))
    await until(world, "b@0", GangState.HELD)
    await world.engine.submit(gang("c@0", slots=2, cpu=1, placement=Placement.SPREAD))  # B alone has room for two
    await until(world, "c@0", GangState.WAITING)


async def test_together_placement_puts_all_slots_on_one_machine(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=3, cpu=1, placement=Placement.TOGETHER))
    assert len(set(zones_of(world, await until(world, "a@0", GangState.HELD)))) == 1
    await world.engine.submit(gang("b@0", slots=3, cpu=1, placement=Placement.TOGETHER))
    assert len(set(zones_of(world, await until(world, "b@0", GangState.HELD)))) == 1
    await world.engine.submit(gang("c@0", slots=2, cpu=1, placement=Placement.TOGETHER))  # one is free on each
    await until(world, "c@0", GangState.WAITING)


@pytest.mark.parametrize("zone", ["a", "b"])
async def test_gang_is_placed_on_machines_with_its_labels(world: World, zone: str) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1, zone=zone))
    assert set(zones_of(world, await until(world, "a@0", GangState.HELD))) == {zone}
    await world.engine.submit(gang("b@0", slots=1, cpu=3, zone=zone))
    await until(world, "b@0", GangState.WAITING)


async def test_each_slot_has_devices_of_its_own(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=2, gpu=1, zone="a"))
    await world.engine.submit(gang("b@0", slots=1, gpu=2, zone="b"))
    one, two = (await until(world, "a@0", GangState.HELD), await until(world, "b@0", GangState.HELD))

    def devices(status: GangStatus) -> list[list[str]]:
        seen = [world.visible_devices(slot.worker_id) for slot in status.slots]
        own = [slot.gpu_ids if visible is None else visible for slot, visible in zip(status.slots, seen, strict=True)]
        return sorted(sorted(map(str, gpus)) for gpus in own)

    assert devices(one)[0] != devices(one)[1]
    assert [len(numbers) for numbers in devices(one)] == [1, 1]
    assert len(devices(two)[0]) == 2
    await world.engine.submit(gang("c@0", gpu=1))
    await until(world, "c@0", GangState.WAITING)
    await world.engine.release("a@0")
    await until(world, "c@0", GangState.HELD)


async def test_gang_can_be_released_in_every_state(world: World) -> None:
    await world.engine.release("unknown@0")
    await world.engine.submit(gang("held@0", slots=2, cpu=4))
    await until(world, "held@0", GangState.HELD)
    await world.engine.submit(gang("waiting@0", slots=2, cpu=4))
    await until(world, "waiting@0", GangState.WAITING)
    for gang_id in ("waiting@0", "held@0"):
        for _ in range(2):
            await world.engine.release(gang_id)
        await until_gone(world, gang_id)
    await world.engine.release("held@0")
    machines = await until_free(world, 8)
    assert all(machine.free == machine.total and machine.tasks == 0 for machine in machines)


async def test_gang_released_just_after_its_submission_frees_its_capacity(world: World) -> None:
    for number in range(3):
        await world.engine.submit(gang(f"a@{number}", slots=2, cpu=4))
        await world.engine.release(f"a@{number}")
        await until_gone(world, f"a@{number}")
    await until_free(world, 8)
    await world.engine.submit(gang("b@0", slots=2, cpu=4))
    await until(world, "b@0", GangState.HELD)


async def test_gang_without_requirements_always_fits(world: World) -> None:
    await world.engine.submit(gang("full@0", slots=2, cpu=4, placement=Placement.SPREAD))
    await until(world, "full@0", GangState.HELD)
    await world.engine.submit(gang("free@0", slots=3))
    assert len((await until(world, "free@0", GangState.HELD)).slots) == 3


async def test_death_of_a_worker_loses_its_slot_and_breaks_the_gang(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1, placement=Placement.SPREAD))
    await world.engine.submit(gang("b@0", slots=2, cpu=1, placement=Placement.SPREAD))
    held = await until(world, "a@0", GangState.HELD)
    await until(world, "b@0", GangState.HELD)
    await world.end_worker(held.slots[1].worker_id)
    broken = await until(world, "a@0", GangState.BROKEN)
    while not broken.lost:
        await world.engine.wait_for_change(LOOK_S)
        broken = await until(world, "a@0", GangState.BROKEN)
    assert broken.slots == held.slots, "who it was is known still"
    assert broken.lost == {1}
    assert broken.reason
    if not world.engine.shared_workers:
        assert (await world.engine.snapshot())["b@0"].state is GangState.HELD
    for gang_id in ("a@0", "b@0"):
        await world.engine.release(gang_id)
        await until_gone(world, gang_id)
    await world.engine.submit(gang("a@1", slots=2, cpu=4))
    again = await until(world, "a@1", GangState.HELD)
    assert again.lost == frozenset()


async def test_restarted_controller_finds_its_gangs_in_the_engine_again(world: World) -> None:
    await world.engine.submit(gang("held@0", slots=2, cpu=3, placement=Placement.SPREAD))
    before = await until(world, "held@0", GangState.HELD)
    await world.restart()
    assert (await until(world, "held@0", GangState.HELD)).slots == before.slots
    await world.engine.submit(gang("held@0", slots=2, cpu=3, placement=Placement.SPREAD))  # its answer was lost
    await until_free(world, 2)
    await world.engine.release("held@0")
    await until_gone(world, "held@0")
    await until_free(world, 8)


async def test_unreachable_engine_changes_no_state_of_a_gang(world: World) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1))
    before = await until(world, "a@0", GangState.HELD)
    await world.go_away()
    while True:  # it may take a moment to be noticed; whatever is answered until then is what was
        try:
            known = (await world.engine.snapshot())["a@0"]
            assert known.state is GangState.HELD
            assert known.lost == frozenset()
        except UnavailableError:
            break
        await world.engine.wait_for_change(LOOK_S)
    with pytest.raises(UnavailableError):
        await world.engine.submit(gang("b@0"))
    await world.come_back()
    while True:
        try:
            after = (await world.engine.snapshot())["a@0"]
            break
        except UnavailableError:
            await world.engine.wait_for_change(LOOK_S)
    assert after.slots == before.slots
    assert after.lost == frozenset()
    await world.engine.release("a@0")
    await until_gone(world, "a@0")


async def test_engine_wait_for_change_ends_after_its_timeout(world: World) -> None:
    await world.engine.wait_for_change(0.01)
