"""Web sessions and the codes of sign-in links: who may use them, when they end, and what is on the disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from iris.cluster.controller.auth import web_sessions
from iris.cluster.controller.auth.web_sessions import MAX_SESSION_S, MAX_SESSIONS_PER_TOKEN, WebSession, WebSessions
from iris.errors import UnauthenticatedError
from iris.reasons import ErrorReason
from iris.rpc.auth.caller import USER, Caller

ANA = Caller("ana", USER, "token-of-ana", time.time() + 3600)
BOB = Caller("bob", USER, "token-of-bob", time.time() + 3600)


def opened(sessions: WebSessions, caller: Caller = ANA, **more: Any) -> tuple[WebSession, str]:
    return sessions.open(caller, origin="http://localhost:1", page_path="/", uid=None, **more)


def saved(sessions: WebSessions) -> None:
    asyncio.run(sessions.save())


def test_web_session_is_found_by_its_id_and_its_secret_together() -> None:
    sessions = WebSessions(None, "key")
    ana, secret = opened(sessions)
    bob, other = opened(sessions, BOB)
    assert sessions.find(ana.session_id, ("tossed in", secret)).caller.name == "ana"
    assert ana.caller.session_id == ana.session_id
    for session_id, sent in [(ana.session_id, other), (bob.session_id, secret), ("", secret), (ana.session_id, "")]:
        with pytest.raises(UnauthenticatedError) as caught:
            sessions.find(session_id, (sent,))
        assert caught.value.reason == ErrorReason.SESSION_ENDED
    with pytest.raises(UnauthenticatedError):
        sessions.find(ana.session_id, ())


def test_web_session_ends_with_its_token_but_at_the_latest_after_thirty_days() -> None:
    sessions = WebSessions(None, "key")
    assert opened(sessions)[0].expires_at_s == ANA.expires_at_s
    session, _ = opened(sessions, Caller("ana", USER, "x", time.time() + 10 * MAX_SESSION_S))
    assert session.expires_at_s <= time.time() + MAX_SESSION_S
    expired, _ = opened(sessions, Caller("ana", USER, "x", time.time() - 1))
    assert not sessions.is_open(expired.session_id)


def test_revoked_token_ends_its_web_sessions_and_sign_in_codes() -> None:
    sessions = WebSessions(None, "key")
    ana, _ = opened(sessions)
    bob, _ = opened(sessions, BOB)
    code, _ = sessions.create_code(ANA, None)
    sessions.end_of_token("token-of-ana")
    assert (sessions.is_open(ana.session_id), sessions.is_open(bob.session_id)) == (False, True)
    with pytest.raises(UnauthenticatedError):
        sessions.holder_of_code(code, "", None)


def test_sign_in_code_is_used_once_and_repeated_only_by_the_same_request() -> None:
    sessions = WebSessions(None, "key")
    code, _ = sessions.create_code(ANA, None)
    assert sessions.holder_of_code(code, "r", None) == ANA
    first, secret = opened(sessions, code=code, request_id="r")
    for request_id in ("other", ""):
        with pytest.raises(UnauthenticatedError, match="already used") as caught:
            sessions.holder_of_code(code, request_id, None)
        assert caught.value.reason == ErrorReason.SIGN_IN_CODE_INVALID
    assert sessions.holder_of_code(code, "r", None) == ANA
    again, new_secret = opened(sessions, code=code, request_id="r")
    assert again.session_id == first.session_id
    assert sessions.find(first.session_id, (new_secret,))
    with pytest.raises(UnauthenticatedError):
        sessions.find(first.session_id, (secret,))


def test_sign_in_code_used_without_a_request_id_is_never_accepted_again() -> None:
    sessions = WebSessions(None, "key")
    code, _ = sessions.create_code(ANA, None)
    opened(sessions, code=code)
    with pytest.raises(UnauthenticatedError, match="already used"):
        sessions.holder_of_code(code, "", None)


def test_sign_in_code_expires_no_later_than_the_token_of_its_maker() -> None:
    sessions = WebSessions(None, "key")
    soon = Caller("ana", USER, "x", time.time() + 1)
    assert sessions.create_code(soon, None)[1] == soon.expires_at_s
    code, expires_at_s = sessions.create_code(Caller("ana", USER, "x", time.time() - 1), None)
    assert expires_at_s < time.time()
    with pytest.raises(UnauthenticatedError, match="expired"):
        sessions.holder_of_code(code, "", None)
    assert sessions.create_code(ANA, None)[1] <= time.time() + web_sessions.CODE_S


@pytest.mark.parametrize(("uid", "is_accepted"), [(1000, True), (0, True), (1001, False), (None, False)])
def test_sign_in_code_made_on_this_machine_is_refused_for_another_user(uid: int | None, is_accepted: bool) -> None:
    sessions = WebSessions(None, "key")
    code, _ = sessions.create_code(ANA, 1000)
    if is_accepted:
        assert sessions.holder_of_code(code, "", uid) == ANA
    else:
        with pytest.raises(UnauthenticatedError, match="works only for the user"):
            sessions.holder_of_code(code, "", uid)


def test_web_sessions_and_links_of_another_token_with_the_same_name_and_role_stay_valid() -> None:
    sessions = WebSessions(None, "key")
    other = Caller(ANA.name, ANA.role, "another-token", ANA.expires_at_s)
    session, secret = opened(sessions, other)
    code, _ = sessions.create_code(other, None)
    for _ in range(MAX_SESSIONS_PER_TOKEN + 5):
        sessions.create_code(ANA, None)
        opened(sessions)
    assert sessions.find(session.session_id, (secret,)) == session
    assert sessions.holder_of_code(code, "", None) == other


def test_repeated_request_to_sign_in_ends_no_web_session() -> None:
    sessions = WebSessions(None, "key")
    code, _ = sessions.create_code(ANA, None)
    first = [opened(sessions)[0] for _ in range(MAX_SESSIONS_PER_TOKEN - 1)]
    for _ in range(3):
        opened(sessions, code=code, request_id="one")
    assert all(sessions.is_open(session.session_id) for session in first)


def test_token_with_too_many_web_sessions_loses_the_oldest_session() -> None:
    sessions = WebSessions(None, "key")
    bob, _ = opened(sessions, BOB)
    all_of_ana = [opened(sessions)[0] for _ in range(MAX_SESSIONS_PER_TOKEN + 1)]
    open_ones = [sessions.is_open(session.session_id) for session in all_of_ana]
    assert open_ones == [False] + [True] * MAX_SESSIONS_PER_TOKEN
    assert sessions.is_open(bob.session_id)


def test_web_sessions_survive_a_restart_and_their_file_contains_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "web-sessions"
    sessions = WebSessions(path, "key")
    session, secret = opened(sessions)
    ended, _ = opened(sessions)
    sessions.end(ended.session_id)
    saved(sessions)
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    restarted = WebSessions(path, "key")
    assert restarted.find(session.session_id, (secret,)) == session
    assert not restarted.is_open(ended.session_id)
    assert not WebSessions(path, "another key").is_open(session.session_id), "its token is not valid any more"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"issuer": "key", "sessions": [{}]}', '{"issuer": "key"}'])
def test_damaged_file_of_web_sessions_means_that_nobody_is_signed_in(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web-sessions"
    path.touch(mode=0o600)
    path.write_text(text)
    sessions = WebSessions(path, "key")
    session, secret = opened(sessions)
    assert sessions.find(session.session_id, (secret,)) == session
