"""Tokens at the client: where they come from, and what becomes of them when their time is over, also in mid-follow."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from support.cluster import launch, running_cluster, shell, unique, wait_for_end, wait_for_state
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.running_cluster import identify_process, record_path
from iris.cluster.client.server_process import LocalServer
from iris.errors import FailedPreconditionError, InvalidArgumentError, UnauthenticatedError
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import LEEWAY_S
from iris.rpc.auth.credentials import TOKEN_FILE

Route = Literal["auto", "worker", "controller"]
routes = pytest.mark.parametrize("route", ["auto", "worker", "controller"])


def short(ttl_s: float = 1.0, role: str = "user") -> str:
    """A token that is let in for so many more seconds."""
    return token(role, ttl_s=ttl_s + 1 - LEEWAY_S)  # times are whole seconds, so it may be a second less


class Source:
    """Gives out short tokens, and counts them."""

    def __init__(self, ttl_s: float = 1.0) -> None:
        self.asked = 0
        self._ttl_s = ttl_s

    def __call__(self) -> str:
        self.asked += 1
        return short(self._ttl_s)


def counting(lines: int) -> list[str]:
    return shell(f"for i in $(seq {lines}); do echo line $i; sleep 0.1; done")


# Through the end of a token.


@routes
def test_following_a_log_continues_with_the_next_token(shared_cluster: LocalServer, route: Route) -> None:
    source = Source()
    told: list[str] = []
    with IrisClient.remote(shared_cluster.address, token=source) as client:
        job = client.run(counting(45))
        stream = client.stream_task_logs(job.job_id, 0, route=route, on_notice=told.append)
        assert [line.message for line in stream] == [f"line {i}" for i in range(1, 46)]
        assert stream.ends[0].exit_code == 0
    assert source.asked >= 3, "each is good for a second or two"
    assert told == [], "it is nothing to tell"


def test_following_the_logs_of_all_tasks_continues_with_the_next_token(shared_cluster: LocalServer) -> None:
    source = Source()
    with IrisClient.remote(shared_cluster.address, token=source) as client:
        job = client.run(counting(30), replicas=3)
        lines: dict[int, list[str]] = {}
        for line in client.stream_job_logs(job.job_id):
            lines.setdefault(line.task_index, []).append(line.message)
        expected = [f"line {i}" for i in range(1, 31)]
        assert lines == {0: expected, 1: expected, 2: expected}
        assert job.wait().state == cluster_pb2.JOB_STATE_SUCCEEDED
    assert source.asked >= 2


def test_wait_for_a_job_continues_with_the_next_token(shared_cluster: LocalServer) -> None:
    source = Source()
    with IrisClient.remote(shared_cluster.address, token=source) as client:
        job = client.run(["sleep", "3"])
        assert client.wait(job.job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED
    assert source.asked >= 2


def test_call_with_refused_token_is_repeated_with_the_next_token(shared_cluster: LocalServer) -> None:
    given = iter([short(-5), token("reader", ttl_s=-100), token("reader")])
    with RemoteClusterClient(shared_cluster.address, token=lambda: next(given)) as client:
        assert client.list_jobs() is not None
        assert client.list_endpoints() is not None, "and kept for the next one"
    assert next(given, None) is None


def test_calls_of_several_threads_succeed_with_a_new_token_after_the_old_token_is_refused(
    shared_cluster: LocalServer,
) -> None:
    current = [token("reader", ttl_s=-100)]
    answers: list[int] = []

    def ask() -> None:
        answers.append(len(client.lookup_endpoint(name).address))

    name = unique("endpoint")
    with (
        RemoteClusterClient(shared_cluster.address) as admin,
        RemoteClusterClient(shared_cluster.address, token=lambda: current[0]) as client,
    ):
        with pytest.raises(UnauthenticatedError, match="has expired"):
            client.list_jobs()
        current[0] = token("reader")
        admin.register_endpoint(name, "h:1", "", {})
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [3] * 8


@routes
def test_expired_fixed_token_ends_the_following_of_a_log(shared_cluster: LocalServer, route: Route) -> None:
    with IrisClient.remote(shared_cluster.address) as admin:
        job = admin.run(shell("echo first; sleep 1000"))
        wait_until(lambda: list(job.logs()), "the first line")  # The start of the task may take longer than the token.
        with IrisClient.remote(shared_cluster.address, token=short(4.0)) as client:
            stream = client.stream_task_logs(job.job_id, 0, route=route)
            assert next(stream).message == "first"
            with pytest.raises(UnauthenticatedError, match=r"has expired; set IRIS_TOKEN"):
                next(stream)
        job.terminate()
        job.wait(raise_on_failure=False)


@routes
def test_revoked_token_ends_the_following_of_a_log(shared_cluster: LocalServer, route: Route) -> None:
    with IrisClient.remote(shared_cluster.address) as admin:
        job = admin.run(shell("echo first; sleep 1000"))
        made = admin.cluster.create_token("ana", "reader")
        with IrisClient.remote(shared_cluster.address, token=made.secret) as ana:
            stream = ana.stream_task_logs(job.job_id, 0, route=route)
            assert next(stream).message == "first"
            revoker = threading.Thread(target=lambda: admin.cluster.revoke_token(made.token.token_id))
            revoker.start()
            with pytest.raises(UnauthenticatedError, match=f"token {made.token.token_id} of 'ana' was revoked"):
                next(stream)
            revoker.join()
            with pytest.raises(UnauthenticatedError, match="was revoked"):
                ana.list_jobs()
        job.terminate()
        job.wait(raise_on_failure=False)


def test_worker_refuses_a_token_that_was_revoked(shared_cluster: LocalServer) -> None:
    with RemoteClusterClient(shared_cluster.address) as admin:
        job_id = launch(admin, shell("echo line"))
        task = wait_for_end(admin, job_id).tasks[0]
        made = admin.create_token("ana", "reader")
        with RemoteClusterClient(shared_cluster.address, token=made.secret) as ana:
            request = cluster_pb2.StreamTaskLogsRequest(job_id=job_id)
            request.positions.add(task_index=0, attempt_id=0)
            place = (task.worker_id, task.worker_address)
            assert any(message.chunks for message in ana.stream_task_logs(request, place))
            admin.revoke_token(made.token.token_id)

            def is_refused() -> bool:
                try:
                    list(ana.stream_task_logs(request, place))
                except UnauthenticatedError as error:
                    return "was revoked" in str(error)
                return False

            wait_until(is_refused, "the worker's next report")


# What a source gives.


@pytest.mark.parametrize("given", ["", " ", "two words", "line\nbreak", "é", None, 7, b"bytes"])
def test_token_function_that_returns_no_token_is_an_error(shared_cluster: LocalServer, given: object) -> None:
    with RemoteClusterClient(shared_cluster.address, token=lambda: given) as client:  # type: ignore[arg-type,return-value]
        with pytest.raises((InvalidArgumentError, UnauthenticatedError)) as caught:
            client.list_jobs()
        assert "token" in str(caught.value)


def test_token_function_that_raises_is_an_error(shared_cluster: LocalServer) -> None:
    def source() -> str:
        raise RuntimeError("the vault is closed")

    with RemoteClusterClient(shared_cluster.address, token=source) as client:
        with pytest.raises(
            UnauthenticatedError, match="returned no token, but raised RuntimeError: the vault is closed"
        ):
            client.list_jobs()
        with pytest.raises(UnauthenticatedError, match="the vault is closed"):
            list(client.watch_job("x"))


def test_token_function_that_returns_only_refused_tokens_is_not_called_forever(shared_cluster: LocalServer) -> None:
    asked: list[str] = []

    def source() -> str:
        asked.append(token(ttl_s=-100))
        return asked[-1]

    with RemoteClusterClient(shared_cluster.address, token=source) as client:
        with pytest.raises(UnauthenticatedError, match="has expired"):
            client.list_jobs()
        with pytest.raises(UnauthenticatedError, match="has expired"):
            list(client.watch_job("x"))
    assert len(asked) < 20


def test_newline_at_the_end_of_a_token_is_removed(shared_cluster: LocalServer) -> None:
    with RemoteClusterClient(shared_cluster.address, token=f"{token()}\n") as client:
        assert client.list_jobs() is not None


def test_repr_of_a_client_does_not_contain_its_token(shared_cluster: LocalServer) -> None:
    with RemoteClusterClient(shared_cluster.address, token="secret-word") as client:
        assert "secret-word" not in repr(client) + repr(vars(client))
        with pytest.raises(UnauthenticatedError) as caught:
            client.list_jobs()
    assert "secret-word" not in str(caught.value)


# Which is taken: the argument, the variable, the file of `iris up`.


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A cluster that looks as one of `iris up`, and an environment without a token."""
    monkeypatch.delenv("IRIS_TOKEN")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    state_dir = tmp_path / "home" / "iris"
    with running_cluster(state_dir) as server:
        record(server, state_dir)
        yield server


