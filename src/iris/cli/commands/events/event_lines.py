"""Shows events of a cluster as lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iris.cluster.types import make_task_id
from iris.errors import visible
from iris.moments import write_moment
from iris.terminal.outlet import DIM, RED, Outlet

if TYPE_CHECKING:
    from iris.rpc import cluster_pb2

_KIND_WIDTH = 18
_SUBJECT_WIDTH = 24
_MAX_SUBJECT = 44
# The colours of a terminal, as SGR codes.
_GREEN, _YELLOW, _MAGENTA, _CYAN, _BOLD = "\x1b[32m", "\x1b[33m", "\x1b[35m", "\x1b[36m", "\x1b[1m"
_STYLES = {
    "job.submitted": _BOLD, "job.running": _CYAN, "job.succeeded": _GREEN, "job.killed": _MAGENTA,
    "task.running": _CYAN, "task.succeeded": _GREEN, "task.killed": _MAGENTA, "task.retried": _YELLOW,
    "worker.registered": _GREEN, "webhook.recovered": _GREEN,
}  # fmt: skip

# The owner of an event whose kind begins with one of these words is the user who caused the event, and not the owner of
# the job.
_USER_GROUPS = ("exec", "session", "stacks", "tunnel")
_LEVEL_STYLES = {"warning": RED, "error": RED}


class EventLines:
    """Writes events as lines with columns. The column with the ids of jobs, tasks and workers grows with the longest id
    so far, up to a limit.

    Args:
        outlet: The output of the command. On a terminal, lines are cut at the width of the terminal.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._subject_width = _SUBJECT_WIDTH

    def write(self, event: cluster_pb2.Controller.Event) -> None:
        """Write one event as a line: the time, the kind of event, the job, task or worker, and what happened."""
        subject = visible(subject_of(event))
        self._subject_width = max(self._subject_width, min(len(subject), _MAX_SUBJECT))
        moment, kind = write_moment(event.time_ms), f"{visible(event.name):<{_KIND_WIDTH}}"
        rest = f"{subject:<{self._subject_width}}  {visible(details_of(event))}".rstrip()
        if self._outlet.is_terminal:
            rest = cut(rest, self._outlet.size().columns - len(moment) - len(kind) - 4)
        style = _STYLES.get(event.name) or _LEVEL_STYLES.get(event.level)
        painted = self._outlet.paint(kind, style) if style else kind
        line = f"{self._outlet.paint(moment, DIM)}  {painted}  {rest}".rstrip()
        self._outlet.write(self._outlet.encode(f"{line}\n"))


def cut(text: str, width: int) -> str:
    """Return a text that is at most `width` columns wide, with an ellipsis if it was longer."""
    from rich.cells import cell_len, set_cell_size

    return text if width < 1 or cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def subject_of(event: cluster_pb2.Controller.Event) -> str:
    """Return the id of the task, the job or the worker that an event is about. Return an empty string if the event is
    about none of them.
    """
    if event.HasField("task_index") and event.job_id:
        return make_task_id(event.job_id, event.task_index)
    return event.job_id or event.worker_id


def details_of(event: cluster_pb2.Controller.Event) -> str:
    """Return the details of an event as one line of text: its reason, its attempt, its worker, the user who caused
    the event, its fields and its text.
    """
    parts = [event.reason] if event.reason else []
    parts += [f"attempt {event.attempt_id}"] if event.HasField("attempt_id") and event.attempt_id else []
    parts += [f"on {event.worker_id}"] if event.worker_id and event.job_id else []
    parts += [f"by {event.owner}"] if event.owner and event.name.partition(".")[0] in _USER_GROUPS else []
    # The fields `state` and `exit_code` are left out if the event has a text, because that text contains their values.
    known = ("state", "exit_code") if event.text else ()
    left_out = {*known, "first_failed_task_index", "role", "token_id", "tunnel_id"}
    fields = sorted(item for item in event.fields.items() if item[0] not in left_out)
    parts += [f"{name}={value}" for name, value in fields if value]
    begin = ", ".join(parts)
    text = " ".join(event.text.split())
    return f"{begin}: {text}" if begin and text else begin or text
