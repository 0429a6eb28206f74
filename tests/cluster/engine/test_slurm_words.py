"""What Slurm's commands are told, and what is made of their answers; no Slurm is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from contracts.engine import gang

from iris.cluster.engine.base import GangState, GangStatus, Machine, Placement, Resources, Slot
from iris.cluster.engine.slurm.commands import NodeInfo, Row, partitions_in, read_nodes, read_queue, submission
from iris.cluster.engine.slurm.engine import SlurmEngine
from iris.cluster.engine.slurm.job_comment import Comment, count_slots, expand
from iris.cluster.engine.slurm.job_status import is_final, status_of
from iris.cluster.engine.slurm.time_left import parse_span
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import FailedPreconditionError, InvalidArgumentError

# As Slurm 22.05 prints it: a cloud of two, one of which is cut off.
NODES = """\
NodeName=n0 Arch=x86_64 CoresPerSocket=4 CPUAlloc=3 CPUEfctv=7 CPUTot=8 CPULoad=2.24 ActiveFeatures=zone=a,ssd \
Gres=gpu:a100:4(S:0-1),gpu:t4:1,shard:9 GresUsed=gpu:a100:1(IDX:2),gpu:t4:0 NodeAddr=10.0.0.1 NodeHostName=h0 \
OS=Linux 6.1 #1 SMP  RealMemory=2048 AllocMem=512 MemSpecLimit=48 State=MIXED+PLANNED Partitions=main,gpu Comment=a=b c
NodeName=n1 CPUAlloc=0 CPUTot=8 ActiveFeatures=(null) Gres=(null) GresUsed=gpu:0 RealMemory=2048 AllocMem=0 \
State=IDLE*+DRAIN Partitions=main
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:09", 9),
        ("10:00", 600),
        ("1:02:03", 3723),
        ("2-01:00:00", 49 * 3600),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_time_left_of_a_slurm_job_is_parsed_from_the_output_of_squeue(text: str, seconds: int | None) -> None:
    assert parse_span(text) == seconds


def test_machines_of_slurm_are_parsed_from_the_output_of_scontrol() -> None:
    first, second = read_nodes(NODES, frozenset({"main"}))
    assert first.machine == Machine(
        "n0",
        total=Resources.of(7, 2000 * 2**20, 5),
        free=Resources.of(4, 1488 * 2**20, 4),
        labels=(("zone", "a"),),
        alive=True,
    )
    assert (first.answers, first.host, first.address) == (True, "h0", "10.0.0.1")
    assert (second.machine.alive, second.answers, second.machine.total.cpu) == (False, False, 8)
    assert [node.machine.name for node in read_nodes(NODES, frozenset({"gpu"}))] == ["n0"]


def test_slurm_jobs_are_parsed_from_the_output_of_squeue() -> None:
    text = "7|iris-c-a@0|RUNNING|n[0-1]|None|iris:1x2;;\n8|other|x|y|z\n9|iris-d-a@0|RUNNING|n0|None|(null)\n"
    assert read_queue(text, "iris-c-") == [Row("7", "iris-c-a@0", "RUNNING", "n[0-1]", "None", "iris:1x2;;")]


def row(state: str, comment: str = "(null)", reason: str = "None") -> Row:
    return Row("7", "iris-c-a@0", state, "n[0-1]", reason, comment)


def nodes(*answering: bool) -> list[NodeInfo]:
    return [
        NodeInfo(Machine(f"n{i}", Resources(), Resources()), answers, "", "") for i, answers in enumerate(answering)
    ]


def status(shown: Row, before: GangStatus | None = None, *answering: bool) -> GangStatus | None:
    return status_of(shown, before, "w{}".format, nodes(*answering or (True, True)))


SLOTS = (Slot("w0", "n0"), Slot("w1", "n1"))
HELD = GangStatus(GangState.HELD, SLOTS)
WAITS = GangStatus(GangState.WAITING)


@pytest.mark.parametrize(
    ("shown", "before", "state", "lost"),
    [
        (row("PENDING", reason="Resources"), None, GangState.WAITING, set()),
        (row("CONFIGURING"), WAITS, GangState.WAITING, set()),
        (row("RUNNING"), WAITS, GangState.WAITING, set()),
        (row("RUNNING", "iris:1x2;;"), WAITS, GangState.HELD, set()),
        (row("RUNNING"), HELD, GangState.HELD, set()),  # slurmctld has forgotten the comment
        (row("SUSPENDED", "iris:1x2;;"), None, GangState.HELD, set()),
        (row("RUNNING", "iris:1x2;1;killed"), HELD, GangState.BROKEN, {1}),
        (row("RUNNING", "iris:1x2;1,7;killed"), HELD, GangState.BROKEN, {1}),  # somebody has written into it
        (row("COMPLETING", "iris:1x2;;"), HELD, GangState.BROKEN, set()),
        (row("CANCELLED", "iris:1x2;;"), HELD, GangState.BROKEN, {0, 1}),
        (row("TIMEOUT", "iris:1x2;;"), None, GangState.BROKEN, {0, 1}),
        (row("PENDING", "iris:1x2;;"), None, GangState.BROKEN, set()),  # requeued
        (row("PENDING"), HELD, GangState.BROKEN, set()),  # or forgotten, and running
        (row("NODE_FAIL", "iris:1x2;;"), None, GangState.BROKEN, set()),
        (row("FAILED"), WAITS, GangState.WAITING, set()),
    ],
)
def test_state_of_a_gang_follows_from_its_slurm_job(
    shown: Row, before: GangStatus | None, state: GangState, lost: set[int]
) -> None:
    known = status(shown, before)
    assert known is not None
    assert (known.state, known.lost) == (state, lost)
    assert known.slots == (SLOTS if state is not GangState.WAITING else ())
    assert known.reason or state is GangState.HELD


