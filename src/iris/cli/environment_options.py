"""Reads the environment variables for a job from `--env` and from the files of `--env-file`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from iris.errors import InvalidArgumentError, quoted

_LONGEST_FILE = 1024 * 1024  # bytes


def read_variable(text: str) -> tuple[str, str]:
    """Return the name and the value of a variable. The value of a name without `=` comes from this shell.

    Raises:
        InvalidArgumentError: The text has no name, or the variable is not set in this shell.
    """
    name, equals, value = text.partition("=")
    if not name:
        raise InvalidArgumentError(f"a variable must be given as NAME=VALUE or NAME, got {quoted(text)}")
    if equals:
        return name, value
    inherited = os.environ.get(name)
    if inherited is None:
        raise InvalidArgumentError(f"the variable {quoted(name)} is not set in this shell: set it, or give NAME=VALUE")
    return name, inherited


def read_env_file(path: str) -> dict[str, str]:
    """Return the variables in a file, which has one variable in each line.

    Empty lines, lines that begin with `#`, and `export` before a name are ignored. If quotes surround a value, they are
    removed. No other character in a value is special. A name without `=` gets the value of this shell.

    Raises:
        InvalidArgumentError: The file cannot be read, or a line is not valid. The message names the line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"cannot read the variables in {quoted(path)}: {error}") from None
    if len(data) > _LONGEST_FILE:
        raise InvalidArgumentError(
            f"a file of variables must have at most {_LONGEST_FILE} bytes: {quoted(path)} has more"
        )
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            name, value = read_variable(stripped.removeprefix("export ").lstrip())
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"line {number} of {quoted(path)}: {error}") from None
        found[name.rstrip()] = _without_quotes(value.strip()) if "=" in stripped else value
    return found


def all_variables(files: Iterable[dict[str, str]], given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the environment variables from files and from options. If several files set the same variable, the last
    file counts. Options override files.
    """
    variables: dict[str, str] = {}
    for file in files:
        variables |= file
    return variables | dict(given)


def _without_quotes(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value
