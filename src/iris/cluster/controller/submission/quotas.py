"""How much one user, and one message, may ask of a controller."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from iris.cluster.names import check_name
from iris.cluster.pickles.transfer_limits import MAX_EXCEPTION_BYTES, MAX_RESULT_BYTES, MAX_TRACEBACK_BYTES
from iris.errors import InvalidArgumentError, ResourceExhaustedError, quoted
from iris.rpc import cluster_pb2
from iris.rpc.address import parse_address

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest
Report = cluster_pb2.Controller.ReportTaskStateRequest

MAX_JOB_ID_BYTES = 1000  # the names of a job and of all jobs that it is in
MAX_ENTRYPOINT_BYTES = 64 * 1024**2  # the client holds it when it pickles (client/pickling.py)
# A workspace of the size that the client holds (client/workspace.py), which could not be compressed.
MAX_BUNDLE_BYTES = 110 * 1024**2
# What Linux lets a program be started with: one word, or one variable with its name, ends at 128 KiB; all of them
# together at 2 MiB with the usual stack, and the worker's own environment is to have room.
MAX_WORD_BYTES = 128 * 1024 - 1
MAX_WORDS_BYTES = 768 * 1024
MAX_PORTS = 100  # of a task
MAX_PATH_BYTES = 4095
MAX_KEY_BYTES = 200  # of what is made up to tell two of a kind apart
MAX_WORKERS = 10_000
MAX_METADATA_BYTES = 64 * 1024  # of a worker
MAX_ERROR_CHARACTERS = 4000
_PYTHON = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user of a cluster may have at the same time.

    Attributes:
        jobs: That have not ended.
        tasks: Of these jobs.
        streams: Logs that are followed, and jobs that are watched.
    """

    jobs: int = 10_000  # the defaults stand in server.py as well, which has no time to load this
    tasks: int = 100_000
    streams: int = 2000


class Quotas:
    """What each user has, of what is limited.

    Args:
        limits: For everybody alike.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: Counter[str] = Counter()
        self._tasks: Counter[str] = Counter()

    def check(self, caller: str, tasks: int) -> None:
        """Refuses one job too many.

        Raises:
            ResourceExhaustedError: The caller may not have so many tasks more.
        """
        for what, has, more, limit, option in (
            ("jobs", self._jobs[caller], 1, self._limits.jobs, "--max-jobs-per-user"),
            ("tasks of jobs", self._tasks[caller], tasks, self._limits.tasks, "--max-tasks-per-user"),
        ):
            if has + more > limit:
                whose = f"user {quoted(caller)} has" if caller else "there are"
                raise ResourceExhaustedError(
                    f"{whose} {has:,} {what} that have not ended, and {more:,} more would be over the limit of"
                    f" {limit:,}: wait for some, or kill some ('iris ps', 'iris kill'; 'iris up {option}' sets the"
                    " limit)"
                )

    def begin(self, caller: str, tasks: int) -> None:
        """A job is there that has not ended."""
        self._jobs[caller] += 1
        self._tasks[caller] += tasks

    def end(self, caller: str, tasks: int) -> None:
        """It has."""
        self._jobs[caller] -= 1
        self._tasks[caller] -= tasks
        if not self._jobs[caller]:
            del self._jobs[caller], self._tasks[caller]


def check_sizes(request: LaunchJobRequest) -> None:
    """Refuses a submission that is too large, in one of its parts or as a whole.

    Raises:
        InvalidArgumentError: A part cannot be what it is said to be.
        ResourceExhaustedError: A part is over its limit.
    """
    _check("the job's id", f"{request.parent_job_id}/{request.name}".encode(), MAX_JOB_ID_BYTES, "give shorter names")
    advice = "have the task load large data itself, from where it is stored"
    _check("the pickled callable", request.serialized_entrypoint, MAX_ENTRYPOINT_BYTES, advice)
    _check("the packed workspace", request.bundle_blob, MAX_BUNDLE_BYTES, advice)
    _check("submission_id", request.submission_id.encode(), MAX_KEY_BYTES, "16 random bytes in hex are enough")
    _check("working_directory", request.working_directory.encode(), MAX_PATH_BYTES, "no path is longer on Linux")
    if request.pickled_by and not _PYTHON.fullmatch(request.pickled_by):
        raise InvalidArgumentError(f"pickled_by={quoted(request.pickled_by)}: expected a Python version, as '3.11'")
    if len(request.ports) > MAX_PORTS:
        raise ResourceExhaustedError(f"{len(request.ports):,} ports: a task can have {MAX_PORTS}")
    words = [("a word of the command", word) for word in request.command]
    variables = [
        (f"the environment variable {quoted(name)}", f"{name}={value}")
        for name, value in request.environment.env_vars.items()
    ]
    for whole, parts in (("the command", words), ("the environment", variables)):
        sizes = [len(text.encode()) for _, text in parts]
        for (what, _), size in zip(parts, sizes, strict=True):
            _check_size(what, size, MAX_WORD_BYTES, "Linux starts no program with more; put it into a file")
        _check_size(whole, sum(sizes), MAX_WORDS_BYTES, "put what is large into a file, or into the workspace")


def check_worker(request: cluster_pb2.Controller.RegisterWorkerRequest) -> None:
    """Refuses a worker that nobody could name or reach.

    Raises:
        InvalidArgumentError: It has no name that can be shown, or no address.
        ResourceExhaustedError: It says too much of itself.
    """
    check_name("worker", request.worker_id)
    parse_address(request.address)
    _check("the worker's address", request.address.encode(), MAX_PATH_BYTES, "give a shorter one")
    _check("the worker's incarnation", request.incarnation.encode(), MAX_KEY_BYTES, "16 random bytes are enough")
    _check_size("the worker's metadata", request.metadata.ByteSize(), MAX_METADATA_BYTES, "give fewer attributes")
    for what, version in (("version", request.version), ("python_version", request.python_version)):
        _check(f"the worker's {what}", version.encode(), MAX_KEY_BYTES, "give one as '3.11'")
    devices = ",".join(request.visible_devices).encode()
    _check("the worker's visible_devices", devices, MAX_METADATA_BYTES, "give one slot's")


def trim_report(report: Report) -> None:
    """Takes out of a report what a task may have made too large; that the attempt has ended is to be known."""
    size = len(report.serialized_result)
    if size > MAX_RESULT_BYTES:
        report.ClearField("serialized_result")
        report.result_error = f"the result is too large: {size:,} bytes, over the limit of {MAX_RESULT_BYTES:,}"
    if len(report.exception.pickled) > MAX_EXCEPTION_BYTES:
        report.exception.ClearField("pickled")
    if len(report.exception.traceback) > MAX_TRACEBACK_BYTES:
        report.exception.traceback = report.exception.traceback[-MAX_TRACEBACK_BYTES:]
    if len(report.error) > MAX_ERROR_CHARACTERS:
        report.error = report.error[:MAX_ERROR_CHARACTERS] + "…"
    if len(report.result_error) > MAX_ERROR_CHARACTERS:
        report.result_error = report.result_error[:MAX_ERROR_CHARACTERS] + "…"


def _check(what: str, data: bytes, limit: int, advice: str) -> None:
    _check_size(what, len(data), limit, advice)


def _check_size(what: str, size: int, limit: int, advice: str) -> None:
    if size > limit:
        raise ResourceExhaustedError(f"{what} is too large: {size:,} bytes, over the limit of {limit:,}: {advice}")
