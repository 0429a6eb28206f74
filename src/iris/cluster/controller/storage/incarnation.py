"""Which cluster a state directory is the state of: of the one that wrote it, or of a new one that begins with a copy.

cluster-id   the cluster's id, made once and never written again
place        which file `cluster-id` was when the directory was used last: device, inode, and when it was changed
copied       while a copy has not become a cluster of its own yet: where its original was

A copy must not take itself for the original, which may still run. It would end the original's workers by the names in
the copied files, cancel its jobs on Slurm and Ray, and pass for its controller by the copied key. Therefore a copy
begins anew: it gets an id and a key of its own, and takes over neither workers nor jobs that had not ended.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from iris.errors import ResourceExhaustedError
from iris.rpc.auth.credentials import KEY_FILE, TOKEN_FILE
from iris.rpc.http.tls import PART_FILE
from iris.system.clock import now_ms
from iris.system.files import sync_directory, write_file

_ID_FILE = "cluster-id"
_PLACE_FILE = "place"
_COPIED_FILE = "copied"
# What names processes, gangs, keys and certificates of the original. Its workers' identities come besides.
_ORIGINALS_OWN = (
    KEY_FILE,
    TOKEN_FILE,
    PART_FILE,
    _ID_FILE,
    "left",
    "workers/controller",
    "workers/ledger",
    "slurm/slurm-cluster",
    "ray/cluster-id",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Which file the cluster's id is in, and where it lies.

    Attributes:
        device: The device of its file system, which may change when that is mounted again.
        inode: Its inode, which a renamed directory keeps and a copy does not.
        changed_ns: When its inode was changed last, which nobody can set.
        directory: The state directory.
    """

    device: int
    inode: int
    changed_ns: int
    directory: str

    @classmethod
    def of(cls, directory: Path) -> Place | None:
        """Return the place of the id in a state directory; None where there is none yet."""
        try:
            status = (directory / _ID_FILE).stat()
        except FileNotFoundError:
            return None
        return cls(status.st_dev, status.st_ino, status.st_ctime_ns, str(directory))

    def is_same_file(self, other: Place) -> bool:
        """Whether this is the same file as it was then: neither a mount nor a `chmod` alone makes another one of it."""
        stayed = self.device == other.device or self.changed_ns == other.changed_ns
        return self.inode == other.inode and stayed


def settle(directory: Path, *, take_over: bool = False) -> str:
    """Find out whether a state directory is a copy, and note where it is now. Its lock is held.

    A copy loses here what names its original's processes, gangs and keys. Its jobs follow with `disown_jobs`.

    Args:
        directory: The state directory.
        take_over: The original will not run again: a copy goes on as the original.

    Returns:
        Where the original was, for a copy whose jobs are still to be disowned; empty for an original.

    Raises:
        ResourceExhaustedError: It cannot be written.
    """
    try:
        return _settle(directory, take_over=take_over)
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write {directory}: {error}") from error


def _settle(directory: Path, *, take_over: bool) -> str:
    place, before = Place.of(directory), _read_place(directory)
    if before is not None and (place is None or not place.is_same_file(before)):
        if take_over:
            (directory / _COPIED_FILE).unlink(missing_ok=True)
        else:
            # First of all, and for good: whoever is killed after this goes on with it at the next start.
            write_file(directory / _COPIED_FILE, f"{before.directory}\n", durable=True)
            _forget_original(directory)
            place = None
    if place is None:
        write_file(directory / _ID_FILE, f"{secrets.token_hex(8)}\n", durable=True)
        place = Place.of(directory)
        assert place is not None, "it was just written"
    if place != before:
        write_file(directory / _PLACE_FILE, f"{json.dumps(asdict(place))}\n", durable=True)
    with contextlib.suppress(FileNotFoundError):
        return (directory / _COPIED_FILE).read_text(encoding="utf-8").strip()
    return ""


def disown_jobs(directory: Path, original: str) -> int:
    """End the jobs of a copy that had not ended, forget its endpoints and tokens, and return how many jobs that were.

    They may go on in the original. Here they end KILLED, at the cost of no budget, and nobody is told to stop them.
    """
    from iris.cluster.controller.storage.store import Changes, Store  # only a copy needs them before its workers start

    why = (
        f"this cluster began with a copy of {original}, where the job may go on or have ended: it was not taken over."
        " Submit it again if the original is gone"
    )
    store = Store(directory / "controller.db")
    try:
        now = now_ms()
        changes = Changes()
        count = 0
        for stored in store.load():
            if not stored.job.is_finished:
                revision = stored.job.revision
                stored.job.disown(why, now)
                changes.save_job(stored, revision)
                count += 1
        for token in store.load_tokens():
            changes.remove_token(token.token.token_id)
        changes.save_endpoints(removed=[endpoint.endpoint_id for endpoint in store.load_endpoints()])
        store.write(changes)
    finally:
        store.close()
    (directory / _COPIED_FILE).unlink()
    sync_directory(directory)
    return count


def _forget_original(directory: Path) -> None:
    identities = (directory / "workers").glob("*.json")
    for path in (*identities, *(directory / name for name in _ORIGINALS_OWN)):
        path.unlink(missing_ok=True)
    sync_directory(directory)


def _read_place(directory: Path) -> Place | None:
    try:
        return Place(**json.loads((directory / _PLACE_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # of an earlier version of Iris, or new
