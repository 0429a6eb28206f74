"""Defines data classes for the reason why a worker is not available to a gang."""

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
    """A worker that is not available to the gang that needs it.

    Attributes:
        worker_id: The worker's id.
        kind: In which way the worker is not available.
        refusal: If `kind` is `REFUSED`, a text about which worker was refused and why. Otherwise empty.
    """

    worker_id: str
    kind: MissingKind
    refusal: str = ""
