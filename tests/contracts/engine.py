"""What every engine does, written once. A test module imports these functions and brings a fixture `engine`: an
engine, started, with 4 cores and 1 GiB on one machine."""

from __future__ import annotations

import pytest

from iris.cluster.engine.base import Engine, GangRejectedError, GangRequest, GangState, Resources

pytestmark = pytest.mark.anyio


def gang(gang_id: str, slots: int = 1, cpu: int = 0, memory_bytes: int = 0) -> GangRequest:
    return GangRequest(gang_id, slots, Resources(cpu=cpu, memory_bytes=memory_bytes))


async def test_a_gang_that_fits_is_held_with_a_slot_for_each_task(engine: Engine) -> None:
    await engine.submit(gang("a@0", slots=3, cpu=1))
    status = (await engine.snapshot())["a@0"]
    assert status.state is GangState.HELD
    assert len(status.slots) == 3
    assert all(slot.worker_id for slot in status.slots)
    assert [machine.free.cpu for machine in await engine.machines()] == [1]


async def test_a_gang_holds_nothing_while_it_waits(engine: Engine) -> None:
    await engine.submit(gang("a@0", slots=3, cpu=1))
    await engine.submit(gang("b@0", slots=2, cpu=1))
    status = (await engine.snapshot())["b@0"]
    assert status.state is GangState.WAITING
    assert status.reason
    assert status.slots == ()
    assert [machine.free.cpu for machine in await engine.machines()] == [1]
    await engine.release("a@0")
    assert (await engine.snapshot())["b@0"].state is GangState.HELD


async def test_the_same_id_again_has_no_effect(engine: Engine) -> None:
    for _ in range(3):
        await engine.submit(gang("a@0", cpu=3))
    assert [machine.free.cpu for machine in await engine.machines()] == [1]


async def test_a_gang_that_never_fits_is_rejected(engine: Engine) -> None:
    for never in (gang("a@0", cpu=5), gang("b@0", slots=5, cpu=1), gang("c@0", memory_bytes=2**31)):
        with pytest.raises(GangRejectedError):
            await engine.submit(never)
    assert await engine.snapshot() == {}


async def test_release_is_fine_in_every_state(engine: Engine) -> None:
    await engine.release("unknown@0")
    await engine.submit(gang("held@0", cpu=4))
    await engine.submit(gang("waiting@0", cpu=4))
    for _ in range(2):
        await engine.release("waiting@0")
    for _ in range(2):
        await engine.release("held@0")
    assert await engine.snapshot() == {}
    (machine,) = await engine.machines()
    assert machine.free == machine.total
    assert machine.tasks == 0


async def test_what_is_not_asked_for_always_fits(engine: Engine) -> None:
    await engine.submit(gang("full@0", cpu=4, memory_bytes=2**30))
    await engine.submit(gang("free@0", slots=100))
    assert (await engine.snapshot())["free@0"].state is GangState.HELD


async def test_waiting_for_a_change_ends_with_its_time(engine: Engine) -> None:
    await engine.wait_for_change(0.01)
