"""The states of jobs and tasks as text that compares with its name and with its number."""

from __future__ import annotations

import copy
import json
import operator
import pickle
import warnings
from collections.abc import Iterator

import pytest

from iris.cluster.types import (
    FINAL_STATES,
    STATE_NAMES,
    JobState,
    TaskState,
    is_job_finished,
    is_task_finished,
    state_name,
)
from iris.errors import InvalidArgumentError, UnknownStateWarning
from iris.rpc import cluster_pb2

KINDS = [(JobState, "JOB_STATE_", cluster_pb2.JobState), (TaskState, "TASK_STATE_", cluster_pb2.TaskState)]
CASES = [(kind, prefix, wire, number, name) for kind, prefix, wire in KINDS for number, name in STATE_NAMES.items()]


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(("kind", "prefix", "wire", "number", "name"), CASES)
def test_state_equals_its_names_and_its_number_in_both_directions(
    kind: type[JobState | TaskState], prefix: str, wire: object, number: int, name: str
) -> None:
    state = kind(number)
    assert wire.Value(prefix + name) == number  # type: ignore[attr-defined]
    for same in (name, name.lower(), name.title(), prefix + name, number, kind(name), JobState(number)):
        assert [operator.eq(state, same), operator.eq(same, state)] == [True, True]
        assert [operator.ne(state, same), operator.ne(same, state)] == [False, False]
    others = [other for other in STATE_NAMES.values() if other != name]
    for different in (*others, number + 1, number + 0.5, None, b"x", True, ""):
        assert [operator.eq(state, different), operator.eq(different, state)] == [False, False]
        assert [operator.ne(state, different), operator.ne(different, state)] == [True, True]


@pytest.mark.parametrize(("kind", "prefix", "wire", "number", "name"), CASES)
def test_state_is_made_from_a_number_and_from_each_form_of_its_name(
    kind: type[JobState | TaskState], prefix: str, wire: object, number: int, name: str
) -> None:
    made = [kind(given) for given in (number, name, name.lower(), prefix + name, JobState(name))]
    assert all(one is made[0] for one in made)
    assert (made[0].number, int(made[0]), made[0].name) == (number, number, name)
    assert made[0].is_final == (number in FINAL_STATES) == is_job_finished(made[0]) == is_task_finished(number)
    assert state_name(made[0]) == name


def test_state_is_text_in_formats_json_dictionaries_and_match_statements() -> None:
    state = JobState.RUNNING
    assert isinstance(state, str)
    assert f"{state} {state:>8}" == "RUNNING  RUNNING"
    assert json.dumps({"state": state}) == '{"state": "RUNNING"}'
    assert {"RUNNING": 1}[state] == 1
    assert state in ("PENDING", "RUNNING")
    match state:
        case "RUNNING":
            pass
        case _:
            pytest.fail("match compares with ==")


@pytest.mark.parametrize("wrong", ["done", "SUCEEDED", "finished", "JOB_STATE_DONE"])
def test_comparison_with_text_that_names_no_state_is_false_and_warns(wrong: str) -> None:
    for compare, different in ((operator.eq, False), (operator.ne, True)):
        with pytest.warns(UnknownStateWarning, match=f"no state is called '{wrong}'.*SUCCEEDED, FAILED"):
            assert compare(JobState.SUCCEEDED, wrong) == different


def test_warning_about_a_comparison_names_the_line_of_the_comparison() -> None:
    with pytest.warns(UnknownStateWarning) as warned:
        assert [JobState.SUCCEEDED != "done", "done" == TaskState.FAILED] == [True, False]  # noqa: SIM300
    assert [one.filename for one in warned] == [__file__, __file__]


@pytest.mark.parametrize("wrong", ["done", "", 1.5, None, True, b"RUNNING", "STATE_x"])
def test_state_from_a_value_that_is_not_a_state_is_refused(wrong: object) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"the state must be one of .*, RUNNING, .*, or the number of a state, got "
    ):
        JobState(wrong)


def test_state_of_a_newer_server_has_a_name_with_its_number() -> None:
    state = JobState(77)
    assert all(state == same for same in (JobState("STATE_77"), 77, "STATE_77", state_name(77)))
    assert (state.number, state.is_final, state.name) == (77, False, "STATE_77")
    assert list(JobState) == [JobState(number) for number in STATE_NAMES]


@pytest.mark.parametrize("state", [JobState.FAILED, TaskState.KILLED, JobState(99)])
def test_state_survives_pickle_and_copy(state: JobState | TaskState) -> None:
    for again in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        assert again == state
        assert type(again) is type(state)
