"""Formats the answers of the log route as text, bytes, or JSON. The input is the items that the log reader produces,
such as lines and notices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from iris.cluster.controller.plain_http.items import AllRead, Batch, Item, Notice, TaskOver
from iris.cluster.controller.plain_http.query import LogQuery
from iris.cluster.logs.entries.json_lines import json_objects
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.cluster.types import is_job_finished, is_task_finished, state_name
from iris.errors import IrisError, shown, visible
from iris.moments import write_moment
from iris.rpc import cluster_pb2
from iris.terminal.labels import label_width, task_label
from iris.terminal.lines import Lines

ENCODER = json.JSONEncoder(ensure_ascii=False)


class LogFormat(Protocol):
    """Writes one answer of the log route."""

    def begin(self) -> bytes:
        """Return the beginning of the answer."""

    def write(self, item: Item) -> bytes:
        """Return the bytes for an item."""

    def beat(self) -> bytes:
        """Return bytes that keep a silent connection open and that readers ignore. Return empty bytes if the format has
        no such bytes.
        """

    def failed(self, error: IrisError) -> bytes:
        """Return bytes with the reason why the answer ends early. Return no bytes if the format cannot contain a
        reason.
        """

    def end(self) -> bytes:
        """Return the end of the answer."""


class TextFormat:
    """Writes lines in the form in which `iris logs` prints them to a file. If several tasks are read, each line has a
    label. Messages about the logs, which `iris logs` prints to stderr, are separate lines that begin with `iris: `.

    Args:
        query: The parameters of the request.
        num_read: The number of tasks that are read.
        num_tasks: The number of tasks of the job.
    """

    def __init__(self, query: LogQuery, num_read: int, num_tasks: int) -> None:
        self._query = query
        self._label_width = label_width(num_tasks) if num_read > 1 else 0
        self._lines = Lines(is_terminal=False)

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def write(self, item: Item) -> bytes:
        """Return the bytes for an item."""
        match item:
            case Batch(entries) if entries[0].missing_bytes:
                return self._message(entries[0].gap_notice)
            case Batch(entries):
                return self._lines.add(entries, self._prefix(entries[0]))
            case Notice(text):
                return self._message(text)
            case TaskOver(task_index):
                return self._lines.end(task_index)
            case AllRead():
                said = "".join(_line(text) for text in _words_of_end(item)) if self._query.follow else ""
                begin = self._lines.interrupt() if said else b""
                return begin + self._lines.end() + said.encode(errors="replace")
        return b""

    def beat(self) -> bytes:
        """Return no bytes for a silent log. In plain text, readers could not tell other bytes from output."""
        return b""

    def failed(self, error: IrisError) -> bytes:
        """Return a line with the error."""
        return (
            self._lines.interrupt() + self._lines.end() + self._message(f"the rest cannot be read: {shown(str(error))}")
        )

    def end(self) -> bytes:
        """Return nothing."""
        return b""

    def _message(self, text: str) -> bytes:
        return self._lines.interrupt() + _line(text).encode(errors="replace")

    def _prefix(self, entry: LogEntry) -> bytes:
        parts = []
        if self._query.timestamps:
            parts.append(write_moment(entry.timestamp_ms))
        if self._label_width:
            parts.append(task_label(entry.task_index, self._label_width))
        return " ".join(parts).encode()


class RawFormat:
    """Writes only the exact bytes that the tasks wrote."""

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def write(self, item: Item) -> bytes:
        """Return the bytes of lines."""
        if not isinstance(item, Batch) or item.entries[0].missing_bytes:
            return b""
        data = b"\n".join([entry.data for entry in item.entries])
        return data if item.entries[0].partial else data + b"\n"

    def beat(self) -> bytes:
        """Return nothing."""
        return b""

    def failed(self, error: IrisError) -> bytes:
        """Return no bytes, because this format cannot report an error. The server cuts the connection instead."""
        return b""

    def end(self) -> bytes:
        """Return nothing."""
        return b""


class JsonLinesFormat:
    """Writes one JSON object for each line, as `iris logs --json` does, and one JSON object for each event."""

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def write(self, item: Item) -> bytes:
        """Return the bytes for an item."""
        if isinstance(item, Batch):
            return self._join(list(json_objects(item.entries, ENCODER)))
        event = event_of(item)
        return self._join([ENCODER.encode(event)]) if event else b""

    def beat(self) -> bytes:
        """Return an event that readers ignore."""
        return self._join(['{"event": "beat"}'])

    def failed(self, error: IrisError) -> bytes:
        """Return an event with the error."""
        return self._join([ENCODER.encode(failure_of(error))])

    def end(self) -> bytes:
        """Return nothing."""
        return b""

    def _join(self, objects: list[str]) -> bytes:
        return "".join(f"{one}\n" for one in objects).encode(errors="replace")


class JsonArrayFormat(JsonLinesFormat):
    """Writes the objects of `JsonLinesFormat` as the elements of one JSON array."""

    def __init__(self) -> None:
        self._is_empty = True

    def begin(self) -> bytes:
        """Return the beginning of the array."""
        return b"["

    def beat(self) -> bytes:
        """Return white space."""
        return b" "

    def end(self) -> bytes:
        """Return the end of the array."""
        return b"\n]\n"

    def _join(self, objects: list[str]) -> bytes:
        begin, self._is_empty = "\n" if self._is_empty else ",\n", False
        return (begin + ",\n".join(objects)).encode(errors="replace")


def event_of(item: Item) -> dict[str, Any] | None:
    """Return the JSON object for a message or for the end of the logs. Return None if the item has no JSON object."""
    match item:
        case Notice(text, cursor):
            return {"event": "notice", "text": text} | ({"cursor": cursor} if cursor else {})
        case AllRead(ends, job, _, cursor):
            is_over = is_job_finished(job.state)
            return {
                "event": "ended",
                "job": {
                    "job_id": job.job_id,
                    "state": state_name(job.state),
                    "exit_code": job.exit_code if is_over and job.HasField("exit_code") else None,
                    "error": job.error,
                },
                "tasks": [_end_document(index, end) for index, end in sorted(ends.items())],
                "cursor": cursor,
            }
    return None


def failure_of(error: IrisError) -> dict[str, Any]:
    """Return the JSON object for an error that ends an answer early."""
    return {"event": "failed", "code": error.code, "reason": error.reason, "text": shown(str(error))}


def _end_document(task_index: int, end: cluster_pb2.LogEnd) -> dict[str, Any]:
    return {
        "task": task_index,
        "state": state_name(end.state) if end.state else None,
        "exit_code": end.exit_code if is_task_finished(end.state) and end.HasField("exit_code") else None,
        "error": end.error,
        "complete": end.complete,
        "missing_bytes": end.bytes_missing,
        "missing_reason": end.missing_reason,
    }


def _line(text: str) -> str:
    return f"iris: {visible(text)}\n"


def _words_of_end(item: AllRead) -> Iterator[str]:
    """Yield sentences about how the job, or each of the chosen tasks, has ended."""
    if not item.is_part:
        job = item.job
        yield f"job {job.job_id} ended as {_outcome(job.state, job)}"
        return
    for index, end in sorted(item.ends.items()):
        yield f"task {index} ended as {_outcome(end.state, end)}"


def _outcome(state: int, status: cluster_pb2.JobStatus | cluster_pb2.LogEnd) -> str:
    code = f", exit code {status.exit_code}" if status.HasField("exit_code") else ""
    return f"{state_name(state)}{code}{f': {status.error}' if status.error else ''}"
