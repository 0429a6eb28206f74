"""Refuses a request with an enum number that this release does not know. Otherwise the unknown number would count as
the default."""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from iris.errors import InvalidArgumentError
from iris.reasons import ErrorReason


def check_enums(request: Message, path: str = "") -> None:
    """Check all enums in a request. Unknown fields are ignored, because a newer client may send them.

    Raises:
        InvalidArgumentError: The enum of a field has no value with the given number.
    """
    for field in _fields_with_enums(request.DESCRIPTOR):
        if field.is_repeated:
            values = getattr(request, field.name)
        elif request.HasField(field.name):
            values = (getattr(request, field.name),)
        else:
            continue
        for value in values:
            if field.enum_type is None:
                check_enums(value, f"{path}{field.name}.")
            elif value not in field.enum_type.values_by_number:
                known = ", ".join(f"{one.number} ({one.name})" for one in field.enum_type.values)
                raise InvalidArgumentError(
                    f"{path}{field.name}={value} is not a {field.enum_type.name} that this release knows:"
                    f" expected one of {known}",
                    reason=ErrorReason.MALFORMED_REQUEST,
                )


@cache
def _fields_with_enums(message: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Return the fields of a message that are enums, or messages with enums somewhere in them."""
    return tuple(field for field in message.fields if _has_enums(field, ()))


def _has_enums(field: FieldDescriptor, above: tuple[Descriptor, ...]) -> bool:
    if field.enum_type is not None:
        return True
    inner = field.message_type
    if inner is None or inner in above or inner.GetOptions().map_entry:
        return False
    return any(_has_enums(below, (*above, inner)) for below in inner.fields)
