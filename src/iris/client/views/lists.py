"""The lists that the clients return. They are ordinary lists of messages or handles, and are shown as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, Self, SupportsIndex, TypeVar, overload

from iris.client.views.job_tables import count_of, jobs_table, tasks_table
from iris.client.views.machine_table import machines_tables
from iris.display.table import Table, table_html, table_text
from iris.rpc import cluster_pb2

Item = TypeVar("Item")


class Handle(Protocol):
    """A handle on a task, of the sync or the async client."""

    job_id: str
    task_index: int


Task = TypeVar("Task", bound=Handle)


class TableList(list[Item]):
    """A list whose `repr` and `str` are a table. A slice of the list, such as `jobs[-5:]`, is shown as a table, too."""

    def tables(self) -> list[Table]:
        """Return the tables that show the list."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return self._like(found) if isinstance(index, slice) else found

    def _like(self, items: list[Item]) -> Self:
        return type(self)(items)

    def __repr__(self) -> str:
        return table_text(*self.tables())

    def _repr_html_(self) -> str:
        return table_html(*self.tables())


class JobList(TableList[cluster_pb2.JobStatus]):
    """A list of jobs, the oldest first. The table shows the newest job first."""

    def tables(self) -> list[Table]:
        """Return a table with a row for each job."""
        return [jobs_table(self)]


class TaskStatusList(TableList[cluster_pb2.TaskStatus]):
    """A list of the states of tasks, in index order."""

    def tables(self) -> list[Table]:
        """Return a table with a row for each task."""
        return [tasks_table(self, title_of(self, self[0].job_id if self else ""))]


class TaskList(TableList[Task], Generic[Task]):
    """A list of handles on the tasks of a job, in index order.

    Args:
        handles: The handles of the tasks to show.
        statuses: The states of the tasks when the list was made, by task index. The table shows these states.
    """

    def __init__(self, handles: Iterable[Task], statuses: Sequence[cluster_pb2.TaskStatus] = ()) -> None:
        super().__init__(handles)
        self._statuses = {status.task_index: status for status in statuses}

    def tables(self) -> list[Table]:
        """Return a table with a row for each task. The rows show the states at the time when the list was made."""
        known = [self._statuses[handle.task_index] for handle in self if handle.task_index in self._statuses]
        return [tasks_table(known, title_of(self, self[0].job_id if self else ""))]

    def _like(self, items: list[Task]) -> Self:
        return type(self)(items, list(self._statuses.values()))


class Machines(Sequence[cluster_pb2.Controller.Machine]):
    """The machines of a cluster, sorted by name, and the queued gangs. The object is a sequence of machines, shown as a
    table.

    Attributes:
        message: The controller's answer to the call `ListMachines`.
    """

    def __init__(self, message: cluster_pb2.Controller.ListMachinesResponse) -> None:
        self.message = message

    @property
    def engine(self) -> str:
        """The name of the engine: local, ray or slurm."""
        return self.message.engine

    @property
    def machines(self) -> Sequence[cluster_pb2.Controller.Machine]:
        """The machines, sorted by name."""
        return self.message.machines

    @property
    def waiting(self) -> Sequence[cluster_pb2.Controller.WaitingGang]:
        """The first 1,000 queued gangs, the oldest first."""
        return self.message.waiting

    @property
    def num_waiting(self) -> int:
        """The number of all queued gangs."""
        return self.message.num_waiting

    @property
    def problem(self) -> str:
        """Why the engine does not answer. Empty if it answers."""
        return self.message.problem

    @overload
    def __getitem__(self, index: int) -> cluster_pb2.Controller.Machine: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[cluster_pb2.Controller.Machine]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.message.machines[index]

    def __len__(self) -> int:
        return len(self.message.machines)

    def __bool__(self) -> bool:
        return True  # Unlike an empty list, an answer without machines still has an engine and a queue.

    def __repr__(self) -> str:
        return table_text(*machines_tables(self.message))

    def _repr_html_(self) -> str:
        return table_html(*machines_tables(self.message))


def title_of(tasks: Iterable[object], job_id: str) -> str:
    """Return the title of a table of tasks, for example `4 tasks of job train`."""
    return count_of(tasks, "task") + (f" of job {job_id}" if job_id else "")
