"""Following logs with the async client, through a proxy that breaks connections.

The module runs the tests of the contract that depend on the driver of a follow or on the transport.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from contracts.log_following import (  # noqa: F401 - the contract's tests and their fixtures run here
    Reach,
    follow,
    run,
    test_blocked_reader_can_be_closed_from_another_thread,
    test_finished_log_is_complete_however_often_connections_break,
    test_follow_continues_after_connections_were_refused,
    test_follow_of_a_finished_task_returns_its_whole_log,
    test_follow_of_a_retried_task_returns_every_byte_once_and_the_end_of_each_attempt,
    test_follow_of_an_unknown_job_or_task_is_not_found,
    test_follow_survives_proxies_that_cut_idle_connections,
    test_follow_that_begins_before_the_placement_returns_all_lines,
    test_follow_through_chaos_returns_every_byte_once,
    test_follow_with_an_end_time_waits_for_a_server_that_refuses_connections_for_a_while,
    test_job_and_task_handles_read_logs,
    test_prompt_is_returned_although_a_filter_excluded_earlier_lines,
    test_prompt_is_returned_once_while_the_task_waits,
    test_raw_stream_returns_the_exact_bytes_of_a_source,
    test_server_closes_the_stream_of_a_reader_that_leaves,
    test_stream_of_several_tasks_keeps_the_order_of_each_task,
    test_stream_of_some_tasks_continues_from_a_cursor,
    test_stream_without_follow_ends_after_the_lines_that_exist,
)
from support.async_client import open_async_client
from support.chaos_proxy import ChaosProxy
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer


@pytest.fixture(scope="module")
def reach(shared_cluster: LocalServer) -> Iterator[Reach]:
    port = urlsplit(shared_cluster.address).port
    assert port is not None
    with IrisClient.remote(shared_cluster.address) as beside, ChaosProxy(("127.0.0.1", port)) as proxy:
        wait_until(lambda: len(beside.cluster.list_workers()) == 2, "two workers")
        workers = [worker.address for worker in beside.cluster.list_workers()]
        yield Reach(
            "controller",
            lambda: open_async_client(lambda: AsyncIrisClient.remote(proxy.address)),
            beside,
            [proxy],
            [shared_cluster.address, *workers],
        )
