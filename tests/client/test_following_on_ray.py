"""Logs of tasks on a real Ray cluster: what a reader may rely on there, through a controller whose connections break.

Workers come and go with their gangs, and what they have written is handed over before; so the way is the controller's.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from contracts.log_following import *  # noqa: F403 - the contract's tests run here
from contracts.log_following import Reach
from support.chaos_proxy import ChaosProxy

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer

# These fill the workers that stand, before they begin: on Ray there are none.
del test_the_end_of_a_task_that_never_started, test_a_follow_that_begins_before_the_task_is_placed  # noqa: F821


@pytest.fixture(scope="module")
def reach(ray_server: LocalServer) -> Iterator[Reach]:
    port = urlsplit(ray_server.address).port
    assert port is not None
    with IrisClient.remote(ray_server.address) as beside, ChaosProxy(("127.0.0.1", port)) as proxy:
        yield Reach("controller", lambda: IrisClient.remote(proxy.address), beside, [proxy], [ray_server.address])
