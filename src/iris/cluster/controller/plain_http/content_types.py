"""Chooses the format of an answer from the `Accept` header of the request."""

from __future__ import annotations

CONTENT_TYPES = {
    "text": "text/plain; charset=utf-8",
    "raw": "application/octet-stream",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "sse": "text/event-stream",
}
_ALSO = {"application/jsonl": "ndjson", "application/jsonlines": "ndjson", "application/ndjson": "ndjson"}
_FORMAT_OF = {kind.partition(";")[0]: name for name, kind in CONTENT_TYPES.items()} | _ALSO
# The formats of each range of content types, such as `text/*`. A client that accepts a range gets the first format of
# the range that the client does not refuse.
_BY_RANGE = {"*/*": ("text", "ndjson"), "text/*": ("text", "sse"), "application/*": ("ndjson", "json", "raw")}


def format_for(accept: str) -> str | None:
    """Return the format that a client prefers; None if the client accepts none of the formats.

    Args:
        accept: The value of the `Accept` header. Empty if the request has none.
    """
    if not accept.strip():
        return "text"
    accepted: list[tuple[str, float]] = []
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        accepted.append((kind, _weight(parameters)))
    refused = {name for kind, weight in accepted if weight == 0 and kind != "*/*" for name in _names(kind)}
    best: tuple[float, int] | None = None
    found: str | None = None
    for kind, weight in accepted:
        is_named = kind in _FORMAT_OF
        name = next((name for name in _names(kind) if is_named or name not in refused), None)
        # If the header `Accept` gives a content type and a range such as `text/*` the same weight, the content type has
        # priority.
        rank = (weight, 1 if is_named else 0)
        if name is not None and weight > 0 and (best is None or rank > best):
            best, found = rank, name
    return found


def _names(kind: str) -> tuple[str, ...]:
    return (_FORMAT_OF[kind],) if kind in _FORMAT_OF else _BY_RANGE.get(kind, ())


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
