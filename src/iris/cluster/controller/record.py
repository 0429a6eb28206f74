"""A job as the controller holds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from iris.cluster.controller.job import Instruction
from iris.cluster.controller.store import StoredJob


@dataclass(slots=True)
class JobRecord(StoredJob):
    """A job, and what the controller holds of it besides.

    Attributes:
        saved_revision: Up to here it is in the store.
        changed: Set, and replaced, when there is news for watchers.
        finished: Set when it is final.
        to_do: What is to be done once it is saved.
        unsaved_results: Return values, pickled, by task index.
        gpu_ids: By task index, the devices that its current slot brings.
        caller: Whose limits it counts for.
    """

    saved_revision: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    to_do: list[Instruction] = field(default_factory=list)
    unsaved_results: list[tuple[int, bytes]] = field(default_factory=list)
    gpu_ids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    caller: str = ""

    def tell_watchers(self) -> None:
        """There is news for who watches it."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
