"""A follow whose `end_ms` has passed gives all lines until then, also when its first connection breaks."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from support.chaos_proxy import ChaosProxy, Faults
from support.cluster import shell
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer


def test_following_a_log_with_past_end_ms_returns_all_lines_after_a_broken_read(
    shared_cluster: LocalServer, client: IrisClient
) -> None:
    job = client.run(shell("echo one; echo two"))
    job.wait(timeout=60)
    end_ms = list(job.logs())[-1].timestamp_ms + 500
    wait_until(lambda: time.time() * 1000 > end_ms + 3000, "a moment at which lines are late no more")
    controller = urlsplit(shared_cluster.address)
    assert controller.hostname is not None
    assert controller.port is not None
    faults = iter([Faults(), Faults("reset", 1)])  # a unary call, then the stream
    with (
        ChaosProxy((controller.hostname, controller.port), lambda _: next(faults, Faults())) as proxy,
        IrisClient.remote(proxy.address) as far,
    ):
        lines = far.stream_task_logs(job.job_id, 0, follow=True, end_ms=end_ms, route="controller")
        assert [line.message for line in lines] == ["one", "two"]
        assert proxy.faults["reset"] == 1
