"""Tests of the tokens that the controller creates, judges, renews and revokes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from iris.cluster.controller.auth.authority import Authority
from iris.cluster.controller.auth.cluster_tokens import ClusterTokens
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.storage.store import Changes, Store, StoredToken
from iris.errors import NotFoundError, UnauthenticatedError
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import CONTROLLER, TASK, WORKER, Caller
from iris.rpc.auth.tokens import WORKER_TTL_S, SigningKey, Verifier, worker_token

KEY = SigningKey.new()


TOKENS = ClusterTokens(KEY)


class Live:
    """The live attempts and worker processes, as a test sets them."""

    def __init__(self) -> None:
        self.attempts: set[tuple[str, int, int, int]] = set()
        self.workers: set[tuple[str, str]] = set()

    def is_attempt_live(self, job_id: str, task_index: int, attempt_id: int, submitted_at_ms: int) -> bool:
        return (job_id, task_index, attempt_id, submitted_at_ms) in self.attempts

    def is_worker_live(self, worker_id: str, incarnation: str) -> bool:
        return any(worker_id == known and incarnation in ("", process) for known, process in self.workers)


def authority(store: Store | None = None, live: Live | None = None, *, saves: bool = True) -> Authority:
    """Return an authority that saves its tokens in a store at once, or never."""
    store = store or Store(None)

    def save(token_id: str, stored: StoredToken | None) -> None:
        changes = Changes()
        store.write(changes.remove_token(token_id) if stored is None else changes.save_token(stored))

    return Authority(KEY, store.load_tokens(), save if saves else lambda token_id, stored: None, live or Live())


def make(books: Authority, name: str = "ana", role: str = "user", ttl_seconds: int = 3600) -> tuple[str, str]:
    request = cluster_pb2.Controller.CreateTokenRequest(name=name, role=role, ttl_seconds=ttl_seconds)
    token, secret = books.create_token(request)
    return token.token_id, secret


def test_token_of_an_attempt_is_valid_while_the_attempt_is_live() -> None:
    live = Live()
    live.attempts = {("a/b", 1, 2, 1000)}
    books = authority(live=live)
    token = TOKENS.task_token(Job.new("a/b", 2, 1000), 1, 2)
    known = books.identify(token)
    assert (known.role, known.job_id, known.task_index, known.attempt_id, known.name) == (
        TASK,
        "a/b",
        1,
        2,
        "a/b/task-1",
    )
    for job_id, submitted_at_ms, index, attempt_id in (
        ("a/b", 1000, 1, 3),
        ("a/b", 1000, 0, 2),
        ("a", 1000, 1, 2),
        ("a/b", 999, 1, 2),
    ):
        with pytest.raises(UnauthenticatedError, match="has ended"):
            books.identify(TOKENS.task_token(Job.new(job_id, 2, submitted_at_ms), index, attempt_id))
    live.attempts.clear()
    with pytest.raises(UnauthenticatedError, match=r"attempt 2 of task 1 of job 'a/b'.*has ended"):
        books.identify(token)
    with pytest.raises(UnauthenticatedError):
        books.check(known)


def test_token_of_a_worker_is_renewed_after_half_of_its_time() -> None:
    books = authority()

    def left(seconds: float, **more: str) -> Caller:
        return Caller("w", more.get("role", WORKER), more.get("token_id", "x"), time.time() + seconds, worker_id="w")

    assert books.renewed(books.identify(worker_token(KEY, "w"))) == ""
    assert books.renewed(left(WORKER_TTL_S / 2 + 60)) == ""
    renewed = books.identify(books.renewed(left(WORKER_TTL_S / 2 - 60)))
    assert (renewed.role, renewed.worker_id) == (WORKER, "w")
    assert books.renewed(left(10, role="admin")) == "", "a token with the role admin is not a worker's"
    token_id, _ = make(books, "w", WORKER)
    assert books.renewed(left(10, token_id=token_id)) == "", "otherwise the admin could not revoke it"


def test_controller_token_is_valid_for_one_worker_and_is_reused() -> None:
    books, tokens = authority(), ClusterTokens(KEY)
    one = tokens.controller_token("w-1")
    known = books.verifier.verify(one)
    assert (known.role, known.worker_id) == (CONTROLLER, "w-1")
    assert known.expires_at_s - time.time() < 3600
    assert tokens.controller_token("w-1") == one
    assert books.verifier.verify(tokens.controller_token("w-2")).worker_id == "w-2"


def test_expired_token_of_a_worker_is_valid_while_the_worker_is_live() -> None:
    live = Live()
    books = authority(live=live)
    expired = KEY.sign(Caller("w", WORKER, "x", time.time() - 30 * 3600, worker_id="w"))
    with pytest.raises(UnauthenticatedError, match="has expired"):
        books.identify(expired)
    live.workers.add(("w", "process-1"))
    known = books.identify(expired)
    books.check_process(known, "process-1")
    with pytest.raises(UnauthenticatedError, match="has expired"):
        books.check_process(known, "process-2")  # another process may not replace the live one with this token
    assert books.identify(books.renewed(known)).worker_id == "w"
    made_by_a_person, _ = make(books, "w", WORKER)
    listed = Caller("w", WORKER, made_by_a_person, time.time() - 30 * 3600, worker_id="w")
    with pytest.raises(UnauthenticatedError, match="has expired"):
        books.identify(KEY.sign(listed))


def test_expired_token_of_an_attempt_is_valid_while_the_attempt_is_live() -> None:
    live = Live()
    live.attempts = {("a", 0, 1, 0)}
    books = authority(live=live)

    def expired(attempt_id: int) -> str:
        over_s = time.time() - 3600
        return KEY.sign(Caller("a/task-0", TASK, "x", over_s, job_id="a", task_index=0, attempt_id=attempt_id))

    assert books.identify(expired(1)).attempt_id == 1
    with pytest.raises(UnauthenticatedError, match="has ended"):
        books.identify(expired(0))


def test_worker_token_with_an_expiry_too_far_in_the_future_is_renewed(tmp_path: Path) -> None:
    books, tokens = authority(), ClusterTokens(KEY)
    ahead = Caller("w", WORKER, "x", time.time() + 40 * 86400, worker_id="w")
    assert books.renewed(ahead) != "", "the expiry is later than that of any token that the cluster makes"
    first = tokens.controller_token("w", "p")
    tokens._of_controller["w", "p"] = (time.time() + 3600, first)  # as if made when the clock was one hour ahead
    assert tokens.controller_token("w", "p") != first


def test_list_of_revoked_tokens_is_sent_only_to_a_worker_whose_list_is_out_of_date() -> None:
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
    assert revoked == [token_id, other], "the list is complete, because the worker replaces its old list"
    assert books.revocations(7) == (second, revoked), "a number from an earlier controller process counts as unknown"
    with pytest.raises(UnauthenticatedError, match="was revoked"):
        books.identify(secret)
    with pytest.raises(NotFoundError, match="no token with id"):
        books.revoke_token("nobody")


def test_worker_gets_a_new_revocation_although_the_controller_has_lost_an_earlier_one() -> None:
    store = Store(None)
    books = authority(store)
    lost, _ = make(books)
    token_id, _ = make(books)
    killed = authority(store, saves=False)  # killed before the revocation was on the disk
    killed.revoke_token(lost)
    known_to_worker, _ = killed.revocations(0)
    again = authority(store)
    again.revoke_token(token_id)
    assert again.revocations(known_to_worker)[1] == [token_id]


def test_store_contains_created_and_revoked_tokens_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = Store(path)
    books = authority(store)
    token_id, secret = make(books)
    kept_id, kept = make(books, "bob")
    books.revoke_token(token_id)
    store.close()
    assert secret.rpartition(".")[2].encode() not in path.read_bytes()
    again = authority(Store(path))
    assert [(known.token_id, known.revoked_at_ms > 0) for known in again.list_tokens()] == [
        (token_id, True),
        (kept_id, False),
    ]
    assert again.revocations(0) == (books.revocations(0)[0], [token_id])
    assert again.identify(kept).name == "bob"


def test_long_expired_token_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = Store(path)
    books = authority(store)
    make(books, "old")
    kept, _ = make(books, "new")
    (old, *_) = store.load_tokens()
    old.token.expires_at_ms -= 30 * 86400 * 1000
    store.write(Changes().save_token(old))
    store.close()
    assert [known.token_id for known in authority(Store(path)).list_tokens()] == [kept]


def test_token_signed_with_another_key_is_refused() -> None:
    books = authority()
    _, secret = make(books)
    with pytest.raises(UnauthenticatedError, match="another cluster"):
        Verifier(SigningKey.new().public).verify(secret)
