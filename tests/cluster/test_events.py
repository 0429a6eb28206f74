"""The events of a cluster for clients: order, conditions, roles, followers across a killed controller, and webhooks."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

import pytest
from support.cluster import launch, shell, unique, wait_for_end
from support.standing_cluster import standing_cluster
from support.tokens import token
from support.waiting import wait_until
from support.web_session_client import SessionClient
from support.webhook_receiver import receiving

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import InvalidArgumentError, IrisError, PermissionDeniedError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.http.client.stream_handle import StreamHandle

Event = pb.Controller.Event


def kinds(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def test_events_of_a_job_come_in_order_with_their_ids_and_reasons(
    client: IrisClient, cluster: RemoteClusterClient
) -> None:
    job_id = launch(cluster, shell("exit 3"), max_retries_failure=1)
    wait_for_end(cluster, job_id)
    events = list(client.events(job_id, kinds=["job.*", "task.*"]))
    assert [kind for kind in kinds(events) if kind.startswith("task.")] == [
        "task.placed",
        "task.running",
        "task.retried",
        "task.placed",
        "task.running",
        "task.failed",
    ]
    assert (kinds(events)[0], kinds(events)[-1]) == ("job.submitted", "job.failed")
    failed = events[-2]
    assert (failed.task_index, failed.attempt_id, failed.reason, failed.fields["exit_code"]) == (0, 1, "EXIT_CODE", "3")
    assert failed.worker_id.startswith("local-")
    assert {event.owner for event in events} == {"tests"}
    assert [event.number for event in events] == sorted({event.number for event in events})
    assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
    assert list(client.events(job_id, cursor=events[2].cursor, kinds=["job.*", "task.*"])) == events[3:]
    assert list(client.events(job_id, tail=1, kinds=["job.*"])) == events[-1:]
    assert list(client.events(job_id, since_ms=events[-1].time_ms + 60_000)) == []


def test_events_of_a_job_include_its_child_jobs_only(client: IrisClient, cluster: RemoteClusterClient) -> None:
    parent = launch(cluster, ["sleep", "1000"])
    child = launch(cluster, ["true"], name="inner", parent_job_id=parent)
    other = launch(cluster, ["true"], name=f"{parent}0")
    for job_id in (child, other):
        wait_for_end(cluster, job_id)
    cluster.terminate_job(parent)
    wait_for_end(cluster, parent)
    assert {event.job_id for event in client.events(parent)} == {parent, child}


def test_only_admins_get_events_of_sessions_and_the_list_of_webhooks(shared_cluster: LocalServer) -> None:
    name = unique("bob")
    with SessionClient(shared_cluster.address) as browser:
        browser.sign_in(token=token("user", name=name))
    for role, has_access in (("admin", True), ("user", False), ("reader", False)):
        with RemoteClusterClient(shared_cluster.address, token=token(role)) as caller:
            owners = [event.owner for event in caller.watch_events(kinds=["session.opened"])]
            assert (name in owners) == has_access, role
            if has_access:
                assert caller.list_webhooks() == []
            else:
                with pytest.raises(PermissionDeniedError):
                    caller.list_webhooks()


def test_invalid_arguments_of_events_are_refused(client: IrisClient) -> None:
    for arguments, text in (
        ({"kinds": ["job.fail"]}, "did you mean 'job.failed'"),
        ({"kinds": "job.failed"}, "kinds must be a list"),
        ({"cursor": "nonsense"}, "cursor must be the cursor of an earlier event, got 'nonsense'"),
        ({"tail": -1}, "tail must be"),
        ({"since_ms": -1}, "since_ms must be"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            list(client.events(**arguments))  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_async_client_follows_the_same_events_as_the_sync_client(
    client: IrisClient, cluster: RemoteClusterClient
) -> None:
    job_id = await asyncio.to_thread(launch, cluster, ["true"])
    async with AsyncIrisClient.remote(cluster.controller_address) as remote:
        followed: list[Event] = []
        stream = remote.events(job_id, follow=True)
        async for event in stream:
            followed.append(event)
            if event.name == "job.succeeded":
                break
        await stream.aclose()
    assert followed == await asyncio.to_thread(lambda: list(client.events(job_id)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_followers_and_webhooks_miss_and_repeat_nothing_across_killed_controllers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("events") / "state"
    with receiving() as receiver, standing_cluster(directory, webhooks=[receiver.url]) as cluster:
        seen: list[Event] = []
        handle = StreamHandle()
        with closing(cluster.client()) as client:

            def follow() -> None:
                try:
                    for event in client.watch_events(follow=True, patience_s=60, handle=handle):
                        seen.append(event)
                except IrisError:
                    if not handle.aborted:
                        raise

            reader = threading.Thread(target=follow, daemon=True)
            reader.start()
            jobs = []
            for _ in range(2):
                with cluster.client() as submitter:
                    jobs += [launch(submitter, ["true"], replicas=3) for _ in range(3)]
                    wait_for_end(submitter, jobs[-1])
                cluster.kill()
                cluster.start()
            with cluster.client() as submitter:
                for job_id in jobs:
                    wait_for_end(submitter, job_id)
                stored = list(submitter.watch_events())
                (webhook,) = wait_until(
                    lambda: [one for one in submitter.list_webhooks() if not one.num_waiting], "the deliveries"
                )
                assert webhook.url == f"http://127.0.0.1:{receiver.port}"
                text = (directory / "server.log").read_text()
            wait_until(lambda: seen and seen[-1].number >= stored[-1].number, "the follower to have all events")
            handle.abort()
            reader.join()
    numbers = [event.number for event in seen]
    assert numbers == list(range(1, numbers[-1] + 1))
    assert seen[: len(stored)] == stored
    ends = [event.cursor for event in stored if event.name == "job.succeeded"]
    assert sorted(event.job_id for event in stored if event.name == "job.succeeded") == sorted(jobs)
    # At least once: a place that was not stored before the kill is sent again, with the same id.
    assert list(dict.fromkeys(document["id"] for document in receiver.documents())) == ends
    assert "hidden" not in text
    assert (directory / "webhook.secret").stat().st_mode & 0o077 == 0
