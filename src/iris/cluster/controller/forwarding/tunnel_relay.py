"""Relays the messages of tunnels between a client and the worker of a task.

The controller stores none of the bytes that go through a tunnel. The controller only remembers for the event log that
the tunnel is in use. Therefore a client can resume its tunnel after a restart of the controller. The messages of the
worker go to the client unchanged.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from iris.cluster.controller.api.watch import JobWatches
from iris.cluster.controller.forwarding.pace import RelayPace
from iris.cluster.controller.forwarding.tunnel_uses import TunnelKey, TunnelUse, TunnelUses
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import RUNNING, Task, TaskAttempt
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.types import state_name
from iris.errors import (
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import Caller
from iris.rpc.calls import call_async, stream_async
from iris.rpc.cluster_pb2 import ChannelTarget, TunnelMessage, WriteTunnelResponse
from iris.rpc.peer import Peer
from iris.rpc.tunnels.tunnel import check_tunnel_id
from iris.system.event_loop import happens

_BEAT_S = 10.0
# While a client waits for a task, the relay checks at intervals of this many seconds whether the task's worker has
# registered. These checks are needed because a registration does not change the job, and so causes no notification.
_CHECK_S = 0.5

OpenTunnelRequest = cluster_pb2.Controller.OpenTunnelRequest
WriteTunnelRequest = cluster_pb2.Controller.WriteTunnelRequest


@dataclass(frozen=True)
class TunnelKind:
    """The purpose of a relay's tunnels: to reach ports of tasks, or to run commands in tasks.

    Attributes:
        event: The first word of the names of the events in the event log.
        open_call: The worker's call that opens a tunnel.
        write_call: The worker's call that sends parts through a tunnel.
        describe: A function that returns the fields of the event `used` in the event log. The fields describe the port
            or the command that a tunnel connects to.
        exec_idle_ms: An exec session ends after this many milliseconds without a byte; 0 sets no limit.
        exec_limit_ms: An exec session ends this many milliseconds after its start; 0 sets no limit.
    """

    event: str
    open_call: str
    write_call: str
    describe: Callable[[ChannelTarget], dict[str, Any]]
    exec_idle_ms: int = 0
    exec_limit_ms: int = 0


def _describe_port(target: ChannelTarget) -> dict[str, Any]:
    return {"port": target.name or str(target.port)}


PORT_TUNNELS = TunnelKind("tunnel", "open_tunnel", "write_tunnel", _describe_port)


class TunnelRelay:
    """Relays all tunnels with one purpose: all tunnels to ports, or all tunnels of exec sessions.

    Args:
        fleet: The object that knows all workers of the cluster.
        watches: The object that notifies other code of changes of jobs.
        kind: The purpose of the tunnels.
    """

    def __init__(self, fleet: Fleet, watches: JobWatches, kind: TunnelKind = PORT_TUNNELS) -> None:
        self._fleet = fleet
        self._kind = kind
        self._watches = watches
        self._pace = RelayPace()
        self._uses = TunnelUses(kind.event)

    async def messages(
        self, record: JobRecord, request: OpenTunnelRequest, user: Caller
    ) -> AsyncGenerator[TunnelMessage]:
        """Yield the messages of a tunnel to a task, until the attempt of the tunnel or the task has ended.

        Args:
            record: The record of the job.
            request: The request of the client.
            user: The user who makes the call, for the event log.

        Raises:
            NotFoundError: There is no such task or attempt, or the tunnel to resume is gone.
            UnavailableError: The worker does not answer.
        """
        check_tunnel_id(request.tunnel_id)
        record.check_index(request.task_index)
        task = record.job.tasks[request.task_index]
        attempt = None
        if request.HasField("attempt_id"):
            attempt = _attempt(task, request.attempt_id)
        else:
            async with aclosing(self._until_running(record, task)) as waiting:
                async for message in waiting:
                    yield message
            attempt = task.live_attempt
        if attempt is None:
            yield _closed(task)
            return
        async with aclosing(self._recorded(task, attempt, request, user)) as messages:
            async for message in messages:
                yield message

    async def _recorded(
        self, task: Task, attempt: TaskAttempt, request: OpenTunnelRequest, user: Caller
    ) -> AsyncGenerator[TunnelMessage]:
        """Yield the messages of a stream, and record the use of its tunnel in the event log."""
        key = (task.task_id, attempt.attempt_id, request.tunnel_id)
        use: TunnelUse | None = None
        try:
            worker = self._worker(attempt)
            if worker is None:
                self._uses.end(key)
                yield _lost(attempt, task)
                return
            async with aclosing(self._relayed(worker, task, attempt, request)) as messages:
                async for message in messages:
                    if message.HasField("opened") and use is None:
                        use = self._uses.stream_opened(key, user, resumes=request.resume)
                    if message.HasField("closed"):
                        self._uses.end(key)
                    yield message
        except NotFoundError:
            self._uses.end(key)
            raise
        finally:
            if use is not None:
                self._uses.stream_ended(key, use)

    async def write(self, record: JobRecord, request: WriteTunnelRequest, user: Caller) -> WriteTunnelResponse:
        """Pass the bytes that a client sends through a tunnel on to the worker.

        Raises:
            NotFoundError: There is no such task or attempt, or the tunnel is gone.
            UnavailableError: The worker does not answer.
        """
        check_tunnel_id(request.tunnel_id)
        record.check_index(request.task_index)
        task = record.job.tasks[request.task_index]
        attempt = _attempt(task, request.attempt_id)
        key = (task.task_id, attempt.attempt_id, request.tunnel_id)
        # After a restart of the controller, a tunnel is unknown until its client has resumed it. A use of an unknown
        # tunnel is recorded only once the worker has accepted the call. Otherwise calls with invented tunnel ids could
        # fill the event log. A worker accepts a call that closes an unknown tunnel, therefore the parts of such a call
        # are dropped.
        is_known = self._uses.is_known(key)
        parts = request.parts if is_known or not request.close else []
        if is_known:
            self._record_targets(key, request, user)
        if request.close:
            self._uses.end(key)
        worker = self._worker(attempt)
        if worker is None:
            raise NotFoundError(_lost_text(attempt, task), reason=ErrorReason.TUNNEL_NOT_FOUND)
        passed = cluster_pb2.Worker.WriteTunnelRequest(
            task_id=task.task_id,
            attempt_id=attempt.attempt_id,
            tunnel_id=request.tunnel_id,
            parts=parts,
            close=request.close,
        )
        with _as_unavailable():
            await self._pace.turn()
            write = getattr(worker.stub, self._kind.write_call)
            answer: WriteTunnelResponse = await call_async(write, passed, _peer(worker))
        if not is_known and not request.close:
            self._record_targets(key, request, user)
        return answer

    def _record_targets(self, key: TunnelKey, request: WriteTunnelRequest, user: Caller) -> None:
        """Record in the event log which targets a call connects to."""
        for part in request.parts:
            if part.HasField("target"):
                self._uses.target_used(key, user, self._kind.describe(part.target))

    async def _until_running(self, record: JobRecord, task: Task) -> AsyncGenerator[TunnelMessage]:
        """Wait until the task has ended, or has a running attempt whose worker is registered. Meanwhile, yield messages
        with the state of the task for the waiting client.
        """
        said, said_s = "", 0.0
        while not task.is_finished:
            changed = self._watches.next_change(record.job_id)
            attempt = task.live_attempt
            if attempt is not None and attempt.state == RUNNING and attempt.worker_id in self._fleet.workers:
                return
            text = f"task {task.task_id} is {state_name(task.state)}"
            if text != said or time.monotonic() - said_s >= _BEAT_S:
                said, said_s = text, time.monotonic()
                yield TunnelMessage(waiting=text)
            await happens(changed, _CHECK_S)

    async def _relayed(
        self, worker: WorkerRecord, task: Task, attempt: TaskAttempt, request: OpenTunnelRequest
    ) -> AsyncGenerator[TunnelMessage]:
        passed = cluster_pb2.Worker.OpenTunnelRequest(
            task_id=task.task_id,
            attempt_id=attempt.attempt_id,
            tunnel_id=request.tunnel_id,
            resume=request.resume,
            exec_idle_ms=self._kind.exec_idle_ms,
            exec_limit_ms=self._kind.exec_limit_ms,
        )
        open_call = getattr(worker.stub, self._kind.open_call)
        try:
            with _as_unavailable():
                async with aclosing(stream_async(open_call(passed), _peer(worker))) as messages:
                    await self._pace.turn()
                    async for message in messages:
                        yield message
                        await self._pace.turn()
        except NotFoundError as error:
            if error.reason != ErrorReason.ATTEMPT_NOT_FOUND:
                raise
            # A worker that does not know a live attempt was restarted, and the client may try again later. If the
            # attempt has ended, the worker has removed it, and the tunnel is lost.
            if attempt.is_live:
                raise UnavailableError(str(error)) from error
            yield _lost(attempt, task)

    def _worker(self, attempt: TaskAttempt) -> WorkerRecord | None:
        """Return the worker of an attempt. Return None if the attempt has ended and its worker is gone.

        Raises:
            UnavailableError: The attempt is live, and its worker has not registered with this controller yet, or is
                about to be declared lost.
        """
        worker = self._fleet.workers.get(attempt.worker_id)
        is_same = worker is not None and worker.identity.incarnation == attempt.worker_incarnation
        if worker is not None and not worker.is_dead and is_same:
            return worker
        if not attempt.is_live:
            return None
        raise UnavailableError(
            f"worker {attempt.worker_id!r}, which runs the task, does not answer",
            reason=ErrorReason.WORKER_UNREACHABLE,
            metadata={"worker_id": attempt.worker_id},
        )


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Raise UnavailableError if a worker refuses the controller's own token, because such a refusal is not the client's
    fault.
    """
    try:
        yield
    except (UnauthenticatedError, PermissionDeniedError) as error:
        raise UnavailableError(str(error)) from error


