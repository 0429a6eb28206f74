"""Numbers the events of the cluster, and stores them in the transactions of the saver.

An event of a job is stored in the same transaction as the change of the job. Therefore an event that a client has
received stays true after a crash, and each stored change has its events. Clients and webhooks get an event after the
transaction. The newest events are also in memory, so that clients that follow the events cause no reads.

A failed transaction is tried again later, with the same events. The number of unsaved events in memory is limited. If
the disk is full for too long, the oldest events are dropped, and a later event reports how many were dropped.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from iris.cluster.controller.events import event_rows
from iris.cluster.controller.events.event_rows import Event
from iris.cluster.controller.events.state_events import state_events, submission_event
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import InvalidArgumentError, quoted
from iris.system.clock import now_ms

DEFAULT_KEPT = 100_000
MAX_RECENT = 1_000
MAX_UNSAVED = 10_000
# After this many events of one transaction, which take about a millisecond, the loop handles other work. One
# transaction can contain the ends of 10,000 tasks.
_MADE_AT_ONCE = 200
_REMOVE_EVERY = 500  # Old events are removed in groups of this size, because each removal needs an SQL statement.


class EventJournal:
    """The events of the cluster.

    Args:
        store: The database of the controller.
        kept: How many of the newest events stay stored, approximately.
        max_unsaved: The largest number of unsaved events that are kept after a failed write.

    Attributes:
        journal_id: A random text, which is part of each cursor.
        first_number: The number of the oldest stored event.
        last_number: The number of the newest stored event.
    """

    def __init__(self, store: Store, kept: int = DEFAULT_KEPT, *, max_unsaved: int = MAX_UNSAVED) -> None:
        self.journal_id, self.first_number, self.last_number = store.read(event_rows.read_journal)
        self._kept = kept
        self._max_unsaved = max_unsaved
        self._recent = deque(store.read(lambda db: event_rows.read_newest(db, MAX_RECENT)), MAX_RECENT)
        self._unsaved: deque[Event] = deque()
        # The changes of the states of jobs and tasks since the last saved transaction, by job id.
        self._unreported: dict[str, list[Transition]] = {}
        self._dropped = 0
        self._writing: _Writing | None = None
        self._saved = asyncio.Event()

    def add(self, event: Event) -> None:
        """Add an event that the next transaction stores. The caller must make sure that a transaction follows."""
        if not event.time_ms:
            event.time_ms = now_ms()
        self._unsaved.append(event)
        self._drop_excess()

    @property
    def has_unsaved(self) -> bool:
        """Whether events wait to be stored."""
        return bool(self._unsaved)

    def next_events(self) -> asyncio.Event:
        """Return an `asyncio.Event` that is set when further events of the cluster have been stored."""
        return self._saved

    def recent_after(self, number: int) -> list[Event]:
        """Return the events in memory whose number is higher than a given number, the oldest first."""
        newest = list(itertools.islice(reversed(self._recent), max(0, self.last_number - number)))
        return newest[::-1]

    @property
    def first_recent(self) -> int:
        """The number of the oldest event in memory."""
        return self._recent[0].number if self._recent else self.last_number + 1

    # Cursors.

    def cursor(self, number: int) -> str:
        """Return the cursor with which a client continues after an event."""
        return f"{self.journal_id}-{number}"

    def read_cursor(self, cursor: str) -> int | None:
        """Return the number in a cursor; None if the cursor belongs to another journal.

        Raises:
            InvalidArgumentError: The text is not a cursor.
        """
        journal_id, dash, digits = cursor.rpartition("-")
        if not (dash and digits.isascii() and digits.isdigit() and len(digits) < 19 and journal_id.isalnum()):
            raise InvalidArgumentError(f"cursor must be the cursor of an earlier event, got {quoted(cursor)}")
        number = int(digits)
        return number if journal_id == self.journal_id and number <= self.last_number else None

    # The saver calls `begin_write` before each transaction and `end_write` after it.

    async def begin_write(self, changes: Changes, launched: Sequence[Job], changed: Iterable[Job]) -> None:
        """Add the rows of all new events to a transaction.

        1. Take the changes of the jobs' states. Changes from now on belong to the next transaction.
        2. Make the events, with pauses for other work of the loop. Meanwhile, a job may change further. The events stay
           true, because the end of a task or of an attempt does not change any more.
        3. Number the events. Events that were added during the pauses belong to the next transaction.

        Args:
            changes: The database rows that the transaction changes.
            launched: The new jobs in the transaction.
            changed: The changed jobs in the transaction.
        """
        time_ms = now_ms()
        writing = self._writing = _Writing()
        num_older = len(self._unsaved)
        taken = [(job, job.pop_transitions()) for job in changed]
        for job, transitions in taken:
            if transitions:
                self._unreported.setdefault(job.job_id, []).extend(transitions)
        writing.launched = {job.job_id: job.pop_transitions() for job in launched}

        of_changed = await _made_in_slices(
            event for job, transitions in taken for event in state_events(job, transitions, time_ms)
        )
        of_launched = await _made_in_slices(
            event
            for job in launched
            for event in (submission_event(job, time_ms), *state_events(job, writing.launched[job.job_id], time_ms))
        )

        later = [self._unsaved.pop() for _ in range(len(self._unsaved) - num_older)]
        self._unsaved.extend(of_changed)
        writing.unsaved, writing.dropped = len(self._unsaved), self._dropped
        events = [*self._unsaved, *of_launched]
        self._unsaved.extend(reversed(later))
        if self._dropped:
            events.insert(0, _dropped_event(self._dropped, time_ms))
        for number, event in enumerate(events, self.last_number + 1):
            event.number = number
        writing.events = events
        if not events:
            return
        # The writing thread may make the rows, because the events do not change until `end_write`.
        changes.add_made_rows(event_rows.ADD, lambda: [_row(event) for event in events])
        first = events[-1].number - self._kept + 1
        if first - self.first_number >= _REMOVE_EVERY:
            writing.first_number = first
            changes.add_rows(event_rows.REMOVE_UP_TO, [(first - 1,)])

    def end_write(self, *, is_saved: bool) -> Mapping[str, Sequence[Transition]]:
        """Publish the events of the last transaction if it is saved. Otherwise, keep the events for the next
        transaction.

        Returns:
            The saved changes of states, by job id. The mapping is empty if the transaction is not saved.
        """
        writing, self._writing = self._writing, None
        if writing is None or not is_saved:
            # Events are dropped only after a failed write. Before the first write, all events must be kept, because one
            # transaction may contain the ends of more tasks than `max_unsaved`.
            self._drop_excess()
            return {}
        for _ in range(writing.unsaved):
            self._unsaved.popleft()
        self._dropped -= writing.dropped
        reported, self._unreported = writing.launched | self._unreported, {}
        if writing.events:
            self._recent.extend(writing.events)
            self.last_number = writing.events[-1].number
            self.first_number = writing.first_number or self.first_number
            saved, self._saved = self._saved, asyncio.Event()
            saved.set()
        return reported

    def _drop_excess(self) -> None:
        if self._writing is None:
            while len(self._unsaved) > self._max_unsaved:
                self._unsaved.popleft()
                self._dropped += 1


async def _made_in_slices(events: Iterable[Event]) -> list[Event]:
    """Return all events of a generator. After each `_MADE_AT_ONCE` events, the loop handles other work."""
    made = []
    for event in events:
        made.append(event)
        if not len(made) % _MADE_AT_ONCE:
            await asyncio.sleep(0)
    return made


class _Writing:
    """The events of the transaction that is being written.

    Attributes:
        events: All events of the transaction.
        unsaved: How many of the events must be stored by the next transaction if this transaction fails.
        dropped: The number of dropped events that the transaction reports.
        first_number: The number of the oldest event after the transaction; 0 if no old events are removed.
        launched: The changes of states of the new jobs, by job id.
    """

    def __init__(self) -> None:
        self.events: Sequence[Event] = ()
        self.unsaved = self.dropped = self.first_number = 0
        self.launched: dict[str, list[Transition]] = {}


def _row(event: Event) -> tuple[object, ...]:
    return event.number, event.time_ms, event.name, event.job_id, event.SerializeToString()


def _dropped_event(count: int, time_ms: int) -> Event:
    event = Event(time_ms=time_ms, level="warning", name="events.dropped")
    event.fields["count"] = str(count)
    event.text = f"{count} events were lost, because they could not be stored for too long"
    return event
