"""Removes the workspaces that no job uses any more. A new job with the same workspace may be submitted at the same
time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from iris.cluster.controller.storage.contents import reading as contents
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store


class UnusedWorkspaces:
    """The stored workspaces that no job with stored contents uses.

    A submission may name a stored workspace by its hash. Such a workspace must not be removed between the check of the
    submission and the saving of the new job. Therefore a submission reserves its workspace until the new job is saved.
    Conversely, a workspace whose removal has begun counts as not stored, so that the submission must contain the
    workspace again.

    Args:
        store: The database of the controller.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        saver: The object that removes the workspaces from the database.
    """

    def __init__(self, store: Store, stored_jobs: StoredJobs, saver: Saver) -> None:
        self._store = store
        self._stored_jobs = stored_jobs
        self._saver = saver
        self._reserved: Counter[str] = Counter()
        self._removing: set[str] = set()

    def is_being_removed(self, bundle_hash: str) -> bool:
        """Return whether the removal of a workspace has begun and is not saved yet."""
        return bundle_hash in self._removing

    @contextlib.contextmanager
    def reserved(self, bundle_hash: str) -> Iterator[None]:
        """Return a context manager that prevents the removal of a workspace while the context is open."""
        self._reserved[bundle_hash] += 1
        try:
            yield
        finally:
            self._reserved[bundle_hash] -= 1
            if not self._reserved[bundle_hash]:
                del self._reserved[bundle_hash]

    async def remove(self) -> None:
        """Remove all unused workspaces that no submission has reserved.

        Raises:
            IrisError: The database cannot be written now.
        """
        unused = await self._stored_jobs.run(self._store.read, contents.unused_bundles)
        chosen = {bundle_hash for bundle_hash in unused if bundle_hash not in self._reserved} - self._removing
        if not chosen:
            return
        self._removing |= chosen

        def remove(changes: Changes) -> None:
            for bundle_hash in chosen:
                changes.remove_bundle(bundle_hash)

        try:
            await self._saver.write_once(remove)
        finally:
            self._removing -= chosen
