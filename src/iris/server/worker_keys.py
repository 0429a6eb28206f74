"""Keeps the signing key of a cluster, and makes the credentials of its workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iris.cluster.worker.worker_credentials import WorkerCredentials

if TYPE_CHECKING:
    from iris.rpc.auth.tokens import SigningKey


class WorkerKeys:
    """Makes the credentials of workers.

    Loading the signing key takes a tenth of a second. Therefore the key is loaded only when it is first needed. By
    then, the first workers have been started and load their program at the same time.

    Args:
        path: The file of the key. None keeps a new key in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._key: SigningKey | None = None

    @property
    def key(self) -> SigningKey:
        """The signing key of the cluster."""
        from iris.rpc.auth.tokens import SigningKey

        if self._key is None:
            self._key = SigningKey.new() if self._path is None else SigningKey.load_or_make(self._path)
        return self._key

    def credentials(self, worker_id: str) -> WorkerCredentials:
        """Return the credentials for a worker that starts now."""
        from iris.rpc.auth.tokens import worker_token

        return WorkerCredentials(worker_token(self.key, worker_id), self.key.public)

    def queued_credentials(self, worker_id: str) -> WorkerCredentials:
        """Return the credentials for a worker that may start only days later, for example in the queue of Slurm. Such
        credentials are valid for longer than the credentials of a worker that starts at once.
        """
        from iris.rpc.auth.tokens import QUEUED_WORKER_TTL_S, worker_token

        return WorkerCredentials(worker_token(self.key, worker_id, QUEUED_WORKER_TTL_S), self.key.public)
