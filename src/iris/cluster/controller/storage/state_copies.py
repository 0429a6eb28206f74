"""Detects whether a state directory is a copy of another one, and turns a copy into a new cluster.

Three files in the state directory are used for the detection:
cluster-id   The cluster's id, written once.
place        The device, inode and change time that the file `cluster-id` had when the directory was last used.
copied       The path of a copy's original, until the copy has become a new cluster.

A controller in a copied state directory must not act as the original, which may still run. The copy would kill the
original's workers, because the copied files name these workers. The copy would cancel the original's jobs on Slurm and
Ray, and workers would accept the copy as their controller, because the copied key is the same. Therefore a copy starts
as a new cluster: the copy gets a new id and a new key, and takes over neither workers nor unfinished jobs.
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
# A copy must not keep these files, because they name processes, gangs, keys and certificates of the original.
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
class IdFileIdentity:
    """The identity of the file with the cluster's id.

    Attributes:
        device: The device of the file system. It may change when the file system is mounted again.
        inode: The file's inode. A renamed directory keeps it, a copy has another one.
        changed_ns: When the inode was last changed. No program can set this time.
        directory: The state directory.
    """

    device: int
    inode: int
    changed_ns: int
    directory: str

    @classmethod
    def of(cls, directory: Path) -> IdFileIdentity | None:
        """Return the identity of the id file in a state directory; None if there is no such file yet."""
        try:
            status = (directory / _ID_FILE).stat()
        except FileNotFoundError:
            return None
        return cls(status.st_dev, status.st_ino, status.st_ctime_ns, str(directory))

    def is_same_file(self, other: IdFileIdentity) -> bool:
        """Return whether both are the same file. A file counts as the same after a new mount or a `chmod`, but not
        after both.
        """
        stayed = self.device == other.device or self.changed_ns == other.changed_ns
        return self.inode == other.inode and stayed


def detect_copy(directory: Path, *, take_over: bool = False) -> str:
    """Detect whether a state directory is a copy, and store the identity of its id file. The caller has locked the
    directory.

    This function deletes the files of a copy that name processes, gangs and keys of the original. The caller then ends
    the jobs of the copy with `disown_jobs`.

    Args:
        directory: The state directory.
        take_over: Whether a copy continues as the original, because the original will not run again.

    Returns:
        The path of the original, if the directory is a copy whose jobs are not disowned yet; otherwise an empty string.

    Raises:
        ResourceExhaustedError: The directory cannot be written.
    """
    try:
        return _detect_copy(directory, take_over=take_over)
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write {directory}: {error}") from error


def _detect_copy(directory: Path, *, take_over: bool) -> str:
    place, before = IdFileIdentity.of(directory), _read_identity(directory)
    if before is not None and (place is None or not place.is_same_file(before)):
        if take_over:
            (directory / _COPIED_FILE).unlink(missing_ok=True)
        else:
            # This file is written first, so that a controller that is killed later continues here at its next start.
            write_file(directory / _COPIED_FILE, f"{before.directory}\n", durable=True)
            _forget_original(directory)
            place = None
    if place is None:
        write_file(directory / _ID_FILE, f"{secrets.token_hex(8)}\n", durable=True)
        place = IdFileIdentity.of(directory)
        assert place is not None, "the id file was just written"
    if place != before:
        write_file(directory / _PLACE_FILE, f"{json.dumps(asdict(place))}\n", durable=True)
    with contextlib.suppress(FileNotFoundError):
        return (directory / _COPIED_FILE).read_text(encoding="utf-8").strip()
    return ""


def disown_jobs(directory: Path, original: str) -> int:
    """End the unfinished jobs of a copy, remove its endpoints and tokens, and return the number of ended jobs.

    The jobs may continue in the original. In the copy the jobs end as KILLED. Their retry budgets are not charged, and
    their workers are not called.
    """
    # The import is here, because only a copy needs the store before its workers start.
    from iris.cluster.controller.storage.store import Changes, Store

    why = (
        f"this cluster started from a copy of {original}. The job was not taken over, because it may continue there."
        " Submit it again if the original cluster does not exist any more"
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


def _read_identity(directory: Path) -> IdFileIdentity | None:
    try:
        return IdFileIdentity(**json.loads((directory / _PLACE_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # The directory is new, or an earlier version of Iris wrote it.
