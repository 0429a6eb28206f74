"""Converts jobs to the records that the database stores, and back.

An unfinished job has one JSON record, and one JSON record for each task. A record leaves out empty fields, because
shorter records cost less time and space. An ended job has one *packed* record with all its tasks, because an ended job
never changes.

A packed record is a format byte, followed by compressed bytes. The uncompressed bytes are the length of the JSON text
(4 bytes), the JSON text of the job and its tasks, and the facts of the tasks as a protobuf message.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from operator import attrgetter
from typing import Any, NamedTuple

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import ENTRY_POINT_FIELDS, JobRecord
from iris.cluster.controller.jobs.task import Stop, Task, TaskAttempt
from iris.rpc import cluster_pb2

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest

_FORMAT = b"\x01"
_LENGTH_BYTES = 4
# The marker for a field that is always stored. A field is left out only if its default is empty, because a later
# version of Iris may change another default, for example the number of retries.
_REQUIRED = object()


def split_launch(launch: LaunchJobRequest) -> tuple[bytes, bytes]:
    """Return a submission as two messages: the submission without its entry point, and its entry point alone. The entry
    point is the command or callable, with the environment.
    """
    entry_point = LaunchJobRequest()
    rest = LaunchJobRequest()
    rest.CopyFrom(launch)
    for name in ENTRY_POINT_FIELDS:
        rest.ClearField(name)
    if launch.HasField("serialized_entrypoint"):
        entry_point.serialized_entrypoint = launch.serialized_entrypoint
    entry_point.command.extend(launch.command)
    if launch.HasField("environment"):
        entry_point.environment.CopyFrom(launch.environment)
    return rest.SerializeToString(), entry_point.SerializeToString()


def join_launch(rest: bytes, entry_point: bytes | None) -> LaunchJobRequest:
    """Return a submission from its two stored messages. If `entry_point` is None, the result has no command, callable
    or environment.
    """
    launch = LaunchJobRequest.FromString(rest)
    if entry_point:
        launch.MergeFromString(entry_point)
    return launch


def dump_job(job: Job) -> str:
    """Return the record of an unfinished job, without its tasks."""
    return json.dumps(_JOB.dump(_JOB.read(job)))


def load_job(
    record: str, tasks: Iterable[tuple[str, bytes]], rest: bytes, entry_point: bytes | None, number: int
) -> JobRecord:
    """Return an unfinished job from its stored records.

    Args:
        record: The record of the job.
        tasks: The record and the facts of each task, by task index.
        rest: The submission of the job, without its entry point.
        entry_point: The entry point of the job; None returns a job without its entry point.
        number: The place of the job in the order of submission.
    """
    loaded, facts = [], []
    for task, fact in tasks:
        loaded.append(_load_task(json.loads(task)))
        facts.append(cluster_pb2.TaskStatus.FromString(fact))
    job = Job(tasks=loaded, **_known(json.loads(record), _JOB_DEFAULTS))
    return JobRecord(job, join_launch(rest, entry_point), facts, number=number)


def pack(record: JobRecord) -> bytes:
    """Return the packed record of an ended job with all its tasks."""
    job = record.job
    text = json.dumps(
        {"job": _JOB.dump(_JOB.read(job)), "tasks": [_task_record(copy_task(task)) for task in job.tasks]},
        separators=(",", ":"),
    ).encode()
    facts = cluster_pb2.JobStatus(tasks=record.facts).SerializeToString()
    return _FORMAT + zlib.compress(len(text).to_bytes(_LENGTH_BYTES, "big") + text + facts)


def unpack(packed: bytes, rest: bytes, entry_point: bytes | None, number: int) -> JobRecord:
    """Return an ended job from its packed record. The other arguments have the same meaning as in `load_job`.

    Raises:
        ValueError: The record was packed by a newer version of Iris.
    """
    records, facts_bytes = _split_packed(packed)
    facts = cluster_pb2.JobStatus.FromString(facts_bytes)
    job = Job(tasks=[_load_task(task) for task in records["tasks"]], **_known(records["job"], _JOB_DEFAULTS))
    return JobRecord(job, join_launch(rest, entry_point), list(facts.tasks), number=number)


def unpack_states(packed: bytes) -> tuple[int, list[int]]:
    """Return the state of an ended job and the states of its tasks, from the job's packed record."""
    records, _ = _split_packed(packed)
    return records["job"]["state"], [task["state"] for task in records["tasks"]]


