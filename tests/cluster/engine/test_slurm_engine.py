"""Slurm as an engine: the contract of all engines, on a real Slurm, and what is its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from contracts.engine import LOOK_S, PATIENCE_S, gang, until, until_gone
from support.cluster import is_alive, parent_of
from support.slurm_cluster import Node, SlurmCluster, skip_where_there_is_none, worker_pid
from support.waiting import wait_until

from iris.cluster.engine.base import GangRejectedError, GangState, GangStatus, Placement
from iris.cluster.engine.slurm.engine import SlurmEngine
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import FailedPreconditionError, UnavailableError

skip_where_there_is_none()
pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:9"  # a controller that does not answer: the workers go on trying


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SlurmWorld:
    """See `contracts.engine.World`."""

    def __init__(self, directory: Path, slurm: SlurmCluster) -> None:
        self.directory = directory
        self.slurm = slurm
        self.zones = {node.name: node.features[0].partition("=")[2] for node in slurm.nodes}
        self.engine = self.new()

    def new(self, **options: Any) -> SlurmEngine:
        """Another engine of the same cluster."""
        return SlurmEngine(
            self.directory,
            **{
                "lease_s": 60.0,
                "credentials": lambda worker_id: WorkerCredentials(f"secret-of-{worker_id}"),
                "look_s": 0.5,  # a query of Slurm costs CPU time, and waiting does not
                **options,
            },
        )

    async def restart(self) -> None:
        await self.engine.abandon()
        self.engine = self.new()
        await self.engine.start(NOBODY)

    async def end_worker(self, worker_id: str) -> None:
        os.kill(wait_until(lambda: worker_pid(worker_id), worker_id), signal.SIGKILL)

    async def end_slot(self, worker_id: str) -> None:
        """The program that starts the worker ends, as by SIGKILL, and the worker with it."""
        worker = wait_until(lambda: worker_pid(worker_id), worker_id)
        slot = parent_of(worker)
        assert slot is not None
        os.kill(slot, signal.SIGKILL)
        wait_until(lambda: not is_alive(worker), "the end of the worker")

    async def go_away(self) -> None:
        self.slurm.kill_controller()

    async def come_back(self) -> None:
        self.slurm.start_controller()

    def visible_devices(self, worker_id: str) -> tuple[int, ...]:
        pid = wait_until(lambda: worker_pid(worker_id), worker_id)
        shown = environment(pid).get("CUDA_VISIBLE_DEVICES", "")
        return tuple(int(number) for number in shown.split(",") if number)


def environment(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return {name: value for name, _, value in (each.partition("=") for each in text.split("\0")) if name}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """One for all tests of this module; each leaves it empty."""
    nodes = [Node("n0", ("zone=a",)), Node("n1", ("zone=b",))]
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), nodes) as slurm:
        yield slurm


@pytest.fixture
async def world(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlurmWorld]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    cluster.resume_drained()
    world = SlurmWorld(tmp_path, cluster)
    await world.engine.start(NOBODY)
    yield world
    await world.engine.close()
    cluster.wait_until_empty()


async def test_gang_without_requirements_always_fits(world: SlurmWorld) -> None:
    """Not so on Slurm, which gives at least one CPU to each slot: it waits, and says why. GPUs are as everywhere."""
    await world.engine.submit(gang("gpus@0", slots=2, cpu=3, gpu=2))
    await until(world, "gpus@0", GangState.HELD)
    await world.engine.submit(gang("free@0", slots=2))
    await until(world, "free@0", GangState.HELD)
    await world.engine.submit(gang("one-more@0"))
    assert (await until(world, "one-more@0", GangState.WAITING)).reason
    await world.engine.release("free@0")
    await until(world, "one-more@0", GangState.HELD)


async def held_in_the_end(world: SlurmWorld, gang_id: str, **need: Any) -> None:
    """Submit a gang until it is held, as the controller does when Slurm cancels the job before the gang begins.

    Slurm may drain a node at any moment after its controller was killed. Therefore drained nodes are used again.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            world.slurm.resume_drained()
            known = (await world.engine.snapshot()).get(gang_id)
            if known is None:
                await world.engine.submit(gang(gang_id, **need))
            elif known.state is GangState.HELD:
                return
            await world.engine.wait_for_change(LOOK_S)


