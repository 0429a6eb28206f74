"""One key for all clusters that tests start, and tokens that it has signed: a client of the tests needs no more than
`IRIS_TOKEN`, which conftest.py sets to an admin's, and its processes inherit it."""

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
    """Makes the key, and the token that everything in this process calls with by default."""
    os.environ[KEY_VARIABLE] = Ed25519PrivateKey.generate().private_bytes_raw().hex()
    shared_key.cache_clear()
    os.environ["IRIS_TOKEN"] = token()


@cache
def shared_key() -> SigningKey:
    """The key of all clusters of the tests."""
    return SigningKey(_private_key())


def keep_key(directory: Path) -> None:
    """The cluster whose state is there will have the key of the tests."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = _private_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(directory / KEY_FILE, pem.decode(), replace=False)


def token(
    role: str = ADMIN, *, name: str = "tests", ttl_s: float = 86400.0, key: SigningKey | None = None, **more: Any
) -> str:
    """A token; `more`: job_id, task_index and so on, see `Caller`."""
    caller = Caller(name, role, more.pop("token_id", secrets.token_hex(8)), time.time() + ttl_s, **more)
    return (key or shared_key()).sign(caller)


def controller_token(worker_id: str) -> str:
    """What the controller shows to a worker."""
    return token(CONTROLLER, worker_id=worker_id)


def worker_credentials(worker_id: str) -> WorkerCredentials:
    """What a worker of the tests is started with."""
    return WorkerCredentials(worker_token(shared_key(), worker_id), shared_key().public)


def keep_credentials(path: Path, worker_id: str) -> Path:
    """The same in a file."""
    write_secret(path, worker_credentials(worker_id).to_json())
    return path


def _private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(os.environ[KEY_VARIABLE]))
