"""Stores all gangs of the scheduler, each in exactly one state. The module is pure, like `gangs.py`.

Only the table changes the state of a gang. From the states, the table derives three indexes for the scheduler: the
gangs by state, the queue, and the time at which each gang has to get the event `TimePassed`.
"""

from __future__ import annotations

import math

from iris.cluster.controller.scheduling.gang_states import (
    Event,
    GangRecord,
    Instruction,
    Queued,
    Requested,
    State,
    allocation_of,
)
from iris.cluster.controller.scheduling.gangs import check_gang, next_due_s, next_step
from iris.cluster.controller.scheduling.queue import Allocation, Queue, QueuedGang
from iris.errors import InternalError
from iris.system.timers import Timers


class GangTable:
    """The gangs, by id and by state.

    Attributes:
        queue: The gangs in the state `Queued`. Only the table adds and removes gangs.
    """

    def __init__(self) -> None:
        self.queue = Queue()
        self._gangs: dict[str, GangRecord] = {}
        self._by_state: dict[type[State], dict[str, GangRecord]] = {}
        self._allocations: dict[str, Allocation] = {}  # The allocations by gang id.
        self._timers: Timers[str] = Timers()

    def add(self, gang: GangRecord) -> None:
        """Add a gang that the table does not contain."""
        if gang.gang_id in self._gangs:
            raise InternalError(f"the gang table already contains gang {gang.gang_id}")
        self._gangs[gang.gang_id] = gang
        self._enter(gang)

    def get(self, gang_id: str) -> GangRecord | None:
        """Return a gang, or None if the table does not contain it."""
        return self._gangs.get(gang_id)

    def apply(self, gang_id: str, event: Event) -> tuple[Instruction, ...]:
        """Apply an event to a gang, and return the instructions to carry out. If the table does not contain the gang,
        nothing happens, and the list is empty.

        Raises:
            InternalError: The event cannot occur in the gang's state.
        """
        gang = self._gangs.get(gang_id)
        if gang is None:
            return ()
        step = next_step(gang, event)
        if step.state is None:
            self._leave(gang)
            del self._gangs[gang_id]
        elif type(step.state) is not type(gang.state):
            self._leave(gang)
            gang.state = step.state
            self._enter(gang)
        elif step.state is not gang.state:
            gang.state = step.state
            self._set_allocation(gang)
            self._set_timer(gang)
        return step.instructions

    def in_state(self, *states: type[State]) -> list[GangRecord]:
        """Return the gangs in the given states, one state after the other. Gangs that entered a state earlier come
        first, unless `move_to_end` has moved them.
        """
        return [gang for state in states for gang in self._by_state.get(state, {}).values()]

    def move_to_end(self, gang: GangRecord) -> None:
        """Move a gang behind all other gangs in its state."""
        gangs = self._by_state[type(gang.state)]
        gangs[gang.gang_id] = gangs.pop(gang.gang_id)

    def allocations(self) -> list[Allocation]:
        """Return all allocations that the engine may hold, including allocations that no job needs any more."""
        return list(self._allocations.values())

    def waiting_at_engine(self) -> list[QueuedGang]:
        """Return the requested gangs that the engine has reported as waiting."""
        return [
            QueuedGang(gang.request, gang.state.since_s, gang.job_id, gang.tree_since_s)
            for gang in self._by_state.get(Requested, {}).values()
            if isinstance(gang.state, Requested) and gang.state.engine_reason is not None
        ]

    def has_waiting_at_engine(self) -> bool:
        """Return True if the engine has reported at least one requested gang as waiting."""
        return bool(self.waiting_at_engine())

    def pop_due(self, now_s: float) -> GangRecord | None:
        """Return a gang that has to get the event `TimePassed` now. Return None if no gang is due."""
        gang_id = self._timers.pop_due(now_s)
        return None if gang_id is None else self._gangs[gang_id]

    def next_due_s(self) -> float:
        """Return the earliest time at which a gang has to get the event `TimePassed`; infinity if no gang has to get
        it.
        """
        return self._timers.next_s()

    def check(self) -> None:
        """Check the invariants of all gangs and indexes.

        Raises:
            InternalError: An invariant is broken.
        """
        for gang in self._gangs.values():
            check_gang(gang)
            found = [state for state, gangs in self._by_state.items() if gang.gang_id in gangs]
            if found != [type(gang.state)]:
                raise InternalError(f"gang {gang.gang_id} is {gang.state}, but the gang table lists it under {found}")
            if self._allocations.get(gang.gang_id) is not allocation_of(gang.state):
                raise InternalError(
                    f"gang {gang.gang_id} is {gang.state}, but the gang table has another allocation for it"
                )
            if (gang.gang_id in self.queue) != isinstance(gang.state, Queued):
                raise InternalError(
                    f"gang {gang.gang_id} is {gang.state}, but the queue must contain exactly the gangs in the state"
                    " Queued"
                )
        if sum(map(len, self._by_state.values())) != len(self._gangs):
            raise InternalError("the gang table lists a removed gang under a state")

    def _enter(self, gang: GangRecord) -> None:
        check_gang(gang)
        self._by_state.setdefault(type(gang.state), {})[gang.gang_id] = gang
        if isinstance(gang.state, Queued):
            self.queue.add(QueuedGang(gang.request, gang.state.since_s, gang.job_id, gang.tree_since_s))
        self._set_allocation(gang)
        self._set_timer(gang)

    def _leave(self, gang: GangRecord) -> None:
        del self._by_state[type(gang.state)][gang.gang_id]
        self.queue.remove(gang.gang_id)
        self._allocations.pop(gang.gang_id, None)
        self._timers.drop(gang.gang_id)

    def _set_allocation(self, gang: GangRecord) -> None:
        allocation = allocation_of(gang.state)
        if allocation is None:
            self._allocations.pop(gang.gang_id, None)
        else:
            self._allocations[gang.gang_id] = allocation

    def _set_timer(self, gang: GangRecord) -> None:
        due_s = next_due_s(gang.state)
        if due_s < math.inf:
            self._timers.set(gang.gang_id, due_s)
        else:
            self._timers.drop(gang.gang_id)
