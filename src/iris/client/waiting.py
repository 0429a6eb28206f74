"""Waits until a job ends, or until an endpoint is registered."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass, replace

from iris.arguments import check_flag, check_job_id, check_seconds, check_task_index, check_timeout
from iris.client.logs.read_options import ReadOptions
from iris.client.views.job_tables import job_progress, job_summary
from iris.cluster.client.operations.endpoints import lookup_endpoint
from iris.cluster.client.operations.jobs import get_job_status
from iris.cluster.client.operations.steps import Operation, Pause, next_item
from iris.cluster.client.operations.watches.job_watching import watch_job, watch_timeout
from iris.cluster.types import get_job_info
from iris.display.board import Display, check_progress, show_progress
from iris.display.progress import Progress
from iris.errors import DeadlineExceededError, InvalidArgumentError, NotFoundError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import DEFAULT_TIMEOUT_S
from iris.system.backoff import Backoff
from iris.terminal.notices import print_notice

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
# In a job of more than 1,000 tasks, the longest pause between two lookups of an endpoint is this many seconds times the
# number of tasks. If all tasks wait for the same endpoint, they therefore call the controller at most 1,000 times a
# second.
_PAUSE_S_PER_TASK = 0.001
# The least number of seconds that the controller gets to answer a lookup, even if the timeout is shorter.
_LEAST_CALL_S = 1.0


@dataclass(frozen=True, slots=True)
class Wait:
    """The checked arguments of `IrisClient.wait`.

    Attributes:
        job_id: The id of the job.
        limit_s: The time limit that the user has set, in seconds.
        end: When the time limit ends, on the monotonic clock. `math.inf`: no limit.
        longest_pause_s: The longest pause between two tries while the controller does not answer.
        shown_task: The index of the task whose lines are printed, or None if no lines are printed.
        names_other_tasks: Whether a notice says that the lines of other tasks are not printed.
        progress: Whether the progress is shown. If None, it is shown on a terminal and in a notebook. Always False if
            lines are printed.
    """

    job_id: str
    limit_s: float
    end: float
    longest_pause_s: float
    shown_task: int | None
    names_other_tasks: bool
    progress: bool | None

    @classmethod
    def checked(
        cls,
        job_id: object,
        timeout: float | None,
        poll_interval: float,
        stream_logs: bool,
        stream_task_index: int | None,
        progress: bool | None,
    ) -> Wait:
        """Return the checked arguments.

        Raises:
            InvalidArgumentError: An argument is invalid.
        """
        checked_id = check_job_id(job_id)
        limit_s = check_timeout("timeout", timeout)
        end = math.inf if limit_s == math.inf else time.monotonic() + limit_s
        poll_interval = check_seconds("poll_interval", poll_interval, above_zero=True)
        if stream_task_index is not None:
            stream_task_index = check_task_index(stream_task_index, "stream_task_index", none="task 0")
        progress = check_progress(progress)
        if not check_flag("stream_logs", stream_logs):
            if stream_task_index is not None:
                raise InvalidArgumentError(f"stream_task_index={stream_task_index!r} needs stream_logs=True")
            return cls(checked_id, limit_s, end, poll_interval, None, names_other_tasks=False, progress=progress)
        if progress:
            raise InvalidArgumentError(
                "progress=True and stream_logs=True exclude each other, because the printed lines show the progress"
            )
        shown, names = stream_task_index or 0, stream_task_index is None
        return cls(checked_id, limit_s, end, poll_interval, shown, names_other_tasks=names, progress=False)

    def display(self) -> Display:
        """Return the display of the job's progress, to be used in a `with` block."""
        return show_progress(self.progress, Progress(f"job {self.job_id}"))

    def read_options(self) -> ReadOptions:
        """Return the options for the log reader that reads the lines to print."""
        return replace(ReadOptions.checked(), until=self.end)


def wait_for_end(wait: Wait, display: Display) -> Operation[cluster_pb2.JobStatus]:
    """Return the final status of a job.

    Args:
        wait: The arguments of the wait.
        display: The object that shows each change of the job, and a summary at the end.

    Raises:
        NotFoundError: There is no such job.
        DeadlineExceededError: (a `TimeoutError`) The job has not ended in time.
    """
    left = None if wait.end == math.inf else max(0.0, wait.end - time.monotonic())
    shown = Progress(f"job {wait.job_id}")

    def show_silence(error: UnavailableError) -> None:
        display.update(replace(shown, note="the controller does not answer; trying again"))

    states = watch_job(wait.job_id, timeout=left, longest_pause_s=wait.longest_pause_s, on_silence=show_silence)
    try:
        # `watch_job` yields the status of the job again and again. The last status is the final one.
        while (status := (yield from next_item(states))) is not None:
            shown = job_progress(status)
            display.update(shown)
    except DeadlineExceededError as error:
        if wait.end == math.inf:
            raise
        raise watch_timeout(wait.job_id, wait.limit_s, error.__cause__) from error
    final = yield from get_job_status(wait.job_id, timeout_s=math.inf)
    display.finish(job_summary(final))
    return final


def tell_about_other_tasks(wait: Wait) -> Operation[None]:
    """Print a notice that only task 0 is shown, if the job has more tasks."""
    try:
        left_s = max(0.0, wait.end - time.monotonic())
        count = (yield from get_job_status(wait.job_id, timeout_s=min(left_s, DEFAULT_TIMEOUT_S))).num_tasks
    except (UnavailableError, DeadlineExceededError):
        # This error is ignored here. The following call to read the log fails for the same reason, and reports the
        # error.
        return
    if count > 1:
        others = "task 1 is" if count == 2 else f"tasks 1 to {count - 1} are"
        print_notice(
            f"showing task 0 of {count}; {others} not shown. For another task: stream_task_index=N;"
            f" for all of them: job.logs(follow=True), or in a terminal: iris logs -f {shlex.quote(wait.job_id)}"
        )


def find_endpoint(name: str, timeout: float | None) -> Operation[cluster_pb2.Controller.Endpoint]:
    """Return an endpoint. `IrisClient.lookup_endpoint` documents the arguments and errors."""
    limit_s = check_timeout("timeout", timeout)
    if not limit_s:
        return (yield from lookup_endpoint(name))
    inside = get_job_info()
    longest_s = max(_LONGEST_PAUSE_S, _PAUSE_S_PER_TASK * (inside.num_tasks if inside is not None else 1))
    end = time.monotonic() + limit_s
    backoff = Backoff(_FIRST_PAUSE_S, longest_s)
    while True:
        try:
            return (yield from lookup_endpoint(name, timeout_s=max(_LEAST_CALL_S, end - time.monotonic())))
        except (NotFoundError, UnavailableError, DeadlineExceededError) as error:
            left_s = end - time.monotonic()
            if left_s <= 0:
                text = f"endpoint {name!r} was not registered within {limit_s:g} s: {error}"
                raise DeadlineExceededError(text) from error
        yield Pause(min(left_s, backoff.next_s(), longest_s))
