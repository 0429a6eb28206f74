"""Checks the arguments of commands in tasks, and defines their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from iris.arguments import check_flag, check_text_mapping, check_whole_number, refuse
from iris.cluster.types import Entrypoint
from iris.rpc.cluster_pb2 import ExecCommand

_MOST_CELLS = 10_000
Size = tuple[int, int]


@dataclass(frozen=True)
class ExecResult:
    """How a command in a task has ended.

    Attributes:
        exit_code: The exit code; 128 + n if signal n ended the command, 127 if the command was not found, 126 if it
            cannot be executed, and 125 if the worker could not start it.
        stdout: All bytes that the command has written to its standard output.
        stderr: All bytes that the command has written to its error output.
        error: A text for people that says why the command did not start or was ended. Empty if the command ended by
            itself.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    error: str = ""


def make_command(
    command: Sequence[str], *, tty: bool, size: Size | None, env: Mapping[str, str] | None, with_input: bool
) -> ExecCommand:
    """Return a command as a message.

    Raises:
        InvalidArgumentError: An argument is invalid.
    """
    words = Entrypoint.from_command(command).command
    assert words is not None
    rows, columns = (0, 0) if size is None else check_size(size)
    return ExecCommand(
        command=words,
        terminal=check_flag("tty", tty),
        rows=rows,
        columns=columns,
        env_vars={} if env is None else check_text_mapping("env", env, none="no variables"),
        input=with_input,
    )


def check_size(size: object) -> Size:
    """Return the size of a terminal: its rows and columns.

    Raises:
        InvalidArgumentError: The size of the terminal is not a pair of numbers from 1 to 10,000.
    """
    if not isinstance(size, tuple) or len(size) != 2:
        refuse("size", "a tuple of the rows and the columns, such as (24, 80)", size)
    rows, columns = size
    return (
        check_whole_number("rows", rows, least=1, most=_MOST_CELLS),
        check_whole_number("columns", columns, least=1, most=_MOST_CELLS),
    )


def check_bytes(name: str, value: object, *, none: str = "") -> bytes:
    """Return an argument as `bytes`. A `bytearray` and a `memoryview` are accepted, too.

    Args:
        name: The argument's name.
        value: The given value.
        none: What the value None means, as words for the error's text. An empty string if None is not accepted.

    Raises:
        InvalidArgumentError: The value has another type.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        advice = "text.encode() turns text into bytes" if isinstance(value, str) else ""
        refuse(name, f"bytes{none and f', or None for {none}'}", value, advice)
    return bytes(value)


def check_signal(number: object) -> int:
    """Return the number of a signal.

    Raises:
        InvalidArgumentError: The signal is not a number from 1 to 64.
    """
    return check_whole_number("signal", number, least=1, most=64)


def ignore_notice(text: str) -> None:
    """Drop a message for people."""


OnNotice = Callable[[str], None]
