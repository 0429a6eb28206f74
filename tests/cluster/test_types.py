"""Ids, names, sizes, and what a task knows of itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from iris.cluster.names import check_job_name, check_port_name
from iris.cluster.types import (
    FINAL_STATES,
    STATE_NAMES,
    Entrypoint,
    JobInfo,
    ResourceSpec,
    get_job_info,
    is_job_finished,
    is_task_finished,
    make_task_id,
    parse_bytes,
    parse_task_id,
    state_name,
)
from iris.cores import read_cores
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

# Task ids.

INVALID_TASK_IDS = [
    "x/task-",
    "x/task--1",
    "x/task-1.5",
    "x/7",
    "task-0",
    "",
    "/task-0",
    "x",
    "x/",
    "x/task",
    "x/task-01",
    "x/task-00",
    "x/task-+1",
    "x/task-1e3",
    "x/task-0x1",
    "x/task-1_000",
    "x/task- 1",
    "x/task-1 ",
    "x/task-1\n",
    "x/task-\u0661",  # a digit, but none of ours
    "x/Task-1",
    "x/task-1/",
    "x/task-1/logs",
    "x\\task-1",
]


@pytest.mark.parametrize("text", INVALID_TASK_IDS)
def test_invalid_task_id_raises_value_error_with_the_text_and_the_expected_form(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_task_id(text)
    assert isinstance(caught.value, InvalidArgumentError)
    assert repr(text) in str(caught.value)
    assert "{job_id}/task-{index}" in str(caught.value)


def test_task_index_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="not a task id"):
        parse_task_id("x/task-" + "9" * 5000)


@pytest.mark.parametrize(
    ("task_id", "job_id", "index"),
    [
        ("x/task-0", "x", 0),
        ("x/task-7", "x", 7),
        ("x/task-1234567", "x", 1234567),
        ("parent/child/task-3", "parent/child", 3),
        ("a/b/c/d/task-10", "a/b/c/d", 10),
        ("x/task-1/task-2", "x/task-1", 2),  # a job named like a task, in a job: split at the last '/'
        ("task-0/task-0", "task-0", 0),
        ("train model é/task-1", "train model é", 1),
        ("//task-0", "/", 0),
    ],
)
def test_task_id_is_split_at_its_last_slash(task_id: str, job_id: str, index: int) -> None:
    assert parse_task_id(task_id) == (job_id, index)
    assert make_task_id(job_id, index) == task_id


# Names.


@pytest.mark.parametrize("name", ["x", "train-2", "Train model é", "a.b_c", "task-0", "@", "x@1", "..", "-"])
def test_valid_job_name_is_accepted(name: str) -> None:
    check_job_name(name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        ("a/b", "'/'"),
        ("/", "'/'"),
        ("a/", "'/'"),
        ("a\nb", "control character"),
        ("a\0", "control character"),
        ("\x7f", "control character"),
        ("\x1b[31mred", "control character"),
    ],
)
def test_invalid_job_name_is_refused(name: str, word: str) -> None:
    with pytest.raises(InvalidArgumentError, match=word) as caught:
        check_job_name(name)
    assert not name or repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["http", "HTTP", "_", "port_2", "a1"])
def test_valid_port_name_is_accepted(name: str) -> None:
    check_port_name(name)


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "a.b", "é", "a\n", "a=b", "a/b"])
def test_invalid_port_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="not a port name") as caught:
        check_port_name(name)
    assert repr(name) in str(caught.value)


# What a task knows of itself.

FULL_ENV = {
    "IRIS_JOB_ID": "sweep/trial",
    "IRIS_TASK_ID": "sweep/trial/task-3",
    "IRIS_TASK_INDEX": "3",
    "IRIS_NUM_TASKS": "8",
    "IRIS_ATTEMPT_ID": "2",
    "IRIS_WORKER_ID": "local-1",
    "IRIS_CONTROLLER_ADDRESS": "http://10.0.0.1:50051",
    "IRIS_BIND_HOST": "0.0.0.0",
    "IRIS_ADVERTISE_HOST": "10.0.0.2",
    "IRIS_PORT_HTTP": "20001",
    "IRIS_PORT_MASTER_PORT": "65535",
    "HOME": "/root",
}


def test_job_info_has_all_fields() -> None:
    assert JobInfo.from_env(FULL_ENV) == JobInfo(
        job_id="sweep/trial",
        task_id="sweep/trial/task-3",
        task_index=3,
        num_tasks=8,
        attempt_id=2,
        worker_id="local-1",
        controller_address="http://10.0.0.1:50051",
        ports={"http": 20001, "master_port": 65535},
    )


def test_job_info_has_defaults_for_missing_variables() -> None:
    expected = JobInfo("x", None, 0, 1, 0, None, None, {})
    assert JobInfo.from_env({"IRIS_JOB_ID": "x"}) == expected == JobInfo(job_id="x")


@pytest.mark.parametrize("env", [{}, {"IRIS_JOB_ID": ""}, {"IRIS_TASK_INDEX": "two", "IRIS_PORT_HTTP": "no"}])
def test_job_info_outside_a_job_is_none(env: Mapping[str, str]) -> None:
    assert JobInfo.from_env(env) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IRIS_TASK_INDEX", "two"),
        ("IRIS_TASK_INDEX", "-1"),
        ("IRIS_TASK_INDEX", "2147483648"),
        ("IRIS_ATTEMPT_ID", "9" * 50),
        ("IRIS_JOB_ID", "caf\udce9"),
        ("IRIS_TASK_INDEX", "1.5"),
        ("IRIS_NUM_TASKS", "0"),
        ("IRIS_NUM_TASKS", "many"),
        ("IRIS_ATTEMPT_ID", "-2"),
        ("IRIS_ATTEMPT_ID", "x"),
        ("IRIS_TASK_ID", "task-0"),
        ("IRIS_TASK_ID", "x/task--1"),
        ("IRIS_PORT_HTTP", "eighty"),
        ("IRIS_PORT_HTTP", "0"),
        ("IRIS_PORT_HTTP", "65536"),
    ],
)
def test_malformed_environment_value_raises_value_error_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ValueError) as caught:
        JobInfo.from_env({**FULL_ENV, name: value})
    assert isinstance(caught.value, InvalidArgumentError)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_get_job_info_reads_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FULL_ENV:
        monkeypatch.delenv(name, raising=False)
    assert get_job_info() is None
    monkeypatch.setenv("IRIS_JOB_ID", "x")
    monkeypatch.setenv("IRIS_TASK_INDEX", "2")
    info = get_job_info()
    assert info is not None
    assert (info.job_id, info.task_index) == ("x", 2)
    monkeypatch.setenv("IRIS_TASK_INDEX", "two")
    with pytest.raises(ValueError, match="IRIS_TASK_INDEX"):
        get_job_info()


# Sizes and resources.


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (0, 0),
        (1, 1),
        (2**50, 2**50),
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("500K", 500_000),
        ("512MB", 512_000_000),
        ("512mb", 512_000_000),
        ("1.5GB", 1_500_000_000),
        ("2GiB", 2 * 2**30),
        ("2Gi", 2 * 2**30),
        ("0.5KiB", 512),
        ("3TiB", 3 * 2**40),
        (" 4MiB ", 4 * 2**20),
    ],
)
def test_parse_bytes_returns_the_number_of_bytes_for_each_unit(size: int | str, number: int) -> None:
    assert parse_bytes(size) == number


@pytest.mark.parametrize(
    "size",
    [-1, True, 1.5, None, "", " ", "-1", "-1MB", "MB", "1XB", "1PB1", "1.GB", ".5GB", "1e9", "\u0661MB", "1,5GB", []],
)
def test_parse_bytes_refuses_an_invalid_size(size: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="a size must be a number of bytes") as caught:
        parse_bytes(size)
    assert repr(size) in str(caught.value)


def test_parse_bytes_refuses_a_binary_unit_without_a_prefix() -> None:
    with pytest.raises(InvalidArgumentError, match="a size must be a number of bytes"):
        parse_bytes("5iB")


def test_resource_spec_defaults_to_nothing_and_converts_memory_to_bytes() -> None:
    assert ResourceSpec() == ResourceSpec(cpu=None, memory=0, gpu=0) != ResourceSpec(cpu=0)
    assert ResourceSpec(memory="2GiB").memory_bytes == 2**31
    assert ResourceSpec(cpu=4, memory=1000, gpu=1).memory_bytes == 1000


@pytest.mark.parametrize(
    ("cpu", "millicores"),
    [(0, 0), (2, 2000), (0.25, 250), (0.1 + 0.2, 300), ("250m", 250), ("1.5", 1500), (None, None)],
)
def test_resource_spec_counts_cores_in_millicores(cpu: float | str | None, millicores: int | None) -> None:
    assert ResourceSpec(cpu=cpu).cpu_millicores == millicores


@pytest.mark.parametrize(("text", "cores"), [("2", 2), ("0.25", 0.25), (" 250m ", 0.25), (".5", 0.5), ("1000m", 1)])
def test_cores_are_read_as_a_number_or_in_millicores(text: str, cores: float) -> None:
    assert read_cores(text) == cores


@pytest.mark.parametrize("text", ["", "m", "-1", "1e3", "0.0001", "0.5m", "2 cores", "9999999999"])
def test_text_that_is_not_a_number_of_cores_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cpu must be a number of cores from 0 to 2147483647"):
        read_cores(text)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"cpu": -1}, "cpu must be a number of cores from 0 to 2147483647 with at most three decimals"),
        ({"cpu": 0.0005}, "such as 2, 0.25 or '250m', or None for the default, got 0.0005"),
        ({"cpu": "two"}, "such as '2', '0.25' or '250m', got 'two'"),
        ({"cpu": True}, "got True"),
        ({"cpu": 2**31}, "got 2147483648"),
        ({"gpu": -1}, "gpu must be a whole number from 0 to 2147483647, got -1"),
        ({"gpu": 1.0}, "got 1.0"),
        ({"memory": "much"}, "'much'"),
        ({"memory": -5}, "-5"),
    ],
)
def test_resource_spec_refuses_invalid_amounts(arguments: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        ResourceSpec(**arguments)
    assert shown in str(caught.value)


# What a task runs.


def train(rate: float) -> float:
    return rate


class Trainer:
    def __call__(self) -> None: ...


def test_entrypoint_from_a_callable_stores_the_callable_and_its_arguments() -> None:
    entrypoint = Entrypoint.from_callable(train, 1, rate=2)
    assert entrypoint == Entrypoint(callable=train, args=(1,), kwargs={"rate": 2})
    assert entrypoint.command == ()


@pytest.mark.parametrize("thing", ["train", 5, None, ["python"]])
def test_entrypoint_from_an_uncallable_object_is_refused(thing: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="function must be a function or another callable, got"):
        Entrypoint.from_callable(thing)


def test_entrypoint_from_a_command_stores_the_words() -> None:
    assert Entrypoint.from_command(["python", "x.py"]).command == ("python", "x.py")
    assert Entrypoint.from_command([Path("/bin/true"), ""]).command == ("/bin/true", "")  # type: ignore[list-item]
    assert Entrypoint.from_command(("true",)).callable is None


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ([], "empty"),
        ([""], "empty"),
        ("python train.py", "list of words"),
        (b"true", "list of words"),
        (["echo", 5], "5"),
        (["echo", "a\0b"], "NUL"),
        ([b"true"], "each word of a command must be text"),
    ],
)
def test_entrypoint_from_an_invalid_command_is_refused(command: Any, word: str) -> None:
    with pytest.raises(InvalidArgumentError, match=word):
        Entrypoint.from_command(command)


@pytest.mark.parametrize(
    ("entrypoint", "name"),
    [
        (Entrypoint.from_callable(train), "train"),
        (Entrypoint.from_callable(Trainer()), "trainer"),
        (Entrypoint.from_callable(lambda: None), "lambda"),
        (Entrypoint.from_callable(functools.partial(train, 1)), "partial"),
        (Entrypoint.from_command(["true"]), "true"),
        (Entrypoint.from_command(["/usr/bin/env"]), "env"),
        (Entrypoint.from_command(["python", "-u", "examples/word_count.py", "README.md"]), "word_count"),
        (Entrypoint.from_command(["/usr/bin/python3.11", "a/Train.py"]), "train"),
        (Entrypoint.from_command(["python", "-c", "print()"]), "python"),
        (Entrypoint.from_command(["sh", "run.sh"]), "run"),
        (Entrypoint.from_command(["cat", "a.py"]), "cat"),
        (Entrypoint.from_command(["/opt/my tool"]), "my-tool"),
        (Entrypoint.from_command(["-"]), "job"),
        (Entrypoint.from_command(["/"]), "job"),
    ],
)
def test_default_job_name_follows_from_the_entrypoint(entrypoint: Entrypoint, name: str) -> None:
    assert entrypoint.default_name == name
    check_job_name(name)


# States.


@pytest.mark.parametrize("enum", [cluster_pb2.JobState, cluster_pb2.TaskState])
def test_state_names_match_the_protobuf_enums(enum: Any) -> None:
    names = {number: name.split("_STATE_", 1)[1] for name, number in enum.items()}
    assert names == STATE_NAMES


@pytest.mark.parametrize(
    ("state", "final"), [(0, False), (1, False), (2, False), (3, False), *((n, True) for n in range(4, 9)), (9, False)]
)
def test_is_finished_is_true_for_final_states_only(state: int, final: bool) -> None:
    assert is_job_finished(state) is final
    assert is_task_finished(state) is final
    assert (state in FINAL_STATES) is final


def test_state_name_returns_the_name_or_the_unknown_number() -> None:
    assert state_name(cluster_pb2.TASK_STATE_RUNNING) == "RUNNING"
    assert state_name(42) == "STATE_42"


def test_hosts_of_a_gang_are_read_from_the_hosts_file(tmp_path: Path) -> None:
    env = {"IRIS_JOB_ID": "x", "IRIS_NUM_TASKS": "3", "IRIS_HOSTS_FILE": str(tmp_path / "hosts")}
    info = JobInfo.from_env(env)
    assert info is not None
    with pytest.raises(InvalidArgumentError, match=r"IRIS_HOSTS_FILE='.*hosts' cannot be read: No such file"):
        _ = info.hosts
    (tmp_path / "hosts").write_text("node-1\n10.0.0.2\n\n")
    assert info.hosts == ("node-1", "10.0.0.2", "")
    for text, lines in (("", "1 line"), ("node-1\n", "1 line"), ("a\nb\nc\nd\n", "4 lines")):
        (tmp_path / "hosts").write_text(text)
        with pytest.raises(InvalidArgumentError, match=f"has {lines}: expected one host for each of 3 tasks"):
            _ = info.hosts
    (tmp_path / "hosts").write_bytes(b"\xff\n")
    with pytest.raises(InvalidArgumentError, match="cannot be read: 'utf-8'"):
        _ = info.hosts


def test_independent_tasks_have_no_hosts() -> None:
    assert JobInfo("x").hosts == ()
