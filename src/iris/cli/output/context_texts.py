"""Makes the texts and JSON documents about contexts. These texts and documents never contain a token."""

from __future__ import annotations

from typing import Any

from iris.cluster.client.contexts.context_file import LOCAL, Context
from iris.cluster.client.task_token import holder_of_token
from iris.durations import words_of_seconds
from iris.system.clock import now_ms

_SOURCES = {
    "address": "--address",
    "context": "--context",
    "address-variable": "IRIS_CONTROLLER_ADDRESS",
    "context-variable": "IRIS_CONTEXT",
    "current-context": "iris context use",
    "running": "iris up on this machine",
}


def context_document(context: Context, *, is_current: bool) -> dict[str, Any]:
    """Return a context as JSON, with the holder of its token and without the token."""
    holder = holder_of_token(context.token)
    return {
        "name": context.name,
        "address": context.address,
        "current": is_current,
        "user": holder.name if holder else None,
        "role": holder.role if holder else None,
        "token_id": holder.token_id if holder else None,
        "expires_at_ms": holder.expires_at_ms if holder else None,
        "ca": context.ca or None,
        "cert": context.cert or None,
        "cert_key": context.cert_key or None,
    }


def local_document(address: str | None, *, is_current: bool) -> dict[str, Any]:
    """Return the context `local` as JSON. The address is null if no cluster of `iris up` runs."""
    names = ("user", "role", "token_id", "expires_at_ms", "ca", "cert", "cert_key")
    return {"name": LOCAL, "address": address, "current": is_current, **dict.fromkeys(names)}


def words_of_holder(context: Context) -> str:
    """Return the holder of a token in words, for example `ana (user), with a token for 30d 0h`."""
    holder = holder_of_token(context.token)
    if holder is None:
        return "an unknown user"
    left = words_of_seconds((holder.expires_at_ms - now_ms()) / 1000)
    return f"{holder.name} ({holder.role}), with a token for {left}"


def words_of_expiry(document: dict[str, Any]) -> str:
    """Return how long the token of a context is still valid, in words. Return an empty string if this time is not
    known.
    """
    if not document.get("expires_at_ms"):
        return ""
    left_ms = document["expires_at_ms"] - now_ms()
    return f"for {words_of_seconds(left_ms / 1000)}" if left_ms > 0 else "expired"


def source_text(source: str) -> str:
    """Return where the address of a cluster comes from, in words: an option, an environment variable, a context, or
    `iris up`."""
    return _SOURCES[source]
