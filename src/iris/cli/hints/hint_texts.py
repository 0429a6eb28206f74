"""Finds the hint for a word or an option of another tool, and puts what the user has typed into the hint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from iris.cli.hints.foreign_words import ANY, COMMANDS, KINDS, OPTIONS

_PORTS = re.compile("([0-9]+):([0-9]+)", re.ASCII)
# A time of Slurm: days and hours, hours with minutes and seconds, or minutes with seconds.
_SLURM_TIME = re.compile("(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?", re.ASCII)
_MEMORY = re.compile("([0-9.]+)([KMGTkmgt]?)i?[bB]?", re.ASCII)


def hint_for_command(words: Sequence[str]) -> str:
    """Return the hint for a command line that begins with a command of another tool. Return an empty string if there is
    no hint.

    Args:
        words: The command line without `iris` and its options.
    """
    for count in (2, 1):
        hint = COMMANDS.get(" ".join(words[:count])) if len(words) >= count else None
        if hint:
            rest = words[count:]
            return hint.replace("{JOB}", _job(rest)).replace("{PORTS}", _ports(rest))
    return ""


def hint_for_option(command: str, option: str, words: Sequence[str]) -> str:
    """Return the hint for an unknown option. Return an empty string if there is no hint.

    Args:
        command: The name of the command, such as `run`.
        option: The option, with its dashes.
        words: The words of the command line.
    """
    hint = OPTIONS.get((command, option)) or OPTIONS.get((ANY, option), "")
    value = _value(option, words)
    for name, text in (
        ("{VALUE}", value or "N"),
        ("{LOCAL}", value.partition(":")[0] if _PORTS.fullmatch(value) else "8080"),
        ("{TIME}", _time(value)),
        ("{MEMORY}", _memory(value)),
    ):
        hint = hint.replace(name, text)
    return hint


def _job(words: Sequence[str]) -> str:
    """Return the first word that can be the name of a job. Return `JOB` if there is no such word."""
    for word in words:
        kind, slash, name = word.partition("/")
        if slash and kind in KINDS:
            return name
        if not word.startswith("-") and word not in KINDS and not _PORTS.fullmatch(word):
            return word
    return "JOB"


def _ports(words: Sequence[str]) -> str:
    """Return the first pair of ports, in the form that `iris forward` accepts. Return `PORT:LOCAL` if there is no
    pair.
    """
    pairs = [match for word in words if (match := _PORTS.fullmatch(word))]
    return f"{pairs[0][2]}:{pairs[0][1]}" if pairs else "PORT:LOCAL"


def _value(option: str, words: Sequence[str]) -> str:
    """Return the value of an option: the text after `=`, or the next word. Return an empty string if the option has no
    value.
    """
    for number, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and number + 1 < len(words) and not words[number + 1].startswith("-"):
            return words[number + 1]
    return ""


def _time(text: str) -> str:
    match = _SLURM_TIME.fullmatch(text)
    if match is None:
        return text or "2h"  # A time such as 90m stays unchanged, because Iris accepts it.
    days, first, second, third = (int(part) if part else None for part in match.groups())
    units: tuple[tuple[int | None, str], ...]
    if days is not None or third is not None:
        units = (days, "d"), (first, "h"), (second, "m"), (third, "s")
    else:  # In a time limit of Slurm, a single number means minutes, and `10:30` means 10 minutes and 30 seconds.
        units = (first, "m"), (second, "s")
    return "".join(f"{number}{unit}" for number, unit in units if number) or "2h"


def _memory(text: str) -> str:
    match = _MEMORY.fullmatch(text)
    if match is None:
        return "4GiB"
    return f"{match[1]}{match[2].upper() or 'M'}iB"  # Slurm reads a number without a unit as MiB.
