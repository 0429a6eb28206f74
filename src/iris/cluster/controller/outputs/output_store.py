"""Stores the outputs of attempts on the controller's machine. The outputs of an attempt are in two files:
    {root}/{task}-{submitted}/{attempt}/pack         the contents of the files and an index, see output_pack.py
                                        stored.json  exists once the pack is complete, or cannot be stored

The name of a task's directory contains the time of the job's submission, because a removed job may have had the same
name. Only the thread of `OutputStore` writes and removes files, one call after the other. Threads of readers read
complete packs, which never change.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.files.output_pack import SIZE_REASONS, StoredPack
from iris.cluster.lease_terms import format_span
from iris.cluster.logs.directories import subfolders, task_folder
from iris.cluster.memory_profile import stores_outputs
from iris.cluster.types import parse_task_id
from iris.rpc import cluster_pb2
from iris.system.clock import now_for_ages_ms
from iris.system.files import write_file

_PACK, _STORED = "pack", "stored.json"
# Outputs are refused if fewer than this many bytes of the controller's disk would stay free.
_DISK_HEADROOM_BYTES = 256 << 20
# Outputs that are still incomplete after this time belong to an attempt of a lost worker.
_ABANDONED_MS = 86_400_000
_SWEEP_S = 600.0
_OPEN_PACKS = 16  # The indexes of this many stored packs stay in memory.
_HASH_STEP = 1 << 20
_log = logging.getLogger(__name__)
T = TypeVar("T")
Reason = cluster_pb2.OutputReason
_AttemptKey = tuple[str, int, int]  # Identifies an attempt by the job id, the task index and the attempt id.


@dataclass(frozen=True, slots=True)
class OutputKeeping:
    """The settings of the output store.

    Attributes:
        root: The directory in which the outputs of tasks are stored.
        max_bytes: The largest size of the outputs of one attempt; None sets no limit.
        max_total_bytes: The largest size of all stored outputs together; None sets no limit.
        keep_ms: How long outputs are kept after the end of their attempt; None keeps them as long as their job.
        now_ms: A function that returns the current time for ages, in milliseconds since the epoch.
    """

    root: Path
    max_bytes: int | None = None
    max_total_bytes: int | None = None
    keep_ms: int | None = None
    now_ms: Callable[[], int] = now_for_ages_ms


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known about the outputs of an attempt.

    Attributes:
        at_ms: When the outputs were stored or refused, in milliseconds since the epoch.
        index_bytes: The size of the index in the pack.
        reason: The reason in `problem`, as a code for programs.
        problem: Why the outputs are not stored, for people; empty if they are stored.
        job_id: The job, so that the outputs of removed jobs are recognised.
    """

    at_ms: int
    index_bytes: int = 0
    reason: int = 0
    problem: str = ""
    job_id: str = ""


