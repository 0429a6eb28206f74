"""Tests of the contract of whole jobs that depend little on Ray. They run with the long tests.

`test_e2e_on_ray.py` has the tests that depend on where workers come from.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contracts.end_to_end import (  # noqa: F401 - the tests of the contract run here
    test_child_jobs_end_with_their_parent_job,
    test_command_runs_in_the_directory_of_a_running_task,
    test_each_task_of_a_job_gets_its_own_environment_variables,
    test_failure_domain_kills_remaining_tasks,
    test_independent_tasks_are_retried_alone,
    test_lines_of_a_task_are_streamed_while_the_task_runs,
    test_output_written_on_sigterm_is_kept,
    test_requested_and_other_ports_are_reached_through_the_controller,
    test_script_without_its_interpreter_fails_with_the_reason,
    test_task_ends_with_its_first_process_and_ends_its_children,
    test_task_registers_an_endpoint_that_others_look_up,
    test_task_that_exceeds_its_timeout_fails,
    test_tasks_run_in_separate_copies_of_the_workspace,
    test_two_ports_per_task_are_free_distinct_and_known,
)

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer

pytestmark = pytest.mark.long


@pytest.fixture
def client(ray_server: LocalServer) -> Iterator[IrisClient]:
    with IrisClient.remote(ray_server.address) as remote:
        yield remote
