"""Defines the kinds of events that a cluster records, for users, programs and webhooks.

`docs/reference/events.md` lists the kinds for users, and a test compares the two lists. To add a kind, add one line to
this module. Changes of the states of jobs and tasks create events automatically. Every other event is created by a call
of `log_event` with the name of the kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from iris.errors import InvalidArgumentError, quoted

# What each kind means, by kind.
EVENT_KINDS = {
    "job.submitted": "A job was submitted.",
    "job.building": "Tasks of a job got workers, which prepare the attempts.",
    "job.running": "The first task of a job began to run, or a task runs again after a retry.",
    "job.waiting": "All tasks of a job wait again, for example after a retry of its gang.",
    "job.succeeded": "A job ended, and its tasks succeeded.",
    "job.failed": "A job ended, because tasks failed.",
    "job.killed": "A job ended, because a user or another job terminated it.",
    "job.worker_failed": "A job ended, because a task lost its workers too often.",
    "job.unschedulable": "A job ended, because it could not be placed.",
    "job.dependency_ended": "A job for which another job waits has ended.",
    "job.removed": "An ended job was removed.",
    "task.placed": "A task got a worker, which now prepares the attempt.",
    "task.running": "The process of an attempt was started.",
    "task.retried": "An attempt ended, and the task will be tried again.",
    "task.succeeded": "A task ended with success.",
    "task.failed": "A task failed, and is not tried again.",
    "task.killed": "A task was stopped, or ended before it began, because its job ended or a user terminated it.",
    "task.worker_failed": "A task lost its worker, and is not tried again.",
    "task.unschedulable": "A task ended before it began, because its job could not be placed.",
    "worker.registered": "A worker process registered.",
    "worker.lost": "A worker was declared lost, and its attempts ended.",
    "worker.removed": "A worker ended, and is not listed any more.",
    "job.hang": "A watched job seems to hang, or does so no more.",
    "stacks.read": "A user read the stacks of a job with the values of local variables.",
    "tunnel.opened": "A user connected to the ports of a task.",
    "tunnel.used": "A user opened a connection to a port of a task.",
    "tunnel.closed": "A user ended the connection to the ports of a task, or lost it for a minute.",
    "exec.opened": "A user opened a command or a shell in a running task.",
    "exec.used": "A user asked to start a command or a shell in a running task.",
    "exec.closed": "A user's command or shell in a task was closed, or its user was away for a minute.",
    "session.opened": "A user signed in to the web page. Only admins see the event.",
    "session.ended": "A user signed out of the web page. Only admins see the event.",
    "server.started": "The controller was started.",
    "server.warning": "The controller logged a warning.",
    "server.error": "The controller logged an error.",
    "contents.dropped": "Stored contents of a user's ended jobs were dropped, because of the limit for each user.",
    "webhook.failing": "A webhook did not accept an event, and the delivery is tried again.",
    "webhook.recovered": "A webhook accepts events again.",
    "webhook.dropped": "Events were given up for a webhook, which did not accept them.",
    "traces.failing": "The collector of traces did not accept spans, which are sent again later.",
    "traces.dropped": "Spans were given up, because the collector refused them, they could not be made, or too many of"
    " them waited.",
    "traces.recovered": "The collector of traces accepts spans again.",
    "events.gap": "Events are missing here, because they were removed before the client read them. This event is not"
    " stored. Clients get it whatever kinds they have chosen.",
    "events.dropped": "Events were lost before they could be stored, because the disk was full for too long.",
}

_LOGGED_OF_JOBS = ("job.removed", "job.dependency_ended", "job.hang")
# The kinds that come from states of jobs and tasks. `log_event` does not make events of these kinds.
STATE_KINDS = frozenset(
    kind for kind in EVENT_KINDS if kind.startswith(("job.", "task.")) and kind not in _LOGGED_OF_JOBS
)
JOB_ENDS = ("job.succeeded", "job.failed", "job.killed", "job.worker_failed", "job.unschedulable")
_FOR_ADMINS = ("session.",)


def is_for_admins(kind: str) -> bool:
    """Return whether only admins may see events of a kind."""
    return kind.startswith(_FOR_ADMINS)


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Check the kinds of events that a user has chosen, and return these kinds. `job.*` stands for all kinds that begin
    with `job.`.

    Raises:
        InvalidArgumentError: There is no such kind. The message suggests similar kinds.
    """
    chosen = tuple(dict.fromkeys(kinds))
    groups = sorted({f"{kind.partition('.')[0]}.*" for kind in EVENT_KINDS})
    for kind in chosen:
        if kind not in EVENT_KINDS and kind not in groups:
            near = difflib.get_close_matches(str(kind), [*EVENT_KINDS, *groups], n=2)
            advice = f"did you mean {' or '.join(map(repr, near))}?" if near else _accepted(groups)
            raise InvalidArgumentError(f"there is no {quoted(kind)} among the kinds of events: {advice}")
    return chosen


def is_chosen(kind: str, chosen: Sequence[str]) -> bool:
    """Return whether a kind is among the chosen kinds. An empty choice contains all kinds."""
    return not chosen or kind in chosen or f"{kind.partition('.')[0]}.*" in chosen


def _accepted(groups: Sequence[str]) -> str:
    listed = ", ".join(groups)
    return f"a kind is for example 'job.failed', or a group: {listed}; docs/reference/events.md lists the kinds"
