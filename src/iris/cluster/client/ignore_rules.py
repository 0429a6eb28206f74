"""The rules of `.gitignore`, as git understands them: pure, on bytes, without git.

What git asks itself (https://git-scm.com/docs/gitignore) is more than its page says: bytes and not characters, one CR
but no tab at the end of a line, classes such as `[[:digit:]]`, ranges that are empty, patterns that can match nothing.
tests/cluster/client/test_ignore_rules.py compares this module with git itself, on random trees and patterns.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WILDCARDS = frozenset(b"*?[\\")
_NOTHING = b"(?!)"  # the regular expression that matches nothing
_CLASSES: dict[bytes, bytes] = {
    b"alnum": (string.ascii_letters + string.digits).encode(),
    b"alpha": string.ascii_letters.encode(),
    b"blank": b" \t",
    b"cntrl": bytes([*range(32), 127]),
    b"digit": string.digits.encode(),
    b"graph": bytes(range(33, 127)),
    b"lower": string.ascii_lowercase.encode(),
    b"print": bytes(range(32, 127)),
    b"punct": string.punctuation.encode(),
    b"space": b" \t\n\r",
    b"upper": string.ascii_uppercase.encode(),
    b"xdigit": string.hexdigits.encode(),
}
# Pieces of a pattern that are no expressions.
_STAR = b"*"  # any bytes of one part of a path
_ALL = b"**"  # all that is left
_ANY_FOLDERS = b"**/"  # nothing, or all up to some "/"
_SOME_FOLDERS = b"**\\/"  # all before some "/"
_Match = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ignore file.

    Attributes:
        above: The folder of the file, relative to the top of the checkout: empty, or with "/" at its end.
        negated: Whether the line begins with "!": what it matches is not ignored.
        folders_only: Whether the line ends with "/".
        by_name: Whether `matches` is given the last part of a path alone, because the line has no other "/".
        matches: Whether the line names a path relative to `above`, or the last part of one.
    """

    above: bytes
    negated: bool
    folders_only: bool
    by_name: bool
    matches: _Match


def parse_rules(content: bytes, above: bytes = b"") -> tuple[Rule, ...]:
    """Return the rules of an ignore file, from the weakest to the strongest.

    Args:
        content: What the file holds.
        above: The folder that its rules are relative to: empty, or with "/" at its end.
    """
    lines = content.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    return tuple(rule for line in lines if (rule := _parse_line(line, above)) is not None)


def is_ignored(path: bytes, is_folder: bool, rules: Sequence[Rule]) -> bool:
    """Return whether the strongest rule that names a path says that it is ignored.

    The folders above the path are not looked at: whoever walks a tree does not enter an ignored folder, so nothing
    below one comes back.

    Args:
        path: Relative to the top of the checkout.
        is_folder: Whether it is a folder; a link to one is none.
        rules: From the weakest to the strongest.
    """
    name = path.rpartition(b"/")[2]
    for rule in reversed(rules):
        if rule.folders_only and not is_folder:
            continue
        if (
            rule.matches(name)
            if rule.by_name
            else path.startswith(rule.above) and rule.matches(path[len(rule.above) :])
        ):
            return not rule.negated
    return False


def _parse_line(line: bytes, above: bytes) -> Rule | None:
    if not line or line.startswith(b"#"):
        return None
    pattern = _without_trailing_spaces(line.removesuffix(b"\r").partition(b"\0")[0])
    negated = pattern.startswith(b"!")
    pattern = pattern[negated:]
    folders_only = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - folders_only]
    by_name = b"/" not in pattern
    return Rule(above, negated, folders_only, by_name, _matcher(pattern.removeprefix(b"/"), by_name))


def _without_trailing_spaces(line: bytes) -> bytes:
    """A space at the end stays where a backslash stands before it. Tabs stay."""
    kept = len(line.rstrip(b" "))
    backslashes = kept - len(line[:kept].rstrip(b"\\"))
    return line[: kept + 1] if backslashes % 2 and kept < len(line) else line[:kept]


def _matcher(pattern: bytes, by_name: bool) -> _Match:
    """Return what tells whether a pattern matches a whole path, or a whole name."""
    plain = next((index for index, byte in enumerate(pattern) if byte in _WILDCARDS), len(pattern))
    if plain == len(pattern):
        return pattern.__eq__ if pattern else lambda path: False
    if by_name:
        if pattern[:1] == b"*" and not _WILDCARDS & set(pattern[1:]):
            return lambda name: name.endswith(pattern[1:])
        plain = 0
    # git compares what comes before the first wildcard by itself, and then begins anew: so `a**/b` matches `ab`.
    pieces = _split(pattern[plain:])
    expression = _NOTHING if pieces is None else re.escape(pattern[:plain]) + _expression(pieces)
    full_match = re.compile(expression, re.DOTALL).fullmatch
    return lambda path: full_match(path) is not None


