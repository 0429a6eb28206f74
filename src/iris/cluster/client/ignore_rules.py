"""Applies the rules of `.gitignore` files in the same way as git, but without git and without reading files.

The documentation of git (https://git-scm.com/docs/gitignore) omits some rules. Git compares bytes and not characters.
Git drops one CR but no tab at the end of a line. Git knows classes such as `[[:digit:]]`, empty ranges, and patterns
that match nothing. tests/cluster/client/test_ignore_rules.py compares this module with git on random inputs.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WILDCARDS = frozenset(b"*?[\\")
_NOTHING = b"(?!)"  # A regular expression that never matches. It stands for a pattern that git considers broken.
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
# The wildcards of a pattern match these texts: `_STAR` any bytes of one part of a path; `_ALL` the rest of the path;
# `_ANY_FOLDERS` nothing, or everything up to and including any "/"; `_SOME_FOLDERS` everything before any "/".
_STAR = b"*"
_ALL = b"**"
_ANY_FOLDERS = b"**/"
_SOME_FOLDERS = b"**\\/"
_Match = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ignore file.

    Attributes:
        above: The folder of the ignore file, relative to the top of the checkout: empty, or with "/" at its end.
        negated: Whether the line begins with "!". If True, matching paths are not ignored.
        folders_only: Whether the line ends with "/". If True, the line matches only folders.
        by_name: Whether the line has no "/" except at its end. If True, `matches` gets only the last part of a path.
        matches: A function that returns whether the line matches a path relative to `above`, or a path's last part.
    """

    above: bytes
    negated: bool
    folders_only: bool
    by_name: bool
    matches: _Match


def parse_rules(content: bytes, above: bytes = b"") -> tuple[Rule, ...]:
    """Return the rules of an ignore file, from the weakest to the strongest.

    Args:
        content: The content of the ignore file.
        above: The folder of the file, relative to the top of the checkout: empty, or with "/" at its end.
    """
    lines = content.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    return tuple(rule for line in lines if (rule := _parse_line(line, above)) is not None)


def is_ignored(path: bytes, is_folder: bool, rules: Sequence[Rule]) -> bool:
    """Return whether a path is ignored. The strongest rule that matches the path decides. The folders above the path
    are not checked, because the caller does not enter ignored folders.

    Args:
        path: The path to check, relative to the top of the checkout.
        is_folder: Whether the path is a folder. A link to a folder is not a folder.
        rules: The rules of the ignore files, from the weakest to the strongest.
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
    """Return a line without trailing spaces. Trailing tabs, and a space after a backslash, are kept."""
    kept = len(line.rstrip(b" "))
    backslashes = kept - len(line[:kept].rstrip(b"\\"))
    return line[: kept + 1] if backslashes % 2 and kept < len(line) else line[:kept]


def _matcher(pattern: bytes, by_name: bool) -> _Match:
    """Return a function that returns whether a pattern matches a whole path or name."""
    plain = next((index for index, byte in enumerate(pattern) if byte in _WILDCARDS), len(pattern))
    if plain == len(pattern):
        return pattern.__eq__ if pattern else lambda path: False
    if by_name:
        if pattern[:1] == b"*" and not _WILDCARDS & set(pattern[1:]):
            return lambda name: name.endswith(pattern[1:])
        plain = 0
    # Git compares the text before the first wildcard separately, and treats the rest as a new pattern. Therefore
    # `a**/b` matches `ab`.
    pieces = _split(pattern[plain:])
    expression = _NOTHING if pieces is None else re.escape(pattern[:plain]) + _expression(pieces)
    full_match = re.compile(expression, re.DOTALL).fullmatch
    return lambda path: full_match(path) is not None


def _split(pattern: bytes) -> list[bytes] | None:
    """Return the parts of a pattern: `_STAR`, `_ALL`, `_ANY_FOLDERS`, `_SOME_FOLDERS`, and expressions for one byte. If
    git considers the pattern broken, the result is None. A broken pattern matches nothing.
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
    """Return a regular expression. The time to search it is proportional to the length of the path.

    The text between two wildcards of the same kind is searched only once, from the left, in an atomic group. The first
    match is sufficient, because a later match would leave fewer bytes for the rest of the pattern.
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
    """Return the regular expression for one part of a pattern, which is the text between two "/"."""
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
    """Return the meaning of the stars at `start` in the pattern, and the index after the stars."""
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
    """Return the bytes that a set `[…]` contains, and the index after the set. Return None if git considers the pattern
    broken.

    Args:
        pattern: The whole pattern, as bytes.
        start: The index in the pattern after "[".
    """
    index = start
    negated = pattern[index : index + 1] in (b"!", b"^")
    index += negated
    members: set[int] = set()
    before: int | None = None  # The byte before the current one. It begins a range such as `a-z` if "-" follows.
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
            else:  # A `[` that does not begin a class, such as `[:digit:]`, is an ordinary character.
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
