"""The real controller with an engine that is shared, slow, unreachable or wrong. No capacity is allocated twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.cluster import launch, unique, wait_for_end, wait_for_state
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.cluster.engine.base import Resources
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def controller(engine: FakeEngine) -> Iterator[ControllerThread]:
    with serving(engine, Store(None)) as running:
        yield running


@pytest.fixture
def client(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as remote:
        yield remote


def cpus(client: RemoteClusterClient, cpu: int, replicas: int = 1, **fields: object) -> str:
    return launch(client, ["true"], replicas, resources=pb.ResourceSpecProto(cpu=cpu), **fields)


def says(client: RemoteClusterClient, job_id: str, *words: str) -> None:
    """Wait until the status messages of a job and its task contain the words."""
    seen = [""]

    def is_said() -> bool:
        job = client.get_job_status(job_id)
        seen[0] = job.status_message
        return all(word in job.status_message and word in job.tasks[0].status_message for word in words)

    wait_until(is_said, f"{words} of {job_id}; the last was {seen}")


def test_requested_capacity_is_not_allocated_twice(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.granting = False
    first = cpus(client, 3)
    says(client, first, "needs 3 cpu; enough seems to be free", "fake says: the fake engine takes its time")
    second = cpus(client, 2)
    says(client, second, "needs 2 cpu; free now: 1 of 4 cpu")
    third = cpus(client, 1)
    says(client, third, "enough seems to be free")
    assert engine.submitted == [f"{first}@0", f"{third}@0"]
    waiting = {gang.job_id: gang.reason for gang in client.list_machines().waiting}
    assert list(waiting) == [first, second, third]
    assert "needs 2 cpu; free now: " in waiting[second]
    engine.granting = True
    says(client, first, "worker w is still starting")
    says(client, second, "needs 2 cpu; free now: 0 of 4 cpu")
    client.terminate_job(first)
    says(client, second, "worker w is still starting")


def test_capacity_is_free_once_the_released_gang_has_left_the_snapshot(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    first = cpus(client, 4)
    says(client, first, "still starting")
    engine.lingering = True
    client.terminate_job(first)
    wait_until(lambda: engine.released, "its release")
    second = cpus(client, 4)
    says(client, second, "needs 4 cpu; free now: 0 of 4 cpu")
    assert "others" not in client.get_job_status(second).status_message, "it is ours until it is gone"
    assert engine.submitted == [f"{first}@0"]
    controller.call(engine.let_go)
    says(client, second, "still starting")


def test_gang_that_cannot_be_released_blocks_no_other_gang(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    first = cpus(client, 1)
    says(client, first, "still starting")
    gang_id = f"{first}@0"
    controller.call(lambda: engine.keeping.add(gang_id))
    client.terminate_job(first)
    second = cpus(client, 1)
    says(client, second, "still starting")
    client.terminate_job(second)
    wait_until(lambda: f"{second}@0" in engine.released, "the release of another one's room")
    assert gang_id not in engine.released
    controller.call(engine.keeping.clear)
    wait_until(lambda: gang_id in engine.released, "its own release, which is tried again")


def test_waiting_reason_states_the_resources_of_other_users_of_the_engine(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.others_take("w", Resources.of(cpu=2))
    says(client, cpus(client, 1), "still starting")
    waits = cpus(client, 4)
    says(client, waits, "needs 4 cpu; free now: 1 of 4 cpu; users outside this cluster hold 2 cpu")
    (machine,) = client.list_machines().machines
    assert (machine.free.cpu, machine.total.cpu, len(machine.holdings)) == (1, 4, 1)


def test_gang_waits_at_the_engine_if_others_take_its_capacity_first(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.granting = False
    first = cpus(client, 4)
    says(client, first, "seems to be free")
    controller.call(lambda: engine.others_take("w", Resources.of(cpu=1)))
    says(client, first, "free now: 3 of 4 cpu; users outside this cluster hold 1 cpu; fake says: the fake engine")
    controller.call(lambda: engine.others_take("w", Resources.of(cpu=-1)))
    engine.granting = True
    says(client, first, "still starting")
    assert engine.submitted == [f"{first}@0"]


@pytest.mark.parametrize(
    "stuck_s", [0.5, 1000.0], ids=["withdrawn after half a second", "granted before the withdrawal"]
)
def test_request_that_blocks_an_older_gang_is_withdrawn(engine: FakeEngine, stuck_s: float) -> None:
    with (
        serving(engine, Store(None), withdraw_after_s=stuck_s) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        _withdrawal(engine, controller, client, stuck_s)


def _withdrawal(engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, stuck_s: float) -> None:
    holder = cpus(client, 2)
    says(client, holder, "still starting")
    store_age = 305_000  # its third turn has begun, which lasts long enough on a busy machine
    large = cpus(client, 4)
    says(client, large, "needs 4 cpu; free now: 2 of 4 cpu")
    engine.granting = False
    small = cpus(client, 2)
    says(client, small, "seems to be free")
    controller.call(lambda: engine.others_take("w", Resources.of(cpu=2)))
    says(client, small, "free now: 0 of 4 cpu")
    controller.call(lambda: _age(controller, f"{large}@0", store_age / 1000))
    wait_until(lambda: client.list_machines().waiting[0].has_reservation, "the turn of the older one")
    if stuck_s > 100:
        controller.call(lambda: engine.others_take("w", Resources.of(cpu=-2)))
        engine.granting = True  # the engine had granted the gang before, and reports it only now
        says(client, small, "still starting")
        assert f"{small}@0" not in engine.released
        return
    wait_until(lambda: f"{small}@0" in engine.released, "it to be taken back")
    says(client, small, "free now: 0 of 4 cpu")
    waiting = {gang.job_id: gang.has_reservation for gang in client.list_machines().waiting}
    assert waiting == {large: True, small: False}
    controller.call(lambda: engine.others_take("w", Resources.of(cpu=-2)))
    says(client, small, f"enough is free, but reserved for job {large!r}, which has waited longer and needs 4 cpu")
    assert f"{small}@1" not in engine.submitted


def _age(controller: ControllerThread, gang_id: str, seconds: float) -> None:
    """Make a gang as old as if it had waited for `seconds` more."""
    queue = controller.controller._scheduler._gangs.queue
    entry = queue.remove(gang_id)
    assert entry is not None
    queue.add(replace(entry, since_s=entry.since_s - seconds))


def test_gang_waits_for_a_machine_that_is_not_alive(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    controller.call(lambda: engine.bury("w"))
    waits = cpus(client, 4)
    says(client, waits, "needs 4 cpu; there is no machine (1 machine is not alive)")
    assert "it can never be placed" in wait_for_end(client, cpus(client, 5)).error
    assert not client.list_machines().machines[0].alive
    controller.call(lambda: engine.revive("w"))
    says(client, waits, "still starting")


def test_jobs_that_need_fractions_of_a_core_share_a_machine(engine: FakeEngine, client: RemoteClusterClient) -> None:
    quarter = pb.ResourceSpecProto(cpu=1, cpu_millicores=250)
    for _ in range(16):
        says(client, launch(client, ["true"], resources=quarter), "still starting")
    says(client, launch(client, ["true"], resources=quarter), "needs 0.25 cpu; free now: 0 of 4 cpu")
    answer = client.list_machines()
    assert (answer.waiting[0].need.cpu, answer.waiting[0].need.cpu_millicores) == (1, 250)
    engine.others_take("w", Resources.of(cpu=0.5))
    wait_until(lambda: client.list_machines().machines[0].free.cpu_millicores == 0, "the use by others")


def test_waiting_independent_task_without_resources_says_that_it_counts_as_one_core(
    engine: FakeEngine, client: RemoteClusterClient
) -> None:
    engine.others_take("w", Resources.of(cpu=4))
    waits = launch(client, ["true"], 2, independent_tasks=True)
    advice = "counts as 1 cpu: submit with cpu=0 (iris run --cpu 0)"
    says(client, waits, "needs 1 cpu; free now: 0 of 4 cpu", advice)
    assert advice in client.list_machines().waiting[0].reason
    says(client, launch(client, ["true"], 2, independent_tasks=True, resources=pb.ResourceSpecProto(cpu=0)), "starting")


def test_task_beyond_max_parallel_has_the_waiting_reason_max_parallel_until_an_earlier_task_ends(
    client: RemoteClusterClient,
) -> None:
    none = pb.ResourceSpecProto(cpu=0)
    job_id = launch(client, ["true"], 3, independent_tasks=True, max_parallel=1, resources=none)
    says(client, job_id, "still starting")
    reason = "waiting: max_parallel is 1, and 1 task of the job runs or is queued"
    second = client.get_task_status(job_id, 1)
    assert (second.status_message, second.pending_reason) == (reason, pb.PENDING_REASON_MAX_PARALLEL)
    client.terminate_task(job_id, 0)
    wait_until(lambda: "starting" in client.get_task_status(job_id, 1).status_message, "the turn of the second task")
    assert client.get_task_status(job_id, 2).pending_reason == pb.PENDING_REASON_MAX_PARALLEL


def test_error_of_a_gang_that_fits_task_by_task_recommends_independent_tasks(client: RemoteClusterClient) -> None:
    error = wait_for_end(client, cpus(client, 1, replicas=60)).error
    assert error.startswith("it can never be placed: needs 60 x (1 cpu); there are only 4 cpu. ")
    assert "--independent" in error
    assert "coscheduled=False" in error
    spread = cpus(client, 1, replicas=2, placement=pb.PLACEMENT_SPREAD)
    assert "--independent" in wait_for_end(client, spread).error


def test_error_of_a_gang_that_cannot_fit_even_task_by_task_recommends_nothing(client: RemoteClusterClient) -> None:
    for hopeless in (
        cpus(client, 5),
        cpus(client, 5, replicas=60),
        cpus(client, 1, replicas=60, rendezvous=pb.RENDEZVOUS_TORCH),
    ):
        error = wait_for_end(client, hopeless).error
        assert "it can never be placed" in error
        assert "--independent" not in error


def test_gang_that_fits_on_no_machine_waits_if_the_engine_is_elastic(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.elastic = True
    huge = cpus(client, 5)
    says(client, huge, "waiting: needs 5 cpu; there are only 4 cpu")
    zone = pb.Constraint(key="zone", op=pb.CONSTRAINT_OP_EQ, value=pb.AttributeValue(string_value="a"))
    labelled = cpus(client, 1, constraints=[zone])
    says(client, labelled, "waiting: needs machines with zone=a; there are only machines without zone")
    says(client, cpus(client, 4), "still starting")
    limited = cpus(client, 5, scheduling_timeout_seconds=1)
    job = wait_for_end(client, limited)
    assert job.state == pb.JOB_STATE_UNSCHEDULABLE
    assert "there are only 4 cpu" in job.error


def test_waiting_gangs_report_an_unreachable_engine_and_start_when_it_returns(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    says(client, cpus(client, 3), "still starting")
    waits = cpus(client, 2)
    says(client, waits, "needs 2 cpu; free now: 1 of 4 cpu")
    engine.reachable = False
    away = "; the engine cannot be reached: the fake engine is out of reach"
    says(client, waits, f"needs 2 cpu; free now: 1 of 4 cpu{away}")
    late = cpus(client, 1)
    says(client, late, f"waiting{away}")
    answer = client.list_machines()
    assert answer.problem == "the fake engine is out of reach"
    assert [machine.name for machine in answer.machines] == ["w"]
    job = wait_for_end(client, cpus(client, 1, scheduling_timeout_seconds=1))
    assert job.error == f"not placed within its scheduling timeout of 1 s (waiting{away})"
    assert client.get_job_status(waits).status_message.count(away) == 1
    engine.reachable = True
    says(client, late, "still starting")
    wait_until(lambda: away not in client.get_job_status(waits).status_message, "the old reason")
    assert not client.list_machines().problem


def test_gang_that_the_engine_reports_as_broken_continues_while_no_slot_is_known_to_be_lost(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with running_worker(controller.address, tmp_path / "w"):
        job_id = launch(client, ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done"], replicas=2)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        controller.call(lambda: engine.lose(f"{job_id}@0"))
        other = launch(client, ["true"])
        assert wait_for_end(client, other).state == pb.JOB_STATE_SUCCEEDED, "passes go on, and have seen it"
        assert client.get_job_status(job_id).state == pb.JOB_STATE_RUNNING
        gate.touch()
        job = wait_for_end(client, job_id)
        assert job.state == pb.JOB_STATE_SUCCEEDED
        assert [len(task.attempts) for task in job.tasks] == [1, 1]
        wait_until(lambda: f"{job_id}@0" in engine.released, "its room to be given back")


def test_allocation_whose_worker_does_not_register_is_released_and_requested_again(tmp_path: Path) -> None:
    engine = FakeEngine()
    with (
        serving(engine, Store(None), worker_limits=WorkerLimits(start_s=0.5)) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        job_id, other = cpus(client, 4), cpus(client, 4)
        wait_until(lambda: f"{job_id}@2" in engine.submitted, "a third request")
        turns = [f"{job_id}@0", f"{other}@0", f"{job_id}@1", f"{other}@1", f"{job_id}@2"]
        assert engine.submitted[:5] == turns, "each time the other one has its turn first"
        assert {f"{job_id}@0", f"{job_id}@1"} <= set(engine.released)
        says(client, job_id, "(before: workers on w did not register within 0.5 s)")
        with running_worker(controller.address, tmp_path / "w"):
            job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED
    assert (job.tasks[0].preemption_count, job.tasks[0].failure_count, len(job.tasks[0].attempts)) == (0, 0, 1)


def test_waiting_reason_states_why_an_earlier_allocation_was_lost(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    job_id = launch(client, ["true"])
    says(client, job_id, "still starting")
    controller.call(lambda: engine.lose(f"{job_id}@0"))
    says(client, job_id, "still starting (before: the allocation was lost: power cut)")


def test_request_that_the_engine_never_accepted_does_not_count_as_a_loss(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.taking = False
    job_id = launch(client, ["true"])
    wait_until(lambda: len(engine.submitted) > 3, "some tries")
    says(client, job_id, "the engine cannot be reached: the fake engine takes nobody now")
    engine.taking = True
    says(client, job_id, "still starting")
    assert client.get_job_status(job_id).status_message == "waiting: worker w is still starting"


def test_queue_keeps_its_order_after_a_restart_of_the_controller(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.others_take("w", Resources.of(cpu=4))
    with (
        serving(engine, Store(tmp_path / "db")) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        jobs = [cpus(client, 1, name=unique(name)) for name in ("z", "y", "x")]
        says(client, jobs[-1], "free now: 0 of 4 cpu")
        before = {gang.job_id: gang.since_ms for gang in client.list_machines().waiting}
    again = engine.for_next_controller()
    with (
        serving(again, Store(tmp_path / "db")) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        says(client, jobs[-1], "free now: 0 of 4 cpu")
        after = {gang.job_id: gang.since_ms for gang in client.list_machines().waiting}
    assert list(after) == list(before) == jobs
    assert all(abs(after[job_id] - before[job_id]) < 500 for job_id in jobs), "since when it waits is not forgotten"


def _register(controller: ControllerThread, worker_id: str) -> None:
    request = pb.Controller.RegisterWorkerRequest(worker_id=worker_id, address="http://127.0.0.1:9", incarnation="1")
    assert controller.run(controller.controller.reports.register(request)).accepted


def test_adopted_gang_counts_as_older_than_queued_gangs(tmp_path: Path) -> None:
    engine = FakeEngine({"a": Resources.of(cpu=4), "b": Resources.of(cpu=4)})
    with (
        serving(engine, Store(tmp_path / "db")) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        _register(controller, "a")
        _register(controller, "b")
        services = cpus(client, 1, replicas=2)
        wait_for_state(client, services, pb.JOB_STATE_BUILDING)
        large = cpus(client, 4)
        says(client, large, "needs 4 cpu; free now: 3 of 4 cpu on a; 3 of 4 cpu on b")
    again = engine.for_next_controller()
    with (
        serving(again, Store(tmp_path / "db")) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        says(client, large, "free now: 3 of 4 cpu on a")
        controller.call(
            lambda: _age(controller, next(iter(controller.controller._scheduler._gangs.queue)).gang.gang_id, 305)
        )
        wait_until(lambda: client.list_machines().waiting[0].has_reservation, "its turn")
        small = cpus(client, 3)
        says(client, small, "is still starting")  # the older gang needs only the other machine


def test_list_machines_lists_the_first_thousand_waiting_gangs_and_counts_all(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.others_take("w", Resources.of(cpu=4))
    job_id = cpus(client, 1, replicas=1200, independent_tasks=True)
    wait_until(lambda: client.list_machines().num_waiting == 1200, "all of them")
    assert len(client.list_machines().waiting) == 1000
    engine.reachable = False
    with pytest.raises(UnavailableError):
        controller.run(engine.machines())
    assert client.list_machines().num_waiting == 1200
    client.terminate_job(job_id)
    wait_until(lambda: not client.list_machines().waiting, "their end")
