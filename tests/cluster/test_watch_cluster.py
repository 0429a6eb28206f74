"""Watching the machines, the workers, the state and the events of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from connectrpc.errors import ConnectError
from support.cluster import launch, shell, unique, wait_for_end, wait_for_state
from support.tokens import token
from support.web_session_client import SessionClient

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.rpc import cluster_connect
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor

Request, Response = pb.Controller.WatchClusterRequest, pb.Controller.WatchClusterResponse
EVERYTHING = Request(include_machines=True, include_workers=True, include_status=True, include_events=True)


class Watcher:
    """A client that watches a cluster, and knows what it has received."""

    def __init__(self, server: LocalServer, request: Request = EVERYTHING, role: str = "admin") -> None:
        stub = cluster_connect.ControllerServiceClientSync(
            server.address, interceptors=(BearerInterceptor(lambda: token(role, name="ana")),)
        )
        self._stream: Any = stub.watch_cluster(request)
        self.first = self.next()
        while not self.first.complete:  # Beats may come before the first snapshot.
            self.first = self.next()

    def next(self) -> Response:
        message = next(self._stream)
        assert isinstance(message, Response)
        return message

    def until(self, has: str, test: Any) -> Any:
        """Return the first change for which a test holds. `has` names the field of the message."""
        while True:
            message = self.next()
            found = getattr(message, has)
            items = found if has in ("machines", "workers", "events") else [found]
            for item in items:
                if test(item):
                    return item

    def close(self) -> None:
        self._stream.close()


@pytest.fixture
def watcher(shared_cluster: LocalServer) -> Iterator[Watcher]:
    with closing(Watcher(shared_cluster)) as watching:
        yield watching


def test_first_message_of_a_cluster_watch_has_all_machines_workers_and_events(
    watcher: Watcher, cluster: RemoteClusterClient
) -> None:
    first = watcher.first
    assert first.complete
    listed = cluster.list_machines()
    assert [one.name for one in first.machines] == [one.name for one in listed.machines]
    assert [one.worker_id for one in first.workers] == [one.worker_id for one in cluster.list_workers()]
    assert all(list(one.worker_ids) == [one.name] for one in first.machines)
    assert (first.status.engine, first.status.version) == ("local", cluster.describe_cluster().version)
    assert 0 < first.status.disk_free_bytes <= first.status.disk_total_bytes
    assert first.status.database_bytes > 0
    assert first.status.lease_s > 0
    assert first.HasField("queue")
    numbers = [event.number for event in first.events]
    assert numbers == sorted(numbers)


def test_changes_of_a_job_show_in_machines_queue_status_and_events(
    watcher: Watcher, cluster: RemoteClusterClient
) -> None:
    before = watcher.first.status
    job_id = launch(cluster, shell("while :; do :; done"), resources={"replicas": 1, "cpu": 1})
    wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    machine = watcher.until("machines", lambda one: job_id in [holding.job_id for holding in one.holdings])
    assert machine.free.cpu < machine.total.cpu
    used = watcher.until("machines", lambda one: one.name == machine.name and one.used.cpu_millicores > 0).used
    assert used.num_tasks == 1
    count = len(watcher.first.machines)
    waiting = launch(cluster, shell("true"), count, resources={"replicas": count, "cpu": machine.total.cpu})
    queue = watcher.until("queue", lambda one: waiting in [gang.job_id for gang in one.waiting])
    assert queue.num_waiting >= 1
    cluster.terminate_job(waiting)
    cluster.terminate_job(job_id)
    wait_for_end(cluster, job_id)
    watcher.until("machines", lambda one: one.name == machine.name and not one.holdings)
    with closing(Watcher(cluster_server(cluster), Request(include_status=True, include_events=True))) as later:
        ended = [event for event in later.first.events if event.fields.get("job_id") == job_id]
        assert [event.name for event in ended if event.job_id == job_id][-1] == "job.killed"
        assert later.first.status.num_ended_jobs >= before.num_ended_jobs + 2
        assert not later.first.machines
        after = Request(include_events=True, events_after=ended[-1].number - 1)
        with closing(Watcher(cluster_server(cluster), after)) as continued:
            assert continued.first.events[0] == ended[-1]


def test_client_with_events_of_an_earlier_controller_gets_the_events_from_the_beginning(
    shared_cluster: LocalServer,
) -> None:
    with closing(Watcher(shared_cluster, Request(include_events=True))) as watching:
        assert watching.first.events
    with closing(Watcher(shared_cluster, Request(include_events=True, events_after=1 << 40))) as later:
        assert later.first.events[0].number <= watching.first.events[-1].number


def cluster_server(cluster: RemoteClusterClient) -> Any:
    """An object with the address of a cluster."""
    return type("Server", (), {"address": cluster.controller_address})


def test_only_admins_see_events_about_users_who_sign_in(shared_cluster: LocalServer) -> None:
    name = unique("bob")
    with SessionClient(shared_cluster.address) as browser:
        browser.sign_in(token=token("user", name=name))
    for role, seen in (("admin", True), ("user", False), ("reader", False)):
        with closing(Watcher(shared_cluster, Request(include_events=True), role)) as watching:
            names = [event.owner for event in watching.first.events if event.name == "session.opened"]
        assert (name in names) == seen, role


@pytest.mark.parametrize("request_", [Request(), Request(include_events=True, events_after=-1)])
def test_cluster_watch_without_a_subject_or_with_a_negative_event_number_is_refused(
    shared_cluster: LocalServer, request_: Request
) -> None:
    with pytest.raises(ConnectError) as caught:
        Watcher(shared_cluster, request_)
    assert caught.value.code.value == "invalid_argument"
