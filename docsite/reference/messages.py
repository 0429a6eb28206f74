"""Makes the page of messages from the proto file and its comments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from docsite.reference.markdown import HEADER, cell, prose, table, wrapped

PROTO = Path(__file__).resolve().parents[2] / "proto" / "iris" / "rpc" / "cluster.proto"
# The messages that methods of the Python API return, in the order of the page. Dots lead into a message.
MESSAGES = (
    "JobStatus",
    "TaskStatus",
    "TaskAttempt",
    "ResourceUsage",
    "UsageSeries",
    "JobDependency",
    "TaskException",
    "LogEnd",
    "Controller.Endpoint",
    "Controller.GetSubmissionResponse",
    "Controller.LaunchJobRequest",
    "ResourceSpecProto",
    "EnvironmentConfig",
    "Controller.ListMachinesResponse",
    "Controller.Machine",
    "Controller.MachineUse",
    "Controller.WaitingGang",
    "Controller.Amounts",
)
_FIELD = re.compile(r"(repeated )?([\w.]+|map<[\w., ]+>) (\w+) = (\d+)[^;]*;(?: // (.*))?")


@dataclass
class Message:
    """A message of the proto file: its comment, and a row for each field (name, type, comment)."""

    comment: str = ""
    fields: list[tuple[str, str, str]] = field(default_factory=list)


def messages_page() -> str:
    """Return the text of docs/reference/messages.md."""
    known = read_messages(PROTO.read_text())
    parts = [
        "# Messages",
        HEADER,
        wrapped(
            "Methods such as `job.status()` return messages of protobuf. This page lists the fields of the messages"
            " that users of Python and of [HTTP](http.md) see most often. In Python, the classes are in"
            " `iris.rpc.cluster_pb2`; the messages of `Controller` are inner classes, such as"
            " `cluster_pb2.Controller.Machine`. JSON writes names as `jobId`, numbers of 64 bits as text, and enums as"
            " names such as `JOB_STATE_RUNNING`. A field without a value is 0, empty or False, and `HasField` tells"
            " whether it was set. Times are milliseconds since the Unix epoch."
        ),
        wrapped(
            "[States](states.md) describes `JobState` and `TaskState`. [Errors and reasons](../errors.md) describes"
            " `PendingReason` and `FailureReason`."
        ),
    ]
    for name in MESSAGES:
        message = known[name]
        rows = [(f"`{one}`", _type(kind), cell(prose(comment))) for one, kind, comment in message.fields]
        parts += [f"## {_short(name)}", *([wrapped(prose(message.comment))] if message.comment else [])]
        parts.append(table(("field", "type", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def read_messages(text: str) -> dict[str, Message]:
    """Return the messages of a proto file by their names. A name in another message follows its name and a dot."""
    found: dict[str, Message] = {}
    path: list[str] = []  # the open blocks; a block that is no message has an empty name
    comment: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        name = ".".join(filter(None, path))
        if match := re.fullmatch(r"message (\w+) \{(\})?", line):
            inner = f"{name}.{match[1]}" if name else match[1]
            found[inner] = Message(" ".join(comment))
            path += [] if match[2] else [match[1]]
        elif line.endswith("{"):
            path.append("")
        elif line == "}":
            path.pop()
        elif name and (match := _FIELD.fullmatch(line)):
            said = match[5] or " ".join(comment)
            kind = f"list of {match[2]}" if match[1] else match[2]
            found[name].fields.append((match[3], kind, said))
        comment = []
    return found


def _type(kind: str) -> str:
    """Return the type of a field for a table, with a link if the page has a section for the type."""
    name = kind.removeprefix("list of ")
    lead = "list of " if kind != name else ""
    known = {_short(message) for message in MESSAGES}
    return f"{lead}[`{name}`](#{_short(name).lower()})" if _short(name) in known else f"{lead}`{name}`"


def _short(name: str) -> str:
    return name.rpartition(".")[2]
