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
# A reader that accepts several formats equally gets the first one of these, in this order.
_BY_RANGE = {"*/*": "text", "text/*": "text", "application/*": "ndjson"}


def format_for(accept: str) -> str | None:
    """Return the format that a client prefers; None if the client accepts none of the formats.

    Args:
        accept: The value of the `Accept` header. Empty if the request has none.
    """
    if not accept.strip():
        return "text"
    best: tuple[float, int] | None = None
    found: str | None = None
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        name = _FORMAT_OF.get(kind) or _BY_RANGE.get(kind)
        weight = _weight(parameters)
        # A named type wins over a range with the same weight.
        rank = (weight, 1 if kind in _FORMAT_OF else 0)
        if name is not None and weight > 0 and (best is None or rank > best):
            best, found = rank, name
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
