"""Writes log entries as JSON objects, for `iris logs --json` and for readers that speak plain HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence

from iris.cluster.logs.entries.log_entry import LogEntry, cursors


def json_objects(entries: Sequence[LogEntry], encoder: json.JSONEncoder, *, with_job: bool = False) -> Iterator[str]:
    """Yield one JSON object for each entry. Common fields are encoded only once, because logs may be very long.

    Args:
        entries: Lines of one attempt and source that were captured together, or one partial line, or one gap.
        encoder: The object that encodes the text of the lines as JSON.
        with_job: Whether each object begins with the id of the job.
    """
    first = entries[0]
    job = f'"job": {encoder.encode(first.job_id)}, ' if with_job else ""
    begin = (
        f'{{{job}"task": {first.task_index}, "attempt": {first.attempt_id}, "source": "{first.source}",'
        f' "timestamp_ms": {first.timestamp_ms}, "message": '
    )
    end = ', "partial": true}' if first.partial and not first.missing_bytes else "}"
    if first.missing_bytes:
        end = f', "missing_bytes": {first.missing_bytes}}}'
    for entry, cursor in zip(entries, cursors(entries), strict=True):
        message = entry.message
        exact = ""
        if "\ufffd" in message and not entry.missing_bytes and message.encode() != entry.data:
            # JSON text cannot contain bytes that are not valid UTF-8. Therefore the exact bytes are added in another
            # field.
            exact = f', "data_base64": "{base64.b64encode(entry.data).decode()}"'
        yield f'{begin}{encoder.encode(message)}, "cursor": "{cursor}"{exact}{end}'
