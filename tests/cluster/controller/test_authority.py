"""The controller's books of tokens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from iris.cluster.controller.auth.authority import Authority
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import NotFoundError, UnauthenticatedError
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import CONTROLLER, TASK, WORKER, Caller
from iris.rpc.auth.tokens import WORKER_TTL_S, SigningKey, Verifier

KEY = SigningKey.new()


def authority(path: Path | None = None) -> Authority:
    return Authority(KEY, Store(path))


def make(books: Authority, name: str = "ana", role: str = "user", ttl_seconds: int = 3600) -> tuple[str, str]:
    request = cluster_pb2.Controller.CreateTokenRequest(name=name, role=role, ttl_seconds=ttl_seconds)
    token, secret = books.create_token(request)
    return token.token_id, secret


def test_a_tasks_token_is_good_for_as_long_as_its_attempt() -> None:
    books = authority()
    live = {("a/b", 1, 2)}
    books.is_live = lambda *attempt: attempt in live
    token = books.task_token("a/b", 1, 2)
    known = books.identify(token)
    assert (known.role, known.job_id, known.task_index, known.attempt_id, known.name) == (
        TASK,
        "a/b",
        1,
        2,
        "a/b/task-1",
    )
    for other in (("a/b", 1, 3), ("a/b", 0, 2), ("a", 1, 2)):
        with pytest.raises(UnauthenticatedError, match="has ended"):
            books.identify(books.task_token(*other))
    live.clear()
    with pytest.raises(UnauthenticatedError, match=r"attempt 2 of task 1 of job 'a/b'.*has ended"):
        books.identify(token)
    with pytest.raises(UnauthenticatedError):
        books.check(known)


def test_a_workers_token_is_renewed_when_half_of_its_time_is_over() -> None:
    books = authority()

    def left(seconds: float, **more: str) -> Caller:
        return Caller("w", more.get("role", WORKER), more.get("token_id", "x"), time.time() + seconds, worker_id="w")

    assert books.renewed(books.identify(books.worker_token("w"))) == ""
    assert books.renewed(left(WORKER_TTL_S / 2 + 60)) == ""
    renewed = books.identify(books.renewed(left(WORKER_TTL_S / 2 - 60)))
    assert (renewed.role, renewed.worker_id) == (WORKER, "w")
    assert books.renewed(left(10, role="admin")) == "", "who is let in as an admin stays that"
    token_id, _ = make(books, "w", WORKER)
    assert books.renewed(left(10, token_id=token_id)) == "", "what an admin made, an admin can take back"


def test_the_controllers_token_is_for_one_worker_and_used_for_a_while() -> None:
    books = authority()
    one = books.controller_token("w-1")
    known = books.verifier.verify(one)
    assert (known.role, known.worker_id) == (CONTROLLER, "w-1")
    assert known.expires_at_s - time.time() < 3600
    assert books.controller_token("w-1") == one
    assert books.verifier.verify(books.controller_token("w-2")).worker_id == "w-2"


def test_an_expired_worker_token_is_good_while_that_worker_is_live() -> None:
    books = authority()
    live: set[tuple[str, str]] = set()
    books.is_worker_live = lambda worker_id, incarnation: any(
        worker_id == known and incarnation in ("", process) for known, process in live
    )
    expired = KEY.sign(Caller("w", WORKER, "x", time.time() - 30 * 3600, worker_id="w"))
    with pytest.raises(UnauthenticatedError, match="has expired"):
        books.identify(expired)
    live.add(("w", "process-1"))
    known = books.identify(expired)
    books.check_process(known, "process-1")
    with pytest.raises(UnauthenticatedError, match="has expired"):
        books.check_process(known, "process-2")  # another process may not take its place by it
    assert books.identify(books.renewed(known)).worker_id == "w"
    made_by_a_person, _ = make(books, "w", WORKER)
    listed = Caller("w", WORKER, made_by_a_person, time.time() - 30 * 3600, worker_id="w")
    with pytest.raises(UnauthenticatedError, match="has expired"):
        books.identify(KEY.sign(listed))


def test_an_expired_task_token_is_good_while_its_attempt_is_live() -> None:
    books = authority()
    books.is_live = lambda *attempt: attempt == ("a", 0, 1)

    def expired(attempt_id: int) -> str:
        over_s = time.time() - 3600
        return KEY.sign(Caller("a/task-0", TASK, "x", over_s, job_id="a", task_index=0, attempt_id=attempt_id))

    assert books.identify(expired(1)).attempt_id == 1
    with pytest.raises(UnauthenticatedError, match="has ended"):
        books.identify(expired(0))


def test_tokens_made_before_the_clock_was_set_back_are_made_anew(tmp_path: Path) -> None:
    books = authority()
    ahead = Caller("w", WORKER, "x", time.time() + 40 * 86400, worker_id="w")
    assert books.renewed(ahead) != "", "its expiry is further away than that of any token of a worker"
    first = books.controller_token("w", "p")
    books._of_controller["w", "p"] = (time.time() + 3600, first)  # as made an hour ahead of now
    assert books.controller_token("w", "p") != first


def test_a_worker_is_told_of_revocations_once() -> None:
    books = authority()
    assert books.revocations(0) == (0, [])
    token_id, secret = make(books)
    books.identify(secret)
    books.revoke_token(token_id)
    first, revoked = books.revocations(0)
    assert revoked == [token_id]
    assert books.revocations(first) == (first, [])
    other, _ = make(books)
    books.revoke_token(other)
    second, revoked = books.revocations(first)
    assert revoked == [token_id, other], "all of them: what a worker had is replaced"
    assert books.revocations(7) == (second, revoked), "a worker of an earlier life, too"
    with pytest.raises(UnauthenticatedError, match="was revoked"):
        books.identify(secret)
    with pytest.raises(NotFoundError, match="no token with id"):
        books.revoke_token("nobody")


def test_a_worker_that_knows_of_a_revocation_which_was_not_kept_hears_of_the_next() -> None:
    store = Store(None)
    books = Authority(KEY, store)
    lost, _ = make(books)
    token_id, _ = make(books)
    books.changed = lambda token_id, stored: None  # killed before it was on the disk
    books.revoke_token(lost)
    known_to_worker, _ = books.revocations(0)
    again = Authority(KEY, store)
    again.revoke_token(token_id)
    assert again.revocations(known_to_worker)[1] == [token_id]


def test_what_was_made_and_revoked_is_remembered_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = Store(path)
    books = Authority(KEY, store)
    token_id, secret = make(books)
    kept_id, kept = make(books, "bob")
    books.revoke_token(token_id)
    store.close()
    assert secret.rpartition(".")[2].encode() not in path.read_bytes()
    again = authority(path)
    assert [(known.token_id, known.revoked_at_ms > 0) for known in again.list_tokens()] == [
        (token_id, True),
        (kept_id, False),
    ]
    assert again.revocations(0) == (books.revocations(0)[0], [token_id])
    assert again.identify(kept).name == "bob"


def test_tokens_that_expired_long_ago_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = Store(path)
    books = Authority(KEY, store)
    make(books, "old")
    kept, _ = make(books, "new")
    (old, *_) = store.load_tokens()
    old.token.expires_at_ms -= 30 * 86400 * 1000
    store.write(Changes().save_token(old))
    store.close()
    assert [known.token_id for known in authority(path).list_tokens()] == [kept]


def test_another_key_is_another_cluster() -> None:
    books = authority()
    _, secret = make(books)
    with pytest.raises(UnauthenticatedError, match="another cluster"):
        Verifier(SigningKey.new().public).verify(secret)
