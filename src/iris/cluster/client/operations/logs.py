"""Operations that read logs, from the workers or through the controller. `LogVerbs` documents arguments and errors."""

from __future__ import annotations

from collections.abc import Iterable

from iris.arguments import (
    MAX_INT32,
    TaskReference,
    check_instance,
    check_items,
    check_text,
    check_whole_number,
    refuse,
)
from iris.cluster.client.operations.jobs import get_task_status
from iris.cluster.client.operations.steps import Call, OpenStream, Operation, Probe, Worker
from iris.cluster.types import make_task_id, parse_task_id
from iris.counts import counted
from iris.errors import DeadlineExceededError, NotFoundError, UnavailableError, WorkerUnreachableError
from iris.rpc import cluster_pb2


class ReachableWorkers:
    """Records which workers this machine can call directly.

    Attributes:
        known: The probed workers by address. The value is True if this machine can reach the worker.
    """

    def __init__(self) -> None:
        self.known: dict[str, bool] = {}

    def lost(self, address: str) -> None:
        """Record that a worker does not answer any more. Afterwards `reaches` returns False for the worker's
        address."""
        self.known[check_text("address", address)] = False

    def reaches(self, worker_id: str, address: str) -> Operation[bool]:
        """Return whether this machine can call a worker directly. The first call for an address probes the worker."""
        worker = check_text("worker_id", worker_id), check_text("address", address)
        if address not in self.known:
            yield from self.find([worker])
        return self.known[address]

    def find(self, workers: Iterable[Worker]) -> Operation[None]:
        """Probe all workers that were not probed before, at the same time."""
        pairs = check_items("workers", workers, "a list of pairs of worker id and address")
        unknown = [worker for worker in dict.fromkeys(map(_check_each, pairs)) if worker[1] not in self.known]
        if unknown:
            answered = yield Probe(unknown)
            for (_, address), has_answered in zip(unknown, answered, strict=True):
                self.known.setdefault(address, has_answered)


def fetch_task_logs(
    reachable: ReachableWorkers,
    task_id: str | TaskReference,
    start_ms: int = 0,
    max_lines: int = 0,
    *,
    attempt_id: int | None = None,
) -> Operation[list[cluster_pb2.Worker.LogEntry]]:
    """Return the lines that a task has written so far."""
    job_id, task_index = parse_task_id(task_id)
    wanted = cluster_pb2.Worker.FetchLogsFilter(
        start_ms=check_whole_number("start_ms", start_ms),
        max_lines=check_whole_number("max_lines", max_lines, most=MAX_INT32),
    )
    if attempt_id is not None:
        attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
    task = yield from get_task_status(job_id, task_index)
    if not task.attempts and attempt_id is None:
        return []
    attempt = find_attempt(task, attempt_id)
    entries: list[cluster_pb2.Worker.LogEntry] = []
    while True:
        page = yield from fetch_log_page(reachable, task_id, attempt, wanted)
        entries += page.logs
        if page.at_end or (max_lines and len(entries) >= max_lines):
            return entries
        wanted.start_line = page.next_line
        wanted.max_lines = int(max_lines) - len(entries) if max_lines else 0


def fetch_log_page(
    reachable: ReachableWorkers,
    task_id: str | TaskReference,
    attempt: cluster_pb2.TaskAttempt,
    wanted: cluster_pb2.Worker.FetchLogsFilter,
) -> Operation[cluster_pb2.Worker.FetchTaskLogsResponse]:
    """Return one page of an attempt's log."""
    task_id = make_task_id(*parse_task_id(task_id))
    check_instance("attempt", attempt, cluster_pb2.TaskAttempt)
    check_instance("wanted", wanted, cluster_pb2.Worker.FetchLogsFilter)
    request = cluster_pb2.Worker.FetchTaskLogsRequest(task_id=task_id, attempt_id=attempt.attempt_id, filter=wanted)
    page: cluster_pb2.Worker.FetchTaskLogsResponse
    if (yield from reachable.reaches(attempt.worker_id, attempt.worker_address)):
        try:
            page = yield Call("fetch_task_logs", request, worker=(attempt.worker_id, attempt.worker_address))
            return page
        except NotFoundError:
            # The worker does not have the log. Either another worker now has the worker's address, or the worker has
            # uploaded and removed the log. Therefore the log is read through the controller.
            pass
        except (UnavailableError, DeadlineExceededError):
            reachable.lost(attempt.worker_address)
    try:
        page = yield Call("fetch_task_logs", request)
        return page
    except (UnavailableError, DeadlineExceededError) as error:
        text = f"cannot read the log of {task_id!r} from worker {attempt.worker_id!r}: {error}"
        raise WorkerUnreachableError(text) from error


def fetch_log_parts(request: cluster_pb2.FetchLogPartsRequest) -> Operation[cluster_pb2.FetchLogPartsResponse]:
    """Read parts of attempts' logs at given positions, and return the parts."""
    check_instance("request", request, cluster_pb2.FetchLogPartsRequest)
    answer: cluster_pb2.FetchLogPartsResponse = yield Call("fetch_log_parts", request)
    return answer


def stream_task_logs(request: cluster_pb2.StreamTaskLogsRequest, worker: Worker | None) -> OpenStream:
    """Return the step of an operation that opens a stream of logs."""
    check_instance("request", request, cluster_pb2.StreamTaskLogsRequest)
    return OpenStream("stream_task_logs", request, None if worker is None else _check_worker("worker", worker))


def find_attempt(task: cluster_pb2.TaskStatus, attempt_id: int | None) -> cluster_pb2.TaskAttempt:
    """Return an attempt of a task. The attempt id None stands for the newest attempt.

    Raises:
        NotFoundError: There is no such attempt.
    """
    if attempt_id is None and task.attempts:
        return task.attempts[-1]
    for attempt in task.attempts:
        if attempt.attempt_id == attempt_id:
            return attempt
    raise NotFoundError(
        f"task {make_task_id(task.job_id, task.task_index)!r} has no attempt {attempt_id}"
        f": the task has had {counted(len(task.attempts), 'attempt')}, and attempts count from 0"
    )


def _check_each(value: object) -> Worker:
    return _check_worker("each of workers", value)


def _check_worker(name: str, value: object) -> Worker:
    accepted = "a pair of worker id and address"
    pair = check_items(name, value, accepted)
    if len(pair) != 2:
        refuse(name, accepted, value)
    return check_text(f"the worker id of {name}", pair[0]), check_text(f"the address of {name}", pair[1])
