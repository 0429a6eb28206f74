"""Checks the workspace of a submitted job, and serves stored workspaces to workers."""

from __future__ import annotations

import contextlib
import hashlib

from iris.cluster.controller.removal.unused_workspaces import UnusedWorkspaces
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.request import LaunchJobRequest
from iris.cluster.controller.submission.validate import check_input_items
from iris.cluster.task_inputs import item_place, table_entry
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, quoted
from iris.reasons import ErrorReason


class Workspaces:
    """The stored workspaces.

    Args:
        store: The database, which stores the workspaces.
        reading: The object that reads from the database, in its own threads.
        unused: The object that removes the workspaces that no job uses any more.
    """

    def __init__(self, store: Store, reading: StoredJobs, unused: UnusedWorkspaces) -> None:
        self._store = store
        self._reading = reading
        self._unused = unused

    def reserved(self, request: LaunchJobRequest) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that prevents the removal of a submission's workspace. The context must be open from
        the check of the workspace until the job is saved.
        """
        return self._unused.reserved(request.bundle_hash)

    async def check(self, request: LaunchJobRequest) -> bytes:
        """Check the workspace of a submission. Return the bytes of the workspace if the store does not have this
        workspace yet.

        If the submission names the stored inputs of an earlier job by their hash, the inputs are put into the
        submission. Therefore the inputs count towards the limits, and the earlier job may be removed meanwhile. The
        result is empty if the job has no workspace, or if the workspace is already stored.

        Raises:
            InvalidArgumentError: The hash does not match the workspace, or the stored inputs do not match the tasks.
            FailedPreconditionError: The submission contains only the hash of a workspace or of inputs, and the store
                does not have them.
        """
        if request.bundle_blob and hashlib.sha256(request.bundle_blob).hexdigest() != request.bundle_hash:
            raise InvalidArgumentError(f"bundle_hash {quoted(request.bundle_hash)} is not the SHA-256 of bundle_blob")
        if request.inputs_hash and not request.inputs_blob:
            request.inputs_blob = await self._stored_inputs(request.inputs_hash)
            check_input_items(request)
        if not request.bundle_hash or request.bundle_blob:
            return request.bundle_blob
        is_stored = not self._unused.is_being_removed(request.bundle_hash) and await self._reading.run(
            self._store.has_bundle, request.bundle_hash
        )
        if not is_stored:
            raise FailedPreconditionError(
                f"workspace {request.bundle_hash} is not stored: send its bundle_blob",
                reason=ErrorReason.WORKSPACE_NEEDED,
                metadata={"bundle_hash": request.bundle_hash},
            )
        return b""

    async def fetch(self, bundle_hash: str) -> bytes:
        """Return a workspace.

        Raises:
            NotFoundError: No workspace with this hash is stored.
        """
        blob = await self._reading.run(self._store.bundle, bundle_hash)
        if blob is None:
            raise NotFoundError(f"no workspace with hash {quoted(bundle_hash)}", reason=ErrorReason.WORKSPACE_NOT_FOUND)
        return blob

    async def fetch_input(self, inputs_hash: str, task_index: int) -> bytes:
        """Return the inputs of one task.

        Raises:
            NotFoundError: No inputs with this hash are stored, or the inputs have no item with this index.
        """
        if task_index >= 0:
            table = await self._part(inputs_hash, *table_entry(task_index))
            place = item_place(table)
            if place is not None:
                return await self._part(inputs_hash, *place)
        raise NotFoundError(f"the inputs {quoted(inputs_hash)} have no item {task_index}")

    async def _stored_inputs(self, inputs_hash: str) -> bytes:
        inputs = await self._reading.run(self._store.inputs, inputs_hash)
        if inputs is None:
            raise FailedPreconditionError(f"the inputs {inputs_hash} are not stored: send inputs_blob")
        return inputs

    async def _part(self, inputs_hash: str, offset: int, length: int) -> bytes:
        part = await self._reading.run(self._store.inputs_part, inputs_hash, offset, length)
        if part is None:
            raise NotFoundError(f"no inputs with hash {quoted(inputs_hash)}", reason=ErrorReason.WORKSPACE_NOT_FOUND)
        return part
