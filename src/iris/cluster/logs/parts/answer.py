"""Makes the parts of an answer to `FetchLogParts`, and checks the request."""

from __future__ import annotations

from pathlib import Path

from iris.arguments import MAX_INT64, check_whole_number
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.parts.places import AtByte, AtPosition, AtTime, Place
from iris.cluster.logs.parts.read_part import PartLimits, Selection, read_part_steps
from iris.cluster.logs.reading.gap_reasons import WORKER_KILLED
from iris.cluster.logs.reading.query import LogFilter, parse_filter
from iris.cluster.logs.records import SOURCE_ID, SOURCES
from iris.cluster.logs.streaming.refused_log import reason_on_wire
from iris.errors import InvalidArgumentError, quoted
from iris.rpc.cluster_pb2 import FetchLogPartsRequest, FetchLogPartsResponse
from iris.rpc.serving.steps import Steps

MAX_READS = 64
_DEFAULT_BYTES = 256 << 10
_MAX_BYTES = 2 << 20
# An answer to many reads gives each read at least this many bytes.
_LEAST_BYTES = 4 << 10
_DEFAULT_LINE_BYTES = 64 << 10
_MAX_LINE_BYTES = 1 << 20

Part = FetchLogPartsResponse.Part
Read = FetchLogPartsRequest.Read


class PartsRequest:
    """A checked request for parts of logs.

    Args:
        request: The message of the call `FetchLogParts`.

    Attributes:
        reads: Which parts of which logs the caller wants.
        places: For each read, the place at which its part begins or ends; None if the read names no place.
        selection: The object that selects lines of the logs.
        limits: How large each part may be.

    Raises:
        InvalidArgumentError: A field is invalid. The message names the field.
        ResourceExhaustedError: A pattern has too many characters.
    """

    def __init__(self, request: FetchLogPartsRequest) -> None:
        wanted = request.filter
        if not 1 <= len(request.reads) <= MAX_READS:
            raise InvalidArgumentError(f"reads must have 1 to {MAX_READS} items, got {len(request.reads)}")
        for name in ("start_line", "max_lines", "tail"):
            if getattr(wanted, name):
                raise InvalidArgumentError(
                    f"filter.{name} is not accepted by FetchLogParts, got {getattr(wanted, name)}: give a position"
                )
        check_whole_number("max_bytes", request.max_bytes, most=_MAX_BYTES)
        check_whole_number("max_line_bytes", request.max_line_bytes, most=_MAX_LINE_BYTES)
        self.places = [_parse_place(read) for read in request.reads]
        self.reads = request.reads
        self.selection = Selection(parse_filter(wanted), LogFilter(regex=request.find))
        share = (request.max_bytes or _DEFAULT_BYTES) // len(request.reads)
        self.limits = PartLimits(max(_LEAST_BYTES, share), request.max_line_bytes or _DEFAULT_LINE_BYTES)

    def part_steps(self, number: int, directory: Path, writer: LogWriter | None, *, final: bool) -> Steps[Part]:
        """Read the part of a log that one item of `reads` requests. The generator yields after each step.

        Args:
            number: The index of the item in `reads`.
            directory: The directory of the log.
            writer: The log's writer if this process writes the log or has written it; None if another process has
                written it.
            final: Whether the writer of the log has finished.
        """
        read = self.reads[number]
        part = yield from read_part_steps(
            directory,
            writer,
            self.selection,
            self.places[number],
            self.limits,
            backwards=read.backwards,
            stop=read.stop,
            final=final,
        )
        return Part(
            task_index=read.task_index,
            attempt_id=read.attempt_id,
            records=part.records,
            begin=part.begin,
            end=part.end,
            size=part.size,
            offsets=part.offsets,
            at_end=part.at_end,
            complete=part.at_end and final,
            missing_reason=WORKER_KILLED if part.truncated else "",
        )


def refused_part(read: Read, error: Exception) -> Part:
    """Return a part without lines, which contains the reason why the log cannot be read."""
    return Part(
        task_index=read.task_index,
        attempt_id=read.attempt_id,
        error=str(error),
        error_reason=reason_on_wire(error),
    )


def _parse_place(read: Read) -> Place | None:
    check_whole_number("attempt_id", read.attempt_id)
    check_whole_number("stop", read.stop, most=MAX_INT64)
    if read.stop and read.backwards:
        raise InvalidArgumentError(f"stop and backwards are mutually exclusive, got stop={read.stop}")
    match read.WhichOneof("place"):
        case "position":
            return AtPosition(check_whole_number("position", read.position, most=MAX_INT64))
        case "timestamp_ms":
            return AtTime(check_whole_number("timestamp_ms", read.timestamp_ms, most=MAX_INT64))
        case "source_byte":
            source = read.source_byte.source
            if source not in SOURCE_ID:
                raise InvalidArgumentError(
                    f"source_byte.source must be one of {', '.join(SOURCES)}, got {quoted(source)}"
                )
            offset = check_whole_number("source_byte.offset", read.source_byte.offset, most=MAX_INT64)
            return AtByte(SOURCE_ID[source], offset)
    return None