def record(server: LocalServer, state_dir: Path, **changed: object) -> None:
    known = {
        "address": server.address,
        "host": "127.0.0.1",
        "pid": server.process.pid,
        "process": identify_process(server.process.pid),
        "state_dir": str(state_dir),
    }
    record_path().write_text(json.dumps(known | changed))


def refuses(address: str) -> str:
    with RemoteClusterClient(address) as client, pytest.raises(UnauthenticatedError) as caught:
        client.list_jobs()
    return str(caught.value)


def test_client_finds_the_token_file_of_iris_up(
    up: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "home" / "iris" / TOKEN_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    with RemoteClusterClient(up.address) as client:
        assert client.list_jobs() == []
        assert client.token() == path.read_text().strip()
    with RemoteClusterClient(up.address.replace("127.0.0.1", "localhost")) as client:
        assert client.list_jobs() == []
    # Another cluster gets to see nothing of it.
    monkeypatch.setenv("IRIS_TOKEN", token(ttl_s=-100))
    assert "has expired" in refuses(up.address), "the variable comes first"
    with RemoteClusterClient(up.address, token=token("reader")) as client:
        assert client.list_jobs() == [], "and the argument before it"


def test_token_file_that_other_users_can_read_is_not_used(up: LocalServer, tmp_path: Path) -> None:
    path = tmp_path / "home" / "iris" / TOKEN_FILE
    path.chmod(0o644)
    with (
        RemoteClusterClient(up.address) as client,
        pytest.raises(FailedPreconditionError, match=f"{path} can be read by others"),
    ):
        client.list_jobs()


@pytest.mark.parametrize(
    "changed", [{"process": "another"}, {"pid": os.getpid()}, {"address": "http://127.0.0.1:1"}, {"process": ""}]
)
def test_token_of_iris_up_is_not_sent_to_another_users_process(
    up: LocalServer, tmp_path: Path, changed: dict[str, object]
) -> None:
    record(up, tmp_path / "home" / "iris", **changed)
    assert "needs a token" in refuses(up.address)


def test_client_uses_the_new_token_file_after_a_restart(
    up: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "home" / "iris" / TOKEN_FILE
    with RemoteClusterClient(up.address) as client:
        before = path.read_text()
        (own,) = client.list_tokens()
        assert (own.role, own.revoked_at_ms) == ("admin", 0)
        # What was in the file is of no use any more to who has copied it; who reads it is let in.
        client.revoke_token(own.token_id)
        wait_until(lambda: path.read_text() != before, "a new token in the file")
        assert client.list_jobs() == []
        assert [known.revoked_at_ms > 0 for known in client.list_tokens()] == [True, False]
    with RemoteClusterClient(up.address, token=before.strip()) as thief, pytest.raises(UnauthenticatedError):
        thief.list_jobs()


def test_local_cluster_requires_a_token() -> None:
    with IrisClient.local() as client:
        assert client.list_jobs() == []
        address = client.cluster.controller_address
        for stranger in (token(), "x"):
            with RemoteClusterClient(address, token=stranger) as other, pytest.raises(UnauthenticatedError):
                other.list_jobs()


# Tokens that admins make.


@pytest.fixture
def admin(shared_cluster: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(shared_cluster.address) as client:
        yield client


def test_tokens_are_created_listed_and_revoked(admin: RemoteClusterClient) -> None:
    name = unique("ana")
    made = admin.create_token(name, "user", ttl_seconds=3600)
    assert made.token.expires_at_ms - made.token.created_at_ms == 3_600_000
    assert abs(made.token.created_at_ms / 1000 - time.time()) < 60
    with RemoteClusterClient(admin.controller_address, token=made.secret) as ana:
        ana.list_jobs()
        (listed,) = [known for known in admin.list_tokens() if known.name == name]
        assert listed == made.token
        assert made.secret not in str(admin.list_tokens())
        admin.revoke_token(listed.token_id)
        admin.revoke_token(listed.token_id)
        with pytest.raises(UnauthenticatedError, match="was revoked"):
            ana.list_jobs()
    (listed,) = [known for known in admin.list_tokens() if known.name == name]
    assert listed.revoked_at_ms > 0


def test_repeated_create_token_request_returns_the_same_token(admin: RemoteClusterClient) -> None:
    request_id = unique("request")
    first = admin.create_token("ana", "user", request_id=request_id)
    assert admin.create_token("ana", "user", request_id=request_id) == first
    assert admin.create_token("ana", "user", request_id=unique("other")).token.token_id != first.token.token_id
    with pytest.raises(InvalidArgumentError, match="has already created another token"):
        admin.create_token("bob", "user", request_id=request_id)


@pytest.mark.parametrize(
    ("name", "role", "ttl_seconds", "words"),
    [
        ("", "user", 0, "must not be empty"),
        ("a\nb", "user", 0, "control character"),
        ("\u3164", "user", 0, "HANGUL FILLER"),
        ("x" * 201, "user", 0, "over the limit of 200"),
        ("ana", "", 0, "not empty"),
        ("ana", "task", 0, "role must be one of"),
        ("ana", "controller", 0, "role must be one of"),
        ("ana", "root", 0, "role must be one of"),
        ("ana", "user", -1, "ttl_seconds must be"),
        ("ana", "user", 2**40, "ttl_seconds must be a whole number from 0 to 316224000"),
    ],
)
def test_create_token_with_invalid_arguments_is_refused(
    admin: RemoteClusterClient, name: str, role: str, ttl_seconds: int, words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        admin.create_token(name, role, ttl_seconds=ttl_seconds)


def test_tokens_and_revocations_survive_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    with running_cluster(directory) as server, RemoteClusterClient(server.address) as admin:
        good = admin.create_token("good", "reader", request_id="one")
        bad = admin.create_token("bad", "reader")
        admin.revoke_token(bad.token.token_id)
        job_id = launch(admin, shell("true"))
        wait_for_end(admin, job_id)
    with running_cluster(directory) as server, RemoteClusterClient(server.address) as admin:
        with RemoteClusterClient(server.address, token=good.secret) as reader:
            assert [job.owner for job in reader.list_jobs()] == ["tests"]
        with RemoteClusterClient(server.address, token=bad.secret) as reader, pytest.raises(UnauthenticatedError):
            reader.list_jobs()
        assert admin.create_token("good", "reader", request_id="one") == good
        wait_until(admin.list_workers, "the worker")
        task = admin.get_job_status(job_id).tasks[0]
        # The worker of this life hears of it as well.
        with RemoteClusterClient(server.address, token=bad.secret) as reader:
            request = cluster_pb2.StreamTaskLogsRequest(job_id=job_id, positions=[cluster_pb2.LogPosition()])
            place = (task.worker_id, task.worker_address)

            def is_refused() -> bool:
                try:
                    list(reader.stream_task_logs(request, place))
                except UnauthenticatedError as error:
                    return "was revoked" in str(error)
                return False

            wait_until(is_refused, "the worker's first report")


# Inside of a task.


def test_each_task_has_a_separate_token(client: IrisClient, tmp_path: Path) -> None:
    def work() -> list[str]:
        import os

        from iris.client import IrisClient
        from iris.cluster.types import get_job_info
        from iris.errors import PermissionDeniedError

        info = get_job_info()
        assert info is not None
        got = []
        with IrisClient.remote() as inside:
            child = inside.run(["sh", "-c", "echo from the child"], name="child")
            got += [line.message for line in child.logs(follow=True)]
            got.append(str(child.wait().state))
            inside.register_endpoint(f"{info.job_id}-e", "h:1", {})
            for forbidden in (inside.list_jobs, lambda: inside.status("nobody's"), inside.cluster.list_tokens):
                try:
                    forbidden()
                except PermissionDeniedError:
                    got.append("denied")
        got.append(str(os.environ["IRIS_TOKEN"].count(".")))
        return got

    job = client.run(work, env={"IRIS_TOKEN": "the users own", "OTHER": "x"})
    assert job.results(timeout=60) == [["from the child", "4", "denied", "denied", "denied", "2"]]


def test_token_of_a_task_has_fewer_rights_than_its_user(client: IrisClient, tmp_path: Path) -> None:
    out = tmp_path / "token"
    job = client.run(shell(f'printf %s "$IRIS_TOKEN" > {out}; sleep 1000'))
    wait_for_state(client.cluster, job.job_id, cluster_pb2.JOB_STATE_RUNNING)
    own = wait_until(lambda: out.exists() and out.read_text(), "the task's token")
    assert own != os.environ["IRIS_TOKEN"]
    with RemoteClusterClient(client.cluster.controller_address, token=own) as task:
        assert task.get_job_status(job.job_id).job_id == job.job_id
        client.terminate(job.job_id)
        client.wait(job.job_id)
        with pytest.raises(UnauthenticatedError, match="has ended"):
            task.get_job_status(job.job_id)


def test_token_function_may_be_any_callable(shared_cluster: LocalServer) -> None:
    source: Callable[[], str] = token
    with IrisClient.remote(shared_cluster.address, token=source) as client:
        assert client.list_jobs() is not None