def _split_packed(packed: bytes) -> tuple[dict[str, Any], bytes]:
    if packed[:1] != _FORMAT:
        raise ValueError(f"the packed record of a job begins with {packed[:1]!r}, which this version does not know")
    content = zlib.decompress(packed[1:])
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    records: dict[str, Any] = json.loads(content[_LENGTH_BYTES:end])
    return records, content[end:]


class TaskCopy(NamedTuple):
    """The fields of a task and of its attempts at one time.

    Attributes:
        fields: The stored fields of the task, except its attempts and its stop.
        attempts: For each attempt, the stored values of its fields.
        stop: The reason why the task's attempt is being stopped, or None.
    """

    fields: tuple[object, ...]
    attempts: list[tuple[object, ...]]
    stop: Stop | None


def copy_task(task: Task) -> TaskCopy:
    """Return a copy of a task. Making a copy takes much less time than making the record of the task."""
    return TaskCopy(_TASK.read(task), list(map(_ATTEMPT.read, task.attempts)), task.stop)


def dump_task(task: TaskCopy) -> str:
    """Return the record of a task of an unfinished job, with its attempts."""
    return json.dumps(_task_record(task))


def _task_record(task: TaskCopy) -> dict[str, Any]:
    record = _TASK.dump(task.fields)
    if task.stop is not None:
        record["stop"] = task.stop.name
    record["attempts"] = list(map(_ATTEMPT.dump, task.attempts))
    return record


def _load_task(record: Mapping[str, Any]) -> Task:
    stop = record.get("stop")
    return Task(
        **_known(record, _TASK_DEFAULTS),
        attempts=[TaskAttempt(**_known(attempt, _ATTEMPT_DEFAULTS)) for attempt in record["attempts"]],
        stop=Stop[stop] if isinstance(stop, str) else None,
    )


class _Fields:
    """The stored fields of a class.

    Args:
        defaults: The default of each field, by name.

    Attributes:
        read: A function that returns the values of all fields of an object.
    """

    def __init__(self, defaults: Mapping[str, object]) -> None:
        self._names, self._defaults = tuple(defaults), tuple(defaults.values())
        self.read: Callable[[object], tuple[object, ...]] = attrgetter(*defaults)

    def dump(self, values: tuple[object, ...]) -> dict[str, Any]:
        """Return the values that differ from their defaults, by name."""
        found = zip(self._names, values, self._defaults, strict=True)
        return {name: value for name, value, default in found if value != default}


def _known(record: Mapping[str, Any], defaults: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields of a stored record that this version of Iris knows, and leave out all others.

    A field that is missing in a record gets its default. An unknown field, written by a newer version of Iris, is
    ignored. If a newer version of Iris adds a field that older versions must not ignore, the newer version also raises
    the schema version of the database.
    """
    return {name: value for name, value in record.items() if name in defaults}


def _defaults_of(kind: type, without: Sequence[str] = ()) -> dict[str, object]:
    return {field.name: _empty_default(field) for field in fields(kind) if field.name not in without}


def _empty_default(field: Field[Any]) -> object:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return _REQUIRED if default is MISSING or default else default


# These fields of a job are not stored in the record of the job. The tasks have records of their own. The gangs and the
# tally are derived from the tasks.
_JOB_DEFAULTS = _defaults_of(Job, ("tasks", "gangs", "deferred", "tally", "changes", "transitions"))
_TASK_DEFAULTS = _defaults_of(Task, ("attempts", "stop"))
_ATTEMPT_DEFAULTS = _defaults_of(TaskAttempt)
_JOB, _TASK, _ATTEMPT = map(_Fields, (_JOB_DEFAULTS, _TASK_DEFAULTS, _ATTEMPT_DEFAULTS))
