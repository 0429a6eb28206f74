"""Limits the sizes of submissions, and of the registrations and reports of workers. The module is pure."""

from __future__ import annotations

import re

from iris.cluster.names import check_name
from iris.cluster.pickles.transfer_limits import MAX_EXCEPTION_BYTES, MAX_RESULT_BYTES, MAX_TRACEBACK_BYTES
from iris.errors import InvalidArgumentError, ResourceExhaustedError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.address import parse_address

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest
Report = cluster_pb2.Controller.ReportTaskStateRequest

# The size limit of a job's id, which contains the names of all its parent jobs.
MAX_JOB_ID_BYTES = 1000
# The size limit of a pickled entry point. Clients use the same limit (cluster/client/pickling.py).
MAX_ENTRYPOINT_BYTES = 64 * 1024**2
# The limit for workspaces is higher than the limit of clients (cluster/client/workspace_archive.py), because clients
# check the size before compression, and compression may enlarge files.
MAX_BUNDLE_BYTES = 110 * 1024**2
# On Linux, each word of a command line and each environment variable (with its name) may have at most 128 KiB. All
# words and variables together may have 2 MiB with the usual stack size. The limit in this module is lower, because the
# worker adds variables for each task.
MAX_WORD_BYTES = 128 * 1024 - 1
MAX_WORDS_BYTES = 768 * 1024
MAX_PORTS = 100  # The largest number of named ports of a task.
MAX_PATH_BYTES = 4095
MAX_KEY_BYTES = 200  # The size limit of an id that a program has generated.
MAX_METADATA_BYTES = 64 * 1024  # The largest size of one text in the registration of a worker.
MAX_ERROR_CHARACTERS = 4000
_PYTHON = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}", re.ASCII)


def check_sizes(request: LaunchJobRequest) -> None:
    """Refuse a submission with a part that is too large.

    Raises:
        InvalidArgumentError: `pickled_by` is not a Python version.
        ResourceExhaustedError: A part is larger than its limit.
    """
    _check("the job's id", f"{request.parent_job_id}/{request.name}".encode(), MAX_JOB_ID_BYTES, "give shorter names")
    advice = "have the task load large data itself, from where it is stored"
    _check("the pickled callable", request.serialized_entrypoint, MAX_ENTRYPOINT_BYTES, advice)
    _check("the packed workspace", request.bundle_blob, MAX_BUNDLE_BYTES, advice)
    _check("the inputs of all tasks", request.inputs_blob, MAX_BUNDLE_BYTES, "pass paths instead of large data")
    _check("inputs_digest", request.inputs_digest.encode(), MAX_KEY_BYTES, "a SHA-256 in hex is enough")
    _check("submission_id", request.submission_id.encode(), MAX_KEY_BYTES, "16 random bytes in hex are enough")
    _check("working_directory", request.working_directory.encode(), MAX_PATH_BYTES, "no path is longer on Linux")
    if request.pickled_by and not _PYTHON.fullmatch(request.pickled_by):
        raise InvalidArgumentError(f"pickled_by must be a Python version like '3.11', got {quoted(request.pickled_by)}")
    if len(request.ports) > MAX_PORTS:
        raise ResourceExhaustedError(
            f"a task can have up to {MAX_PORTS} ports, got {len(request.ports):,}", reason=ErrorReason.TOO_LARGE
        )
    words = [("a word of the command", word) for word in request.command]
    variables = [
        (f"the environment variable {quoted(name)}", f"{name}={value}")
        for name, value in request.environment.env_vars.items()
    ]
    for whole, parts in (("the command", words), ("the environment", variables)):
        sizes = [len(text.encode()) for _, text in parts]
        for (what, _), size in zip(parts, sizes, strict=True):
            _check_size(what, size, MAX_WORD_BYTES, "Linux starts no program with more; put it into a file")
        _check_size(whole, sum(sizes), MAX_WORDS_BYTES, "put large parts into a file, or into the workspace")


def check_worker(request: cluster_pb2.Controller.RegisterWorkerRequest) -> None:
    """Refuse a worker whose registration is invalid or too large.

    Raises:
        InvalidArgumentError: The worker's id or address is invalid.
        ResourceExhaustedError: A part of the registration is larger than its limit.
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
    """Shorten the texts in a worker's report that are too long, and drop a result or a pickled exception that is too
    large. The report is never refused because of its size, because the controller has to know that the attempt has
    ended.
    """
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
        raise ResourceExhaustedError(
            f"{what} is too large: {size:,} bytes, over the limit of {limit:,}: {advice}", reason=ErrorReason.TOO_LARGE
        )
