"""Following logs on longer ways: over HTTP/2, and with proxies between the controller and the workers.

Only the tests of the contract that such a way could break run here; `test_following.py` runs the whole contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contracts.log_following import (  # noqa: F401 - the tests and fixtures of the contract run here
    Reach,
    follow,
    run,
    test_cursor_of_another_job_is_refused,
    test_empty_log_ends_without_lines,
    test_finished_log_is_complete_however_often_connections_break,
    test_follow_continues_after_connections_were_refused,
    test_follow_of_a_killed_task_has_its_last_lines,
    test_follow_of_a_retried_task_returns_every_byte_once_and_the_end_of_each_attempt,
    test_follow_of_an_unknown_job_or_task_is_not_found,
    test_follow_survives_proxies_that_cut_idle_connections,
    test_follow_through_chaos_returns_every_byte_once,
    test_prompt_is_returned_once_while_the_task_waits,
    test_reader_continues_from_any_cursor,
    test_server_closes_the_stream_of_a_reader_that_leaves,
    test_stream_of_several_tasks_keeps_the_order_of_each_task,
)

from iris.client import IrisClient

Http2Cluster = Any  # tests/client/conftest.py


@pytest.fixture(scope="module", params=["http2", "between"])
def reach(request: pytest.FixtureRequest, http2_cluster: Http2Cluster) -> Iterator[Reach]:
    cluster = http2_cluster
    is_http2 = request.param == "http2"
    address = cluster.controller_proxy.address if is_http2 else cluster.address
    with IrisClient.remote(cluster.address) as beside:
        yield Reach(
            "controller",
            lambda: IrisClient.remote(address, http2=is_http2),
            beside,
            [cluster.controller_proxy] if is_http2 else cluster.worker_proxies,
            [cluster.address, *cluster.workers],
        )
