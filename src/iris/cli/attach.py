"""Follows a job until the job ends: shows its log lines, shows why the job waits, handles Ctrl-C, and returns an exit
code."""

from __future__ import annotations

import os
import queue
import shlex
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from iris.cli.cluster.connect import Connection
from iris.cli.exit_codes import EXIT_INTERRUPTED, exit_code_of, failed_inputs
from iris.cli.job_watch import JobWatch
from iris.cli.output.closed_reader import leave_with_reader
from iris.cli.output.documents import job_document
from iris.cli.output.printer import LONGEST_CURSOR, Output
from iris.client.views.job_tables import count_tasks, job_summary, time_taken
from iris.cluster.types import state_name
from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.terminal.outlet import OutputClosedError

if TYPE_CHECKING:
    from iris.client import Job, LogEntry

_SHOW_PREPARING_AFTER_MS = 1000
_SHOW_SUMMARY_AFTER_MS = 5000
# After a failure, `iris run` shows the last lines of the failed task again, unless they are the last lines on the
# screen.
_LAST_LINES = 10
_JUST_SHOWN = 20
_LAST_LINES_PATIENCE_S = 5.0


def attach(connection: Connection, job: Job, num_tasks: int, output: Output, *, tail: int | None = None) -> int:
    """Show the log lines of a job until the job ends, and return the exit code for `iris run`. If `tail` is given,
    begin with the last `tail` lines.

    If this process has started the cluster, Ctrl-C and SIGTERM stop the job, and the log lines are shown until the job
    has ended. On any other cluster, the job continues after Ctrl-C or a closed pipe, and a message names the command
    that shows the log lines again.
    """
    if num_tasks > 1:
        output.label_lines(num_tasks)
    just_shown: deque[int] = deque(maxlen=_JUST_SHOWN)
    if connection.place == "embedded":
        with _stopping_at_signals(connection, job, output) as stopped_by:
            status = _show(connection, job, output, just_shown, tail)
        if stopped_by:
            output.event({"event": "ended", "job": job_document(status)})
            return 128 + stopped_by[0]
    else:
        try:
            with output.interrupted_between_writes():
                status = _show(connection, job, output, just_shown, tail)
        except (KeyboardInterrupt, OutputClosedError) as error:
            output.drop_lines()
            if isinstance(error, KeyboardInterrupt):
                output.end_lines()
            _note_how_to_return(connection, job, output)
            if isinstance(error, OutputClosedError):
                raise
            return EXIT_INTERRUPTED
    output.event({"event": "ended", "job": job_document(status)})
    if status.state != cluster_pb2.JOB_STATE_SUCCEEDED:
        _explain_failure(connection, status, output, just_shown)
    elif failed_inputs(status):
        _note_failed_inputs(connection, status, output)
    elif output.has_status_line and not output.as_json and (status.num_tasks > 1 or _took_long(status)):
        output.note(job_summary(status))
    return exit_code_of(status)


def _note_failed_inputs(connection: Connection, status: cluster_pb2.JobStatus, output: Output) -> None:
    """Print how many inputs of a succeeded job have failed, and the command that shows the log of the first failed
    input.
    """
    output.note(words_of_failure(status))
    if connection.place != "embedded":
        index = failed_inputs(status)[0].task_index
        output.note(f"all that it wrote: iris logs{connection.options} {shlex.quote(status.job_id)} --task {index}")


def _took_long(status: cluster_pb2.JobStatus) -> bool:
    """Return whether a job took longer than `_SHOW_SUMMARY_AFTER_MS`, so that a summary line is shown at its end."""
    return status.finished_at_ms - status.submitted_at_ms > _SHOW_SUMMARY_AFTER_MS


def _show(
    connection: Connection, job: Job, output: Output, just_shown: deque[int], tail: int | None
) -> cluster_pb2.JobStatus:
    """Show the log lines of a job until the job ends, and append the task index of each shown line to `just_shown`."""
    client = connection.client

    def note(text: str) -> None:
        output.event({"event": "notice", "text": text})
        output.note(text)

    watch = JobWatch(client, job.job_id, output)
    lines_of_job = client.stream_job_logs(job.job_id, tail=tail, on_notice=note, partial=output.shows_pieces)
    with watch, leave_with_reader(), lines_of_job as stream:
        is_quick = QuickPreparation()
        for lines in stream.batches():
            if output.as_json or not (lines and is_quick(lines)):
                output.show_lines(lines)
            output.end_tasks(stream.ends)
            if lines and lines[0].source != "build":
                just_shown.extend([lines[0].task_index] * min(len(lines), _JUST_SHOWN))
    output.end_lines()
    return client.wait(job.job_id, progress=False)


