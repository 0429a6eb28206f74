"""The items that a reader of the log route produces, and that the formats write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iris.cluster.logs.entries.log_entry import LogEntry
from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of one attempt and source that were captured together, or one partial line, or one gap. If the reader joins
    lines to blocks, all lines of a batch are in one entry, together with the newlines between the lines.
    """

    entries: Sequence[LogEntry]


@dataclass(frozen=True, slots=True)
class Notice:
    """A message about the logs, for example about a retry.

    Attributes:
        text: The text of the message.
        cursor: The place in the logs from which a reader continues after the message. If the cursor is empty, a reader
            continues after the last line.
    """

    text: str
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class TaskOver:
    """The item that tells the writer that the log of a task was read to its end."""

    task_index: int


@dataclass(frozen=True, slots=True)
class Pause:
    """The item that tells the writer that nothing more can be read at the moment. Therefore the writer must send all
    data that is waiting to be sent.
    """


@dataclass(frozen=True, slots=True)
class AllRead:
    """The last item of a reader. This item means that everything that the reader selects was read.

    Attributes:
        ends: The end of the log of each task's last attempt, by task index.
        job: The job, without its tasks.
        is_part: Whether only some tasks, or one attempt, were read.
        cursor: The cursor with which a reader continues after everything that was read.
    """

    ends: Mapping[int, cluster_pb2.LogEnd]
    job: cluster_pb2.JobStatus
    is_part: bool
    cursor: str


Item = Batch | Notice | TaskOver | Pause | AllRead
