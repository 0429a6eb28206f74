"""Operations that list, read and write files of tasks, through the worker or the controller."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from iris.arguments import (
    MAX_INT32,
    JobReference,
    TaskReference,
    check_flag,
    check_instance,
    check_job_id,
    check_task_indices,
    check_text,
    check_whole_number,
)
from iris.cluster.client.operations.jobs import get_task_status
from iris.cluster.client.operations.logs import ReachableWorkers, find_attempt
from iris.cluster.client.operations.steps import Call, Operation, Pause, Step, Worker, next_item
from iris.cluster.files.confined_tree import parts_of
from iris.cluster.types import is_task_finished, make_task_id, parse_task_id
from iris.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.system.backoff import Backoff

DEFAULT_PATIENCE_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

# If a worker answers with one of these errors, the controller is called instead. A worker of another release may not
# know the call. A worker may refuse a token that the controller accepts. Another worker may now have the address.
_ASK_CONTROLLER = (UnimplementedError, PermissionDeniedError, UnauthenticatedError, NotFoundError)


class AttemptRoute:
    """The route over which a client reads and writes the files of one attempt. The client calls the attempt's worker.
    It calls the controller instead if it cannot reach the worker, or if the attempt has ended.

    Args:
        reachable: The object that records which workers this machine can call directly.
        task_id: The id of the task.
        attempt: The status of the attempt.
        patience_s: For how many seconds a call is repeated when no server answers.
    """

    def __init__(
        self, reachable: ReachableWorkers, task_id: str, attempt: cluster_pb2.TaskAttempt, patience_s: float
    ) -> None:
        self.task_id = task_id
        self.attempt_id = attempt.attempt_id
        self._reachable = reachable
        self._worker: Worker | None = None
        if not is_task_finished(attempt.state):
            self._worker = attempt.worker_id, attempt.worker_address
        self._patience_s = patience_s

    def call(self, method: str, request: Any) -> Operation[Any]:
        """Call the worker or the controller, and return the answer. The call is repeated while no server answers.

        Raises:
            UnavailableError, DeadlineExceededError: The controller has not answered for `patience_s` seconds.
            IrisError: The server refuses the call.
        """
        request.task_id, request.attempt_id = self.task_id, self.attempt_id
        until_s: float | None = None
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            worker = self._worker
            if worker is not None and not (yield from self._reachable.reaches(*worker)):
                worker = self._worker = None
            try:
                answer = yield Call(method, request, worker=worker)
                return answer
            except (UnavailableError, DeadlineExceededError):
                if worker is not None:
                    self._reachable.lost(worker[1])
                    continue
                now_s = time.monotonic()
                until_s = until_s or now_s + self._patience_s
                pause_s = backoff.next_s()
                if now_s + pause_s > until_s:
                    raise
                yield Pause(pause_s)
            except _ASK_CONTROLLER:
                if worker is None:
                    raise
                self._worker = None

    def list_pages(self, path: str, *, recursive: bool) -> Generator[Step | list[cluster_pb2.TaskFile], Any, None]:
        """List the files at a path, and yield the list page by page. The first file of the list is the file at the path
        itself.
        """
        request = cluster_pb2.ListTaskFilesRequest(path=path, recursive=recursive)
        while True:
            answer: cluster_pb2.ListTaskFilesResponse = yield from self.call("list_task_files", request)
            yield list(answer.files)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def status(self, path: str) -> Operation[cluster_pb2.TaskFile | None]:
        """Return the file at a path, or None if there is none."""
        request = cluster_pb2.ListTaskFilesRequest(path=path)
        try:
            answer: cluster_pb2.ListTaskFilesResponse = yield from self.call("list_task_files", request)
        except NotFoundError as error:
            if error.reason != ErrorReason.FILE_NOT_FOUND:
                raise
            return None
        return answer.files[0]


def find_route(
    reachable: ReachableWorkers, task_id: str | TaskReference, attempt_id: int | None, patience_s: float
) -> Operation[AttemptRoute]:
    """Return the route over which the client reads and writes the files of an attempt.

    Raises:
        NotFoundError: There is no such task or attempt.
        FailedPreconditionError: The task has not had an attempt yet.
    """
    job_id, task_index = parse_task_id(task_id)
    if attempt_id is not None:
        attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
    task = yield from get_task_status(job_id, task_index)
    name = make_task_id(job_id, task_index)
    if not task.attempts and attempt_id is None:
        raise FailedPreconditionError(
            f"task {name!r} has not started yet, so it has no files: wait until it runs",
            reason=ErrorReason.ATTEMPT_NOT_RUNNING,
        )
    return AttemptRoute(reachable, name, find_attempt(task, attempt_id), patience_s)


def list_task_files(
    reachable: ReachableWorkers,
    task_id: str | TaskReference,
    path: str = "",
    *,
    recursive: bool = False,
    attempt_id: int | None = None,
) -> Operation[list[cluster_pb2.TaskFile]]:
    """Return the file at a path in the directory of an attempt, and with `recursive` all files below it."""
    parts_of(check_text("path", path))
    is_recursive = check_flag("recursive", recursive)
    route = yield from find_route(reachable, task_id, attempt_id, DEFAULT_PATIENCE_S)
    files: list[cluster_pb2.TaskFile] = []
    pages = route.list_pages(path, recursive=is_recursive)
    while (page := (yield from next_page(pages))) is not None:
        files += page
    return files


def next_page(
    pages: Generator[Step | list[cluster_pb2.TaskFile], Any, None],
) -> Operation[list[cluster_pb2.TaskFile] | None]:
    """Return the next page of `AttemptRoute.list_pages`, or None after the last page."""
    return (yield from next_item(pages))


def read_task_file(request: cluster_pb2.ReadTaskFileRequest) -> Operation[cluster_pb2.ReadTaskFileResponse]:
    """Return a part of a file, through the controller."""
    check_instance("request", request, cluster_pb2.ReadTaskFileRequest)
    answer: cluster_pb2.ReadTaskFileResponse = yield Call("read_task_file", request)
    return answer


def write_task_file(request: cluster_pb2.WriteTaskFileRequest) -> Operation[cluster_pb2.WriteTaskFileResponse]:
    """Write a part of a file, through the controller."""
    check_instance("request", request, cluster_pb2.WriteTaskFileRequest)
    answer: cluster_pb2.WriteTaskFileResponse = yield Call("write_task_file", request)
    return answer


def list_outputs(
    job_id: str | JobReference, task_indices: Sequence[int] | None = None, *, all_attempts: bool = False
) -> Operation[list[cluster_pb2.Controller.Outputs]]:
    """Return the outputs of the attempts of a job, by task and attempt."""
    request = cluster_pb2.Controller.ListOutputsRequest(
        job_id=check_job_id(job_id),
        task_indices=[] if task_indices is None else check_task_indices("task_indices", task_indices),
        all_attempts=check_flag("all_attempts", all_attempts),
    )
    outputs: list[cluster_pb2.Controller.Outputs] = []
    while True:
        answer: cluster_pb2.Controller.ListOutputsResponse = yield Call("list_outputs", request)
        outputs += answer.outputs
        if not answer.next_page_token:
            return outputs
        request.page_token = answer.next_page_token