class OutputStore:
    """The stored outputs of all attempts.

    Args:
        keeping: The settings for stored outputs: the directory and the size limits.
        jobs: The table of all jobs of the cluster.
    """

    def __init__(self, keeping: OutputKeeping, jobs: JobTable) -> None:
        self._keeping = keeping
        self._jobs = jobs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outputs")
        # The size of each pack in bytes. An incomplete pack counts with the size that the worker has announced.
        self._sizes: dict[Path, int] | None = None
        # The packs that are still incomplete, each with its attempt. Only the thread of the store changes this
        # dictionary.
        self._incomplete: dict[Path, _AttemptKey] = {}
        self._packs: OrderedDict[Path, StoredPack] = OrderedDict()
        self._packs_lock = threading.Lock()

    async def run(self) -> None:
        """Remove old outputs at regular intervals, until this coroutine is cancelled."""
        is_first = True
        while True:
            try:
                if is_first:
                    await self.remove_unknown()
                    is_first = False
                await self.sweep()
            except Exception:  # noqa: BLE001 - After any exception, the next sweep may succeed.
                _log.exception("a sweep of the outputs in %s failed", self._keeping.root)
            await asyncio.sleep(_SWEEP_S)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # For workers.

    async def store(
        self, directory: Path, request: cluster_pb2.Controller.StoreOutputsRequest
    ) -> cluster_pb2.Controller.StoreOutputsResponse:
        """Store a part of the outputs of an attempt, or the reason why they cannot be collected.

        Args:
            directory: The directory of the outputs, from `directory_of`.
            request: The message with the part.
        """
        return await self._in_thread(lambda: self._store(directory, request))

    def _store(
        self, directory: Path, request: cluster_pb2.Controller.StoreOutputsRequest
    ) -> cluster_pb2.Controller.StoreOutputsResponse:
        stored = self.stored(directory)
        if stored is not None and not (stored.reason in SIZE_REASONS and _is_first(request)):
            return self._answer(request, stored)
        if request.problem:
            return self._refuse(directory, request, request.reason, request.problem)
        try:
            return self._store_part(directory, request)
        except OSError as error:
            text = f"the controller cannot store the outputs: {error.strerror or error}"
            with contextlib.suppress(OSError):
                return self._refuse(directory, request, cluster_pb2.OUTPUT_REASON_SHORTAGE, text)
            return cluster_pb2.Controller.StoreOutputsResponse(refused=text, reason=cluster_pb2.OUTPUT_REASON_SHORTAGE)

    def _store_part(
        self, directory: Path, request: cluster_pb2.Controller.StoreOutputsRequest
    ) -> cluster_pb2.Controller.StoreOutputsResponse:
        pack = directory / _PACK
        known = self._known_sizes().get(directory)
        # The limits are checked for a new pack. They are checked again after a restart of the controller, because only
        # the size of the incomplete file is known then, and not the size that the worker has announced.
        if known is None or known < request.total_bytes:
            refused = self._refusal(request.total_bytes, known or 0)
            if refused is not None:
                return self._refuse(directory, request, *refused)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # An earlier refusal does not count any more, because a worker may send fewer outputs after a refusal.
            (directory / _STORED).unlink(missing_ok=True)
            self._known_sizes()[directory] = request.total_bytes
            self._incomplete[directory] = (*parse_task_id(request.task_id), request.attempt_id)
        size = pack.stat().st_size if pack.exists() else 0
        if request.position <= size and request.position + len(request.data) <= request.total_bytes:
            size = max(size, _write(pack, request.data, request.position))
        if not request.sha256 or size != request.total_bytes:
            return cluster_pb2.Controller.StoreOutputsResponse(position=min(size, request.total_bytes))
        if _sha256(pack) != request.sha256:
            pack.unlink()
            return cluster_pb2.Controller.StoreOutputsResponse(position=0)
        stored = Stored(self._keeping.now_ms(), request.index_bytes, job_id=_job_of(request))
        _write_stored(directory, stored)
        self._incomplete.pop(directory, None)
        return self._answer(request, stored)

    def _refusal(self, size: int, received: int) -> tuple[Reason, str] | None:
        """Return why outputs with `size` bytes cannot be stored, or None if they can be stored. The sum of all stored
        bytes already includes `received` bytes of these outputs.
        """
        keeping = self._keeping
        if keeping.max_bytes is not None and size > keeping.max_bytes:
            return (
                cluster_pb2.OUTPUT_REASON_TOO_LARGE,
                f"they have {size:,} bytes, and one attempt may leave {keeping.max_bytes:,}: write less, or raise"
                " 'iris up --max-output-bytes'",
            )
        total = sum(self._known_sizes().values()) - received
        if keeping.max_total_bytes is not None and total + size > keeping.max_total_bytes:
            return (
                cluster_pb2.OUTPUT_REASON_CLUSTER_LIMIT,
                f"they have {size:,} bytes, and the cluster stores {total:,} of at most {keeping.max_total_bytes:,}:"
                " remove old jobs with 'iris rm', or raise 'iris up --max-stored-output-bytes'",
            )
        keeping.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(keeping.root).free
        if free < size - received + _DISK_HEADROOM_BYTES:
            return (
                cluster_pb2.OUTPUT_REASON_SHORTAGE,
                f"they have {size:,} bytes, and the disk of the controller has {free:,} free in {keeping.root}: free"
                " some space there",
            )
        return None

    def _refuse(
        self, directory: Path, request: cluster_pb2.Controller.StoreOutputsRequest, reason: int, text: str
    ) -> cluster_pb2.Controller.StoreOutputsResponse:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stored = Stored(self._keeping.now_ms(), 0, reason, text, _job_of(request))
        _write_stored(directory, stored)
        (directory / _PACK).unlink(missing_ok=True)
        self._known_sizes().pop(directory, None)
        self._incomplete.pop(directory, None)
        return self._answer(request, stored)

    @staticmethod
    def _answer(
        request: cluster_pb2.Controller.StoreOutputsRequest, stored: Stored
    ) -> cluster_pb2.Controller.StoreOutputsResponse:
        if stored.problem:
            reason = stored.reason
            return cluster_pb2.Controller.StoreOutputsResponse(
                refused=stored.problem,
                reason=reason,  # type: ignore[arg-type] # The number of an enum.
            )
        return cluster_pb2.Controller.StoreOutputsResponse(position=request.total_bytes)

    # For readers.

    def directory_of(self, record: JobRecord, task_index: int, attempt_id: int) -> Path:
        """Return the directory of the outputs of an attempt, whether or not it exists."""
        return self._folder(record, task_index) / str(attempt_id)

    def stored(self, directory: Path) -> Stored | None:
        """Return the stored facts about the outputs in a directory, or None if there are none. The call blocks for one
        read.
        """
        try:
            return Stored(**json.loads((directory / _STORED).read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError) as error:
            return Stored(0, reason=cluster_pb2.OUTPUT_REASON_UNREADABLE, problem=f"they cannot be read: {error}")

    def pack(self, directory: Path) -> StoredPack | None:
        """Return the pack in a directory, or None if the directory has no complete pack. The call blocks until the
        index is read.

        Raises:
            OSError, ValueError: The pack cannot be read.
        """
        stored = self.stored(directory)
        if stored is None or stored.problem:
            return None
        with self._packs_lock:
            pack = self._packs.get(directory)
        if pack is None:
            pack = StoredPack(directory / _PACK, stored.index_bytes)
            with self._packs_lock:
                self._packs[directory] = pack
                while len(self._packs) > _OPEN_PACKS:
                    self._packs.popitem(last=False)
        return pack

    # Removal.

    async def remove_jobs(self, records: Sequence[JobRecord]) -> None:
        """Remove the outputs of ended jobs. An error is logged, because the jobs are already removed."""
        folders = [
            self._folder(record, task.task_index)
            for record in records
            if stores_outputs(record.launch)
            for task in record.job.tasks
        ]
        if folders:
            await self._in_thread(lambda: self._remove_folders(folders))

    def _remove_folders(self, folders: Sequence[Path]) -> None:
        wanted = set(folders)
        for directory in [known for known in self._known_sizes() if known.parent in wanted]:
            del self._known_sizes()[directory]
            self._incomplete.pop(directory, None)
            with self._packs_lock:
                self._packs.pop(directory, None)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                _log.warning("outputs of a removed job stay in %s", folder)

    async def remove_unknown(self) -> None:
        """Remove the outputs of removed jobs. Such outputs exist if an earlier controller was killed while it removed a
        job.
        """
        for directory in await self._in_thread(lambda: list(self._known_sizes())):
            stored = await self._in_thread(partial(self.stored, directory))
            if stored is None or not stored.job_id:
                continue
            record = await self._jobs.get(stored.job_id)
            submitted = directory.parent.name.rpartition("-")[2]
            if record is None or f"{record.job.submitted_at_ms:x}" != submitted:
                await self._in_thread(partial(self._remove_folders, [directory.parent]))

    async def sweep(self) -> None:
        """Remove outputs that are older than `keep_ms`, and packs that will never be completed."""
        lost = []
        for directory, key in (await self._in_thread(self._incomplete.copy)).items():
            record = await self._jobs.get(key[0])
            if record is None or not self._is_live(record, key, directory):
                lost.append(directory)
        await self._in_thread(lambda: self._sweep(lost))

    def _is_live(self, record: JobRecord, key: _AttemptKey, directory: Path) -> bool:
        """Return whether an attempt with incomplete outputs still runs. If `record` is a later job with the same name
        as the attempt's job, return False.
        """
        _, task_index, attempt_id = key
        tasks = record.job.tasks
        if task_index >= len(tasks) or attempt_id >= len(tasks[task_index].attempts):
            return False
        is_same = self.directory_of(record, task_index, attempt_id) == directory
        return is_same and tasks[task_index].attempts[attempt_id].is_live

    def _sweep(self, lost: Sequence[Path]) -> None:
        """Remove old outputs, and the incomplete outputs of attempts that have ended because their worker was lost."""
        keeping, now_ms = self._keeping, self._keeping.now_ms()
        for directory in lost:
            if directory in self._incomplete:
                self._remove_pack(directory, _lost_pack(now_ms, self._incomplete[directory][0]))
        for directory in list(self._known_sizes()):
            stored = self.stored(directory)
            if stored is None:
                with contextlib.suppress(OSError):
                    if now_ms - (directory / _PACK).stat().st_mtime_ns // 1_000_000 > _ABANDONED_MS:
                        self._remove_pack(directory, _lost_pack(now_ms, ""))
            elif keeping.keep_ms is not None and not stored.problem and now_ms - stored.at_ms > keeping.keep_ms:
                text = f"they were removed after {format_span(keeping.keep_ms / 1000)} ('iris up --keep-logs')"
                reason = cluster_pb2.OUTPUT_REASON_REMOVED
                self._remove_pack(directory, replace(stored, at_ms=now_ms, reason=reason, problem=text))

    def _remove_pack(self, directory: Path, stored: Stored) -> None:
        # The reason for the removal is written before the outputs are removed. Therefore a reader always finds either
        # the outputs or the reason.
        _write_stored(directory, stored)
        (directory / _PACK).unlink(missing_ok=True)
        self._known_sizes().pop(directory, None)
        self._incomplete.pop(directory, None)
        with self._packs_lock:
            self._packs.pop(directory, None)

    def _known_sizes(self) -> dict[Path, int]:
        if self._sizes is None:
            self._sizes = {}
            for task in subfolders(self._keeping.root):
                for attempt in subfolders(self._keeping.root / task):
                    directory = self._keeping.root / task / attempt
                    with contextlib.suppress(FileNotFoundError):
                        self._sizes[directory] = (directory / _PACK).stat().st_size
        return self._sizes

    def _folder(self, record: JobRecord, task_index: int) -> Path:
        task = record.job.tasks[task_index]
        return self._keeping.root / f"{task_folder(task.task_id)}-{record.job.submitted_at_ms:x}"

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _is_first(request: cluster_pb2.Controller.StoreOutputsRequest) -> bool:
    """Return whether a request only announces the size of outputs."""
    return not (request.position or request.data or request.sha256 or request.problem)


def _write(path: Path, data: bytes, position: int) -> int:
    """Write bytes into a file at a position, and return the position after the written bytes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, position)
            rest, position = rest[written:], position + written
        return position
    finally:
        os.close(fd)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_HASH_STEP):
            digest.update(part)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write_stored(directory: Path, stored: Stored) -> None:
    write_file(directory / _STORED, json.dumps(asdict(stored)), durable=True)


def _lost_pack(now_ms: int, job_id: str) -> Stored:
    text = "the worker was lost before it had sent them"
    return Stored(now_ms, 0, cluster_pb2.OUTPUT_REASON_WORKER_LOST, text, job_id)


def _job_of(request: cluster_pb2.Controller.StoreOutputsRequest) -> str:
    return parse_task_id(request.task_id)[0]
