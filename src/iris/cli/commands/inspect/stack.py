"""`iris stack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import LATEST, Lookup
from iris.cli.commands.inspect.ended_jobs import note_end
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from iris.client.inspect.stacks import Frame, JobStacks, StackGroup, TaskStacks, ThreadStack, Variable

_HELP = """\
Show where the tasks of a job are now: the call stacks of all threads of their Python processes.

The stacks of all tasks are read at the same time, and identical stacks are merged. In a hung gang, look at the task
whose stack differs from the others. The innermost function of a stack comes first. The tasks continue while their
stacks are read. Threads that wait for work, such as those of a thread pool, are only counted. Processes that are not
Python programs are named.

\b
  iris stack                          your latest job
  iris stack train-1a2b3c4d           all tasks
  iris stack train-1a2b3c4d/task-7 --full
  iris stack @ --locals               with the values of local variables, which may be secrets
  iris stack @ --json | jq '.groups[] | {task_indices, frames: [.frames[].function]}'

Only the owner of a job and admins can read the stacks of its tasks. The workers need the extra [inspect] (py-spy).
"""


@click.command(help=_HELP, short_help="Show where the tasks of a job are: their call stacks, merged.")
@click.option(
    "--full",
    is_flag=True,
    help="Show all frames of each stack, one frame on each line, with the whole path of its file.",
)
@click.option(
    "--locals",
    "with_variables",
    is_flag=True,
    help="Show all frames of each stack with the values of their local variables. The event log records each use of"
    " this option.",
)
@json_option(
    'Print one JSON document: {"job_id", "groups", "tasks"}. "groups" has the distinct stacks, each with'
    ' "task_indices" and "frames". "tasks" has each task with its "processes", and a "reason" if it cannot be read.'
)
@address_option
@click.argument("job", metavar="[JOB]", type=JobName(with_tasks=True), default=LATEST)
def stack(*, job: str, full: bool, with_variables: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    from iris.client.inspect.stack_text import describe

    output = Output(as_json=as_json)
    with connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        stacks = connection.client.stacks(target.job.job_id, target.task_index, variables=with_variables)
    output.answer(_document(stacks), lambda: describe(stacks, full=full or with_variables))
    note_end(output, target.job, connection.options)
    return 0 if any(_is_read(task) for task in stacks.tasks) else EXIT_ERROR


def _is_read(task: TaskStacks) -> bool:
    return any(process.threads for process in task.processes)


def _document(stacks: JobStacks) -> dict[str, Any]:
    return {
        "job_id": stacks.job_id,
        "groups": [_group(group) for group in stacks.groups()],
        "tasks": [_task(task) for task in stacks.tasks],
    }


def _group(group: StackGroup) -> dict[str, Any]:
    return {
        "command": group.command,
        "thread": group.thread,
        "task_indices": list(group.task_indices),
        "num_threads": group.num_threads,
        "is_active": group.is_active,
        "frames": _frames(group.frames, group.variables),
    }


def _task(task: TaskStacks) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "task_index": task.task_index,
        "attempt_id": task.attempt_id,
        "worker_id": task.worker_id,
        "read_at_ms": task.read_at_ms,
        "reason": task.reason,
        "problem": task.problem,
        "processes": [
            {
                "pid": process.pid,
                "parent_pid": process.parent_pid,
                "command": process.command,
                "state": process.state,
                "reason": process.reason,
                "problem": process.problem,
                "threads": [_thread(thread) for thread in process.threads],
            }
            for process in task.processes
        ],
    }


def _thread(thread: ThreadStack) -> dict[str, Any]:
    return {
        "name": thread.name,
        "thread_id": thread.thread_id,
        "is_active": thread.is_active,
        "holds_gil": thread.holds_gil,
        "frames": _frames(thread.frames, thread.variables),
    }


def _frames(frames: tuple[Frame, ...], variables: tuple[tuple[Variable, ...], ...]) -> list[dict[str, Any]]:
    found = []
    for position, frame in enumerate(frames):
        entry: dict[str, Any] = frame._asdict()
        if position < len(variables):
            entry["variables"] = {one.name: one.value for one in variables[position]}
        found.append(entry)
    return found
