"""Validation refuses invalid submissions, and a valid submission becomes a job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from iris.cluster.controller.submission.parents import inherit_environment
from iris.cluster.controller.submission.request import LaunchJobRequest, job_id_of, make_job, need_of, replicas_of
from iris.cluster.controller.submission.validate import MAX_REPLICAS, validate
from iris.cluster.engine.base import Resources
from iris.cluster.task_inputs import check_items, item_place, items_of, pack_items, table_entry
from iris.cluster.types import make_task_id, parse_task_id
from iris.errors import InvalidArgumentError, ResourceExhaustedError
from iris.rpc import cluster_pb2

HASH = "ab" * 32
Change = Callable[[LaunchJobRequest], object]


def request(**fields: Any) -> LaunchJobRequest:
    """Return the smallest valid request, with some more fields."""
    return LaunchJobRequest(name="job", command=["true"], **fields)


def changed(change: Change) -> LaunchJobRequest:
    message = request()
    change(message)
    return message


def test_smallest_job_submission_is_accepted_with_the_defaults() -> None:
    job = make_job(request(), 1234)
    assert (job.job_id, job.parent_job_id, job.submitted_at_ms) == ("job", "", 1234)
    (task,) = job.tasks
    assert (task.task_id, task.max_retries_failure, task.max_retries_preemption) == ("job/task-0", 0, 100)
    assert (job.coscheduled, job.max_task_failures, job.retry_pause_ms) == (True, 0, 1000)
    assert (job.is_finished, job.gangs) == (False, {})
    assert need_of(request()) == Resources.of(0, 0, 0)


@pytest.mark.parametrize(
    ("resources", "millicores"),
    [
        ({}, 1000),
        ({"replicas": 3, "memory_bytes": 0}, 1000),
        ({"cpu": 0}, 0),
        ({"cpu_millicores": 0}, 0),
        ({"cpu": 1, "cpu_millicores": 250}, 250),
        ({"memory_bytes": 1000}, 0),
        ({"device": {"gpu": {"count": 1}}}, 0),
    ],
)
def test_independent_task_counts_as_one_core_if_no_resource_is_given(
    resources: dict[str, Any], millicores: int
) -> None:
    message = request(independent_tasks=True, resources=cluster_pb2.ResourceSpecProto(**resources))
    validate(message)
    assert need_of(message).cpu_millicores == millicores
    assert make_job(message, 1).counts_a_core == (millicores == 1000)
    if not resources.get("cpu_millicores"):
        message.independent_tasks = False
        assert need_of(message).cpu_millicores == 0, "a gang without cores reserves none"


def test_max_parallel_without_independent_tasks_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"needs independent_tasks.*coscheduled=False.*got max_parallel 3"):
        validate(request(max_parallel=3))
    message = request(max_parallel=3, independent_tasks=True)
    validate(message)
    assert make_job(message, 1).max_parallel == 3


def test_field_seen_task_indices_needs_independent_tasks_and_one_index_for_each_task() -> None:
    message = LaunchJobRequest(name="job", command=["true"], seen_task_indices=[1, 3], seen_num_tasks=4)
    message.resources.replicas = 2
    with pytest.raises(InvalidArgumentError, match="needs independent_tasks"):
        validate(message)
    message.independent_tasks = True
    validate(message)
    for indices in ([1], [3, 1], [1, 1], [1, 4], [-1, 2], []):
        message.seen_task_indices[:] = indices
        with pytest.raises(InvalidArgumentError, match="one index for each of the 2 tasks"):
            validate(message)


def with_inputs(items: list[bytes], **fields: Any) -> LaunchJobRequest:
    """Return a request whose tasks have these inputs."""
    blob = pack_items(items)
    given = {
        "independent_tasks": True,
        "inputs_blob": blob,
        "inputs_hash": hashlib.sha256(blob).hexdigest(),
        "num_inputs": len(items),
        "inputs_per_task": 1,
        "resources": cluster_pb2.ResourceSpecProto(replicas=len(items)),
    }
    return request(**(given | fields))


def test_inputs_of_a_job_have_an_item_for_each_task() -> None:
    message = with_inputs([b"a", b"", "ü".encode()])
    validate(message)
    assert list(items_of(message.inputs_blob)) == [b"a", b"", "ü".encode()]
    for index, item in enumerate(items_of(message.inputs_blob)):
        offset, length = table_entry(index)
        place = item_place(message.inputs_blob[offset : offset + length])
        assert place is not None
        assert message.inputs_blob[place[0] : place[0] + place[1]] == item
    offset, length = table_entry(3)
    assert item_place(b"") is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"independent_tasks": False}, "inputs_blob needs independent_tasks"),
        ({"independent_tasks": False, "inputs_blob": b""}, "inputs_hash needs independent_tasks"),
        ({"inputs_hash": "g" * 64, "inputs_blob": b""}, "inputs_hash must be a SHA-256"),
        ({"inputs_hash": "00" * 32}, "is not the SHA-256 of inputs_blob"),
        ({"resources": cluster_pb2.ResourceSpecProto(replicas=3)}, "an item for each of 3 tasks, got 2"),
        ({"num_inputs": 3}, "num_inputs must match the 2 tasks with up to 1 inputs each, got 3"),
        ({"inputs_per_task": 0}, "inputs_per_task must be"),
        ({"inputs_blob": b""}, ""),
    ],
)
def test_inconsistent_inputs_of_a_job_are_refused(fields: dict[str, Any], named: str) -> None:
    message = with_inputs([b"a", b"b"], **fields)
    if not named:
        validate(message)  # When a job is submitted again, the request has only the hash of the inputs.
        message.inputs_hash = ""
        named = "inputs_blob must be set"
    with pytest.raises(InvalidArgumentError, match=named):
        validate(message)


@pytest.mark.parametrize("blob", [b"", b"\0\0\0\0", b"\1\0\0\0", pack_items([b"a"])[:-1], pack_items([b"a"]) + b"x"])
def test_damaged_inputs_of_a_job_are_refused(blob: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="inputs_blob"):
        check_items(blob)


@pytest.mark.parametrize("item", [b"a\0b", b"\xff", b"x" * 200_000])
def test_input_of_a_command_that_is_not_text_is_refused(item: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="the input of a command must be text"):
        validate(with_inputs([b"ok", item]))


def test_job_submission_with_every_field_is_accepted() -> None:
    message = LaunchJobRequest(
        name="job",
        serialized_entrypoint=b"pickle",
        pickled_by="3.11",
        parent_job_id="a/b",
        max_task_failures=2,
        max_retries_failure=3,
        max_retries_preemption=4,
        independent_tasks=True,
        scheduling_timeout_seconds=60,
        timeout_seconds=60,
        job_timeout_seconds=3600,
        retry_pause_ms=0,
        kill_grace_period_ms=0,
        retry_on=[75],
        fail_on=[2, 3],
        timeout_warning_seconds=10,
        max_parallel=2,
        ports=["http", "METRICS", "_x1"],
        bundle_hash=HASH,
        bundle_blob=b"tar",
    )
    message.resources.cpu = 2
    message.resources.memory_bytes = 1000
    message.resources.replicas = 5
    message.resources.preemptible = True
    message.resources.device.gpu.count = 3
    message.environment.env_vars["KEY"] = "a=b\nc"
    message.environment.env_vars["EMPTY"] = ""
    job = make_job(message, 1)
    assert (job.job_id, job.parent_job_id) == ("a/b/job", "a/b")
    assert (job.coscheduled, job.max_task_failures, job.retry_pause_ms) == (False, 2, 0)
    assert [(task.max_retries_failure, task.max_retries_preemption) for task in job.tasks] == [(3, 4)] * 5
    assert (job.retry_on, job.fail_on) == ([75], [2, 3])
    assert need_of(message) == Resources.of(2, 1000, 3)


@pytest.mark.parametrize(
    ("parent", "job_id"), [("", "child"), ("parent", "parent/child"), ("grand/parent", "grand/parent/child")]
)
def test_id_of_a_child_job_begins_with_the_id_of_its_parent(parent: str, job_id: str) -> None:
    message = LaunchJobRequest(name="child", parent_job_id=parent, command=["true"])
    assert job_id_of(message) == make_job(message, 1).job_id == job_id
    assert parse_task_id(make_task_id(job_id, 3)) == (job_id, 3)


@pytest.mark.parametrize(("given", "meets"), [(0, False), (1, True), (2, True)])
def test_rendezvous_is_accepted_for_a_gang(given: int, meets: bool) -> None:
    message = changed(lambda m: _set(m, rendezvous=given))
    validate(message)
    assert make_job(message, 1).rendezvous is meets


def test_retry_budget_of_zero_differs_from_a_missing_retry_budget() -> None:
    (task,) = make_job(changed(lambda m: _set(m, max_retries_preemption=0)), 1).tasks
    assert task.max_retries_preemption == 0


@pytest.mark.parametrize(("given", "replicas"), [(0, 1), (1, 1), (7, 7), (MAX_REPLICAS, MAX_REPLICAS)])
def test_job_submitted_without_a_number_of_replicas_has_one_task(given: int, replicas: int) -> None:
    message = changed(lambda m: _set(m.resources, replicas=given))
    assert replicas_of(message) == replicas == len(make_job(message, 1).tasks)


@pytest.mark.parametrize(("given", "gpus"), [(0, 1), (1, 1), (4, 4)])
def test_gpu_without_a_count_means_one_gpu(given: int, gpus: int) -> None:
    def change(message: LaunchJobRequest) -> None:
        message.resources.device.gpu.SetInParent()
        message.resources.device.gpu.count = given

    assert need_of(changed(change)).gpu == gpus
    assert need_of(changed(lambda m: m.resources.device.cpu.SetInParent())).gpu == 0


def test_child_job_inherits_the_environment_of_its_parent_unless_its_own_is_complete() -> None:
    parent = LaunchJobRequest()
    parent.environment.env_vars.update({"A": "parent", "B": "parent"})
    parent.environment.umask = 0o027

    def inherited(*, complete: bool = False, ignores: bool = False) -> tuple[dict[str, str], bool, int]:
        child = request()
        child.ignore_parent_environment = ignores
        child.environment.env_vars.update({"B": "child", "C": "child"})
        child.environment.complete = complete
        inherit_environment(child, parent)
        return dict(child.environment.env_vars), child.environment.complete, child.environment.umask

    own = {"B": "child", "C": "child"}
    assert inherited() == ({"A": "parent", **own}, False, 0o027)
    assert inherited(complete=True) == (own, True, 0)
    assert inherited(ignores=True) == (own, False, 0)
    parent.environment.complete = True
    assert inherited() == ({"A": "parent", **own}, True, 0o027)


def test_child_job_whose_environment_is_too_large_together_with_its_parents_is_refused() -> None:
    parent, child = LaunchJobRequest(), request()
    for number in range(5):
        parent.environment.env_vars[f"PARENT_{number}"] = child.environment.env_vars[f"CHILD_{number}"] = "x" * 100_000
    with pytest.raises(ResourceExhaustedError, match="the environment is too large"):
        inherit_environment(child, parent)


def _set(message: object, **fields: object) -> None:
    for name, value in fields.items():
        setattr(message, name, value)


def _env(name: str, value: str) -> Change:
    def change(message: LaunchJobRequest) -> None:
        message.environment.env_vars[name] = value

    return change


def _set_codes(message: LaunchJobRequest, retry_on: list[int], fail_on: list[int]) -> None:
    message.max_retries_failure = 1
    message.retry_on.extend(retry_on)
    message.fail_on.extend(fail_on)


# A name for the test, a change that makes the smallest valid request invalid, and words of the error.
REFUSED: list[tuple[str, Change, list[str]]] = [
    (
        "exit code",
        lambda m: _set_codes(m, [0], []),
        ["an exit code in retry_on must be a whole number from 1 to 255, got 0"],
    ),
    ("exit code in both", lambda m: _set_codes(m, [2, 75], [75]), ["retry_on and fail_on", "75 in both"]),
    ("exit codes without retries", lambda m: m.fail_on.append(2), ["fail_on needs max_retries_failure of 1 or more"]),
    (
        "warning before the start",
        lambda m: _set(m, timeout_seconds=60, timeout_warning_seconds=60),
        ["timeout_warning_seconds must be less than timeout_seconds, which is 60, got 60"],
    ),
    (
        "warning before the job",
        lambda m: _set(m, job_timeout_seconds=60, timeout_warning_seconds=61),
        ["timeout_warning_seconds must be less than job_timeout_seconds, which is 60, got 61"],
    ),
    ("no name", lambda m: _set(m, name=""), ["name", "empty"]),
    ("slash", lambda m: _set(m, name="a/b"), ["'a/b'", "'/'"]),
    ("newline", lambda m: _set(m, name="a\nb"), ["control character"]),
    ("nothing to run", lambda m: m.ClearField("command"), ["command", "serialized_entrypoint"]),
    ("two to run", lambda m: _set(m, serialized_entrypoint=b"x"), ["command", "serialized_entrypoint"]),
    ("empty command", lambda m: m.command.insert(0, ""), ["empty"]),
    ("NUL in a word", lambda m: m.command.append("a\0b"), ["NUL", "'a\\x00b'"]),
    ("replicas", lambda m: _set(m.resources, replicas=-1), ["replicas must be a whole number from 1 to 10000, got -1"]),
    (
        "too many replicas",
        lambda m: _set(m.resources, replicas=10_001),
        ["replicas must be a whole number from 1 to 10000, got 10001"],
    ),
    ("cpu", lambda m: _set(m.resources, cpu=-1), ["cpu must be a whole number from 0 to 2147483647, got -1"]),
    (
        "memory",
        lambda m: _set(m.resources, memory_bytes=-1),
        ["memory_bytes must be a whole number from 0 to 9223372036854775807, got -1"],
    ),
    (
        "gpu",
        lambda m: _set(m.resources.device.gpu, count=-1),
        ["gpu count must be a whole number from 0 to 2147483647, got -1"],
    ),
    (
        "waiting",
        lambda m: _set(m, scheduling_timeout_seconds=-1),
        ["scheduling_timeout_seconds must be a whole number from 0 to 2147483647, got -1"],
    ),
    (
        "timeout",
        lambda m: _set(m, timeout_seconds=-1),
        ["timeout_seconds must be a whole number from 0 to 2147483647, got -1"],
    ),
    (
        "job timeout",
        lambda m: _set(m, job_timeout_seconds=-1),
        ["job_timeout_seconds must be a whole number from 0 to 2147483647, got -1"],
    ),
    ("pause", lambda m: _set(m, retry_pause_ms=-1), ["retry_pause_ms must be a whole number from 0 to 60000, got -1"]),
    (
        "long pause",
        lambda m: _set(m, retry_pause_ms=60_001),
        ["retry_pause_ms must be a whole number from 0 to 60000, got 60001"],
    ),
    (
        "tolerance",
        lambda m: _set(m, max_task_failures=-1),
        ["max_task_failures must be a whole number from 0 to 2147483647, got -1"],
    ),
    (
        "retries",
        lambda m: _set(m, max_retries_failure=-1),
        ["max_retries_failure must be a whole number from 0 to 2147483647, got -1"],
    ),
    (
        "preemptions",
        lambda m: _set(m, max_retries_preemption=-1),
        ["max_retries_preemption must be a whole number from 0 to 2147483647, got -1"],
    ),
    (
        "grace",
        lambda m: _set(m, kill_grace_period_ms=-1),
        ["kill_grace_period_ms must be a whole number from 0 to 2147483647, got -1"],
    ),
    ("variable without name", _env("", "x"), ["environment variable", "''", "must not be empty"]),
    ("variable with =", _env("A=B", "x"), ["environment variable", "'A=B'"]),
    ("variable with NUL", _env("A", "x\0"), ["environment variable", "NUL"]),
    ("variable named NUL", _env("A\0", "x"), ["environment variable", "NUL"]),
    ("port", lambda m: m.ports.append("my-port"), ["port name", "'my-port'"]),
    ("empty port", lambda m: m.ports.append(""), ["port name"]),
    ("port twice", lambda m: m.ports.extend(["http", "http"]), ["'http'", "twice"]),
    ("port in two cases", lambda m: m.ports.extend(["http", "HTTP"]), ["'HTTP'", "twice"]),
    ("hash", lambda m: _set(m, bundle_hash="abc"), ["bundle_hash", "'abc'", "SHA-256"]),
    ("hash in upper case", lambda m: _set(m, bundle_hash=HASH.upper()), ["bundle_hash", "lower-case"]),
    ("hash with a path", lambda m: _set(m, bundle_hash="../" * 21 + "a"), ["bundle_hash"]),
    ("hash with newline", lambda m: _set(m, bundle_hash=HASH + "\n"), ["bundle_hash"]),
    ("blob without hash", lambda m: _set(m, bundle_blob=b"tar"), ["bundle_blob", "bundle_hash"]),
    ("relative directory", lambda m: _set(m, working_directory="here"), ["working_directory", "'here'", "absolute"]),
    (
        "directory and workspace",
        lambda m: _set(m, working_directory="/tmp", bundle_hash=HASH),
        ["working_directory", "workspace"],
    ),
    ("directory with NUL", lambda m: _set(m, working_directory="/tmp/\0"), ["working_directory", "NUL"]),
    (
        "meeting of what",
        lambda m: _set(m, rendezvous=7),
        ["rendezvous must be RENDEZVOUS_TORCH or RENDEZVOUS_JAX, got 7"],
    ),
    (
        "independent rendezvous",
        lambda m: _set(m, rendezvous=1, independent_tasks=True),
        ["rendezvous", "start together"],
    ),
    (
        "tolerance with rendezvous",
        lambda m: _set(m, rendezvous=2, max_task_failures=1),
        ["max_task_failures", "all tasks, got 1"],
    ),
    ("pip", lambda m: m.environment.pip_packages.append("numpy"), ["not supported", "pip_packages"]),
    ("extras", lambda m: m.environment.extras.append("gpu"), ["not supported", "extras"]),
    ("constraints", lambda m: m.constraints.add(key="zone"), ["not supported", "zone", "CONSTRAINT_OP_EQ"]),
    ("group_by", lambda m: _set(m.coscheduling, group_by="rack"), ["not supported", "coscheduling.group_by"]),
    ("gcs", lambda m: _set(m, bundle_gcs_path="gs://x"), ["not supported", "bundle_gcs_path"]),
    ("regions", lambda m: m.resources.regions.append("eu"), ["not supported", "regions"]),
    ("disk", lambda m: _set(m.resources, disk_bytes=1), ["not supported", "disk_bytes"]),
    ("tpu", lambda m: m.resources.device.tpu.SetInParent(), ["not supported", "tpu"]),
    ("gpu variant", lambda m: _set(m.resources.device.gpu, variant="H100"), ["not supported", "gpu variant"]),
    ("cpu variant", lambda m: _set(m.resources.device.cpu, variant="arm64"), ["not supported", "cpu variant"]),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_invalid_job_submission_is_refused(change: Change, words: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate(changed(change))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_refusal_of_a_job_submission_names_all_unsupported_fields() -> None:
    message = request()
    message.resources.regions.append("eu")
    message.environment.pip_packages.append("numpy")
    with pytest.raises(InvalidArgumentError, match=r"not supported by this controller: pip_packages, regions"):
        validate(message)
