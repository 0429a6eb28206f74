"""Encodes and decodes cursors: short texts from which a reader continues at a position in the logs of a job.
`cluster/logs/entries/line_cursor.py` gives each line its cursor.
"""

from __future__ import annotations

import base64
import binascii
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from iris.arguments import MAX_INT32, MAX_INT64
from iris.cluster.logs.records import BEGINNING, Offsets
from iris.errors import InvalidArgumentError, quoted
from iris.rpc import cluster_pb2

_VERSION = 1
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Position(NamedTuple):
    """The place up to which the log of a task was read.

    Attributes:
        attempt_id: The attempt that is being read. All earlier attempts were read to their end.
        offsets: How many bytes of each source of this attempt were read.
    """

    attempt_id: int = 0
    offsets: Offsets = BEGINNING


def encode_positions(positions: Mapping[int, Position]) -> bytes:
    """Return the positions of tasks in the binary format of a cursor: five numbers for each task, as varints."""
    return b"".join(
        [_to_varints((task_index, attempt_id, *offsets)) for task_index, (attempt_id, offsets) in positions.items()]
    )


def encode_cursor(job_id: str, positions: Mapping[int, Position], others: bytes = b"") -> str:
    """Return the cursor for positions in the logs of tasks. It has about 16 characters for one task.

    Args:
        job_id: The id of the job. Its checksum is part of the cursor.
        positions: The position in the log of each task, by task index.
        others: The result of `encode_positions` for further tasks. For a task in `positions`, the position in `others`
            is ignored.
    """
    body = bytes([_VERSION]) + others + encode_positions(positions)
    check = crc32(body, crc32(job_id.encode())).to_bytes(4, "little")
    return base64.urlsafe_b64encode(check + body).decode().rstrip("=")


def encode_cursors(
    job_id: str, task_index: int, position: Position, source_id: int, ends: Iterable[int], others: bytes = b""
) -> Iterator[str]:
    """Yield the cursor of each of many lines of one source. The cursors are equal to those of `encode_cursor`, but the
    common parts are computed only once.

    Args:
        job_id: The id of the job.
        task_index: The index of the task that wrote the lines.
        position: The position in the log of this task. The offset of the lines' source is ignored.
        source_id: The index of the lines' source in `SOURCES`.
        ends: For each line, the offset in its source at which the next line starts.
        others: The result of `encode_positions` for further tasks.
    """
    offsets = position.offsets
    head = bytes([_VERSION]) + others + _to_varints((task_index, position.attempt_id, *offsets[:source_id]))
    rest = _to_varints(offsets[source_id + 1 :])
    check = crc32(head, crc32(job_id.encode()))
    for end in ends:
        tail = bytearray()
        while end > 0x7F:
            tail.append(end & 0x7F | 0x80)
            end >>= 7
        tail.append(end)
        tail += rest
        data = crc32(tail, check).to_bytes(4, "little") + head + tail
        yield b2a_base64(data, newline=False).translate(_URL_SAFE).decode().rstrip("=")


def decode_cursor(job_id: str, cursor: str) -> dict[int, Position]:
    """Return the positions in a cursor by task index.

    Raises:
        InvalidArgumentError: The text is not a cursor, or the cursor belongs to another job.
    """
    error = InvalidArgumentError(
        f"cursor={quoted(cursor)} is not a cursor of job {quoted(job_id)}: expected the `cursor` of a line of this job"
    )
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise error from None
    check, body = data[:4], data[4:]
    if not body or body[0] != _VERSION or crc32(body, crc32(job_id.encode())).to_bytes(4, "little") != check:
        raise error
    numbers = list(_varints(body[1:]))
    indices = numbers[::5] + numbers[1::5]  # The task indices and the attempt ids, which must fit into 32 bits.
    if len(numbers) % 5 or max(numbers, default=0) > MAX_INT64 or max(indices, default=0) > MAX_INT32:
        raise error
    return {
        task_index: Position(attempt_id, (out, err, build))
        for task_index, attempt_id, out, err, build in zip(*[iter(numbers)] * 5, strict=True)
    }


def to_message(task_index: int, position: Position) -> cluster_pb2.LogPosition:
    """Return the protobuf message for a position in the log of a task."""
    return cluster_pb2.LogPosition(task_index=task_index, attempt_id=position.attempt_id, offsets=position.offsets)


def from_message(message: cluster_pb2.LogPosition) -> Position:
    """Return the position in the log of a task that a protobuf message contains.

    Raises:
        InvalidArgumentError: A number is negative, or the number of offsets is neither 0 nor 3.
    """
    offsets = tuple(message.offsets) or BEGINNING
    if len(offsets) != len(BEGINNING) or min(offsets) < 0 or message.attempt_id < 0 or message.task_index < 0:
        raise InvalidArgumentError(
            "a position must have a task index, an attempt id and no or three offsets, all of 0 or greater, got"
            f" task index {message.task_index}, attempt id {message.attempt_id} and offsets {list(offsets)}"
        )
    return Position(message.attempt_id, (offsets[0], offsets[1], offsets[2]))


def _to_varints(numbers: Iterable[int]) -> bytes:
    data = bytearray()
    for number in numbers:
        while number > 0x7F:
            data.append(number & 0x7F | 0x80)
            number >>= 7
        data.append(number)
    return bytes(data)


def _varints(data: bytes) -> Iterable[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