class QuickPreparation:
    """Finds the log lines about the preparation of a task, if the preparation took less than a second. `iris run` does
    not show these lines.
    """

    def __init__(self) -> None:
        self._began_ms: dict[tuple[int, int], int] = {}

    def __call__(self, lines: Sequence[LogEntry]) -> bool:
        """Return whether the given log lines say that a task was prepared in less than a second. All lines must come
        from the same attempt and the same source, for example `build`."""
        last = lines[-1]
        if last.source != "build" or last.missing_bytes:
            return False
        began_ms = self._began_ms.setdefault((last.task_index, last.attempt_id), lines[0].timestamp_ms)
        return last.timestamp_ms - began_ms < _SHOW_PREPARING_AFTER_MS


def _note_how_to_return(connection: Connection, job: Job, output: Output) -> None:
    output.set_status("")
    after = ""
    if output.last_shown is not None and len(cursor := output.last_shown.cursor) <= LONGEST_CURSOR:
        after = f" --cursor {cursor}"
    name = f"{connection.options} {shlex.quote(job.job_id)}"
    output.note(
        f"detached; job {job.job_id} goes on. To come back: iris logs -f{name}{after}; to stop it: iris kill{name}"
    )


def words_of_failure(status: cluster_pb2.JobStatus) -> str:
    """Return a sentence that says why a job did not succeed, or which inputs of a succeeded job have failed."""
    if status.state == cluster_pb2.JOB_STATE_SUCCEEDED and (failed := failed_inputs(status)):
        counts = f"{len(failed)} of {status.num_tasks} inputs failed"
        return f"{counts}, the first in task {failed[0].task_index}: {failed[0].error or 'no reason was given'}"
    index = status.first_failed_task_index if status.HasField("first_failed_task_index") else None
    who = f"task {index}: " if index is not None and status.num_tasks > 1 else ""
    return f"job {status.job_id} ended as {state_name(status.state)}: {who}{status.error or 'no reason was given'}"


def _explain_failure(
    connection: Connection, status: cluster_pb2.JobStatus, output: Output, just_shown: deque[int]
) -> None:
    """Print why the job failed and which command shows the log of the failed task.

    If other tasks have written log lines after the failed task, print the last lines of the failed task again. If the
    failed task never started, print the lines about its preparation, because `QuickPreparation` may have hidden them.
    """
    index = status.first_failed_task_index if status.HasField("first_failed_task_index") else None
    output.error(words_of_failure(status))
    if output.has_status_line and not output.as_json:
        taken = time_taken(status.started_at_ms, status.finished_at_ms)
        output.note(count_tasks(status) + (f", in {taken}" if taken else ""))
    if index is None:
        return
    attempts = [attempt for task in status.tasks[index : index + 1] for attempt in task.attempts]
    was_started = bool(attempts and attempts[-1].started_at_ms)
    if (status.num_tasks > 1 or not was_started) and not output.as_json:
        last = last_lines(connection, status.job_id, index)
        if just_shown.count(index) < len(last):
            output.note(f"what task {index} wrote last:" if was_started else f"how task {index} was prepared:")
            output.repeat_lines(last)
    if connection.place != "embedded":
        output.note(f"all that it wrote: iris logs{connection.options} {shlex.quote(status.job_id)} --task {index}")


def last_lines(connection: Connection, job_id: str, task_index: int) -> list[LogEntry]:
    """Return the last log lines of a task, or an empty list if the log cannot be read."""
    from iris.cluster.logs.entries.line_reader import join_parts

    try:
        with connection.client.stream_task_logs(
            job_id,
            task_index,
            follow=False,
            tail=_LAST_LINES,
            patience_s=_LAST_LINES_PATIENCE_S,
            on_notice=lambda _: None,
        ) as stream:
            return [entry for entry in join_parts(stream) if not entry.missing_bytes]
    except IrisError:
        return []  # The failure is printed without log lines, because the log cannot be read.


@contextmanager
def _stopping_at_signals(connection: Connection, job: Job, output: Output) -> Iterator[list[int]]:
    """Stop the job on Ctrl-C or SIGTERM, and kill the cluster on the second signal.

    1. The signal handler only records the signal, because it may interrupt a call that holds locks. A handler may add
       to a `SimpleQueue`, but must not use the locks and events of `threading`.
    2. A thread terminates the job. The main thread shows the lines of the job until it has ended.
    3. On the second signal, the thread kills the cluster and this process.

    Yields:
        The signals received so far.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    received: list[int] = []

    def take_down(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signals.put(number)

    def act() -> None:
        if not signals.get():
            return
        output.note("stopping… (Ctrl-C again stops at once)")
        try:
            job.terminate()
        except IrisError as error:
            output.error(str(error))
        number = signals.get()
        if number:
            output.silence()  # The cluster is about to be killed, so connection errors are not shown.
            connection.kill()
            os._exit(128 + number)

    thread = threading.Thread(target=act, name="iris-stop", daemon=True)
    thread.start()
    before = {number: signal.signal(number, take_down) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        # A zero in the queue tells the signal thread to stop waiting. Two zeros are added, because the thread waits
        # twice.
        signals.put(0)
        signals.put(0)
        thread.join()
