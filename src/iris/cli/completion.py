"""Completes ids of jobs and tasks, and names of contexts. A completion never prints an error, and never takes long."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from iris.cluster.types import is_job_finished, state_name
from iris.errors import IrisError, NotFoundError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from iris.client import IrisClient
    from iris.rpc import cluster_pb2

# The shell sets this environment variable when it requests completions. `click` reads it in `program.main`.
COMPLETION_VARIABLE = "_IRIS_COMPLETE"
_TIMEOUT_S = 2.0
_MOST = 100


class JobName(click.ParamType[Any]):
    """The type of an argument that names a job. A shell completes the ids of jobs, and of tasks after `JOB/`.

    Args:
        with_tasks: Whether the command's argument may also name a task.
    """

    name = "job"

    def __init__(self, *, with_tasks: bool = False) -> None:
        self._with_tasks = with_tasks

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the ids of jobs and tasks that begin with a text. Jobs that have not ended come first."""
        from click.shell_completion import CompletionItem

        from iris.cli.cluster.connect import connect

        address = ctx.params.get("address") or ctx.find_root().params.get("address")
        try:
            # This scope makes `ctx` the current context of click, in which `connect` looks for the option `--context`.
            with ctx.scope(cleanup=False), _limited_time(), connect(address) as connection:
                tasks = _tasks(connection.client, incomplete) if self._with_tasks and "/" in incomplete else []
                jobs = [(job.job_id, state_name(job.state)) for job in _jobs(connection.client, incomplete)]
        except (IrisError, _TooSlow):
            return []
        return [CompletionItem(name, help=state) for name, state in (tasks + jobs)[:_MOST]]


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a word as the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_context(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of contexts that begin with a text, with their addresses."""
    from click.shell_completion import CompletionItem

    from iris.cluster.client.contexts.context_file import LOCAL, read_contexts

    try:
        known = read_contexts().known
    except IrisError:
        return []
    addresses = {name: known[name].address for name in sorted(known)}
    addresses[LOCAL] = "the cluster of 'iris up' on this machine"
    return [CompletionItem(name, help=text) for name, text in addresses.items() if name.startswith(incomplete)]


class _TooSlow(BaseException):
    """The error that ends a completion when the cluster has not answered in time. The class is not a subclass of
    `Exception`, because the client would otherwise treat the error as a broken connection and repeat the call.
    """


@contextmanager
def _limited_time() -> Iterator[None]:
    """Raise `_TooSlow` in the `with` block after `_TIMEOUT_S`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _jobs(client: IrisClient, begin: str) -> list[cluster_pb2.JobStatus]:
    found = client.list_jobs(id_prefix=begin, newest_first=True, limit=_MOST)
    return sorted(found, key=lambda job: is_job_finished(job.state))


def _tasks(client: IrisClient, begin: str) -> list[tuple[str, str]]:
    try:
        job = client.status(begin.rpartition("/")[0])
    except NotFoundError:
        return []
    return [(task.task_id, state_name(task.state)) for task in job.tasks if task.task_id.startswith(begin)]
