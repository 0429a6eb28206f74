"""Defines the types of options, such as durations and sizes. A type parses and checks the value that a user gives, and
writes a value as text."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iris.arguments import MAX_INT32
from iris.cluster.names import check_label
from iris.cluster.types import parse_bytes
from iris.durations import read_span, write_span
from iris.errors import InvalidAddressError, InvalidArgumentError
from iris.event_kinds import check_kinds
from iris.rpc.address import advertised, parse_origin

_DIGITS = re.compile("[0-9]{1,20}", re.ASCII)
_SIZES = {
    "TB": 10**12, "TiB": 2**40, "GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20, "kB": 10**3, "KiB": 2**10,
}  # fmt: skip


class NamedMistakeError(InvalidArgumentError):
    """A value is not accepted, and the text of the error names the mistake in the value. The user sees this text. After
    any other error, the user sees the accepted values and the given value instead.
    """


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of option, for example a duration. It parses, checks and writes the values of such options.

    Attributes:
        metavar: The placeholder for a value in the help of a command. Empty for an option that takes no value.
        accepted: Which values are accepted, as a noun phrase for error messages.
        read: A function that returns the value for a text or a TOML value. If the function does not accept the value,
            it raises ValueError or one of its subclasses, such as InvalidArgumentError.
        write: A function that returns a value in the form of JSON and TOML.
        choices: All accepted values, if there are few.
        repeated: Whether the option may be given several times. Its value is then a tuple.
    """

    metavar: str
    accepted: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    choices: tuple[str, ...] = ()
    repeated: bool = False


def _read_text(value: object) -> str:
    if not isinstance(value, str) or (value and not value.strip()):
        raise ValueError
    return value


def _read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _read_path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError
    return Path(value).absolute()


def _read_file(value: object) -> str:
    if isinstance(value, str | Path):
        return os.path.abspath(value) if str(value) else ""
    raise ValueError


def _read_words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ValueError
    return tuple(value)


def _read_labels(value: object) -> tuple[str, ...]:
    words = _read_words(value)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError
        check_label(key, text)
    return words


def _read_origins(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parse_origin(word) for word in _read_words(value)))


def _read_events(value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else _read_words(value)
    return check_kinds(word.strip() for word in words)


def _read_advertised(value: object) -> str:
    text = _read_text(value)
    if text:
        try:
            advertised(text, 1, tls=False)  # Any port will do, because only the form of the address is checked here.
        except InvalidAddressError as error:
            raise NamedMistakeError(str(error)) from None
    return text


def _read_collector(value: object) -> str:
    text = _read_text(value)
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError
    return text


def _read_host(value: object) -> str:
    return _read_text(value).removeprefix("[").removesuffix("]")  # as in a URL


def _write_size(size: float) -> str:
    for unit, number in _SIZES.items():
        if size and size % number == 0:
            return f"{size // number:.0f}{unit}"
    return f"{size:.0f}"


def whole_number(least: int, most: int = MAX_INT32) -> Kind:
    """Return the option type of whole numbers from `least` to `most`."""

    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise ValueError
        return number

    return Kind("N", f"a whole number from {least} to {most}", read)


def count_or(unlimited: str) -> Kind:
    """Return the option type of whole numbers of at least 1, and of a word for an unlimited number.

    Args:
        unlimited: The word for an unlimited number. The option then has the value `math.inf`.
    """
    number = whole_number(1)

    def read(value: object) -> float:
        return math.inf if value in (unlimited, math.inf) else int(number.read(value))

    def write(value: float) -> object:
        return unlimited if math.isinf(value) else round(value)

    return Kind("N", f"{number.accepted}, or {unlimited!r}", read, write)


def one_of(*choices: str) -> Kind:
    """Return the option type whose values are the given words."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    listed = ", ".join(repr(choice) for choice in choices[:-1])
    return Kind("NAME", f"{listed} or {choices[-1]!r}", read, choices=choices)


def span(least_s: float, unlimited: str = "") -> Kind:
    """Return the option type of durations. The values are in seconds.

    Args:
        least_s: The shortest accepted duration. 0 means that the duration must be longer than 0.
        unlimited: The word that stands for an unlimited duration. Empty if the option accepts only limited durations.
    """
    bound = f" of {write_span(least_s)} or more" if least_s else " longer than 0"
    accepted = f"a time{bound}, such as '90s', '5m' or '30d'{f', or {unlimited!r}' if unlimited else ''}"

    def read(value: object) -> float:
        if unlimited and value in (unlimited, math.inf):
            return math.inf
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        seconds = read_span(value) if isinstance(value, str) else float(value)
        if not max(least_s, 1e-6) <= seconds < math.inf:
            raise ValueError
        return seconds

    return Kind("TIME", accepted, read, lambda seconds: unlimited if seconds == math.inf else write_span(seconds))


def size(unlimited: str = "") -> Kind:
    """Return the type of an option whose value is a size of at least 1 byte.

    Args:
        unlimited: The word for an unlimited size. The option then has the value `math.inf`.
    """
    accepted = (
        f"a size of 1 byte or more, such as '200kB', '50GB' or '2GiB'{f', or {unlimited!r}' if unlimited else ''}"
    )

    def read(value: object) -> float:
        if unlimited and value in (unlimited, math.inf):
            return math.inf
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError
        number = parse_bytes(value)
        if number < 1:
            raise ValueError
        return number

    return Kind("SIZE", accepted, read, lambda number: unlimited if number == math.inf else _write_size(number))


TEXT = Kind("TEXT", "text that is not blank", _read_text)
URL = Kind("URL", "a URL, such as 's3://bucket/logs' or 'file:///mnt/logs'", _read_text)
COLLECTOR = Kind("URL", "a URL such as 'http://localhost:4318'", _read_collector)
HOST = Kind("HOST", "the name or the IP address of a host", _read_host)
ADDRESS = Kind("ADDRESS", "HOST, HOST:PORT or a URL", _read_advertised)
SWITCH = Kind("", "true or false", _read_bool)
EVENTS = Kind(
    "KINDS",
    "kinds of events, such as 'job.failed,worker.lost' or 'job.*'; docs/reference/events.md lists the kinds",
    _read_events,
    list,
)
FILE = Kind("FILE", "the path of a file", _read_file)
DIRECTORY = Kind("DIR", "the path of a directory", _read_path, str)
LABELS = Kind(
    "KEY=VALUE",
    "labels as KEY=VALUE, in which key and value are 1 to 63 letters, digits, '-', '_' and '.', with a letter or digit"
    " at both ends",
    _read_labels,
    list,
    repeated=True,
)
WORDS = Kind("OPTION", "a list of options, such as ['--partition=gpu']", _read_words, list, repeated=True)
ORIGINS = Kind(
    "URL",
    "origins of pages, such as 'https://app.example.com' or 'http://localhost:5173', without a path; '*' is not"
    " accepted, because any page that a user opens could then call the cluster from the user's network",
    _read_origins,
    list,
    repeated=True,
)
