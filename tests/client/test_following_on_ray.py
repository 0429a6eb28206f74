"""Logs of tasks on a real Ray cluster, read through a controller whose connections break.

A worker on Ray lives no longer than its gang, and uploads its logs to the controller before it ends. Readers therefore
ask the controller. Only the tests of the contract that such workers could break run here, because each slot on Ray
costs a second of CPU time. `test_following.py` runs the whole contract on standing workers, and
`test_more_following_on_ray.py` runs further tests of the contract on Ray, with the long tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contracts.log_following import (  # noqa: F401 - the tests and fixtures of the contract run here
    Reach,
    follow,
    run,
    test_follow_continues_after_connections_were_refused,
    test_follow_of_a_killed_task_has_its_last_lines,
    test_follow_of_a_retried_task_returns_every_byte_once_and_the_end_of_each_attempt,
    through_the_controller,
)

from iris.cluster.client.server_process import LocalServer


@pytest.fixture(scope="module")
def reach(ray_server: LocalServer) -> Iterator[Reach]:
    with through_the_controller(ray_server.address) as route:
        yield route
