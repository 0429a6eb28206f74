"""The admin token in the file stays valid while the cluster is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support.waiting import wait_until

from iris.cluster.controller.auth.admin_token import AdminToken
from iris.cluster.controller.auth.authority import Authority
from iris.errors import UnauthenticatedError
from iris.rpc.auth.tokens import SigningKey

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


class NothingLives:
    """A cluster without attempts and workers."""

    def is_attempt_live(self, job_id: str, task_index: int, attempt_id: int, submitted_at_ms: int) -> bool:
        return False

    def is_worker_live(self, worker_id: str, incarnation: str) -> bool:
        return False


async def test_revoked_admin_token_is_replaced_once_its_file_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    books = Authority(SigningKey.new(), (), lambda token_id, stored: None, NothingLives())
    state = tmp_path / "state"
    state.mkdir()
    path = state / "token"
    admin = AdminToken(books, path, retry_s=0.01)
    first = path.read_text().strip()
    assert books.identify(first).role == "admin"
    renewing = asyncio.create_task(admin.renew())
    await asyncio.sleep(0)
    state.rename(tmp_path / "aside")  # nothing can be written there
    books.revoke_token(books.list_tokens()[0].token_id)
    await until(lambda: caplog.text.count("cannot be renewed") > 2, "some tries")
    assert len(books.list_tokens()) == 2, "only one token is created, however often the write fails"
    books.revoke_token(books.list_tokens()[1].token_id)
    (tmp_path / "aside").rename(state)
    await until(lambda: admin.secret != first, "another")
    second = path.read_text().strip()
    assert second == admin.secret
    assert books.identify(second).role == "admin", "the token that was revoked before it was written is not used"
    with pytest.raises(UnauthenticatedError):
        books.identify(first)
    renewing.cancel()
    await asyncio.wait([renewing])
