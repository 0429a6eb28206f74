"""Which tokens a worker accepts, and how a worker is started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cluster import running_cluster
from support.tokens import controller_token, shared_key, token, worker_credentials
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.worker.controller_link.token_checker import TokenChecker
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import FailedPreconditionError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.tokens import SigningKey


def test_worker_credentials_are_read_from_a_file_or_a_pipe(tmp_path: Path) -> None:
    given = worker_credentials("w")
    path = tmp_path / "credentials"
    path.write_text(given.to_json())
    assert WorkerCredentials.read(str(path)) == given
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "w") as pipe:
        pipe.write(given.to_json())
    assert WorkerCredentials.read(f"/dev/fd/{ours}") == given
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
    assert given.token not in repr(given)


@pytest.mark.parametrize("content", ["", "nonsense", "[]", "{}", '{"token": "x", "token_key": "no hex"}'])
def test_invalid_worker_credentials_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(content)
    with pytest.raises(FailedPreconditionError, match="expected a JSON file with token and token_key"):
        WorkerCredentials.read(str(path))
    with pytest.raises(FailedPreconditionError, match="--credentials"):
        WorkerCredentials.read(str(tmp_path / "missing"))


def test_a_worker_accepts_only_tokens_of_its_own_controller() -> None:
    trust = TokenChecker("w", shared_key().public)
    assert trust.identify(controller_token("w")).role == "controller"
    with pytest.raises(PermissionDeniedError, match="for worker 'other', not for 'w'"):
        trust.identify(controller_token("other"))
    with pytest.raises(UnauthenticatedError, match="another cluster"):
        trust.identify(token("controller", worker_id="w", key=SigningKey.new()))


def test_token_of_the_controller_for_this_worker_process_does_not_expire() -> None:
    trust = TokenChecker("w", shared_key().public, "process-1")

    def shown(ttl_s: float, incarnation: str) -> str:
        return token("controller", ttl_s=ttl_s, worker_id="w", incarnation=incarnation)

    assert trust.identify(shown(-30 * 3600, "process-1")).role == "controller"
    for incarnation in ("process-0", ""):
        assert trust.identify(shown(600, incarnation)).role == "controller"
        with pytest.raises(UnauthenticatedError, match="has expired"):
            trust.identify(shown(-30 * 3600, incarnation))


def test_worker_refuses_a_second_public_key_of_a_controller() -> None:
    trust = TokenChecker("w")
    with pytest.raises(UnavailableError, match="does not know its controller's key yet"):
        trust.identify(controller_token("w"))
    trust.learn_key(shared_key().public)
    trust.learn_key(shared_key().public)
    trust.learn_key(b"")
    with pytest.raises(UnavailableError, match="does not match the key"):
        trust.learn_key(SigningKey.new().public)
    assert trust.identify(controller_token("w")).worker_id == "w"


def test_worker_refuses_a_revoked_token_of_a_caller() -> None:
    trust = TokenChecker("w", shared_key().public)
    shown = token("reader", name="ana", token_id="gone")
    known = trust.identify(shown)
    trust.learn_revoked(3, frozenset())
    trust.check(known)
    trust.learn_revoked(4, frozenset({"gone"}))
    with pytest.raises(UnauthenticatedError, match="was revoked"):
        trust.identify(shown)
    with pytest.raises(UnauthenticatedError, match="was revoked"):
        trust.check(known)
    assert trust.identify(token("reader")).expires_at_s > time.time()


def started(directory: Path, address: str, **env: str) -> subprocess.Popen[bytes]:
    """Start a worker by hand, with a token in its environment."""
    plain = {name: value for name, value in os.environ.items() if name != "IRIS_TOKEN"}
    with directory.with_suffix(".log").open("wb") as messages:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", "elsewhere"),
                *("--controller", address, "--directory", str(directory)),
            ],
            env=plain | env,
            stdout=messages,
            stderr=messages,
        )


def test_controller_refuses_a_worker_with_a_revoked_token(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as admin:
        made = admin.create_token("elsewhere", "worker")
        with started(tmp_path / "worker", server.address, IRIS_TOKEN=made.secret) as worker:
            try:
                wait_until(lambda: "elsewhere" in {known.worker_id for known in admin.list_workers()}, "the worker")
                admin.revoke_token(made.token.token_id)
                wait_until(lambda: "was revoked" in (tmp_path / "worker.log").read_text(), "its complaint")
            finally:
                worker.terminate()
        assert made.secret not in (tmp_path / "worker.log").read_text()


def test_error_of_a_worker_without_a_token_names_the_command_that_creates_a_token(tmp_path: Path) -> None:
    with started(tmp_path / "worker", "http://127.0.0.1:9") as worker:
        assert worker.wait(30) == 1
    assert "iris token create WORKER_ID --role worker" in (tmp_path / "worker.log").read_text()


def test_a_worker_without_tls_does_not_bind_to_all_addresses(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", "w", "--controller", "http://127.0.0.1:9"),
            *("--directory", str(tmp_path), "--host", "0.0.0.0"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--insecure-no-tls" in done.stderr
