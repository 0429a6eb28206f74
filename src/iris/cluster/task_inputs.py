"""Packs the inputs of all tasks of a job into one blob, and finds the item of a task in the blob.

The blob begins with a table of little-endian numbers: the number of items (u32), the offset of the first item (u64),
and the offset after each item (u64). The items follow. Therefore the controller reads the inputs of one task without
reading the whole blob. The controller, the clients and the tests share this module.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence

from iris.errors import InvalidArgumentError

_COUNT = struct.Struct("<I")
_OFFSET = struct.Struct("<Q")
_PLACE = struct.Struct("<QQ")


def pack_items(items: Sequence[bytes]) -> bytes:
    """Return the blob of the items."""
    offset = _COUNT.size + _OFFSET.size * (len(items) + 1)
    table = [_COUNT.pack(len(items)), _OFFSET.pack(offset)]
    for item in items:
        offset += len(item)
        table.append(_OFFSET.pack(offset))
    return b"".join([*table, *items])


def check_items(blob: bytes) -> int:
    """Check the table at the beginning of a blob of task inputs, and return the number of inputs in the blob.

    Raises:
        InvalidArgumentError: The blob is malformed.
    """
    count = _COUNT.unpack_from(blob)[0] if len(blob) >= _COUNT.size else 0
    first = _COUNT.size + _OFFSET.size * (count + 1)
    if not count or len(blob) < first:
        raise InvalidArgumentError(f"inputs_blob must begin with the table of its items, got {len(blob)} bytes")
    offsets = struct.unpack_from(f"<{count + 1}Q", blob, _COUNT.size)
    if offsets[0] != first or offsets[-1] != len(blob) or list(offsets) != sorted(offsets):
        raise InvalidArgumentError("the offsets in inputs_blob must be in order and cover the rest of the blob")
    return count


def items_of(blob: bytes) -> Iterator[bytes]:
    """Yield the items of a blob that `check_items` has accepted."""
    count = _COUNT.unpack_from(blob)[0]
    offsets = struct.unpack_from(f"<{count + 1}Q", blob, _COUNT.size)
    return (blob[start:end] for start, end in itertools.pairwise(offsets))


def table_entry(index: int) -> tuple[int, int]:
    """Return where the table of a blob has the entry of an item: the offset and the length of the entry."""
    return _COUNT.size + _OFFSET.size * index, _PLACE.size


def item_place(entry: bytes) -> tuple[int, int] | None:
    """Return the offset and the length of an item in a blob, from the item's entry in the table of the blob.

    Return None if the blob has no such item.
    """
    if len(entry) < _PLACE.size:
        return None
    start, end = _PLACE.unpack(entry)
    return (start, end - start) if start <= end else None
