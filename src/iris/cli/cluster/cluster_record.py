"""What `iris up` leaves behind, so that other commands of this user on this machine find its cluster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from iris.cluster.client import running_cluster
from iris.cluster.client.running_cluster import find_record, record_path, state_home
from iris.errors import LocalClusterError
from iris.system.files import write_file
from iris.system.private_dir import check_private, make_private


@dataclass(frozen=True)
class Record:
    """A cluster that `iris up` has started.

    Attributes:
        address: Its base URL.
        pid: The server's process.
        process: Which process with that id it was, see `identify_process`: ids are given again.
        state_dir: Where everything of it is kept.
        host: What it is bound to.
        port: Its port.
        workers: How many workers share the machine; 0: an engine starts one for each slot.
        log_location: Where logs are copied to, and the next three how they are kept: as they were given, empty for the
            default.
        enforce: What keeps tasks to their limits, and the next how many processes they may have; the same.
        lease: How long a worker may be silent, likewise.
        max_jobs_per_user: What a user may have at the same time, and the next two: 0 for the default.
        tls_cert: The certificate that it shows, and its key; empty: there is no TLS.
        client_ca: By what it knows the certificates that clients need; empty: they need none.
        insecure_no_tls: It is open to other machines without TLS.
        advertise: Where others reach it; empty: where it is bound.
        labels: Of this machine, as `KEY=VALUE KEY=VALUE`.
        engine: What gives tasks their places; unless it is `local`, they run on other machines than this one.
        slurm_options: What sbatch is given, as words of a shell.
        ray_address: Where Ray is, for the engine of that name; empty for the default.
        home: Which file the lock beside this was, by its inode: a copy of the directory has another one.
        place: Where `iris up` ran, see `own_place`: by it a record is found after the machine was given another name.
    """

    address: str
    pid: int
    process: str
    state_dir: str
    host: str
    port: int
    workers: int
    log_location: str = ""
    keep_logs: str = ""
    keep_log_bytes: str = ""
    max_log_bytes: str = ""
    enforce: str = ""
    max_processes: int | str = ""
    lease: str = ""
    max_jobs_per_user: int = 0
    max_tasks_per_user: int = 0
    max_streams_per_user: int = 0
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    insecure_no_tls: bool = False
    advertise: str = ""
    labels: str = ""
    engine: str = "local"
    slurm_options: str = ""
    ray_address: str = ""
    home: str = ""
    place: str = ""


def find_running() -> Record | None:
    """The cluster that `iris up` has started here, if it runs."""
    record = read_record()
    return record if record is not None and is_running(record) else None


def read_record() -> Record | None:
    """What `iris up` has written last, until `iris down`: of a cluster that runs, or whose server has died.

    A record that came here with a copy of a home directory is none: its cluster belongs to the original.

    Raises:
        FailedPreconditionError: Another user owns the record or may write it.
    """
    found = find_record()
    if found is None:
        return None
    path, content = found
    known = {field.name for field in fields(Record)}
    try:
        record = Record(**{name: value for name, value in content.items() if name in known})
    except TypeError:  # it is none of ours
        return None
    return record if record.home in ("", _home_stamp(path)) else None


def is_running(record: Record) -> bool:
    """Whether the server's process is there, and no other that was given its id, or that the record names wrongly."""
    return running_cluster.is_running(asdict(record))


def _home_stamp(path: Path) -> str:
    """Which file the lock of a record is: its inode, which a renamed or remounted one keeps and a copy does not."""
    try:
        return str(os.stat(_lock_path(path)).st_ino)
    except OSError:
        return ""


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def write_record(record: Record) -> None:
    """Write the record as a whole: a reader finds the old record or the new one."""
    path = record_path()
    before = find_record()
    write_file(path, json.dumps(asdict(record) | {"home": _home_stamp(path)}, indent=2) + "\n", shared=True)
    if before is not None and before[0] != path:  # of the same cluster, when the machine had another name
        before[0].unlink(missing_ok=True)


def remove_record() -> None:
    """Takes it away."""
    found = find_record()
    if found is not None:
        found[0].unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Holds the record: of two `iris up` at once one starts a cluster, the other finds it.

    Raises:
        LocalClusterError: The directory cannot be made or written, or this is no Linux.
        FailedPreconditionError: Other users can write in the directory, or it is another user's.
    """
    if not sys.platform.startswith("linux"):
        raise LocalClusterError("clusters run on Linux; from here, reach one with --address HOST:PORT")
    from iris.system.locks import wait_for_lock

    try:
        make_private(state_home())
        check_private(state_home())
        lock = wait_for_lock(_lock_path(record_path()))
    except OSError as error:
        raise LocalClusterError(f"cannot write to {state_home()}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(lock)
