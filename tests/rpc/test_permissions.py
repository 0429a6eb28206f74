"""The table of who may call what names every call there is."""

from __future__ import annotations

import pytest

from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import ADMIN, CONTROLLER, GIVEN_ROLES, TASK, Caller
from iris.rpc.auth.permissions import CONTROLLER_RULES, WORKER_RULES, Rules

ROLES = {*GIVEN_ROLES, TASK, CONTROLLER}


@pytest.mark.parametrize(
    ("service", "rules", "open_calls"),
    [
        ("ControllerService", CONTROLLER_RULES, frozenset({"SignIn"})),
        ("WorkerService", WORKER_RULES, frozenset({"HealthCheck"})),
    ],
)
def test_every_call_has_a_row_in_the_permission_table(service: str, rules: Rules, open_calls: frozenset[str]) -> None:
    methods = {method.name for method in cluster_pb2.DESCRIPTOR.services_by_name[service].methods}
    assert set(rules) | open_calls == methods
    assert not set(rules) & open_calls
    for row in rules.values():
        assert row, "a call that nobody may make"
        assert set(row) <= ROLES


def test_token_of_the_controller_permits_no_call_to_the_controller() -> None:
    assert not [method for method, row in CONTROLLER_RULES.items() if CONTROLLER in row]


def test_only_the_controller_may_start_and_kill_attempts_on_a_worker() -> None:
    for method in ("RunTask", "RunTasks", "KillTask"):
        assert set(WORKER_RULES[method]) == {CONTROLLER}


@pytest.mark.parametrize("method", ["CreateToken", "ListTokens", "RevokeToken"])
def test_only_admins_may_manage_tokens(method: str) -> None:
    assert set(CONTROLLER_RULES[method]) == {ADMIN}


@pytest.mark.parametrize(
    ("own", "other", "owns", "is_above"),
    [
        ("a", "a", True, False),
        ("a", "a/b", False, True),
        ("a", "a/b/c", False, True),
        ("a", "ab", False, False),
        ("a", "", False, False),
        ("a/b", "a", False, False),
        ("a/b", "a/c", False, False),
        ("", "", False, False),
        ("", "/a", False, False),
    ],
)
def test_owner_of_a_job_is_derived_from_its_name(own: str, other: str, owns: bool, is_above: bool) -> None:
    task = Caller("t", TASK, "id", 0, job_id=own, task_index=0, attempt_id=0)
    assert (task.owns(other), task.is_above(other)) == (owns, is_above)
