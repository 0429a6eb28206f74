"""Limits how many bytes of contents the cluster stores for each user.

The contents of a job are its entry point, its workspace and its results. If the contents of a user exceed the limit,
the contents of the user's oldest ended jobs are dropped. If the unfinished jobs of the user alone would exceed the
limit, a new job is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from iris.cluster.controller.removal.unused_workspaces import UnusedWorkspaces
from iris.cluster.controller.storage.contents import reading as contents
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import IrisError, ResourceExhaustedError, quoted
from iris.event_log import log_event
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

# If a user's stored contents exceed the limit, contents of ended jobs are dropped until the rest is at most this share
# of the limit. Without this margin, each new job of the user would have to drop contents.
_AIM = 0.95
_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class StoredBytes:
    """The bytes of contents that are stored for each user.

    Args:
        store: The database, which counts the bytes.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        saver: The object that drops contents from the database.
        workspaces: The object that removes the workspaces that no job uses any more.
        limit: How many bytes are stored for one user; None sets no limit.
    """

    def __init__(
        self, store: Store, stored_jobs: StoredJobs, saver: Saver, workspaces: UnusedWorkspaces, limit: int | None
    ) -> None:
        self._store = store
        self._stored_jobs = stored_jobs
        self._saver = saver
        self._workspaces = workspaces
        self._limit = limit
        # How many bytes of contents the unsaved new jobs of each user have.
        self._reserved: Counter[str] = Counter()

    @contextlib.contextmanager
    def reserved(self, owner: str, launch: cluster_pb2.Controller.LaunchJobRequest, workspace: bytes) -> Iterator[None]:
        """Return a context manager that counts the contents of a new job while the job is being saved. With a limit,
        the call reads two rows of the database on the loop, because no await may come between the check and the
        counting.

        Args:
            owner: The owner of the new job.
            launch: The submission of the job.
            workspace: The bytes of the workspace, if the database may not have the workspace yet.

        Raises:
            ResourceExhaustedError: The unfinished jobs of the user would exceed the limit.
        """
        if self._limit is None:
            yield
            return
        size = self._size_of(owner, launch, workspace)
        self._check(owner, size, self._limit)
        self._reserved[owner] += size
        try:
            yield
        finally:
            self._reserved[owner] -= size
            if not self._reserved[owner]:
                del self._reserved[owner]

    def _size_of(self, owner: str, launch: cluster_pb2.Controller.LaunchJobRequest, workspace: bytes) -> int:
        size = len(launch.serialized_entrypoint) + sum(map(len, launch.command)) + launch.environment.ByteSize()
        size += len(launch.inputs_blob)
        if not launch.bundle_hash:
            return size
        stored, is_live = self._store.read(
            partial(contents.live_bundle_bytes, owner=owner, bundle_hash=launch.bundle_hash)
        )
        return size if is_live else size + (stored or len(workspace))

    def _check(self, owner: str, size: int, limit: int) -> None:
        live = self._store.read(partial(contents.bytes_of_user, owner=owner)).live + self._reserved[owner]
        if live + size <= limit:
            return
        if size > limit:
            too_large = (
                f"the entry point and the workspace of this job have {size:,} bytes, over the limit of"
                f" {limit:,} for all jobs of user {quoted(owner)}: make them smaller, or raise the limit"
            )
        else:
            too_large = (
                f"the unfinished jobs of user {quoted(owner)} store {live:,} bytes of entry points, workspaces and"
                f" results, and this job needs {size:,} more, over the limit of {limit:,}: wait until some of the jobs"
                " end, or end jobs with 'iris kill'"
            )
        text = f"{too_large} ('iris up --max-bytes-per-user' sets the limit)"
        raise ResourceExhaustedError(
            text,
            reason=ErrorReason.QUOTA_EXCEEDED,
            metadata={"user": owner, "limit": str(limit)},
        )

    async def run(self) -> None:
        """Run forever. About every second, drop stored contents of each user whose contents exceed the limit."""
        if self._limit is None:
            return
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - After any exception, the next search may succeed.
                _log.exception("stored contents cannot be dropped")
            await asyncio.sleep(_EVERY_S)

    async def sweep(self) -> None:
        """For each user above the limit, drop the contents of the oldest ended jobs."""
        if self._limit is None:
            return
        dropped = False
        for owner in await self._stored_jobs.run(self._store.read, partial(contents.users_above, limit=self._limit)):
            try:
                while await self._drop_some(owner, self._limit):
                    dropped = True
            except IrisError as error:
                _log.warning("contents of user %s cannot be dropped, trying again later: %s", owner, error)
        if dropped:
            await self._workspaces.remove()

    async def _drop_some(self, owner: str, limit: int) -> bool:
        """Drop contents of the oldest ended jobs of a user. Return True if contents were dropped and more contents may
        have to be dropped.
        """
        aim = int(limit * _AIM)
        used, numbers, freed = await self._stored_jobs.run(self._store.read, partial(_droppable, owner=owner))
        excess = used.total - aim
        chosen = []
        for number, size in zip(numbers, freed, strict=True):
            if excess <= 0:
                break
            chosen.append(number)
            excess -= size
        if not chosen:
            return False

        def drop(changes: Changes) -> None:
            for number in chosen:
                changes.drop_contents(number)

        await self._saver.write_once(drop)
        log_event(_log, "contents.dropped", owner=owner, jobs=len(chosen), bytes=used.total - aim - excess)
        return excess > 0


def _droppable(db: contents.Database, owner: str) -> tuple[contents.UserBytes, Sequence[int], Sequence[int]]:
    numbers = contents.oldest_contents(db, owner)
    return contents.bytes_of_user(db, owner), numbers, contents.freed_bytes(db, owner, numbers)
