"""Tokens: what is signed by the cluster's key is taken, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.waiting import wait_until

from iris.errors import DataLossError, FailedPreconditionError, IrisError, UnauthenticatedError
from iris.rpc.auth.caller import ADMIN, LEEWAY_S, TASK, USER, Caller
from iris.rpc.auth.tokens import SigningKey, Verifier, issuer_of, worker_token
from iris.system.files import read_secret, write_secret

KEY = SigningKey.new()
VERIFIER = Verifier(KEY.public)


def caller(ttl_s: float = 3600, **more: Any) -> Caller:
    return Caller("ana", more.pop("role", USER), secrets.token_hex(8), int(time.time() + ttl_s), **more)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {
        "iss": issuer_of(KEY.public),
        "jti": "id",
        "sub": "ana",
        "role": ADMIN,
        "iat": now,
        "exp": now + 3600,
    }
    return {name: value for name, value in (whole | changed).items() if value is not None}


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def is_good(token: str) -> bool:
    try:
        VERIFIER.verify(token)
    except UnauthenticatedError:
        return False
    return True


def refused(token: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        VERIFIER.verify(token)
    assert token not in str(caught.value) or len(token) < 3
    assert caught.value.__cause__ is None, "a cause would carry the token into a traceback"
    return str(caught.value)


@pytest.mark.parametrize(
    "known",
    [
        caller(),
        caller(role=TASK, job_id="a/b", task_index=3, attempt_id=0),
        caller(role="worker", worker_id="w"),
        Caller("näme with space", USER, "id", int(time.time()) + 86400),
    ],
)
def test_claims_of_a_signed_token_are_read_unchanged(known: Caller) -> None:
    assert VERIFIER.verify(KEY.sign(known)) == known
    assert VERIFIER.verify(KEY.sign(known)) == known, "and from memory"


def test_same_claims_always_give_the_same_token() -> None:
    known = caller()
    assert KEY.sign(known, 1000) == KEY.sign(known, 1000), "what is not stored can be made again"


def test_token_of_another_cluster_is_refused() -> None:
    text = refused(SigningKey.new().sign(caller()))
    assert "another cluster" in text
    assert "IRIS_TOKEN" in text
    assert "'Authorization: Bearer TOKEN'" in text


def test_token_signed_with_another_key_but_the_issuer_of_the_cluster_is_refused() -> None:
    token = jwt.encode(claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA")
    assert "damaged, or is not a token of Iris" in refused(token)


def test_token_without_a_signature_is_refused() -> None:
    refused(unsigned({"alg": "none", "typ": "JWT"}, claims()))
    refused(unsigned({"alg": "none", "typ": "JWT"}, claims(), b"x" * 64))


def test_token_signed_with_the_public_key_as_secret_is_refused() -> None:
    refused(jwt.encode(claims(), KEY.public, algorithm="HS256"))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_changed_token_is_refused(part: int) -> None:
    parts = KEY.sign(caller()).split(".")
    middle = len(parts[part]) // 2
    changed = "A" if parts[part][middle] != "A" else "B"
    parts[part] = parts[part][:middle] + changed + parts[part][middle + 1 :]
    refused(".".join(parts))


def test_token_with_a_changed_role_is_refused() -> None:
    head, _, signature = KEY.sign(caller()).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(role=ADMIN)).encode()).rstrip(b"=").decode()
    refused(f"{head}.{body}.{signature}")


@pytest.mark.parametrize("claim", ["iss", "jti", "sub", "role", "iat", "exp"])
def test_token_without_a_required_claim_is_refused(claim: str) -> None:
    refused(jwt.encode(claims(**{claim: None}), KEY._private, algorithm="EdDSA"))


@pytest.mark.parametrize("changed", [{"exp": "never"}, {"sub": 7}, {"job": "a"}, {"job": "a", "task": "x"}])
def test_token_with_an_invalid_claim_is_refused(changed: dict[str, Any]) -> None:
    refused(jwt.encode(claims(**changed), KEY._private, algorithm="EdDSA"))


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf", "task", "attempt"])
@pytest.mark.parametrize(
    "number", ["Infinity", "-Infinity", "NaN", "1e999", "9" * 400, "[[1]]", "{}", "true", '"x"', "null"]
)
def test_signed_token_with_an_unusual_number_is_refused_or_read(claim: str, number: str) -> None:
    body = json.dumps(claims(job="a", task=1, attempt=0) | {claim: "HERE"}).replace('"HERE"', number)
    token = jwt.PyJWS().encode(body.encode(), KEY._private, algorithm="EdDSA")
    if is_good(token):
        known = VERIFIER.verify(token)
        assert number in ("true", "9" * 400), "a number that Python can count with"
        assert claim != "exp"
        assert isinstance(known.expires_at_s, int)


@pytest.mark.parametrize("exp", ["Infinity", "1e999", "9" * 400, "1e300"])
def test_signed_token_that_never_expires_is_refused(exp: str) -> None:
    body = json.dumps(claims(exp="HERE")).replace('"HERE"', exp)
    refused(jwt.PyJWS().encode(body.encode(), KEY._private, algorithm="EdDSA"))


@pytest.mark.parametrize("part", [0, 1])
def test_deeply_nested_token_is_refused(part: int) -> None:
    parts = KEY.sign(caller()).split(".")
    parts[part] = base64.urlsafe_b64encode(b"[" * 2500).rstrip(b"=").decode()
    refused(".".join(parts))


def test_deeply_nested_signed_token_is_refused() -> None:
    refused(jwt.PyJWS().encode(b"[" * 2500, KEY._private, algorithm="EdDSA"))


def test_token_with_an_unknown_critical_extension_is_refused() -> None:
    token = jwt.encode(claims(), KEY._private, algorithm="EdDSA", headers={"crit": ["x"], "x": 1})
    refused(token)


@pytest.mark.parametrize("token", ["", "x", "a.b", "a.b.c", "....", "é", "\0", "x" * 5000, "Bearer x", "{}"])
def test_text_that_is_not_a_token_is_refused(token: str) -> None:
    refused(token)


def test_token_is_valid_shortly_after_its_expiry_because_clocks_differ() -> None:
    VERIFIER.verify(KEY.sign(caller(-LEEWAY_S + 10)))
    assert "has expired" in refused(KEY.sign(caller(-LEEWAY_S - 10)))


def test_token_made_before_the_clock_was_set_back_is_accepted() -> None:
    VERIFIER.verify(KEY.sign(caller(), time.time() + 3600))


def test_token_in_the_cache_of_checked_tokens_still_expires() -> None:
    token = KEY.sign(caller(-LEEWAY_S + 1.5))
    VERIFIER.verify(token)
    wait_until(lambda: not is_good(token), "the end of a token")
    assert "has expired" in refused(token)


def test_cache_of_tokens_is_bounded() -> None:
    verifier = Verifier(KEY.public)
    token = KEY.sign(caller())
    first = verifier.verify(token)
    for _ in range(4095):
        verifier.verify(KEY.sign(caller()))
    assert verifier.verify(token) is first, "it comes from the cache"
    verifier.verify(KEY.sign(caller()))
    assert verifier.verify(token) is not first


def test_token_of_a_worker_contains_the_worker_id() -> None:
    known = VERIFIER.verify(worker_token(KEY, "w-1"))
    assert (known.role, known.worker_id) == ("worker", "w-1")


# The key's file.


def test_server_key_file_is_reused_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = SigningKey.load_or_make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load_or_make(path).public == made.public
    assert os.listdir(tmp_path) == ["key"], "nothing is left beside it"
    Verifier(made.public).verify(SigningKey.load_or_make(path).sign(caller()))


def test_key_file_that_other_users_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    SigningKey.load_or_make(path)
    path.chmod(0o640)
    with pytest.raises(FailedPreconditionError, match=f"can be read by others.*chmod 600 {path}"):
        SigningKey.load_or_make(path)


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_invalid_key_file_is_refused(tmp_path: Path, content: str) -> None:
    write_secret(tmp_path / "key", content)
    with pytest.raises(DataLossError, match="does not contain a key"):
        SigningKey.load_or_make(tmp_path / "key")


def test_two_servers_that_start_at_once_use_the_same_key(tmp_path: Path) -> None:
    for round_ in range(20):
        path = tmp_path / f"key-{round_}"
        keys: list[bytes] = []

        def load(path: Path = path, keys: list[bytes] = keys) -> None:
            keys.append(SigningKey.load_or_make(path).public)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 4
        assert len(set(keys)) == 1


def test_text_of_a_server_key_does_not_contain_the_key() -> None:
    assert KEY._private.private_bytes_raw().hex() not in repr(KEY)
    assert "BEGIN" not in repr(KEY)


# Files with secrets.


def test_secret_file_is_written_whole_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert read_secret(path) is None
    assert write_secret(path, "first")
    assert not write_secret(path, "second", replace=False)
    assert read_secret(path) == "first"
    assert write_secret(path, "third")
    assert read_secret(path) == "third"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["secret"]


def test_secret_file_that_cannot_be_written_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(IrisError, match="cannot write"):
        write_secret(tmp_path / "missing" / "secret", "x")