def test_slots_on_a_slurm_machine_that_does_not_answer_are_not_lost() -> None:
    for state in ("NODE_FAIL", "CANCELLED"):
        known = status(row(state, "iris:1x2;;"), HELD, True, False)
        assert known is not None
        assert known.lost == {0}


def test_slurm_job_that_lost_a_machine_has_no_lost_slot_if_all_machines_answer() -> None:
    known = status(row("NODE_FAIL", "iris:1x2;;"), HELD, True, True)
    assert known is not None
    assert known.state is GangState.BROKEN
    assert known.lost == frozenset()


def test_slurm_job_that_ended_before_its_start_is_unknown_to_a_restarted_controller() -> None:
    assert status(row("CANCELLED")) is None
    assert is_final("CANCELLED")
    assert not is_final("COMPLETING")


def test_sbatch_options_follow_from_the_gang() -> None:
    def options(placement: Placement, slots: int = 3) -> list[str]:
        words = submission(gang("a@0", slots, 2, 100 * 2**20, placement=placement), "name", ["--mem=1", "-pgpu"])
        assert words[:3] == ["sbatch", "--mem=1", "-pgpu"], "ours come later, and count"
        return [word for word in words[3:] if word.startswith(("--mem", "--nodes", "--ntasks-per"))]

    assert options(Placement.ANY) == ["--mem-per-cpu=50M"]
    assert options(Placement.ANY, 1) == ["--nodes=1", "--mem=100M"]
    assert options(Placement.SPREAD) == ["--nodes=3", "--ntasks-per-node=1", "--mem=100M"]
    assert options(Placement.TOGETHER) == ["--nodes=1", "--mem=300M"]
    words = submission(gang("a@0", gpu=2, zone="a", disk="ssd"), "name", ["--output=/x"])
    assert "--gpus-per-task=2" in words
    assert "--cpus-per-task=1" in words
    assert "--constraint=disk=ssd&zone=a" in words
    assert "--output=/dev/null" not in words


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("partition=gpu", "not an option"),
        ("gpu", "not an option"),
        ("--account", "needs a value in the same word"),
        ("-p", "needs a value in the same word"),
        ("--job-name=x", "Iris sets the sbatch option"),
        ("--job=x", "Iris sets the sbatch option"),
        ("--mem=3", "Iris sets the sbatch option"),
        ("-n3", "Iris sets the sbatch option"),
        ("--wrap=true", "Iris sets the sbatch option"),
    ],
)
def test_slurm_options_that_iris_sets_itself_are_refused(tmp_path: Path, option: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        SlurmEngine(tmp_path, slurm_options=[option], lease_s=1.0, credentials=WorkerCredentials)


def test_accepted_sbatch_options_are_passed_on(tmp_path: Path) -> None:
    options = ["--partition=a,b", "--time=1:00", "--account=me", "-oout", "--exclusive", "--mem-bind=local"]
    SlurmEngine(tmp_path, slurm_options=options, lease_s=1.0, credentials=WorkerCredentials)
    assert partitions_in(options) == {"a", "b"}
    assert partitions_in(["-pgpu"]) == {"gpu"}
    assert partitions_in(["--time=1"]) == frozenset()


def test_machine_lists_of_slurm_are_expanded_to_names() -> None:
    assert expand("n[0-2,05-07],gpu1") == ["n0", "n1", "n2", "n05", "n06", "n07", "gpu1"]
    assert expand("r[1-2]n[0-1],x") == ["r1n0", "r1n1", "r2n0", "r2n1", "x"]
    assert count_slots(["n0", "n0", "n2"], "n[0-2]") == (2, 0, 1)
    with pytest.raises(ValueError, match="not in the order"):
        count_slots(["n1", "n0"], "n[0-1]")
    with pytest.raises(ValueError, match=r"a slot runs on n7, which is not one of the job's machines n\[0-1\]"):
        count_slots(["n7"], "n[0-1]")


def test_comment_of_a_slurm_job_is_read_back_and_has_at_most_1000_characters() -> None:
    comment = Comment((4, 4, 4, 0, 2), frozenset({1, 3, 4, 5}), "no disk")
    assert Comment.read(comment.to_text()) == comment
    assert comment.machines("n[0-4]") == ["n0"] * 4 + ["n1"] * 4 + ["n2"] * 4 + ["n4"] * 2
    large = Comment((8,) * 1000, frozenset(range(0, 8000, 2)), "|" * 2000).to_text()
    assert len(large) <= 1000
    known = Comment.read(large)
    assert known is not None
    assert known.counts == (8,) * 1000
    assert known.lost < set(range(0, 8000, 2))
    assert Comment.read("(null)") is None
    for garbled in (
        "iris:x;;",
        "iris:2;;",
        "iris:,;;",
        "iris:1x1;-;",
        "iris:1x1;1,;",
        "iris:1x99999999999;;",
        "iris:;",
    ):
        assert Comment.read(garbled) is None


def test_missing_command_of_slurm_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    engine = SlurmEngine(tmp_path, lease_s=1.0, credentials=WorkerCredentials)
    with pytest.raises(FailedPreconditionError, match="not found on PATH: sbatch, squeue, scancel, scontrol"):
        asyncio.run(engine.start("http://127.0.0.1:9"))