async def held(world: SlurmWorld, gang_id: str, **need: Any) -> GangStatus:
    await world.engine.submit(gang(gang_id, **need))
    return await until(world, gang_id, GangState.HELD)


async def test_worker_has_no_slurm_variable_except_its_devices(
    world: SlurmWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_HOLD", "SLURM_NTASKS", "IRIS_TOKEN"):  # as in a job of Slurm's
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("MINE", "yes")
    await world.restart()  # what an engine hands on is the environment in which it was made
    status = await held(world, "a@0", gpu=1)
    pid = wait_until(lambda: worker_pid(status.slots[0].worker_id), "the worker")
    variables = environment(pid)
    assert variables["MINE"] == "yes"
    assert variables["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    slurms = [name for name in variables if name.startswith(("SLURM", "SBATCH", "SRUN", "PMI", "OMP"))]
    assert slurms == ["SLURM_CONF"]
    assert "IRIS_TOKEN" not in variables


async def test_secret_of_slurm_workers_is_on_no_command_line_and_in_no_environment(world: SlurmWorld) -> None:
    status = await held(world, "a@0", slots=2)
    for slot in status.slots:
        wait_until(lambda worker_id=slot.worker_id: worker_pid(worker_id), "the worker")
    for path in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                shown = (path / file).read_bytes()
            except OSError:
                continue
            assert b"secret-of-slurm" not in shown, f"{path}: {shown!r}"


def put_sbatch(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts another sbatch before Slurm's own, for engines that are made from now on."""
    program = directory / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


async def test_repeated_submission_of_a_gang_finds_the_slurm_job_whose_answer_was_lost(
    world: SlurmWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sbatch(tmp_path, monkeypatch, f'{shutil.which("sbatch")} "$@"; echo "Socket timed out" >&2; exit 1')
    await world.restart()
    request = gang("a@0", slots=2)
    with pytest.raises(UnavailableError):
        await world.engine.submit(request)
    await world.engine.submit(request)
    await until(world, "a@0", GangState.HELD)
    assert len(world.slurm.jobs()) == 1


async def test_gang_submitted_twice_keeps_one_slurm_job(world: SlurmWorld) -> None:
    """As by a controller that is killed while its sbatch goes on."""
    earlier = world.new(look_s=1000.0)
    await earlier.start(NOBODY)
    await world.engine.submit(gang("a@0", slots=2))
    before = await until(world, "a@0", GangState.HELD)
    await earlier.submit(gang("a@0", slots=2))
    while len(jobs := world.slurm.jobs()) > 1:
        await world.engine.snapshot()
        await world.engine.wait_for_change(LOOK_S)
    assert list(jobs.values()) == ["RUNNING"]
    assert await until(world, "a@0", GangState.HELD) == before
    await earlier.abandon()


async def test_slurm_job_that_appears_after_the_release_of_its_gang_is_cancelled(
    world: SlurmWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = world.new()  # submits what the other one has given up to wait for
    await slow.start(NOBODY)
    put_sbatch(tmp_path, monkeypatch, 'echo "Socket timed out" >&2; exit 1')
    await world.restart()
    with pytest.raises(UnavailableError):
        await world.engine.submit(gang("a@0"))
    await world.engine.release("a@0")
    assert "a@0" not in await world.engine.snapshot()
    await slow.submit(gang("a@0"))
    while world.slurm.jobs():
        await world.engine.snapshot()
        await world.engine.wait_for_change(LOOK_S)
    assert "a@0" not in await world.engine.snapshot()
    await slow.abandon()


async def test_slurm_command_that_hangs_makes_slurm_unavailable(
    world: SlurmWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sbatch(tmp_path, monkeypatch, "exec sleep 1000")
    world.engine = world.new(command_s=2.0)
    await world.engine.start(NOBODY)
    with pytest.raises(UnavailableError, match="sbatch did not return within 2 s"):
        await world.engine.submit(gang("a@0"))


async def test_slurm_jobs_of_other_clusters_are_ignored(world: SlurmWorld) -> None:
    other = SlurmWorld(world.directory / "other", world.slurm)
    await other.engine.start(NOBODY)
    await other.engine.submit(gang("a@0"))
    await until(other, "a@0", GangState.HELD)
    world.slurm.command("sbatch", "--output=/dev/null", "--job-name=iris-x|y", "--comment=a|b", "--wrap=sleep 60")
    assert await world.engine.snapshot() == {}
    await world.engine.submit(gang("a@0"))
    await until(world, "a@0", GangState.HELD)
    await world.engine.close()
    assert (await until(other, "a@0", GangState.HELD)).lost == frozenset()
    await other.engine.close()
    world.slurm.command("scancel", "--name=iris-x|y")


async def test_running_slurm_job_that_an_operator_cancels_breaks_its_gang(world: SlurmWorld) -> None:
    before = await held(world, "a@0", slots=2, cpu=1)
    world.slurm.command("scancel", *world.slurm.jobs())
    broken = await until(world, "a@0", GangState.BROKEN)
    while len(broken.lost) < 2:
        await world.engine.wait_for_change(LOOK_S)
        broken = await until(world, "a@0", GangState.BROKEN)
    assert broken.slots == before.slots
    assert "cancelled" in broken.reason
    assert not any(worker_pid(slot.worker_id) for slot in before.slots)
    await world.engine.release("a@0")
    assert "a@0" not in await world.engine.snapshot()


async def test_waiting_slurm_job_that_an_operator_cancels_is_submitted_again(world: SlurmWorld) -> None:
    await held(world, "full@0", slots=2, cpu=4)
    await world.engine.submit(gang("a@0", slots=2, cpu=4))
    waiting = next(number for number, state in world.slurm.jobs().items() if state == "PENDING")
    world.slurm.command("scancel", waiting)
    while "cancelled" not in (status := await until(world, "a@0", GangState.WAITING)).reason:
        await world.engine.wait_for_change(LOOK_S)
    assert "again" in status.reason
    await world.engine.release("a@0")
    assert "a@0" not in await world.engine.snapshot()


async def test_restarted_controller_knows_the_slurm_workers_that_have_ended(world: SlurmWorld) -> None:
    before = await held(world, "a@0", slots=3, cpu=1)
    await world.end_worker(before.slots[2].worker_id)
    broken = await until(world, "a@0", GangState.BROKEN)
    await world.restart()
    assert await until(world, "a@0", GangState.BROKEN) == broken
    assert broken.lost == {2}


async def test_slots_on_a_machine_that_does_not_answer_slurm_are_not_lost(world: SlurmWorld) -> None:
    """Its slurmd is gone, so Slurm calls the machine down, and ends the job: what runs there goes on."""
    before = await held(world, "a@0", slots=2, cpu=1, placement=Placement.SPREAD)
    (cut_off,) = (i for i, slot in enumerate(before.slots) if world.zones[slot.machine] == "b")
    worker = wait_until(lambda: worker_pid(before.slots[cut_off].worker_id), "the worker")
    machine = before.slots[cut_off].machine
    world.slurm.kill_node(machine)
    try:
        # What it said last may still be on its way, and would take it back into service.
        shown = ("sinfo", "--noheader", f"--nodes={machine}", "--partition=main", "--format=%T")
        wait_until(lambda: "*" in world.slurm.command(*shown), "Slurm to notice")
        world.slurm.command("scontrol", "update", f"NodeName={machine}", "State=DOWN", "Reason=x")
        broken = await until(world, "a@0", GangState.BROKEN)
        while not broken.lost:
            await world.engine.wait_for_change(LOOK_S)
            broken = await until(world, "a@0", GangState.BROKEN)
        assert broken.lost == {1 - cut_off}
        assert is_alive(worker)
        down = [machine for machine in await world.engine.machines() if not machine.alive]
        assert [world.zones[machine.name] for machine in down] == ["b"]
    finally:
        world.slurm.start_node(machine)
        world.slurm.wait_until_up()


async def test_released_slurm_gang_leaves_no_files_and_processes_on_a_machine(
    world: SlurmWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    await world.restart()
    await held(world, "a@0", slots=2)
    assert len(list(scratch.iterdir())) == 2
    await world.engine.release("a@0")
    await until_gone(world, "a@0")
    assert list(scratch.iterdir()) == []
    left = await held(world, "b@0")
    (found,) = scratch.iterdir()
    await world.end_slot(left.slots[0].worker_id)
    await until(world, "b@0", GangState.BROKEN)
    assert list(scratch.iterdir()) == [found], "who was killed leaves it"
    await held(world, "c@0")
    assert found not in list(scratch.iterdir()), "who comes after it clears up"


async def test_waiting_reason_of_a_slurm_gang_names_a_machine_without_iris(world: SlurmWorld, tmp_path: Path) -> None:
    python = tmp_path / "no-iris"
    python.symlink_to("/bin/false")
    world.engine = world.new(python=str(python))
    await world.engine.start(NOBODY)
    await world.engine.submit(gang("a@0"))
    while "submits it again" not in (status := await until(world, "a@0", GangState.WAITING)).reason:
        await world.engine.wait_for_change(LOOK_S)
    assert "no-iris with Iris and its extra (server) is missing on" in status.reason


async def test_slurm_options_of_the_user_are_passed_to_sbatch(world: SlurmWorld) -> None:
    world.engine = world.new(slurm_options=["--partition=other", "--time=7"])
    await world.engine.start(NOBODY)
    assert [world.zones[machine.name] for machine in await world.engine.machines()] == ["b"]
    status = await held(world, "a@0")
    assert world.zones[status.slots[0].machine] == "b"
    assert world.slurm.command("squeue", "--noheader", "--format=%P %l").split() == ["other", "7:00"]
    with pytest.raises(GangRejectedError, match="Slurm rejected the gang"):
        await world.engine.submit(gang("b@0", zone="a"))


async def test_slurm_engine_refuses_a_controller_on_loopback(world: SlurmWorld, tmp_path: Path) -> None:
    elsewhere = world.slurm.command("scontrol", "update", "NodeName=n1", "NodeAddr=192.0.2.1", "NodeHostName=away")
    assert not elsewhere
    try:
        other = world.new()
        with pytest.raises(FailedPreconditionError, match=r"machine n1 cannot reach the controller.*--host"):
            await other.start(NOBODY)
        await other.start("http://192.0.2.7:50051")
        await other.abandon()
    finally:
        world.slurm.command("scontrol", "update", "NodeName=n1", "NodeAddr=127.0.0.1", "NodeHostName=localhost")


@pytest.mark.timeout(300)  # it takes Slurm a minute
async def test_gang_whose_job_slurm_forgets_has_no_lost_slot(world: SlurmWorld) -> None:
    """slurmctld that is killed forgets what it was told last. The machines end what it does not know, but later."""
    world.slurm.wait_until_saved()
    before = await held(world, "a@0", slots=2, cpu=4)
    world.slurm.kill_forgetful_controller()
    world.slurm.start_controller()
    while True:
        try:
            known = (await world.engine.snapshot())["a@0"]
            if known.state is GangState.BROKEN or world.slurm.jobs():
                break
        except (UnavailableError, subprocess.CalledProcessError):
            pass
        await world.engine.wait_for_change(LOOK_S)
    assert known.slots == before.slots
    assert known.lost == frozenset()
    await world.engine.release("a@0")
    await until_gone(world, "a@0")
    wait_until(lambda: not any(worker_pid(slot.worker_id) for slot in before.slots), "the end of its workers")
    await held_in_the_end(world, "b@0", slots=2, cpu=4)
