"""Data classes for the reason why a worker that a gang needs is not available."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class MissingKind(enum.Enum):
    """The kinds of reasons why a worker is not available."""

    STARTING = "the worker has not registered yet"
    UNREACHABLE = "the worker has registered, but does not answer"
    REFUSED = "the controller has refused the worker"


@dataclass(frozen=True, slots=True)
class MissingWorker:
    """A worker that a gang needs and that is not available.

    Attributes:
        worker_id: The worker's id.
        kind: Why the worker is not available.
        refusal: Which worker was refused and why, as a text; empty unless `kind` is `REFUSED`.
    """

    worker_id: str
    kind: MissingKind
    refusal: str = ""
