"""Reads and writes job files. Each key of a job file is the long name of an option of `iris run`, with `_` for `-`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from iris.cli.environment_options import read_variable
from iris.errors import FailedPreconditionError, InvalidArgumentError, quoted

COMMAND = "command"
TABLES = ("env", "constraint")  # The keys of a job file whose values are tables of names and values.
_PATHS = frozenset({"workspace", "env_file"})
_WITHOUT_KEY = ("file", "save", "help")
_SHOWN = 3


def keys_of(command: click.Command) -> dict[str, click.Parameter]:
    """Return the parameter of `iris run` for each key of a job file."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        key = COMMAND
        if isinstance(parameter, click.Option):
            key = max(parameter.opts, key=len).removeprefix("--").replace("-", "_")
        if key not in _WITHOUT_KEY:
            found[key] = parameter
    return found


def read_job_file(path: Path, command: click.Command) -> dict[str, Any]:
    """Return the entries of a job file in the form of a command line: flags, texts, and lists of texts.

    Relative paths in the file become relative to the folder of the file.

    Raises:
        InvalidArgumentError: The file cannot be read, is not valid TOML, or has an unknown key or a value of a wrong
            type. The message names the key.
    """
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgumentError(f"cannot read the job file {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is not valid TOML: {error}") from None
    keys = keys_of(command)
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=_SHOWN)
            advice = f"did you mean {' or '.join(near)}?" if near else "'iris run --help' lists the options"
            raise InvalidArgumentError(f"{path}: {quoted(key)} is not a key of a job file: {advice}")
        try:
            found[key] = _entry(key, value, keys[key])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{path}: {key}: {error}") from None
    return with_absolute_paths(found, path.absolute().parent)


def with_absolute_paths(entries: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the entries of a job file with absolute paths of the workspace and of files with variables.

    Args:
        entries: The values of the job file, by key.
        folder: The folder to which the relative paths of the entries refer.
    """
    found = dict(entries)
    for key in _PATHS & found.keys():
        texts = found[key]
        found[key] = [str(folder / text) for text in texts] if isinstance(texts, list) else str(folder / texts)
    return found


def defaults_of(entries: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    """Return the defaults of the parameters of `iris run`, by their names, from the entries of a job file.

    `env` is left out, because `--env` adds to the variables of a job file and does not replace them.
    """
    keys = keys_of(command)
    return {str(keys[key].name): value for key, value in entries.items() if key != "env"}


def variables_of(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables of a job file.

    Raises:
        InvalidArgumentError: A variable has no value, and is not set in this shell.
    """
    return dict(read_variable(text) for text in entries.get("env", ()))


def given_entries(raw: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    """Return the entries of a job file for the options of a command line, as the user typed them.

    Args:
        raw: The texts and flags of the given options, by the names of the parameters.
        command: The command `iris run`.
    """
    found: dict[str, Any] = {}
    for key, parameter in keys_of(command).items():
        value = raw.get(str(parameter.name))
        if isinstance(value, bool | str) and value != "":
            found[key] = value
        elif isinstance(value, list | tuple) and value:
            found[key] = [str(one) for one in value]
    return found


def write_job_file(path: Path, entries: Mapping[str, Any]) -> None:
    """Write a job file, which replaces an earlier file.

    Raises:
        FailedPreconditionError: The file cannot be written.
    """
    try:
        path.write_text("".join(f"{line}\n" for line in toml_lines(entries)), encoding="utf-8")
    except OSError as error:
        raise FailedPreconditionError(f"cannot write the job file {path}: {error.strerror}") from error


def toml_lines(entries: Mapping[str, Any]) -> list[str]:
    """Return a line of TOML for each entry of a job file."""
    return [f"{key} = {value if _is_number(value) else _toml(value)}" for key, value in entries.items()]


def _entry(key: str, value: Any, parameter: click.Parameter) -> Any:
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise InvalidArgumentError(f"expected true or false, got {quoted(value)}")
        return value
    if key == COMMAND or (isinstance(parameter, click.Option) and parameter.multiple):
        if key in TABLES and isinstance(value, dict):
            return [f"{name}={_text(item)}" for name, item in value.items()]
        if not isinstance(value, list):
            table = " or a table" if key in TABLES else ""
            raise InvalidArgumentError(f"expected a list{table}, got {quoted(value)}")
        return [_text(item) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidArgumentError(f"expected a text or a number, got {quoted(value)}")
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,17}", value, re.ASCII) is not None


def _toml(value: bool | str | list[str]) -> str:
    """Return a value as TOML. A list must contain only texts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # A basic string of TOML has the escapes of JSON. TOML also requires an escape for the character DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
