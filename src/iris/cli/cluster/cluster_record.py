"""Reads and writes the record by which other commands of this user on this machine find the cluster of `iris up`."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris.cluster.client import running_cluster
from iris.cluster.client.running_cluster import find_record, home_stamp, lock_path, record_path, state_home
from iris.config import ClusterConfig, known_options
from iris.errors import InvalidArgumentError, LocalClusterError
from iris.system.files import write_file
from iris.system.private_dir import check_private, make_private


@dataclass(frozen=True)
class Record:
    """A cluster that `iris up` has started.

    Attributes:
        address: The URL of the controller.
        pid: The id of the server's process.
        process: The text that `identify_process` returns for the server's process. It differs for a later process that
            has the same id.
        config: The configuration of the cluster, with its real port and its state directory.
        home: The inode of the lock file beside this record. The inode shows whether the directory with the record is
            the original directory or a copy.
        place: The identity of the machine on which `iris up` ran, from `own_place`. Renaming the machine does not
            change its identity.
    """

    address: str
    pid: int
    process: str
    config: ClusterConfig
    home: str = ""
    place: str = ""

    @property
    def state_dir(self) -> Path:
        """The state directory of the cluster."""
        assert self.config.state_dir is not None, "a record has a state directory"
        return self.config.state_dir

    def to_document(self) -> dict[str, Any]:
        """Return the record as one flat JSON object: the options of the configuration and all other fields."""
        own = {"address": self.address, "pid": self.pid, "process": self.process, "home": self.home}
        return {**own, "place": self.place, **self.config.to_document()}


def find_running() -> Record | None:
    """Return the record of the cluster that `iris up` has started on this machine, or None if no server runs."""
    record = read_record()
    return record if record is not None and is_running(record) else None


def read_record() -> Record | None:
    """Return the last record that `iris up` has written, or None after `iris down`.

    A record means that the cluster runs, or that its server was killed. A record in a copied home directory is ignored,
    because the cluster belongs to the original directory.

    Raises:
        FailedPreconditionError: Another user owns the record or may write it.
    """
    found = find_record()
    if found is None:
        return None
    path, content = found
    try:
        record = Record(
            address=content["address"],
            pid=content["pid"],
            process=content["process"],
            config=_read_config(content),
            home=content.get("home", ""),
            place=content.get("place", ""),
        )
    except (TypeError, KeyError, InvalidArgumentError):  # the file is not a record
        return None
    return record if record.home in ("", home_stamp(path)) and record.config.state_dir is not None else None


def _read_config(content: Mapping[str, Any]) -> ClusterConfig:
    """Return the configuration in a record. In records of earlier releases of Iris, a list option is one text, which
    this function splits into words."""
    options = dict(content)
    for name, split in (("labels", str.split), ("slurm_options", shlex.split)):
        if isinstance(options.get(name), str):
            options[name] = split(options[name])
    return ClusterConfig(**known_options(options))


def is_running(record: Record) -> bool:
    """Return whether the server of a record still runs. Return False if its process id now belongs to another
    process."""
    return running_cluster.is_running(record.to_document())


def write_record(record: Record) -> None:
    """Replace the record of the cluster that `iris up` has started on this machine."""
    path = record_path()
    before = find_record()
    write_file(path, json.dumps(record.to_document() | {"home": home_stamp(path)}, indent=2) + "\n", shared=True)
    # If the machine was renamed, its earlier record has another file name. The earlier record is removed.
    if before is not None and before[0] != path:
        before[0].unlink(missing_ok=True)


def remove_record() -> None:
    """Remove the record of the cluster that `iris up` has started on this machine."""
    found = find_record()
    if found is not None:
        found[0].unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Lock the record of the cluster on this machine. The lock ensures that only one of two simultaneous `iris up`
    starts a cluster.

    Raises:
        LocalClusterError: The directory cannot be made or written, or this machine does not run Linux.
        FailedPreconditionError: Other users own the directory or can write in it.
    """
    if not sys.platform.startswith("linux"):
        raise LocalClusterError("clusters run on Linux only: reach a cluster elsewhere with --address HOST:PORT")
    from iris.system.locks import wait_for_lock

    try:
        make_private(state_home())
        check_private(state_home())
        lock = wait_for_lock(lock_path(record_path()))
    except OSError as error:
        raise LocalClusterError(f"cannot write to {state_home()}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(lock)
