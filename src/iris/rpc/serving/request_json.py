"""Parses requests in JSON strictly: an unknown field or enum word is refused, with the nearest known name as a hint.

Protobuf's own parser either ignores unknown names or refuses them without a hint. If a misspelt option were ignored,
the request would have another effect than its sender intended.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from iris.errors import InvalidArgumentError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

Request = TypeVar("Request", bound=Message)

# The largest number of fields that an error lists.
_LISTED_FIELDS = 12
# An error suggests a known name if its similarity, as computed by `difflib`, is at least this ratio. A three-letter
# name with two swapped letters reaches the ratio.
_SIMILAR = 0.65
# If a field is unknown, nested messages are searched for a field with its name, down to this number of levels.
_DEEPEST = 3

_SERVICES = cluster_pb2.DESCRIPTOR.services_by_name.values()
# The requests of calls that only read. If a newer client uses a field that this release does not know, the answer is
# useful even without the field. Therefore unknown fields of these requests are ignored, unless they resemble a known
# field. All calls with a streamed answer only read, except the calls that open a tunnel.
_READING = {
    method.input_type
    for service in _SERVICES
    for method in service.methods_by_name.values()
    if (method.server_streaming and method.output_type is not cluster_pb2.TunnelMessage.DESCRIPTOR)
    or method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
}


def parse_request(data: bytes | bytearray, message_class: type[Request]) -> Request:
    """Return the message that a request in JSON stands for.

    Raises:
        InvalidArgumentError: The data is not JSON; a field is unknown, given twice or of another type; or an enum has
            no such word. In a request that only reads, an unknown field that resembles no known field is ignored.
    """
    try:
        document = json.loads(data.decode(), object_pairs_hook=_object)
    except InvalidArgumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"the request is not valid JSON: {error}", reason=ErrorReason.MALFORMED_REQUEST
        ) from None
    message = message_class()
    _check_message(document, message.DESCRIPTOR, "", is_lenient=message.DESCRIPTOR in _READING)
    try:
        # Unknown fields can be ignored here, because misspelt names were refused before, with better errors than the
        # errors of ParseDict.
        ParseDict(document, message, ignore_unknown_fields=True)
    except ParseError as error:
        raise InvalidArgumentError(
            f"the request is not a valid {message.DESCRIPTOR.name}: {error}", reason=ErrorReason.MALFORMED_REQUEST
        ) from None
    except Exception as error:  # noqa: BLE001 - ParseDict may raise any exception of the code that converts values.
        text = f"{type(error).__name__}: {error}"
        raise InvalidArgumentError(
            f"the request is not a valid {message.DESCRIPTOR.name}: {text}", reason=ErrorReason.MALFORMED_REQUEST
        ) from None
    return message


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgumentError(
            f"the request has the field {quoted(twice)} twice in one object: give the field once",
            reason=ErrorReason.MALFORMED_REQUEST,
        )
    return found


def _check_message(value: Any, message: Any, path: str, *, is_lenient: bool) -> None:
    if value is None and path:
        return  # the same as a missing field
    if not isinstance(value, dict):
        what = f"{path.removesuffix('.')}: " if path else ""
        raise InvalidArgumentError(
            f"{what}{quoted(value)} is not a {message.name}: expected a JSON object",
            reason=ErrorReason.MALFORMED_REQUEST,
        )
    given: dict[str, str] = {}
    for name, inner in value.items():
        field = _field(message, name)
        if field is None:
            _check_unknown(message, name, path, is_lenient=is_lenient)
            continue
        if field.name in given:
            raise InvalidArgumentError(
                f"{quoted(path + name)} and {quoted(path + given[field.name])} are the same field: give one of them",
                reason=ErrorReason.MALFORMED_REQUEST,
            )
        given[field.name] = name
        _check_field(inner, field, f"{path}{name}", is_lenient=is_lenient)


def _check_field(value: Any, field: FieldDescriptor, path: str, *, is_lenient: bool) -> None:
    values: Iterable[tuple[str, Any]] = [(path, value)]
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        field = inner.fields_by_name["value"]
        inner = field.message_type
        values = [(f"{path}[{quoted(key)}]", one) for key, one in value.items()] if isinstance(value, dict) else []
    elif field.is_repeated and isinstance(value, list):
        values = ((f"{path}[{number}]", one) for number, one in enumerate(value))
    if inner is not None:
        for place, one in values:
            _check_message(one, inner, f"{place}.", is_lenient=is_lenient)
    elif field.enum_type is not None:
        for place, one in values:
            _check_word(one, field.enum_type, place)


def _check_word(value: Any, enum: EnumDescriptor, path: str) -> None:
    if not isinstance(value, str) or value in enum.values_by_name or _is_number(value):
        return  # `check_enums` checks numbers
    names = list(enum.values_by_name)
    common = _common_prefix(names)
    by_word = {name.removeprefix(common).lower(): name for name in names} | {name.lower(): name for name in names}
    nearest = _nearest(value, by_word)
    hint = f"did you mean {nearest!r}?" if nearest else f"expected one of {', '.join(names)}"
    raise InvalidArgumentError(
        f"{path}={quoted(value)} is not a {enum.name}: {hint}", reason=ErrorReason.MALFORMED_REQUEST
    )


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and word.isascii()


def _check_unknown(message: Any, name: str, path: str, *, is_lenient: bool) -> None:
    names = [field.json_name for field in message.fields]
    elsewhere = next(_places(message, name), "")
    by_word = {field.json_name.lower(): field.json_name for field in message.fields}
    by_word |= {field.name.lower(): field.json_name for field in message.fields}
    nearest = elsewhere or _nearest(name, by_word)
    if is_lenient and not nearest:
        return
    text = f"{message.name} has no field {quoted(path + name)}: "
    if nearest:
        raise InvalidArgumentError(f"{text}did you mean {path + nearest!r}?", reason=ErrorReason.MALFORMED_REQUEST)
    listed = ", ".join(names[:_LISTED_FIELDS]) + (", …" if len(names) > _LISTED_FIELDS else "")
    raise InvalidArgumentError(
        f"{text}expected one of {listed}" if names else f"{text}it has none", reason=ErrorReason.MALFORMED_REQUEST
    )


def _field(message: Any, name: str) -> FieldDescriptor | None:
    """Return the field with a name in the spelling of JSON or of the proto file, or None if there is no such field."""
    found: FieldDescriptor | None = message.fields_by_camelcase_name.get(name) or message.fields_by_name.get(name)
    return found


def _places(message: Any, name: str, depth: int = 1) -> Iterator[str]:
    """Yield the paths of all fields with a given name in nested messages, for example `resources.replicas`. Paths with
    fewer levels come first.
    """
    if depth > _DEEPEST:
        return
    inner = [
        field
        for field in message.fields
        if field.message_type is not None and not field.is_repeated and not field.message_type.GetOptions().map_entry
    ]
    for field in inner:
        found = _field(field.message_type, name)
        if found is not None:
            yield f"{field.json_name}.{found.json_name}"
    for field in inner:
        for place in _places(field.message_type, name, depth + 1):
            yield f"{field.json_name}.{place}"


def _nearest(given: str, by_word: dict[str, str]) -> str:
    """Return the known name that resembles the given name most, or an empty text if no name is similar."""
    found = difflib.get_close_matches(given[:100].lower(), by_word, n=1, cutoff=_SIMILAR)
    return by_word[found[0]] if found else ""


def _common_prefix(names: list[str]) -> str:
    """Return the common prefix of all values of an enum up to an underscore, for example `PLACEMENT_`."""
    first, last = min(names), max(names)
    length = next((at for at, letter in enumerate(first) if last[at : at + 1] != letter), len(first))
    return first[: first.rfind("_", 0, length) + 1]
