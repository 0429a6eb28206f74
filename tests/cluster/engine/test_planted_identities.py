"""A file that names a worker ends nothing, and adopts nothing, unless that worker is really there.

Such files come with copies of a state directory, or from who could once write in it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.waiting import wait_until

from iris.cluster.engine.worker_process import adopt, end_standing, sweep
from iris.cluster.worker.supervision.reaper import MARK_VARIABLE, is_marked, kill_marked
from iris.cluster.worker.supervision.worker_identity import (
    Identity,
    identity_file,
    lock_file,
    read_identity,
    stamp_of,
)
from iris.errors import UnavailableError
from iris.system.locks import try_lock
from iris.system.process_identity import identify_process

WORKER = "local-0"


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    lock = try_lock(lock_file(tmp_path, WORKER))
    assert lock is not None
    os.close(lock)
    return tmp_path


@pytest.fixture
def token() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def bystander(token: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us, but carries the mark of a worker that runs elsewhere."""
    with subprocess.Popen(["sleep", "600"], env=os.environ | {MARK_VARIABLE: f"{token}.1"}) as process:
        wait_until(lambda: is_marked(process.pid, token), "its mark")
        yield process
        process.kill()


def names(process: subprocess.Popen[bytes], token: str, lock: str) -> Identity:
    return Identity(process.pid, identify_process(process.pid), "an-incarnation", token, lock)


@pytest.mark.parametrize("lock", ["", "of another file", "right"])
def test_worker_identity_that_names_a_process_without_the_worker_lock_ends_no_process(
    workers: Path, bystander: subprocess.Popen[bytes], token: str, lock: str
) -> None:
    stamp = stamp_of(lock_file(workers, WORKER)) if lock == "right" else lock
    names(bystander, token, stamp).write(identity_file(workers, WORKER))
    assert asyncio.run(adopt(workers, WORKER)) is None
    assert asyncio.run(end_standing(workers)) == 0
    assert bystander.poll() is None
    assert not identity_file(workers, WORKER).exists(), "it is not asked again"


def test_identity_of_a_dead_worker_with_processes_of_another_directory_ends_no_process(
    workers: Path, bystander: subprocess.Popen[bytes], token: str
) -> None:
    dead = replace(names(bystander, token, "8:1"), process="gone")
    dead.write(identity_file(workers, WORKER))
    asyncio.run(sweep(workers, WORKER))
    assert bystander.poll() is None


def test_processes_of_a_dead_worker_of_this_directory_are_ended(
    workers: Path, bystander: subprocess.Popen[bytes], token: str
) -> None:
    dead = replace(names(bystander, token, stamp_of(lock_file(workers, WORKER))), process="gone")
    dead.write(identity_file(workers, WORKER))
    asyncio.run(sweep(workers, WORKER))
    assert bystander.wait(60) == -9


def test_process_that_is_not_a_worker_is_not_adopted_although_the_worker_lock_is_held(
    workers: Path, bystander: subprocess.Popen[bytes], token: str
) -> None:
    lock = try_lock(lock_file(workers, WORKER))
    assert lock is not None
    names(bystander, token, stamp_of(lock_file(workers, WORKER))).write(identity_file(workers, WORKER))
    with pytest.raises(UnavailableError, match=r"local-0.lock is held, but .*local-0.json does not name.*fuser -v"):
        asyncio.run(adopt(workers, WORKER, clear_s=0.1))
    os.close(lock)
    assert bystander.poll() is None


@pytest.mark.parametrize("token", ["", "f", "not hexadecimal", "f" * 17, ".", None, 7])
def test_worker_identity_with_an_impossible_token_is_ignored(workers: Path, token: object) -> None:
    path = identity_file(workers, WORKER)
    identity = Identity(os.getpid(), identify_process(os.getpid()), "1", token)  # type: ignore[arg-type]
    identity.write(path)
    assert read_identity(path) is None
    asyncio.run(sweep(workers, WORKER))


def test_empty_process_mark_matches_no_process() -> None:
    with subprocess.Popen(["sleep", "600"], env={}) as process:
        assert not is_marked(process.pid, "")
        process.kill()
    kill_marked("no-such-token")


def test_worker_identity_file_with_unknown_fields_of_a_later_version_is_read(workers: Path) -> None:
    path = identity_file(workers, WORKER)
    path.write_text(
        '{"pid": 7, "process": "p", "incarnation": "1", "token": "0123456789abcdef", "lock": "1:2", "later": [1]}'
    )
    assert read_identity(path) == Identity(7, "p", "1", "0123456789abcdef", "1:2")
    path.write_text('{"pid": 7, "process": "p", "incarnation": "1", "token": "0123456789abcdef"}')
    earlier = read_identity(path)
    assert earlier is not None
    assert earlier.belongs_to(lock_file(workers, WORKER)), "an earlier version does not say which lock it is"