def _split(pattern: bytes) -> list[bytes] | None:
    """Return the pieces of a pattern: `_STAR`, `_ALL`, `_ANY_FOLDERS`, `_SOME_FOLDERS`, and expressions for one byte.

    Returns None where git takes the pattern for broken, so that it matches nothing.
    """
    pieces: list[bytes] = []
    index = 0
    while index < len(pattern):
        byte = pattern[index : index + 1]
        if byte == b"*":
            piece, index = _read_stars(pattern, index)
        elif byte == b"[":
            found = _read_set(pattern, index + 1)
            if found is None:
                return None
            members, index = found
            piece = _one_of(members - set(b"/"))
        elif byte == b"\\":
            if index + 1 == len(pattern):
                return None
            piece, index = re.escape(pattern[index + 1 : index + 2]), index + 2
        else:
            piece, index = b"[^/]" if byte == b"?" else re.escape(byte), index + 1
        pieces.append(piece)
    return pieces


def _expression(pieces: list[bytes]) -> bytes:
    """Return a regular expression that takes time in proportion to the path, not a power of it.

    What stands between two wildcards of a kind may be searched for once, from the left, and is not tried elsewhere
    again (an atomic group): the first place where it fits leaves the most to what follows.
    """
    blocks: list[tuple[bytes, list[bytes]]] = [(b"", [])]
    for piece in pieces:
        if piece in (_ANY_FOLDERS, _SOME_FOLDERS):
            blocks.append((piece, []))
        else:
            blocks[-1][1].append(piece)
    parts = []
    for number, (before, block) in enumerate(blocks):
        inner = b"/".join(_part(part) for part in _split_list(block, b"/"))
        is_last = number == len(blocks) - 1
        if not before:
            parts.append(inner)
        elif is_last:
            parts.append((b"(?:.*/)?" if before == _ANY_FOLDERS else b".*") + inner)
        else:
            parts.append(b"(?>(?:|.*?/)" + inner + b")" if before == _ANY_FOLDERS else b"(?>.*?" + inner + b")")
    return b"".join(parts)


def _part(pieces: list[bytes]) -> bytes:
    """Return the expression for what stands between two "/" of a pattern."""
    if pieces[-1:] == [_ALL]:
        return _part(pieces[:-1]) + b".*"
    first, *others = (b"".join(fixed) for fixed in _split_list(pieces, _STAR))
    if not others:
        return first
    return first + b"".join(b"(?>[^/]*?" + fixed + b")" for fixed in others[:-1]) + b"[^/]*" + others[-1]


def _split_list(pieces: list[bytes], separator: bytes) -> list[list[bytes]]:
    found: list[list[bytes]] = [[]]
    for piece in pieces:
        if piece == separator:
            found.append([])
        else:
            found[-1].append(piece)
    return found


def _read_stars(pattern: bytes, start: int) -> tuple[bytes, int]:
    """Return the piece that the stars at a place are, and the place behind it."""
    end = start
    while pattern[end : end + 1] == b"*":
        end += 1
    after = pattern[end:]
    is_whole_part = start == 0 or pattern[start - 1 : start] == b"/"
    if end - start > 1 and is_whole_part:
        if not after:
            return _ALL, end
        if after.startswith(b"/"):
            return _ANY_FOLDERS, end + 1
        if after.startswith(b"\\/"):
            return _SOME_FOLDERS, end
    return _STAR, end


def _read_set(pattern: bytes, start: int) -> tuple[set[int], int] | None:
    """Return the bytes that a set `[…]` stands for, and the place behind it; None: git takes the pattern for broken.

    Args:
        pattern: The whole pattern.
        start: The place behind "[".
    """
    index = start
    negated = pattern[index : index + 1] in (b"!", b"^")
    index += negated
    members: set[int] = set()
    before: int | None = None  # the member that a range may begin with
    is_first = True
    while is_first or pattern[index : index + 1] != b"]":
        is_first = False
        if index >= len(pattern):
            return None
        byte, follows = pattern[index], pattern[index + 1 : index + 2]
        if byte == ord("-") and before is not None and follows not in (b"", b"]"):
            index += 1
            if follows == b"\\":
                index += 1
            if index >= len(pattern):
                return None
            members.update(range(before, pattern[index] + 1))
            before = None
        elif byte == ord("[") and follows == b":":
            end = pattern.find(b"]", index + 2)
            if end < 0:
                return None
            name = pattern[index + 2 : end]
            if name.endswith(b":"):
                if name[:-1] not in _CLASSES:
                    return None
                members.update(_CLASSES[name[:-1]])
                before, index = None, end
            else:  # no class: the bracket stands for itself
                members.add(byte)
                before = byte
        else:
            if byte == ord("\\"):
                index += 1
                if index >= len(pattern):
                    return None
                byte = pattern[index]
            members.add(byte)
            before = byte
        index += 1
    return (set(range(1, 256)) - members if negated else members), index + 1


def _one_of(members: Iterable[int]) -> bytes:
    escaped = b"".join(b"\\x%02x" % member for member in sorted(members))
    return b"[" + escaped + b"]" if escaped else _NOTHING
