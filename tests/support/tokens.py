"""Provides one server key for all clusters of the tests, and tokens that the key has signed. conftest.py sets
`IRIS_TOKEN` to an admin's token, which all clients in the tests use."""

from __future__ import annotations

import os
import secrets
import time
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.rpc.auth.caller import ADMIN, CONTROLLER, Caller
from iris.rpc.auth.credentials import KEY_FILE
from iris.rpc.auth.tokens import SigningKey, worker_token
from iris.system.files import write_secret

KEY_VARIABLE = "IRIS_TEST_KEY"


def prepare_environment() -> None:
    """Create the key, and set the token that all clients in this process use by default."""
    os.environ[KEY_VARIABLE] = Ed25519PrivateKey.generate().private_bytes_raw().hex()
    shared_key.cache_clear()
    os.environ["IRIS_TOKEN"] = token()


@cache
def shared_key() -> SigningKey:
    """Return the key of all clusters of the tests."""
    return SigningKey(_private_key())


def keep_key(directory: Path) -> None:
    """Write the key of the tests into a state directory, so that its cluster uses this key."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = _private_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(directory / KEY_FILE, pem.decode(), replace=False)


def token(
    role: str = ADMIN, *, name: str = "tests", ttl_s: float = 86400.0, key: SigningKey | None = None, **more: Any
) -> str:
    """Return a token. `more` contains further fields of `Caller`, such as job_id and task_index."""
    caller = Caller(name, role, more.pop("token_id", secrets.token_hex(8)), time.time() + ttl_s, **more)
    return (key or shared_key()).sign(caller)


def controller_token(worker_id: str) -> str:
    """Return a token of the controller for a worker."""
    return token(CONTROLLER, worker_id=worker_id)


def worker_credentials(worker_id: str) -> WorkerCredentials:
    """Return the credentials for a worker of the tests."""
    return WorkerCredentials(worker_token(shared_key(), worker_id), shared_key().public)


def keep_credentials(path: Path, worker_id: str) -> Path:
    """Write the credentials for a worker into a file, and return the path."""
    write_secret(path, worker_credentials(worker_id).to_json())
    return path


def _private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(os.environ[KEY_VARIABLE]))
