"""Detects whether a state directory is a copy of another state directory, and converts a copy to a new cluster.

Three files in the state directory are used for the detection:
cluster-id  The cluster's id, written once.
place       The device, inode and change time that the file `cluster-id` had when the directory was last used.
copied      The path of a copy's original, until the copy has become a new cluster.

A controller in a copied state directory must not act as the original, because the original may still run. The copied
files name the original's workers, so the copy would kill these workers. The copied key is the same, so workers would
accept the copy as their controller. The copy would also cancel the original's jobs on Slurm and Ray. Therefore a copy
starts as a new cluster: it gets a new id and a new key, and takes over neither workers nor unfinished jobs.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
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
# These files are removed from a copy, because they name processes, gangs, keys and certificates of the original.
_ORIGINALS_OWN = (
    KEY_FILE,
    TOKEN_FILE,
    "web-sessions",
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
    """The identity of the file `cluster-id` in a state directory. A copied file has another identity.

    Attributes:
        device: The device of the file system. The device may change when the file system is mounted again.
        inode: The file's inode. The inode of a copied file differs from the inode of the original.
        changed_ns: When the inode was last changed. No program can set this time.
        directory: The state directory.
    """

    device: int
    inode: int
    changed_ns: int
    directory: str

    @classmethod
    def of(cls, directory: Path) -> IdFileIdentity | None:
        """Return the identity of the file `cluster-id` in a state directory; None if the file does not exist yet."""
        try:
            status = (directory / _ID_FILE).stat()
        except FileNotFoundError:
            return None
        return cls(status.st_dev, status.st_ino, status.st_ctime_ns, str(directory))

    def is_same_file(self, other: IdFileIdentity) -> bool:
        """Return whether two identities belong to the same file. A new mount may change the device, and `chmod` changes
        the change time. If the inodes are equal, and only the device or only the change time is different, the files
        count as the same. If both are different, the files count as two files.
        """
        stayed = self.device == other.device or self.changed_ns == other.changed_ns
        return self.inode == other.inode and stayed


def detect_copy(directory: Path, *, take_over: bool = False) -> str:
    """Detect whether a state directory is a copy, and store the identity of its file `cluster-id`. The caller must have
    locked the directory.

    In a copy, this function deletes the files that name processes, gangs and keys of the original. Afterwards the
    caller ends the jobs of the copy with `disown_jobs`.

    Args:
        directory: The state directory.
        take_over: True if the directory may be a copy that replaces the original state directory. The cluster of the
            original directory must not run again.

    Returns:
        The path of the original if the directory is a copy with jobs that `disown_jobs` still has to end. Otherwise an
        empty string.

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
            # The file `copied` is written before the other files are deleted. If the controller is killed before all
            # these files are deleted, the next controller still finds that the directory is a copy.
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


def disown_jobs(directory: Path, original: str, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """End the unfinished jobs of a copy, remove its endpoints and tokens, and change the id of its event journal.
    Return the number of ended jobs.

    The jobs of the original may continue. The same jobs in the copy end as KILLED. Their retry budgets are not charged,
    and their workers are not called.

    Args:
        directory: The state directory.
        original: The path of the original, which is shown to users.
        progress: A function that is called while the database of an older version is migrated, with the number of
            migrated jobs and the number of all jobs.
    """
    # Importing the store takes time. Therefore only a copy of a state directory imports the store before the workers
    # start.
    from iris.cluster.controller.events.event_rows import NEW_JOURNAL
    from iris.cluster.controller.jobs.recovery import disown
    from iris.cluster.controller.storage.store import Changes, Store

    why = (
        f"this cluster started from a copy of {original}. The job was not taken over, because it may continue there."
        " Submit it again if the original cluster does not exist any more"
    )
    store = Store(directory / "controller.db", progress=progress)
    try:
        now = now_ms()
        changes = Changes()
        count = 0
        for stored in store.load_unfinished():
            revision = stored.job.revision
            disown(stored.job, why, now)
            changes.save_job(stored, revision)
            count += 1
        for token in store.load_tokens():
            changes.remove_token(token.token.token_id)
        changes.save_endpoints(removed=[endpoint.endpoint_id for endpoint in store.load_endpoints()])
        changes.add_rows(NEW_JOURNAL, [()])
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
        return None  # The file `place` is missing in a new directory, and in a directory of an earlier version.
