"""`iris usage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import LATEST, Lookup
from iris.cli.completion import JobName
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output
from iris.cores import MILLICORES
from iris.counts import counted
from iris.durations import words_of_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_CELLS = 24  # The width of a small plot, in characters.
_BARS = "▁▂▃▄▅▆▇█"
_MOST_TASKS = 50
_HELP = f"""\
Show what a job has used over time: CPU, memory and GPUs, as small plots. The numbers are averages of the CPU, and the
largest values of the memory. The history remains after the end of the job.

JOB is an id, the beginning of an id, or '@' for your latest job. Default: your latest job. JOB/task-N shows one task.
--tasks shows the usage of all tasks together and then of each task, at most {_MOST_TASKS} of them. --json prints every
stored point of the usage.

\b
  iris usage                                      your latest job
  iris usage train-1a2b3c4d --tasks
  iris usage train-1a2b3c4d/task-2
  iris usage train-1a2b3c4d --json | jq '.series[0].memory_mb | max'
"""


@click.command(help=_HELP, short_help="Show what a job has used over time.")
@click.option("--tasks", "-t", "each_task", is_flag=True, help="Also show the usage of each single task.")
@json_option(
    'Print one JSON document: {"job_id", "series"}. Each series has "task_index" (null for the sum over all tasks),'
    ' "step_ms", and the lists "times_ms", "cpu_millicores", "memory_mb", "gpu_percent" and "gpu_memory_mb".'
)
@address_option
@click.argument("job", metavar="[JOB]", type=JobName(with_tasks=True), default=LATEST)
def usage(*, job: str, each_task: bool, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        cluster, job_id, count = connection.client.cluster, target.job.job_id, target.job.num_tasks
        if target.task_index is not None:
            series = cluster.get_usage(job_id, [target.task_index])
        else:
            shown = range(count if as_json else min(count, _MOST_TASKS)) if each_task else ()
            series = cluster.get_usage(job_id) + (cluster.get_usage(job_id, shown) if shown else [])
    document = {"job_id": job_id, "series": [_document(one) for one in series]}
    measured = [one for one in series if one.times_ms]
    output.answer(document, lambda: _table(measured) if measured else _nothing(job_id))
    if each_task and target.task_index is None and count > _MOST_TASKS and not as_json:
        output.note(f"{counted(count - _MOST_TASKS, 'more task')}: iris usage --tasks --json")


def _nothing(job_id: str) -> str:
    return f"nothing was measured of {job_id}: tasks are measured about every two seconds while they run"


def _document(series: cluster_pb2.UsageSeries) -> dict[str, Any]:
    return {
        "task_index": series.task_index if series.HasField("task_index") else None,
        "step_ms": series.step_ms,
        "times_ms": list(series.times_ms),
        "cpu_millicores": list(series.cpu_millicores),
        "memory_mb": list(series.memory_mb),
        "gpu_percent": list(series.gpu_percent),
        "gpu_memory_mb": list(series.gpu_memory_mb),
        "num_tasks": list(series.num_tasks),
        "requested_cpu_millicores": list(series.requested_cpu_millicores),
        "requested_memory_mb": list(series.requested_memory_mb),
        "requested_gpus": list(series.requested_gpus),
    }


def _table(measured: Sequence[cluster_pb2.UsageSeries]) -> RenderableType:
    from iris.cli.output.columns import Columns

    with_gpu = any(series.gpu_percent for series in measured)
    gpu_names = ["GPU", "GPU MEMORY"] * with_gpu
    table = Columns("TASK", "TIME", "CPU", "CPU OVER TIME", "MEMORY", *gpu_names, "MEMORY OVER TIME")
    for series in measured:
        length_ms = series.times_ms[-1] - series.times_ms[0] + series.step_ms
        gpus = [f"{_average(series.gpu_percent):.0f}%", f"{max(series.gpu_memory_mb, default=0)} MB"]
        table.add_row(
            str(series.task_index) if series.HasField("task_index") else "all",
            words_of_seconds(length_ms / 1000),
            f"{_average(series.cpu_millicores) / MILLICORES:.2f}",
            sparkline(series.times_ms, series.cpu_millicores, _CELLS),
            f"{max(series.memory_mb)} MB",
            *gpus * with_gpu,
            sparkline(series.times_ms, series.memory_mb, _CELLS),
        )
    return table


def _average(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def sparkline(times_ms: Sequence[int], values: Sequence[int], cells: int) -> str:
    """Return a small plot of characters. Each character stands for a period of the same length, and shows the largest
    value in this period. A period without a value is a space.

    Args:
        times_ms: The time of each value in milliseconds, in ascending order.
        values: The values to plot, none of which is negative.
        cells: The largest number of characters in the plot.
    """
    if not values:
        return ""
    length = max(times_ms[-1] - times_ms[0], 1)
    width = min(cells, len(values))
    largest: list[int | None] = [None] * width
    for time_ms, value in zip(times_ms, values, strict=True):
        cell = min(width - 1, (time_ms - times_ms[0]) * width // length)
        largest[cell] = max(value, largest[cell] or 0)
    top = max(max(values), 1)
    return "".join(" " if value is None else _BARS[min(7, value * 8 // top)] for value in largest)
