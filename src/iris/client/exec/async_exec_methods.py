"""Contains the methods of `AsyncIrisClient` and `AsyncTask` that run commands in tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from iris.arguments import (
    JobReference,
    TaskReference,
    check_callable,
    check_flag,
    check_job_id,
    check_task_index,
    check_timeout,
)
from iris.client.exec.arguments import ExecResult, Size, check_bytes, ignore_notice, make_command
from iris.client.exec.async_process import AsyncExecProcess
from iris.client.tunnels.tunnel_calls import AsyncTunnelCalls

if TYPE_CHECKING:
    from iris.cluster.client.aio.remote_client import AsyncClusterClient


class AsyncExecMethods:
    """The methods of `AsyncIrisClient` that run commands in tasks.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    async def exec(
        self,
        job_id: str | JobReference,
        command: Sequence[str],
        *,
        task_index: int = 0,
        stdin: bytes | None = None,
        tty: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command in a task, and return its exit code and its output.

            result = await client.exec("train-1a2b3c4d", ["nvidia-smi"], task_index=3)
            print(result.exit_code, result.stdout.decode())

        A command in a task has the directory, the environment, the limits and the user of the task's program, and ends
        with the task's attempt. If the task does not run yet, the method waits for it. A lost connection to the
        controller delays the command's output, but loses none of it. `open_exec` gives access to the streams while the
        command runs.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            command: The command, as a list of words. Use `["sh", "-c", "…"]` for a shell's command line.
            task_index: The index of the task.
            stdin: The bytes of the standard input. None: the command reads from /dev/null.
            tty: Whether the command runs in a terminal of its own. Both outputs of the command then arrive in `stdout`.
            env: Environment variables for the command, in addition to the environment variables of the task. Names that
                begin with `IRIS_` have no effect.
            timeout: The seconds after which the command is ended. The time in which the task does not run yet also
                counts. None and `math.inf` set no limit.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: There is no such job or task.
            PermissionDeniedError: You are neither the owner of the job nor an admin.
            FailedPreconditionError: The task has ended, or the cluster was started with `--no-exec`.
            ResourceExhaustedError: Users run too many commands in the task.
            DeadlineExceededError: (a `TimeoutError`) The command has not started or has not ended within `timeout`.
            UnavailableError: How the command ended is unknown, because its worker or its session is gone
                (`EXEC_LOST`), or because the cluster does not answer.
        """
        data = None if stdin is None else check_bytes("stdin", stdin, none="no input")
        process = AsyncExecProcess(
            partial(AsyncTunnelCalls, self.cluster.connection, "exec"),
            check_job_id(job_id),
            check_task_index(task_index),
            make_command(command, tty=tty, size=None, env=env, with_input=data is not None),
            ignore_notice,
            check_timeout("timeout", timeout),
        )
        async with process:
            return await process.communicate(data or b"")

    def open_exec(
        self,
        job_id: str | JobReference,
        command: Sequence[str],
        *,
        task_index: int = 0,
        stdin: bool = False,
        tty: bool = False,
        size: Size | None = None,
        env: Mapping[str, str] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> AsyncExecProcess:
        """Run a command in a task. Return a context manager with the input and the outputs of the command.

            async with client.open_exec("train-1a2b3c4d", ["py-spy", "top", "--pid", "1"], tty=True) as process:
                async for data in process.stdout:
                    sys.stdout.buffer.write(data)

        A command in a task has the directory, the environment, the limits and the user of the task's program, and ends
        with the task's attempt. If the task does not run yet, the beginning of the block waits for it. `exec` runs a
        command without input or with known input.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            command: The command, as a list of words. Use `["sh", "-c", "…"]` for a shell's command line.
            task_index: The index of the task.
            stdin: Whether `write` sends standard input. False: the command reads from /dev/null.
            tty: Whether the command runs in a terminal of its own. Both outputs of the command then arrive in `stdout`.
            size: The rows and the columns of the terminal. Default: 24 rows of 80 columns.
            env: Environment variables for the command, in addition to the environment variables of the task. Names that
                begin with `IRIS_` have no effect.
            on_notice: A function that is called with a text when the controller does not answer, and while the task
                does not run. The texts are for people. Default: no notices.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: (at the beginning of the block) There is no such job or task.
            PermissionDeniedError: (at the beginning of the block) You are neither the owner of the job nor an admin.
            FailedPreconditionError: (at the beginning of the block) The task has ended, or the cluster was started with
                `--no-exec`.
            ResourceExhaustedError: (at the beginning of the block) Users run too many commands in the task.
        """
        return AsyncExecProcess(
            partial(AsyncTunnelCalls, self.cluster.connection, "exec"),
            check_job_id(job_id),
            check_task_index(task_index),
            make_command(command, tty=tty, size=size, env=env, with_input=check_flag("stdin", stdin)),
            ignore_notice if on_notice is None else check_callable("on_notice", on_notice),
        )


class AsyncExecClient(Protocol):
    """The client methods that run commands. `AsyncIrisClient` implements this protocol."""

    async def exec(
        self,
        job_id: str | JobReference,
        command: Sequence[str],
        *,
        task_index: int = 0,
        stdin: bytes | None = None,
        tty: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command in a task, and return its exit code and its output."""

    def open_exec(
        self,
        job_id: str | JobReference,
        command: Sequence[str],
        *,
        task_index: int = 0,
        stdin: bool = False,
        tty: bool = False,
        size: Size | None = None,
        env: Mapping[str, str] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> AsyncExecProcess:
        """Run a command in a task. Return a context manager with the input and the outputs of the command."""


class AsyncTaskExecMethods(TaskReference):
    """The methods of `AsyncTask` that run commands."""

    _client: AsyncExecClient

    async def exec(
        self,
        command: Sequence[str],
        *,
        stdin: bytes | None = None,
        tty: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command in the task, and return its exit code and its output. `AsyncIrisClient.exec` documents the
        arguments and the errors.
        """
        return await self._client.exec(
            self.job_id, command, task_index=self.task_index, stdin=stdin, tty=tty, env=env, timeout=timeout
        )

    def open_exec(
        self,
        command: Sequence[str],
        *,
        stdin: bool = False,
        tty: bool = False,
        size: Size | None = None,
        env: Mapping[str, str] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> AsyncExecProcess:
        """Run a command in the task. Return a context manager with the input and the outputs of the command.
        `AsyncIrisClient.open_exec` documents the arguments and the errors.
        """
        return self._client.open_exec(
            self.job_id,
            command,
            task_index=self.task_index,
            stdin=stdin,
            tty=tty,
            size=size,
            env=env,
            on_notice=on_notice,
        )
