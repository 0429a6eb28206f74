"""The exit codes of `iris`.

Some commands exit with the code of a job: `run`, `wait`, `attach`, `retry`, and `logs -f`. `exec` and `shell` exit with
the code of a command in a task. `JobCodeCommand` gives all these commands the code 125 for an error of Iris itself, as
`docker run` does. Therefore a script can tell an error of Iris from a failure of the job or the command, as long as
their programs do not use 124 to 127 themselves. All other commands exit with 1 after an error, and every command exits
with 2 if its command line is invalid.
"""

from __future__ import annotations

import signal
from typing import Any

import click

from iris.errors import IrisError
from iris.rpc import cluster_pb2

# The exit code after an error of Iris, for all commands that are not a `JobCodeCommand`.
EXIT_ERROR = 1
# The exit code if a task failed although its process exited with 0, for example because its result could not be stored.
EXIT_FAILED = 1
# The exit code after a timeout. The program `timeout` of the GNU coreutils exits with the same code.
EXIT_TIMEOUT = 124
EXIT_IRIS_FAILED = 125
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_OUTPUT_CLOSED = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM

# The meaning of each exit code of a command that exits with the code of a job. The reference page of the command line
# shows this table.
JOB_EXIT_CODES = (
    ("0", "The job succeeded."),
    ("N", "The exit code of the first task that failed, with --each and --array also if the job succeeded."),
    ("128+n", "Signal n killed the first task that failed; for example 137 after SIGKILL."),
    (
        str(EXIT_TERMINATED),
        "The job was killed by a user, or ended with its parent job; or SIGTERM ended a task.",
    ),
    ("127, 126", "The task's command was not found, or is not executable."),
    (
        str(EXIT_IRIS_FAILED),
        "Iris itself failed: there is no cluster, no such job, the job could not be placed, or its workers were lost.",
    ),
    (
        str(EXIT_TIMEOUT),
        "A timeout ended the job or its first failed task; or 'iris wait --timeout' ended before the job.",
    ),
    (
        str(EXIT_FAILED),
        "A task failed without an exit code; a callable that raised an exception also exits with 1.",
    ),
)

_TIMEOUTS = (
    cluster_pb2.FAILURE_REASON_ATTEMPT_TIMEOUT,
    cluster_pb2.FAILURE_REASON_JOB_TIMEOUT,
)
_NEVER_RAN = (cluster_pb2.FAILURE_REASON_START_FAILED, cluster_pb2.FAILURE_REASON_INTERNAL)


def exit_code_of(status: cluster_pb2.JobStatus | cluster_pb2.TaskStatus | cluster_pb2.LogEnd) -> int:
    """Return the exit code for the final status of a job or a task, or for the end of a task's log.

    The code of a failed job is the code of the first task that failed. It is 128 + n if signal n ended that task. The
    code is 124 if a timeout ended the job or the task, whatever the exit code of its process is.
    A job or task without a code gets one of the codes of this module. The code of a succeeded job with failed inputs is
    the code of the first failed input.
    """
    # The state may also be the state of a task, because tasks and jobs have the same final states.
    if status.state == cluster_pb2.JOB_STATE_SUCCEEDED:
        failed = failed_inputs(status) if isinstance(status, cluster_pb2.JobStatus) else []
        return failed[0].exit_code or EXIT_FAILED if failed else 0
    if status.failure_reason in _TIMEOUTS:
        # A job that exceeds its timeout has this exit code, although SIGTERM has ended its tasks with the exit code
        # 143. The program `timeout` exits with 124, too.
        return EXIT_TIMEOUT
    if status.state == cluster_pb2.JOB_STATE_KILLED:
        return EXIT_TERMINATED
    if status.state in (cluster_pb2.JOB_STATE_WORKER_FAILED, cluster_pb2.JOB_STATE_UNSCHEDULABLE):
        return EXIT_IRIS_FAILED
    if status.exit_code:
        return status.exit_code
    return EXIT_IRIS_FAILED if status.failure_reason in _NEVER_RAN else EXIT_FAILED


def failed_inputs(status: cluster_pb2.JobStatus) -> list[cluster_pb2.TaskStatus]:
    """Return the failed tasks of a job that runs a command for each input, in index order.

    A job with `--each` or `--array` may succeed although some inputs have failed. The exit code of the command then
    reports the first failed input. For all other jobs, this list is empty. For a map of the Python API, which has a
    digest of its inputs, the list is also empty, because the map reports each failed input as an exception.
    """
    if not status.num_inputs or status.inputs_digest:
        return []
    return [task for task in status.tasks if task.state == cluster_pb2.TASK_STATE_FAILED]


class JobCodeCommand(click.Command):
    """A command whose exit code is the code of a job, or of a command in a task. An error of Iris itself gives
    `EXIT_IRIS_FAILED`.

    If the command has a parameter `follow`, the exit code is the code of a job only if `follow` is set.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, as `click.Command` does. If Iris itself fails, print the error and return the exit code of
        such an error.
        """
        try:
            return super().invoke(ctx)
        except IrisError as error:
            if not ctx.params.get("follow", True):
                raise
            from iris.cli.output.printer import report_error

            report_error(str(error))
            return EXIT_IRIS_FAILED
