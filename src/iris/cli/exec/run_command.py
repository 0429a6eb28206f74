"""Runs a command in a task with the streams, the terminal and the signals of this process.

* In a terminal, each key goes to the command in the task once the command has started. Ctrl-C ends this process while
  the command has not started yet or the cluster does not answer.
* Without a terminal, SIGINT and SIGQUIT go to the command. The third SIGINT ends this process.
* SIGTERM and SIGHUP end this process, and the command gets SIGHUP. With `nohup`, SIGHUP is ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

from iris.cli.exec.local_streams import LocalInput, LocalOutput
from iris.cli.exec.raw_terminal import RawTerminal, terminal_size
from iris.cli.exit_codes import EXIT_INTERRUPTED
from iris.cli.output.printer import Output
from iris.client.exec.session import ExecSession
from iris.client.tunnels.tunnel_calls import ThreadTunnelCalls
from iris.cluster.client.verbs.connection import ClusterConnection
from iris.errors import IrisError
from iris.rpc.cluster_pb2 import ExecCommand, ExecExit
from iris.terminal.encoding import cannot_write

_CTRL_C = b"\x03"
# The exit code for a command that does not exist.
_NOT_FOUND = 127
# This number of SIGINT signals ends this process, even if the command in the task ignores the signal.
_MOST_INTERRUPTS = 3

Target = tuple[str, int]  # A task in which a command runs: the id of the job, and the index of the task.


def run_command(
    connection: ClusterConnection, target: Target, command: ExecCommand, output: Output, *, advice: str = ""
) -> int:
    """Run a command in a task to its end, and return the exit code of this process.

    Args:
        connection: The object that makes the calls of the client.
        target: The task in which the command runs.
        command: The command to run, with its options.
        output: The object that prints messages for people.
        advice: A text that follows the error message if the command was not found.

    Raises:
        BrokenPipeError: The reader of this process's output has ended.
        IrisError: The command could not be started, its end is unknown, or its output cannot be written here.
    """
    is_interactive = command.terminal and command.input and os.isatty(0)
    if command.terminal:
        command.rows, command.columns = terminal_size() or (0, 0)
    with RawTerminal(0 if is_interactive else None) as terminal:
        outcome = asyncio.run(_run(connection, target, command, output, terminal))
    if isinstance(outcome, ExecExit):
        if outcome.error:
            output.error(f"{outcome.error}{advice}" if outcome.exit_code == _NOT_FOUND else outcome.error)
        return outcome.exit_code
    if isinstance(outcome, BrokenPipeError):
        raise outcome
    if isinstance(outcome, OSError):
        raise cannot_write(outcome) from outcome
    return outcome


async def _run(
    connection: ClusterConnection, target: Target, command: ExecCommand, output: Output, terminal: RawTerminal
) -> ExecExit | OSError | int:
    """Return how the command in the task has ended. If a local output failed, return its error. If a signal ended the
    wait, return the exit code of this process."""
    loop = asyncio.get_running_loop()
    left: asyncio.Future[OSError | int] = loop.create_future()

    def leave(why: OSError | int) -> None:
        if not left.done():
            left.set_result(why)

    def note(text: str) -> None:
        output.note(f"{text} (Ctrl-C ends the command here)" if command.terminal and command.input else text)
        # The message ends with a newline, which does not return to the first column in raw mode.
        if terminal.is_raw and os.isatty(2):
            with contextlib.suppress(OSError):
                os.write(2, b"\r")

    def on_input(data: bytes) -> bool:
        if terminal.is_raw and _CTRL_C in data and session.is_silent:
            leave(EXIT_INTERRUPTED)
            return False
        return True

    stdin: LocalInput | asyncio.StreamReader
    if command.input:
        stdin = LocalInput(0, on_input)
    else:
        stdin = asyncio.StreamReader()
        stdin.feed_eof()
    outputs = [LocalOutput(number, leave) for number in ((1,) if command.terminal else (1, 2))]
    calls = ThreadTunnelCalls(connection, "exec")
    session = ExecSession(calls, *target, command, stdin, [*outputs], note)
    running = asyncio.create_task(session.run())
    starting = asyncio.create_task(_set_raw_at_start(session, terminal, command))
    with _signals(session, terminal, command, leave):
        try:
            await asyncio.wait((running, left), return_when=asyncio.FIRST_COMPLETED)
            return running.result() if running.done() else left.result()
        finally:
            starting.cancel()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, IrisError):
                await running


async def _set_raw_at_start(session: ExecSession, terminal: RawTerminal, command: ExecCommand) -> None:
    """Set the terminal to raw mode once the command has started. Until then, no program would receive the keys that the
    user types."""
    await session.started.wait()
    terminal.set_raw()
    _resize(session, command)


def _resize(session: ExecSession, command: ExecCommand) -> None:
    size = terminal_size()
    if size is not None and command.terminal:
        session.resize(*size)


@contextlib.contextmanager
def _signals(
    session: ExecSession, terminal: RawTerminal, command: ExecCommand, leave: Callable[[int], None]
) -> Iterator[None]:
    """Handle the signals of this process inside the `with` block: pass a signal on to the command in the task, or stop
    waiting for the command."""
    loop = asyncio.get_running_loop()
    interrupts = 0

    def pass_on(number: int) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if not session.started.is_set() or interrupts >= _MOST_INTERRUPTS or terminal.is_raw:
            leave(128 + number)
        else:
            session.send_signal(number)

    def resize() -> None:
        _resize(session, command)

    def go_on() -> None:
        if terminal.is_raw:
            terminal.set_raw()
        resize()

    handlers: dict[int, Callable[[], None]] = {
        signal.SIGINT: partial(pass_on, signal.SIGINT),
        signal.SIGQUIT: partial(pass_on, signal.SIGQUIT),
        signal.SIGTERM: partial(leave, 128 + signal.SIGTERM),
        signal.SIGHUP: partial(leave, 128 + signal.SIGHUP),
        signal.SIGWINCH: resize,
        signal.SIGCONT: go_on,
    }
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers[signal.SIGHUP]
    for number, handle in handlers.items():
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
