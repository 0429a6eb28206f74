"""Checks the names that users give to jobs, endpoints, workers, ports and tokens, and the labels of machines.

People must be able to read a name, to write it, and to distinguish it from every other name. Therefore a name of a job,
endpoint, worker or token consists of 1 to 200 bytes of UTF-8, and follows two rules:
* Every character is visible: there are no control or format characters, no fillers, no selectors, and no white space
  except ordinary spaces, which are neither the first nor the last character.
* No character has two spellings: the text is in Unicode's normal form C (NFC), in which `é` is one character.

Names that break these rules are refused. Iris does not change a refused name into an accepted one, because the caller
would not find the job under the name in the request. Client and server apply the same rule, because other clients can
call the server.
"""

from __future__ import annotations

import re
import unicodedata

from iris.arguments import check_utf8
from iris.errors import InvalidArgumentError, ResourceExhaustedError, quoted
from iris.reasons import ErrorReason

MAX_NAME_BYTES = 200
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_PORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Nearly all names match this expression, and are accepted without a check of each character.
_PLAIN = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)

# Unicode's general categories of invisible characters.
_UNSEEN_CATEGORIES = {
    "Cc": "the control character",
    "Cf": "the invisible character",
    "Zl": "the line separator",
    "Zp": "the paragraph separator",
    "Zs": "the space",
}
# Invisible characters of other categories. All of them have Unicode's property Default_Ignorable_Code_Point, except the
# blank of braille. Some of these code points are not assigned yet.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def check_job_name(name: str) -> None:
    """Refuse a name that a user may not give to a job.

    Raises:
        InvalidArgumentError: The name contains `/`, or breaks the rule of this module.
        ResourceExhaustedError: The name is longer than `MAX_NAME_BYTES`.
    """
    check_name("job", name)
    if "/" in name:
        raise InvalidArgumentError(
            f"not a job name: {quoted(name)} contains '/' (only Iris makes job ids with '/', for child jobs)",
            reason=ErrorReason.INVALID_NAME,
        )


def check_name(kind: str, name: str) -> None:
    """Refuse a name that breaks the rule of this module.

    Args:
        kind: The kind of object with the name, for example "job", for the error.
        name: The name of the object to check.

    Raises:
        InvalidArgumentError: The name is not text, is empty, or breaks the rule. The error's text names the character.
        ResourceExhaustedError: The name is longer than `MAX_NAME_BYTES`.
    """
    article = "an" if kind[0] in "aeiou" else "a"
    if not isinstance(name, str):
        raise InvalidArgumentError(
            f"{article} {kind}'s name must be text, got {quoted(name)}", reason=ErrorReason.INVALID_NAME
        )
    if not name:
        raise InvalidArgumentError(f"{article} {kind}'s name must not be empty", reason=ErrorReason.INVALID_NAME)
    check_utf8(f"{article} {kind} name", name)
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        raise ResourceExhaustedError(
            f"the {kind} name {quoted(name)} is too long: {size:,} bytes in UTF-8, over the limit of {MAX_NAME_BYTES}",
            reason=ErrorReason.INVALID_NAME,
        )
    fault = "" if _PLAIN.fullmatch(name) else find_unseen(name) or _other_fault(name)
    if fault:
        raise InvalidArgumentError(
            f"not {article} {kind} name: {quoted(name)} {fault}", reason=ErrorReason.INVALID_NAME
        )


def check_token_name(name: str) -> None:
    """Refuse a name that may not be the name of a token's holder.

    Raises:
        InvalidArgumentError: The name breaks the rule of this module, or is longer than `MAX_NAME_BYTES`.
    """
    try:
        check_name("token", name)
    except ResourceExhaustedError as error:
        raise InvalidArgumentError(str(error)) from None


def find_unseen(text: str) -> str:
    """Return a phrase that names the first invisible character of a text, for the end of an error text. Return an empty
    string if all characters are visible.
    """
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if character == " " and 0 < place < len(text) - 1:
            continue
        if character == " ":
            return "begins or ends with a space"
        if category in _UNSEEN_CATEGORIES or _UNSEEN.match(character):
            what = _UNSEEN_CATEGORIES.get(category, _UNSEEN_CATEGORIES["Cf"])
            known = unicodedata.name(character, "")
            return f"contains {what} U+{ord(character):04X}{known and f' ({known})'}"
    return ""


def _other_fault(name: str) -> str:
    if unicodedata.category(name[0]).startswith("M"):
        return f"begins with the combining character U+{ord(name[0]):04X}, which belongs to a character before it"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode's normal form C: pass unicodedata.normalize('NFC', name)"
    return ""


def check_port_name(name: str) -> None:
    """Refuse a port name that cannot be part of the name of an environment variable.

    Raises:
        InvalidArgumentError: The name contains other characters than letters, digits and `_`, starts with a digit, or
            is too long.
    """
    if not isinstance(name, str) or not _PORT_NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise InvalidArgumentError(
            f"not a port name: {quoted(name)} (expected letters, digits and '_', as in 'http': the task finds"
            " its port in IRIS_PORT_HTTP)",
            reason=ErrorReason.INVALID_NAME,
        )


def check_label(key: str, value: str) -> None:
    """Refuse a label that not every engine accepts.

    The rule for labels is the rule of Kubernetes for label values, with `/` in keys such as `cloud/zone`: 1 to 63
    letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.

    Raises:
        InvalidArgumentError: The key or the value breaks the rule.
    """
    given = (key, value)
    if not all(isinstance(text, str) for text in given) or not all(
        _LABEL.fullmatch(part) for part in (*key.split("/", 1), value)
    ):
        raise InvalidArgumentError(
            f"not a label of machines: {quoted(f'{key}={value}')} (expected KEY=VALUE, each 1 to 63 letters, digits,"
            " '-', '_' and '.', with a letter or digit at both ends)"
        )
