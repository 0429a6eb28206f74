"""Tests of the contract of log readers that depend little on Ray. They run with the long tests.

`test_following_on_ray.py` has the tests that workers on Ray could break.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contracts.log_following import (  # noqa: F401 - the tests and fixtures of the contract run here
    Reach,
    follow,
    run,
    test_follow_of_a_finished_task_returns_its_whole_log,
    test_follow_through_chaos_returns_every_byte_once,
    test_log_of_each_attempt_can_be_read,
    test_prompt_is_returned_once_while_the_task_waits,
    test_reader_continues_from_any_cursor,
    test_server_closes_the_stream_of_a_reader_that_leaves,
    test_stream_of_some_tasks_continues_from_a_cursor,
    through_the_controller,
)

from iris.cluster.client.server_process import LocalServer

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def reach(ray_server: LocalServer) -> Iterator[Reach]:
    with through_the_controller(ray_server.address) as route:
        yield route
