"""What one user may have at the same time, and what is said to who wants more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.cluster import launch, wait_for_end
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.client import pickling
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import start_server
from iris.cluster.client.workspace_archive import MAX_WORKSPACE_BYTES
from iris.cluster.controller.api import endpoints as registry
from iris.cluster.controller.api.endpoints import Endpoints
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.quotas import Quota, QuotaUse
from iris.cluster.controller.submission.sizes import (
    MAX_BUNDLE_BYTES,
    MAX_ENTRYPOINT_BYTES,
    MAX_ERROR_CHARACTERS,
    Report,
    trim_report,
)
from iris.cluster.pickles.transfer_limits import MAX_RESULT_BYTES
from iris.config import ClusterConfig
from iris.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from iris.rpc import cluster_pb2
from iris.rpc.serving.open_streams import MAX_POSITIONS, OpenStreams
from iris.rpc.serving.steps import finish


@contextmanager
def limited(quota: Quota, store: Store | None = None) -> Iterator[RemoteClusterClient]:
    """A client of a controller with these limits, whose engine gives no room: jobs wait."""
    engine = FakeEngine()
    engine.granting = False
    with (
        serving(engine, store or Store(None), quota=quota) as running,
        RemoteClusterClient(running.address) as client,
    ):
        yield client


def test_quota_of_jobs_refuses_another_job_until_one_ends() -> None:
    with limited(Quota(jobs=2)) as client:
        first = launch(client, ["true"])
        launch(client, ["true"])
        with pytest.raises(ResourceExhaustedError) as caught:
            launch(client, ["true"])
        for words in ("user 'tests' has 2 unfinished jobs", "limit of 2", "iris kill", "--max-jobs-per-user"):
            assert words in str(caught.value)
        client.terminate_job(first)
        wait_for_end(client, first)
        launch(client, ["true"])


def test_repeated_submission_counts_once_for_the_quota() -> None:
    with limited(Quota(jobs=1)) as client:
        request = cluster_pb2.Controller.LaunchJobRequest(name="again", command=["true"], submission_id="1")
        assert [client.launch_job(request) for _ in range(3)] == ["again"] * 3


def test_quota_of_tasks_refuses_a_job_with_too_many_tasks() -> None:
    with limited(Quota(tasks=10)) as client:
        first = launch(client, ["true"], replicas=6)
        with pytest.raises(ResourceExhaustedError, match=r"6 unfinished tasks .* 5 more .*10.*--max-tasks-per-user"):
            launch(client, ["true"], replicas=5)
        launch(client, ["true"], replicas=4)
        client.terminate_job(first)
        wait_for_end(client, first)
        launch(client, ["true"], replicas=5)


def test_unfinished_jobs_count_for_the_quota_after_a_controller_restart(tmp_path: Path) -> None:
    with limited(Quota(jobs=2), Store(tmp_path / "db")) as client:
        ended, _ = launch(client, ["true"]), launch(client, ["true"])
        client.terminate_job(ended)
        wait_for_end(client, ended)
    with limited(Quota(jobs=2), Store(tmp_path / "db")) as client:
        launch(client, ["true"])
        with pytest.raises(ResourceExhaustedError):
            launch(client, ["true"])


def test_each_user_has_a_separate_quota() -> None:
    quotas = QuotaUse(Quota(jobs=1, tasks=5))
    quotas.check("ann", 5)
    quotas.add("ann", 5)
    quotas.check("bob", 5)
    with pytest.raises(ResourceExhaustedError, match="user 'ann' has 1 unfinished job,"):
        quotas.check("ann", 1)
    quotas.remove("ann", 5)
    quotas.check("ann", 5)
    with pytest.raises(ResourceExhaustedError, match="user 'ann' has 0 unfinished tasks"):
        quotas.check("ann", 6)


def test_quota_of_streams_refuses_another_stream() -> None:
    with limited(Quota(streams=2)) as client, ExitStack() as opened:
        job_id = launch(client, ["true"])
        watches = [opened.enter_context(_watching(client, job_id)) for _ in range(2)]
        with pytest.raises(ResourceExhaustedError, match=r"2 streams open.*limit is 2.*--max-streams-per-user"):
            next(client.watch_job(job_id))
        with pytest.raises(ResourceExhaustedError, match="2 streams open"):
            next(client.stream_task_logs(cluster_pb2.StreamTaskLogsRequest(job_id=job_id)))
        assert client.get_job_status(job_id).job_id == job_id  # other calls go on
        watches[0].set()
        wait_until(lambda: _can_watch(client, job_id), "a place for another stream")


@contextmanager
def _watching(client: RemoteClusterClient, job_id: str) -> Iterator[threading.Event]:
    """Watches a job until it is told to leave."""
    leave, seen = threading.Event(), threading.Event()

    def watch() -> None:
        watched = client.watch_job(job_id)
        next(watched)
        seen.set()
        leave.wait(60)
        watched.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=watch)
    thread.start()
    assert seen.wait(30)
    try:
        yield leave
    finally:
        leave.set()
        thread.join()


def _can_watch(client: RemoteClusterClient, job_id: str) -> bool:
    try:
        next(client.watch_job(job_id))
    except ResourceExhaustedError:
        return False
    return True


async def _forever() -> object:
    yield "first"
    yield "second"


@pytest.mark.parametrize(
    ("streams", "positions", "words"),
    [
        (OpenStreams(overall=1), 1, "this server has 1 streams open.*ulimit"),
        (OpenStreams(per_caller=1), 1, "user 'ann' has 1 streams"),
        (OpenStreams(per_caller=5, overall=3), 1, "user 'ann' has 1 streams.*raise 'ulimit -n'"),
        (OpenStreams(), MAX_POSITIONS + 1, "10,001 logs"),
    ],
)
def test_stream_counts_for_the_quota_until_it_ends(streams: OpenStreams, positions: int, words: str) -> None:
    async def main() -> None:
        first = streams.limited("ann", _forever())  # type: ignore[arg-type]
        assert await anext(first) == "first"
        with pytest.raises(ResourceExhaustedError, match=words):
            await anext(streams.limited("ann", _forever(), positions))  # type: ignore[arg-type]
        await first.aclose()
        if positions == 1:
            assert [message async for message in streams.limited("ann", _forever())] == ["first", "second"]  # type: ignore[arg-type]

    asyncio.run(main())


def test_caller_with_the_most_open_logs_does_not_block_other_callers() -> None:
    streams = OpenStreams(per_caller=100, overall=1000)

    async def main() -> None:
        opened = [streams.limited("ann", _forever(), MAX_POSITIONS) for _ in range(5)]  # type: ignore[arg-type]
        for one in opened:
            await anext(one)
        with pytest.raises(ResourceExhaustedError, match="user 'ann' reads 50,000 logs at once, and 1 more"):
            await anext(streams.limited("ann", _forever()))  # type: ignore[arg-type]
        opened.append(streams.limited("bob", _forever(), MAX_POSITIONS))  # type: ignore[arg-type]
        assert await anext(opened[-1]) == "first"
        await opened[0].aclose()
        opened.append(streams.limited("ann", _forever(), MAX_POSITIONS))  # type: ignore[arg-type]
        assert await anext(opened[-1]) == "first"
        for one in opened:
            await one.aclose()

    asyncio.run(main())


def endpoint(name: str, job_id: str = "j", **fields: object) -> cluster_pb2.Controller.RegisterEndpointRequest:
    return cluster_pb2.Controller.RegisterEndpointRequest(**{"address": "h:1", **fields}, name=name, job_id=job_id)  # type: ignore[arg-type]


def test_endpoint_with_an_invalid_name_or_address_or_too_much_metadata_is_refused() -> None:
    endpoints = Endpoints([], lambda endpoint_id, endpoint: None)
    endpoints.register(endpoint("a/b c", metadata={"key": "x" * 4000}))
    with pytest.raises(ResourceExhaustedError, match=r"'big' has 5,006 bytes .* limit of 4,096"):
        endpoints.register(endpoint("big", metadata={"key": "x" * 5000}))
    with pytest.raises(ResourceExhaustedError, match="limit of 200"):
        endpoints.register(endpoint("x" * 201))
    for name in ("", "a\nb", "\u202ea", " ", "\u3164"):
        with pytest.raises(InvalidArgumentError):
            endpoints.register(endpoint(name))
    for address in ("", "\x1b[31m", "h:1\n", " h:1", "h\u200b:1", "\u3164"):
        with pytest.raises(InvalidArgumentError, match="needs an address"):
            endpoints.register(endpoint("x", address=address))


def test_job_cannot_have_more_endpoints_than_its_limit() -> None:
    endpoints = Endpoints([], lambda endpoint_id, endpoint: None)
    registered = [endpoints.register(endpoint(f"e{number}")) for number in range(registry.MAX_ENDPOINTS_OF_JOB)]
    with pytest.raises(ResourceExhaustedError, match=r"20,000 endpoints of job 'j'.*unregister"):
        endpoints.register(endpoint("more"))
    endpoints.register(endpoint("e5", address="h:2"))  # one that moves is none more
    endpoints.register(endpoint("other", job_id="k"))
    assert len(finish(endpoints.list("e1999")).items) == 11
    endpoints.unregister(registered[0].endpoint_id)
    endpoints.register(endpoint("more"))
    endpoints.job_ended("j")
    assert [one.name for one in finish(endpoints.list("")).items] == ["other"]
    endpoints.register(endpoint("e0"))
    with pytest.raises(NotFoundError):
        endpoints.lookup("more")


def test_oldest_removed_endpoint_of_a_job_is_forgotten() -> None:
    kept: dict[str, cluster_pb2.Controller.Endpoint] = {}

    def changed(endpoint_id: str, made: cluster_pb2.Controller.Endpoint | None) -> None:
        kept.pop(endpoint_id, None)
        if made is not None:
            kept[endpoint_id] = made

    endpoints = Endpoints([], changed)
    ids = []
    for _ in range(3000):  # a service that comes and goes
        ids.append(endpoints.register(endpoint("service")).endpoint_id)
        endpoints.unregister(ids[-1])
    assert len(kept) == 1000
    again = Endpoints(kept.values(), changed)
    for one in (endpoints, again):
        one.unregister(ids[-1])  # the same again, after a lost reply
        with pytest.raises(NotFoundError):
            one.unregister(ids[0])
        assert one.job_ids() == {"j"}
    again.job_ended("j")
    assert kept == {}
    assert again.job_ids() == set()


def test_too_large_report_of_a_worker_is_shortened_and_accepted() -> None:
    report = Report(
        serialized_result=bytes(MAX_RESULT_BYTES + 1), error="x" * 10_000, state=cluster_pb2.TASK_STATE_FAILED
    )
    trim_report(report)
    assert not report.serialized_result
    assert "too large: 8,388,609 bytes" in report.result_error
    assert len(report.error) == MAX_ERROR_CHARACTERS + 1
    fine = Report(serialized_result=bytes(MAX_RESULT_BYTES), error="x")
    before = fine.SerializeToString()
    trim_report(fine)
    assert fine.SerializeToString() == before


def test_client_and_controller_have_the_same_size_limits() -> None:
    assert pickling.MAX_ENTRYPOINT_BYTES == MAX_ENTRYPOINT_BYTES
    assert MAX_BUNDLE_BYTES > MAX_WORKSPACE_BYTES


def test_server_options_set_the_quotas(tmp_path: Path) -> None:
    server = start_server(
        ClusterConfig(state_dir=tmp_path, port=0, max_jobs_per_user=3, max_tasks_per_user=2, max_streams_per_user=1),
        temporary=True,
        ends_with_us=True,
    )
    try:
        with RemoteClusterClient(server.address, token=server.token) as client:
            with pytest.raises(ResourceExhaustedError, match="limit of 2"):
                launch(client, ["true"], replicas=3)
            job_id = launch(client, ["sleep", "600"])
            with (
                _watching(client, job_id),
                pytest.raises(ResourceExhaustedError, match="limit is 1"),
            ):
                next(client.watch_job(job_id))
    finally:
        server.stop()
