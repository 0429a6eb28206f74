"""`iris top`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup
from iris.cli.completion import JobName
from iris.cli.options import POSITIVE_COUNT, address_option, json_option
from iris.cli.output.live_view import Frame, polled, show_live
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished
from iris.errors import NotFoundError, PermissionDeniedError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client import IrisClient

_MOST_JOBS = 100
_HELP = """\
Show the tasks that run, with the CPU, memory and GPUs that they use, until Ctrl-C. The tasks that use the most come
first. If JOBs are given, only their tasks are shown. A JOB may be one task, such as train/task-2.

\b
  iris top
  iris top 'sweep-*' --sort memory
  iris top --once                                 show the tasks once
  iris top --json | jq '[.tasks[].memory_mb] | add'

CPU is the number of cores in use at the moment. MEMORY is the memory in use, and PEAK the most so far. GPU is the
number of GPUs that are reserved for the task; 'iris usage' shows their use. Workers measure every few seconds. The
tasks of at most 100 jobs are shown: of the newest jobs, or of the first given JOBs. A pipe gets the tasks again after
each change.
"""


@dataclass(frozen=True)
class _Use:
    """A task that runs, and the number of GPUs that are reserved for it."""

    task: cluster_pb2.TaskStatus
    gpu: int

    def key(self, sort: str) -> tuple[float, float, float]:
        """Return the sort key of the task: its use of the resource `sort`, and then its use of the other resources."""
        usage = self.task.resource_usage
        cpu, memory, gpu = float(usage.cpu_millicores), float(usage.memory_mb), float(self.gpu)
        return {"cpu": (cpu, memory, gpu), "memory": (memory, cpu, gpu), "gpu": (gpu, cpu, memory)}[sort]


@click.command(help=_HELP, short_help="Show what the running tasks use, live.")
@click.option(
    "--sort",
    type=click.Choice(["cpu", "memory", "gpu"]),
    default="cpu",
    help="Sort the tasks by their use of this resource, the largest use first. Default: cpu.",
)
@click.option("--limit", "-n", type=POSITIVE_COUNT, metavar="N", help="Show at most N tasks. Default: all tasks.")
@click.option("--once", is_flag=True, help="Show the tasks once, and exit.")
@json_option('Print one JSON document, {"tasks"}, and exit.')
@address_option
@click.argument("jobs", metavar="[JOB]...", type=JobName(with_tasks=True), nargs=-1)
def top(*, jobs: tuple[str, ...], sort: str, limit: int | None, once: bool, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    gpus: dict[str, int] = {}
    with connect(address) as connection:

        def read() -> Frame:
            used = sorted(_uses(connection.client, jobs, gpus), key=lambda use: use.key(sort), reverse=True)
            return _frame(used[:limit])

        if once or as_json:
            frame = read()
            output.answer(frame.document, frame.view)
        else:
            show_live(polled(read), output)


def _uses(client: IrisClient, names: tuple[str, ...], gpus: dict[str, int]) -> list[_Use]:
    """Return the running tasks among the named tasks and the tasks of the named jobs, each with its number of GPUs. If
    `names` is empty, return the running tasks of the newest jobs. `gpus` is a cache that the caller passes to each
    call. It contains how many GPUs each task of a job has, by job id.
    """
    wanted: dict[str, set[int | None]] = {}
    if names:
        targets = Lookup(client, with_tasks=False, live_only=True).several(names)
        jobs = list({target.job.job_id: target.job for target in targets}.values())
        for target in targets:
            wanted.setdefault(target.job.job_id, set()).add(target.task_index)
    else:
        jobs = client.list_jobs(states=["BUILDING", "RUNNING"], newest_first=True, limit=_MOST_JOBS)
    live = [job for job in jobs if not is_job_finished(job.state) and job.tasks_running]
    found = []
    for job in live[:_MOST_JOBS]:
        try:
            if job.job_id not in gpus:
                device = client.submission(job.job_id).submission.resources.device
                gpus[job.job_id] = max(1, device.gpu.count) if device.HasField("gpu") else 0
            chosen = wanted.get(job.job_id, {None})  # {None} selects all tasks of the job.
            tasks = [task for task in client.list_tasks(job.job_id) if {None, task.task_index} & chosen]
        except (NotFoundError, PermissionDeniedError):
            continue  # The job is left out: it was removed, or this command may not read it.
        found += [_Use(task, gpus[job.job_id]) for task in tasks if task.state == cluster_pb2.TASK_STATE_RUNNING]
    return found


def _frame(used: list[_Use]) -> Frame:
    from iris.cli.output.tables import usage_table

    rows = [(use.task, use.gpu) for use in used]
    return Frame({"tasks": [_document(use) for use in used]}, lambda: usage_table(rows) if rows else "no task runs")


def _document(use: _Use) -> dict[str, Any]:
    task, usage = use.task, use.task.resource_usage
    return {
        "task_id": task.task_id,
        "worker_id": task.worker_id or None,
        "cpu_millicores": usage.cpu_millicores,
        "memory_mb": usage.memory_mb,
        "memory_peak_mb": usage.memory_peak_mb,
        "processes": usage.process_count,
        "gpu": use.gpu,
        "started_at_ms": task.started_at_ms or None,
    }
