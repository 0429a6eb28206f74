"""Answers the calls that read what tasks and workers have used over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iris.arguments import MAX_INT64, check_whole_number
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.usage import rows
from iris.cluster.controller.usage.history import UsageHistory
from iris.cluster.controller.usage.series import (
    CPU,
    GPU,
    GPU_MEMORY,
    MEMORY,
    REQUESTED_CPU,
    REQUESTED_GPUS,
    REQUESTED_MEMORY,
    SUM_COLUMNS,
    TASKS,
    Points,
    UsageSeries,
)
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import Steps

GetUsageRequest = cluster_pb2.Controller.GetUsageRequest
GetUsageResponse = cluster_pb2.Controller.GetUsageResponse

MAX_SERIES = 1000
MAX_POINTS = 1000
_DEFAULT_POINTS = 240
# The largest number of data points in one answer, in all its series together. More points make a message that is too
# large for some clients.
_MOST_POINTS_OF_ALL = 240_000
_END_S = 2**32 - 1


class UsageQueries:
    """Answers the calls that read what tasks and workers have used over time.

    Args:
        jobs: The table of all jobs of the cluster.
        history: The object that stores the usage over time.
        slices: The object that makes large answers in small steps.
    """

    def __init__(self, jobs: JobTable, history: UsageHistory, slices: Slices) -> None:
        self._jobs = jobs
        self._history = history
        self._slices = slices

    async def get_usage(self, request: GetUsageRequest) -> GetUsageResponse:
        """Return the requested series, with at most the requested number of points in each.

        Raises:
            InvalidArgumentError: The request names neither a job nor workers, or both, or a number is invalid.
            NotFoundError: There is no such job or task.
        """
        _check(request)
        if request.worker_ids:
            known = {worker_id: self._history.worker(worker_id) for worker_id in request.worker_ids}
            workers = {worker_id: series for worker_id, series in known.items() if series is not None}
            return await self._slices.run(_messages(workers.items(), request))
        record = await self._jobs.find(request.job_id)
        for index in request.task_indices:
            record.check_index(index)
        indices: Sequence[int] = list(dict.fromkeys(request.task_indices)) or [rows.SUM_INDEX]
        found = await self._history.series(record.number, indices)
        return await self._slices.run(
            _messages([(index, found[index]) for index in indices if index in found], request)
        )


def _check(request: GetUsageRequest) -> None:
    if bool(request.job_id) == bool(request.worker_ids):
        raise InvalidArgumentError(
            "a request for usage must name either a job (job_id) or workers (worker_ids),"
            f" got {'both' if request.job_id else 'neither'}"
        )
    if request.task_indices and request.worker_ids:
        raise InvalidArgumentError(
            "task_indices and worker_ids are mutually exclusive: task_indices name tasks of the job in job_id"
        )
    for name, values in (("task_indices", request.task_indices), ("worker_ids", request.worker_ids)):
        if len(values) > MAX_SERIES:
            raise InvalidArgumentError(
                f"{name} must have at most {MAX_SERIES:,} items, got {len(values):,}: make several requests"
            )
    check_whole_number("since_ms", request.since_ms, most=MAX_INT64)
    check_whole_number("until_ms", request.until_ms, most=MAX_INT64)
    check_whole_number("max_points", request.max_points, most=MAX_POINTS)
    if request.until_ms and request.until_ms < request.since_ms:
        raise InvalidArgumentError(
            f"until_ms must not be before since_ms, got since_ms={request.since_ms} and until_ms={request.until_ms}"
        )


def _messages(series: Iterable[tuple[int | str, UsageSeries]], request: GetUsageRequest) -> Steps[GetUsageResponse]:
    series = list(series)
    most = min(request.max_points or _DEFAULT_POINTS, max(1, _MOST_POINTS_OF_ALL // max(len(series), 1)))
    since_s = min(request.since_ms // 1000, _END_S)
    until_s = min(request.until_ms // 1000, _END_S) if request.until_ms else _END_S
    answer = GetUsageResponse()
    for key, one in series:
        message = answer.series.add()
        if isinstance(key, str):
            message.worker_id = key
        elif key != rows.SUM_INDEX:
            message.task_index = key
        _fill(message, one.read(since_s, until_s, most))
        yield
    return answer


def _fill(message: cluster_pb2.UsageSeries, points: Points) -> None:
    columns = points.columns
    message.step_ms = points.step_s * 1000
    message.times_ms.extend([time_s * 1000 for time_s in points.times])
    message.cpu_millicores.extend(columns[CPU])
    message.memory_mb.extend(columns[MEMORY])
    if any(columns[GPU]) or any(columns[GPU_MEMORY]):
        message.gpu_percent.extend(columns[GPU])
        message.gpu_memory_mb.extend(columns[GPU_MEMORY])
    if len(columns) >= SUM_COLUMNS:
        message.num_tasks.extend(columns[TASKS])
        message.requested_cpu_millicores.extend(columns[REQUESTED_CPU])
        message.requested_memory_mb.extend(columns[REQUESTED_MEMORY])
        message.requested_gpus.extend(columns[REQUESTED_GPUS])
