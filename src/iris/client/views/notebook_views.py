"""Shows jobs and tasks as tables in a notebook. The table of a job changes until the job has ended.

IPython calls `_ipython_display_` of a handle. Outside a notebook that method raises `NotImplementedError`, and IPython
then uses the `repr` of the handle.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import Any

from iris.client.views.job_tables import job_table, jobs_table, task_tables
from iris.client.views.machine_table import machines_tables
from iris.cluster.types import is_job_finished
from iris.display.notebook import Cell, Html, is_notebook, shell
from iris.display.table import Table, escaped, plain_line, table_html, table_text
from iris.errors import IrisError
from iris.rpc import cluster_pb2

# The running asyncio tasks are kept in this set, because the event loop itself keeps only weak references to them.
_running: set[asyncio.Task[None]] = set()


class JobCell:
    """The table of one job in a notebook.

    Args:
        name: The `repr` of the handle, which is shown before the first status and with errors.

    Raises:
        NotImplementedError: This program does not run in a notebook.
    """

    def __init__(self, name: str) -> None:
        if not is_notebook():
            raise NotImplementedError
        self._name = name
        self._tasks: dict[int, cluster_pb2.TaskStatus] = {}
        self._cell = Cell(_content_of_text(name))

    def show(self, status: cluster_pb2.JobStatus) -> None:
        """Show a new status of the job. A task that the status does not contain keeps its earlier state."""
        self._tasks.update({task.task_index: task for task in status.tasks})
        whole = cluster_pb2.JobStatus()
        whole.CopyFrom(status)
        del whole.tasks[:]
        whole.tasks.extend(self._tasks[index] for index in sorted(self._tasks))
        self._cell.show(content_of(job_table(whole)))

    def show_task(self, status: cluster_pb2.TaskStatus) -> None:
        """Show the status of a task, with its attempts."""
        self._cell.show(content_of(*task_tables(status)))

    def fail(self, error: IrisError) -> None:
        """Show that the status is not known."""
        self._cell.show(_content_of_text(f"{self._name}: {error}"))

    def follow_in_thread(self, statuses: Iterable[cluster_pb2.JobStatus]) -> None:
        """Start a thread that shows each status. Return when the thread has shown the first status, or could not read
        it."""
        has_first = threading.Event()

        def follow() -> None:
            try:
                for status in statuses:
                    self.show(status)
                    has_first.set()
                    if is_job_finished(status.state):
                        break
            except IrisError as error:
                if not has_first.is_set():
                    self.fail(error)
            finally:
                has_first.set()

        threading.Thread(target=follow, name="iris-notebook", daemon=True).start()
        has_first.wait()

    async def follow(self, statuses: AsyncIterable[cluster_pb2.JobStatus]) -> None:
        """Show each status."""
        is_first = True
        try:
            async for status in statuses:
                self.show(status)
                is_first = False
        except IrisError as error:
            if is_first:
                self.fail(error)


def in_background(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on the running event loop, without waiting for its end.

    Raises:
        NotImplementedError: No event loop runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work.close()
        raise NotImplementedError from None
    task = loop.create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)


def show_messages_as_tables() -> None:
    """Let IPython show the messages of answers as tables instead of all their fields.

    Outside IPython this function does nothing. A formatter that the user has registered stays. The messages themselves
    do not change, and `print(status)` prints all fields.
    """
    formatter = getattr(shell(), "display_formatter", None)
    if formatter is None:
        return
    views: dict[type, Callable[[Any], list[Table]]] = {
        cluster_pb2.JobStatus: lambda message: [job_table(message) if message.tasks else jobs_table([message])],
        cluster_pb2.TaskStatus: task_tables,
        cluster_pb2.Controller.ListMachinesResponse: machines_tables,
    }
    for kind, tables in views.items():
        _register(formatter, kind, tables)


def _register(formatter: Any, kind: type, tables: Callable[[Any], list[Table]]) -> None:
    as_html, as_text = formatter.formatters["text/html"], formatter.formatters["text/plain"]
    if kind not in as_html.type_printers:
        as_html.for_type(kind, lambda message: table_html(*tables(message)))
    if kind not in as_text.type_printers:
        as_text.for_type(kind, lambda message, printer, cycle: printer.text(table_text(*tables(message))))


def content_of(*tables: Table) -> Html:
    """Return tables as content of a cell."""
    return Html(table_html(*tables), table_text(*tables))


def _content_of_text(text: str) -> Html:
    return Html(f"<div>{escaped(text)}</div>", plain_line(text))