def _attempt(task: Task, attempt_id: int) -> TaskAttempt:
    if 0 <= attempt_id < len(task.attempts):
        return task.attempts[attempt_id]
    raise NotFoundError(
        f"task {task.task_id} has no attempt {attempt_id}: its attempts are 0 to {len(task.attempts) - 1}",
        reason=ErrorReason.ATTEMPT_NOT_FOUND,
    )


def _closed(task: Task) -> TunnelMessage:
    text = f"task {task.task_id} has ended: {state_name(task.state)}"
    return TunnelMessage(closed=TunnelMessage.Closed(text=text, state=task.state))  # type: ignore[arg-type]


def _lost(attempt: TaskAttempt, task: Task) -> TunnelMessage:
    return TunnelMessage(closed=TunnelMessage.Closed(text=_lost_text(attempt, task)))


def _lost_text(attempt: TaskAttempt, task: Task) -> str:
    return f"attempt {attempt.attempt_id} of task {task.task_id} has ended, and worker {attempt.worker_id!r} is gone"


def _peer(worker: WorkerRecord) -> Peer:
    return Peer(worker.identity.address, f"worker {worker.identity.worker_id!r}")


def check_forwarding(is_allowed: bool) -> None:
    """Refuse to open a tunnel if the cluster was started with `--no-forward`.

    Raises:
        FailedPreconditionError: The cluster forwards no ports.
    """
    if not is_allowed:
        raise FailedPreconditionError(
            "this cluster forwards no ports, because it was started with 'iris up --no-forward'",
            reason=ErrorReason.FORWARDING_OFF,
        )
