"""Logs of tasks on a real Ray cluster, read through a controller whose connections break.

A worker on Ray lives no longer than its gang, and uploads its logs to the controller before it ends. Readers therefore
ask the controller. Only the tests of the contract that such workers could break run here, because each slot on Ray
costs a second of CPU time; `test_following.py` runs the whole contract on standing workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from contracts.log_following import (  # noqa: F401 - the tests and fixtures of the contract run here
    Reach,
    follow,
    run,
    test_follow_continues_after_connections_were_refused,
    test_follow_of_a_finished_task_returns_its_whole_log,
    test_follow_of_a_killed_task_has_its_last_lines,
    test_follow_returns_every_byte_once_and_the_end_through_retries,
    test_follow_through_chaos_returns_every_byte_once,
    test_other_attempts_can_be_read,
    test_prompt_is_returned_once_while_the_task_waits,
    test_reader_continues_from_any_cursor,
    test_server_closes_the_stream_of_a_reader_that_leaves,
    test_stream_of_some_tasks_continues_from_a_cursor,
)
from support.chaos_proxy import ChaosProxy

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer


@pytest.fixture(scope="module")
def reach(ray_server: LocalServer) -> Iterator[Reach]:
    port = urlsplit(ray_server.address).port
    assert port is not None
    with IrisClient.remote(ray_server.address) as beside, ChaosProxy(("127.0.0.1", port)) as proxy:
        yield Reach("controller", lambda: IrisClient.remote(proxy.address), beside, [proxy], [ray_server.address])
