"""Streams the machines, the queue, the workers, the state of the controller and its events to clients, as they change.

All clients share one snapshot. While at least one client watches, the controller makes a new snapshot about every two
seconds, and sends to each client what has changed since the client's last message. A snapshot that takes long to make
is made less often, so that clients that watch cost at most a twentieth of the controller's time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable

from iris.cluster.controller.api.slices import BackgroundSlices
from iris.cluster.controller.api.stream_turns import StreamTurns
from iris.cluster.controller.events.event_rows import Event
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.overview.changes import ChangingList
from iris.cluster.controller.overview.cluster_status import ClusterStatus
from iris.cluster.controller.overview.cluster_view import ClusterView
from iris.errors import InvalidArgumentError
from iris.event_kinds import is_for_admins
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import Steps
from iris.system.event_loop import happens

Controller = cluster_pb2.Controller
WatchClusterRequest = cluster_pb2.Controller.WatchClusterRequest
WatchClusterResponse = cluster_pb2.Controller.WatchClusterResponse

BEAT_S = 10.0
PERIOD_S = 2.0
# The pause after each snapshot is at least this many times as long as the snapshot has kept the event loop busy.
_SHARE = 20
MOST_WAITING = 200
MOST_EVENTS = 200  # The largest number of events in one message. Older events are left out.
_log = logging.getLogger(__name__)


class ClusterWatch:
    """The clients that watch the cluster.

    Args:
        view: The object that makes messages about machines and workers.
        status: The object that makes messages about the state of the controller.
        journal: The object that stores the events of the cluster.
        slices: The object that makes the parts of a snapshot, for `view` too.
        turns: The object that lets clients get their messages one after the other.
        beat_s: The time in seconds after which a client without changes gets an empty message.

    Attributes:
        clients: The number of clients that watch the cluster.
    """

    def __init__(
        self,
        view: ClusterView,
        status: ClusterStatus,
        journal: EventJournal,
        slices: BackgroundSlices,
        turns: StreamTurns,
        beat_s: float = BEAT_S,
    ) -> None:
        self.clients = 0
        self._slices = slices
        self._turns = turns
        self._beat_s = beat_s
        self._view = view
        self._status = status
        self._journal = journal
        self._machines: ChangingList[Controller.Machine] = ChangingList()
        self._workers: ChangingList[Controller.WorkerHealthStatus] = ChangingList()
        self._queue: tuple[int, Controller.MachineQueue] = (0, Controller.MachineQueue())
        self._state: tuple[int, Controller.ClusterStatus] = (0, Controller.ClusterStatus())
        self._made = asyncio.Event()
        self._making: asyncio.Task[None] | None = None
        self._is_fresh = False

    async def messages(self, request: WatchClusterRequest, *, is_admin: bool) -> AsyncGenerator[WatchClusterResponse]:
        """Yield the machines, workers, status or events that a client has asked for, and then their changes.

        Args:
            request: The request of the client.
            is_admin: Whether the client may see who signs in to the page.

        Raises:
            InvalidArgumentError: The request asks for nothing, or `events_after` is negative.
        """
        _check(request)
        client = _Client(request, is_admin=is_admin)
        if client.event > self._journal.last_number:
            # The client has watched an earlier temporary cluster at this address, whose events had higher numbers.
            # Therefore the client gets the events of this cluster from the first one on.
            client.event = 0
        self.clients += 1
        if self._making is None:
            # The last snapshot may be old, because no client was watching. Therefore the client waits for a new one.
            self._is_fresh = False
            self._making = asyncio.create_task(self._make_snapshots())
        try:
            while not self._is_fresh:
                # The first snapshot of a busy controller can take long. Until then the client gets empty messages,
                # because proxies cut streams without messages.
                if not await happens(self._made, self._beat_s) and not self._is_fresh:
                    yield WatchClusterResponse()
            last_s = time.monotonic()
            while True:
                made = self._made
                message = self._message(client)
                if message.ByteSize() or time.monotonic() - last_s >= self._beat_s:
                    last_s = time.monotonic()
                    yield message
                await happens(made, self._beat_s)
                await self._turns.turn()
        finally:
            self.clients -= 1
            if not self.clients and self._making is not None:
                self._making.cancel()
                self._making = None

    async def _make_snapshots(self) -> None:
        while True:
            busy_s = self._slices.busy_s
            try:
                await self._make_snapshot()
            except Exception:  # noqa: BLE001 - After a bug, clients must get later snapshots.
                _log.exception("a snapshot of the cluster failed")
            self._is_fresh = True
            made, self._made = self._made, asyncio.Event()
            made.set()
            await asyncio.sleep(max(PERIOD_S, _SHARE * (self._slices.busy_s - busy_s)))

    async def _make_snapshot(self) -> None:
        self._slices.begin_work()
        machines, queue = await self._view.all_machines(MOST_WAITING)
        self._machines.update(await self._slices.run(_machines_by_name(machines)))
        workers = await self._view.all_workers()
        self._workers.update(await self._slices.run(_workers_by_id(workers)))
        if queue != self._queue[1] or not self._queue[0]:
            self._queue = (self._queue[0] + 1, queue)
        state = await asyncio.to_thread(self._status.message)
        if state != self._state[1]:
            self._state = (self._state[0] + 1, state)

    def _message(self, client: _Client) -> WatchClusterResponse:
        """Return what has changed since the last message to a client."""
        message = WatchClusterResponse()
        request = client.request
        if self._machines.is_unknown(client.machines) or self._workers.is_unknown(client.workers):
            message.complete = True
            client.machines = client.workers = -1
        if request.include_machines:
            machines, message.removed_machines[:] = self._machines.since(client.machines)
            message.machines.extend(machines)
            if self._queue[0] > client.queue:
                client.queue = self._queue[0]
                message.queue.CopyFrom(self._queue[1])
        if request.include_workers:
            workers, message.removed_workers[:] = self._workers.since(client.workers)
            message.workers.extend(workers)
        client.machines, client.workers = self._machines.revision, self._workers.revision
        if request.include_status and self._state[0] > client.state:
            client.state = self._state[0]
            message.status.CopyFrom(self._state[1])
        if request.include_events:
            events = self._journal.recent_after(client.event)
            client.event = events[-1].number if events else client.event
            shown = [event for event in events if client.is_admin or not is_for_admins(event.name)]
            message.events.extend(map(_event, shown[-MOST_EVENTS:]))
        return message


class _Client:
    """The request of a client, and the versions of all data that the client has received.

    Attributes:
        request: The request of the client.
        is_admin: Whether the client may see who signs in to the page.
        machines: The revision of the list of machines that the client has.
        workers: The revision of the list of workers that the client has.
        queue: The revision of the queue that the client has.
        state: The revision of the controller's state that the client has.
        event: The number of the last event that the client has.
    """

    def __init__(self, request: WatchClusterRequest, *, is_admin: bool) -> None:
        self.request = request
        self.is_admin = is_admin
        self.machines = self.workers = -1
        self.queue = self.state = 0
        self.event = request.events_after


def _check(request: WatchClusterRequest) -> None:
    if not (request.include_machines or request.include_workers or request.include_status or request.include_events):
        raise InvalidArgumentError(
            "the request must ask for something: set include_machines, include_workers, include_status or"
            " include_events"
        )
    if request.events_after < 0:
        raise InvalidArgumentError(f"events_after must be 0 or the number of an event, got {request.events_after}")


def _machines_by_name(machines: Iterable[Controller.Machine]) -> Steps[dict[str, tuple[bytes, Controller.Machine]]]:
    found = {}
    for machine in machines:
        found[machine.name] = (machine.SerializeToString(deterministic=True), machine)
        yield
    return found


def _workers_by_id(
    workers: Iterable[Controller.WorkerHealthStatus],
) -> Steps[dict[str, tuple[bytes, Controller.WorkerHealthStatus]]]:
    found = {}
    for worker in workers:
        found[worker.worker_id] = (_without_heartbeat(worker), worker)
        yield
    return found


def _without_heartbeat(worker: Controller.WorkerHealthStatus) -> bytes:
    key = Controller.WorkerHealthStatus()
    key.CopyFrom(worker)
    key.ClearField("last_heartbeat_ms")
    return key.SerializeToString(deterministic=True)


def _event(event: Event) -> Event:
    """Return a copy of an event in which the map `fields` also contains the other fields of the event, because the page
    shows only this map.
    """
    shown = Event()
    shown.CopyFrom(event)
    task_id = f"{event.job_id}/task-{event.task_index}" if event.HasField("task_index") else ""
    fields = {
        "job_id": "" if task_id else event.job_id,
        "task_id": task_id,
        "attempt_id": str(event.attempt_id) if event.HasField("attempt_id") else "",
        "worker_id": event.worker_id,
        "owner": event.owner,
        "reason": event.reason,
        "text": event.text,
    }
    shown.fields.update({name: value for name, value in fields.items() if value})
    return shown
