"""Makes the JSON document of an event, which webhooks receive and `iris events --json` prints."""

from __future__ import annotations

from typing import Any

from iris.rpc import cluster_pb2


def event_document(event: cluster_pb2.Controller.Event) -> dict[str, Any]:
    """Return an event as JSON. Fields that do not apply are null. `id` identifies the event, and is its cursor."""
    return {
        "id": event.cursor,
        "kind": event.name,
        "time_ms": event.time_ms,
        "level": event.level,
        "job_id": event.job_id or None,
        "task_index": event.task_index if event.HasField("task_index") else None,
        "attempt_id": event.attempt_id if event.HasField("attempt_id") else None,
        "worker_id": event.worker_id or None,
        "owner": event.owner or None,
        "reason": event.reason or None,
        "text": event.text,
        "fields": dict(sorted(event.fields.items())),
    }
