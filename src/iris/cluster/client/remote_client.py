"""The low-level client of a cluster: the verbs of the wire, with our errors, in the wire's own messages."""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Self

from connectrpc.errors import ConnectError

from iris.arguments import (
    MAX_INT32,
    JobReference,
    TaskReference,
    check_callable,
    check_flag,
    check_instance,
    check_items,
    check_job_id,
    check_seconds,
    check_task_index,
    check_text,
    check_text_mapping,
    check_timeout,
    check_token,
    check_whole_number,
    refuse,
)
from iris.cluster.client.running_cluster import find_here, find_token
from iris.cluster.names import check_name, check_token_name
from iris.cluster.types import TOKEN_VARIABLE, is_job_finished, make_task_id, parse_task_id
from iris.errors import (
    ControllerUnreachableError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnimplementedError,
    WorkerUnreachableError,
)
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.address import is_loopback, parse_address
from iris.rpc.auth.credentials import BearerInterceptor, Credentials
from iris.rpc.auth.peer_uid import PeerUidCheck, own
from iris.rpc.calls import DEFAULT_TIMEOUT_S, call, left_until, stream
from iris.rpc.http.client_lifetime import Lifetime
from iris.rpc.http.client_transport import HttpTransport
from iris.rpc.http.stream_handle import StreamHandle
from iris.rpc.http.tls import ClientTls
from iris.rpc.peer import Peer
from iris.system.backoff import Backoff

# A workspace larger than this is offered by its hash first: the controller may have it already.
_SENT_AT_ONCE_BYTES = 64 * 1024
_SLOWEST_UPLOAD_BYTES_PER_S = 1024 * 1024
_LONGEST_PAUSE_S = 5.0
_SHORTEST_LIMIT_S = 0.001  # of a call whose caller's time is over
_SHORTEST_WAIT_S = 1.0  # for the first answer to a wait, whose own time may be shorter
_TELL_SILENCE_S = 2.0  # a controller that is started again takes one
_PROBE_MS = 500
# What is listed in one call: a server that answers with more, or all at once, is understood as well.
_PAGE = 500

LogEntry = cluster_pb2.Worker.LogEntry
LogPage = cluster_pb2.Worker.FetchTaskLogsResponse


class RemoteClusterClient:
    """A cluster that runs somewhere. Safe to use from several threads, and in children after `os.fork()`.

    Args:
        controller_address: `host:port`, `http://…` or `https://…`.
        token: What calls are allowed by, or a function that answers with it, which is asked again when it has expired.
            Default: `IRIS_TOKEN`; else, where the cluster is the one of `iris up` on this machine, what that has made.
        ca: With https: a file with the certificates that are trusted, instead of the public ones; default: `IRIS_CA`.
        cert: With https: this client's own certificate, a file, or one of it and one of its key; default: `IRIS_CERT`
            and `IRIS_CERT_KEY`. The cluster of `iris up` on this machine needs neither, for its own user.
        http2: Speak HTTP/2 with the controller also without TLS. Over TLS it is used where the server offers it.
        timeout_s: For each call, its repetitions included, in seconds. None or `math.inf` sets no limit, except that
            one repetition ends after a day.

    Raises:
        InvalidAddressError: The address has none of the accepted forms.
        FailedPreconditionError: A file of `ca` or `cert` cannot be used.
    """

    def __init__(
        self,
        controller_address: str,
        *,
        token: str | Callable[[], str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | tuple[str, str] | None = None,
        http2: bool = False,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        self.controller_address = parse_address(controller_address)
        token = check_token(token)
        check_flag("http2", http2)
        self._tls = ClientTls.given(ca, cert)
        if self._tls == ClientTls() and self.controller_address.startswith("https://"):
            here = find_here(self.controller_address)
            self._tls = self._tls if here is None else here.tls()
        self._credentials = _credentials(token, self.controller_address)
        is_given = token is not None or bool(os.environ.get(TOKEN_VARIABLE))
        # What was found for ourselves is shown to ourselves only.
        self._uid_check = PeerUidCheck(self.controller_address, None if is_given else own)
        self._timeout_s = check_timeout("timeout_s", timeout_s, above_zero=True)
        self._lifetime = Lifetime(f"the client of the cluster at {self.controller_address}")
        self._transport = HttpTransport(self.controller_address, http2=http2, tls=self._tls, lifetime=self._lifetime)
        self._controller = cluster_connect.ControllerServiceClientSync(
            self.controller_address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(self._credentials.token, self._uid_check),),
            http_client=self._transport.connect_client(),
        )
        self._peer = Peer(
            self.controller_address,
            "the controller",
            ControllerUnreachableError,
            advice="check the address, or start a cluster on this machine with 'iris up'",
            credentials=self._credentials,
            lifetime=self._lifetime,
            proxy=self._transport.proxy,
        )
        # Made once per worker address and kept. No lock: `setdefault` on a dict is atomic, and a lock that another
        # thread holds while we are forked would never be released in the child.
        self._workers: dict[str, _WorkerStub] = {}
        self._reachable: dict[str, bool] = {}  # workers, by address

    # Jobs.

    def launch_job(self, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        """Submits a job, and answers with its id. Give the request a `submission_id`, so that it can be repeated.

        Raises:
            InvalidArgumentError, AlreadyExistsError, ResourceExhaustedError: See `LaunchJob` in cluster.proto.
        """
        check_instance("request", request, cluster_pb2.Controller.LaunchJobRequest)
        blob = request.bundle_blob
        if len(blob) > _SENT_AT_ONCE_BYTES:
            request.ClearField("bundle_blob")
            try:
                return self._launch(request)
            except FailedPreconditionError:
                request.bundle_blob = blob
        return self._launch(request)

    def _launch(self, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        size = len(request.bundle_blob) + len(request.serialized_entrypoint)
        timeout_s = self._timeout_s + size / _SLOWEST_UPLOAD_BYTES_PER_S
        return call(self._controller.launch_job, request, self._peer, timeout_s=timeout_s).job_id

    def get_job_status(
        self, job_id: str | JobReference, *, include_result: bool = False, timeout_s: float = math.inf
    ) -> cluster_pb2.JobStatus:
        """A job with its tasks. `timeout_s` shortens that of the client.

        Raises:
            NotFoundError: There is no such job.
        """
        request = cluster_pb2.Controller.GetJobStatusRequest(
            job_id=check_job_id(job_id), include_result=check_flag("include_result", include_result)
        )
        end = time.monotonic() + min(check_timeout("timeout_s", timeout_s), self._timeout_s)
        left_s = max(_SHORTEST_LIMIT_S, end - time.monotonic())
        answer = call(self._controller.get_job_status, request, self._peer, timeout_s=left_s)
        if answer.next_page_token:
            left_s = max(_SHORTEST_LIMIT_S, end - time.monotonic())
            rest = self._list_tasks(request.job_id, answer.next_page_token, left_s)
            answer.job.tasks.extend(rest)
        return answer.job

    def terminate_job(self, job_id: str | JobReference) -> None:
        """Asks a job to end; answers at once. One that has ended stays as it is.

        Raises:
            NotFoundError: There is no such job.
        """
        request = cluster_pb2.Controller.TerminateJobRequest(job_id=check_job_id(job_id))
        call(self._controller.terminate_job, request, self._peer, timeout_s=self._timeout_s)

    def terminate_task(self, job_id: str | JobReference, task_index: int) -> None:
        """Asks one task to end, for good; answers at once. One that has ended stays as it is.

        Raises:
            NotFoundError: There is no such job, or it has no such task.
        """
        request = cluster_pb2.Controller.TerminateTaskRequest(
            job_id=check_job_id(job_id), task_index=check_task_index(task_index)
        )
        call(self._controller.terminate_task, request, self._peer, timeout_s=self._timeout_s)

    def list_jobs(self) -> list[cluster_pb2.JobStatus]:
        """All jobs, oldest first, without their tasks."""
        request = cluster_pb2.Controller.ListJobsRequest(page_size=_PAGE)
        jobs: list[cluster_pb2.JobStatus] = []
        while True:
            answer = call(self._controller.list_jobs, request, self._peer, timeout_s=self._timeout_s)
            jobs += answer.jobs
            if not answer.next_page_token:
                return jobs
            request.page_token = answer.next_page_token

    def watch_job(
        self,
        job_id: str | JobReference,
        *,
        timeout: float | None = None,
        patience_s: float | None = 60.0,
        longest_pause_s: float = _LONGEST_PAUSE_S,
        include_tasks: bool = False,
        handle: StreamHandle | None = None,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> Iterator[cluster_pb2.JobStatus]:
        """The states of a job as they change, the last of them final. Connects again when the connection is lost.

        Args:
            job_id: The job: its id, or a `Job`.
            timeout: Seconds after which to give up; None or `math.inf` waits for ever. The controller is asked once in
                any case, and has a second to answer.
            patience_s: For how long to try again when the controller does not answer; None or `math.inf`: for ever.
            longest_pause_s: Between two such tries.
            include_tasks: With the tasks that have changed, the first time with all.
            handle: By which other threads can end it: it does not connect again then.
            on_silence: Called once for each time in which the controller does not answer for longer than 2 s.

        Raises:
            NotFoundError: There is no such job.
            DeadlineExceededError: (a `TimeoutError`) The time has passed.
            ControllerUnreachableError: The controller has not answered for `patience_s`.
        """
        job_id = check_job_id(job_id)
        request = cluster_pb2.Controller.WatchJobRequest(
            job_id=job_id, include_tasks=check_flag("include_tasks", include_tasks)
        )
        return self._watch(
            request,
            check_timeout("timeout", timeout),
            check_timeout("patience_s", patience_s),
            check_seconds("longest_pause_s", longest_pause_s, above_zero=True),
            handle if handle is None else check_instance("handle", handle, StreamHandle),
            check_callable("on_silence", on_silence),
        )

    def _watch(
        self,
        request: cluster_pb2.Controller.WatchJobRequest,
        timeout_s: float,
        patience_s: float,
        longest_pause_s: float,
        handle: StreamHandle | None,
        on_silence: Callable[[UnavailableError], None],
    ) -> Iterator[cluster_pb2.JobStatus]:
        end = time.monotonic() + timeout_s
        silent_since: float | None = None
        is_told = False
        unreachable: UnavailableError | None = None
        if timeout_s < _SHORTEST_WAIT_S:
            try:
                job = self._ask_for_job(request.job_id)
            except UnavailableError as error:
                unreachable = error
            except DeadlineExceededError:
                pass
            else:
                yield job
                if is_job_finished(job.state):
                    return
        backoff = Backoff(0.05, longest_pause_s)
        while end - time.monotonic() > 0.01:
            # No deadline where there is none. One of months is met by several streams, each of at most a day.
            left_ms = None if end == math.inf else left_until(end)
            try:
                watched = self._controller.watch_job(request, timeout_ms=left_ms)
                with closing(stream(watched, self._peer, handle)) as messages:
                    for message in messages:
                        silent_since, is_told, unreachable = None, False, None
                        backoff.reset()
                        if message.HasField("job"):
                            yield message.job
                            if is_job_finished(message.job.state):
                                return
            except DeadlineExceededError:
                pass  # the time has passed, or it was the silence of a dead connection
            except UnavailableError as error:
                unreachable = error
                silent_since = silent_since or time.monotonic()
                silent_s = time.monotonic() - silent_since
                if silent_s > patience_s or (handle is not None and handle.aborted):
                    raise
                if silent_s > _TELL_SILENCE_S and not is_told:
                    is_told = True
                    on_silence(error)
            self.pause(min(backoff.next_s(), max(0.0, end - time.monotonic())))
        known = f", as far as is known: {unreachable}" if unreachable else ""
        raise DeadlineExceededError(f"job {request.job_id!r} has not ended within {timeout_s:g} s{known}")

    def _ask_for_job(self, job_id: str) -> cluster_pb2.JobStatus:
        request = cluster_pb2.Controller.GetJobStatusRequest(job_id=job_id)
        return call(self._controller.get_job_status, request, self._peer, timeout_s=_SHORTEST_WAIT_S).job

    def write_stdin(
        self, job_id: str, data: bytes, *, position: int, attempt_id: int | None = None, end: bool = False
    ) -> cluster_pb2.Controller.WriteStdinResponse:
        """Send standard input to the task of a job that was submitted with `stdin`.

        The answer says how much of `data` was taken: all of it, unless the task is slow to read. Sending the same bytes
        again has no effect.

        Args:
            job_id: The job.
            data: The next bytes.
            position: How many bytes come before `data`.
            attempt_id: The attempt that has taken the bytes before `data`; None: the newest.
            end: Nothing comes after `data`.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is not valid; the text names it.
            NotFoundError: There is no such job.
            FailedPreconditionError: The job reads no standard input.
            PermissionDeniedError: The job is another user's.
        """
        request = cluster_pb2.Controller.WriteStdinRequest(
            job_id=check_job_id(job_id),
            position=check_whole_number("position", position),
            data=check_instance("data", data, bytes),
            end=check_flag("end", end),
        )
        if attempt_id is not None:
            request.attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
        return call(self._controller.write_stdin, request, self._peer, timeout_s=self._timeout_s)

    def describe_cluster(self) -> cluster_pb2.Controller.DescribeClusterResponse:
        """Which engine the cluster has, and where its controller runs; all empty for one that is too old to say it."""
        request = cluster_pb2.Controller.DescribeClusterRequest()
        try:
            return call(self._controller.describe_cluster, request, self._peer, timeout_s=self._timeout_s)
        except (UnimplementedError, PermissionDeniedError):
            return cluster_pb2.Controller.DescribeClusterResponse()

    # Tasks.

    def get_task_status(
        self, job_id: str | JobReference, task_index: int, *, include_result: bool = False, timeout_s: float = math.inf
    ) -> cluster_pb2.TaskStatus:
        """One task. `timeout_s` shortens that of the client.

        Raises:
            NotFoundError: There is no such job, or it has no such task.
        """
        request = cluster_pb2.Controller.GetTaskStatusRequest(
            job_id=check_job_id(job_id),
            task_index=check_task_index(task_index),
            include_result=check_flag("include_result", include_result),
        )
        timeout_s = min(check_timeout("timeout_s", timeout_s), self._timeout_s)
        return call(self._controller.get_task_status, request, self._peer, timeout_s=timeout_s).task

    def list_tasks(self, job_id: str | JobReference, *, timeout_s: float = math.inf) -> list[cluster_pb2.TaskStatus]:
        """The tasks of a job, in index order. `timeout_s` shortens that of the client, for all calls together.

        Raises:
            NotFoundError: There is no such job.
        """
        return self._list_tasks(check_job_id(job_id), "", check_timeout("timeout_s", timeout_s))

    def _list_tasks(self, job_id: str, page_token: str, timeout_s: float) -> list[cluster_pb2.TaskStatus]:
        request = cluster_pb2.Controller.ListTasksRequest(job_id=job_id, page_size=_PAGE, page_token=page_token)
        tasks: list[cluster_pb2.TaskStatus] = []
        end = time.monotonic() + timeout_s
        while True:
            left_s = min(end - time.monotonic(), self._timeout_s)
            answer = call(self._controller.list_tasks, request, self._peer, timeout_s=left_s)
            tasks += answer.tasks
            if not answer.next_page_token:
                return tasks
            request.page_token = answer.next_page_token

    # Logs.

    def fetch_task_logs(
        self, task_id: str | TaskReference, start_ms: int = 0, max_lines: int = 0, *, attempt_id: int | None = None
    ) -> list[LogEntry]:
        """The lines of a task's newest attempt, or of another one; `[]` while no worker has had the task.

        Args:
            task_id: `"{job_id}/task-{index}"`, or a `Task`.
            start_ms: Only lines that were completed after this moment, exclusive; 0 for all.
            max_lines: The first N of them; 0 for all.
            attempt_id: Another attempt than the newest.

        Returns:
            One entry a line; a line of over 1 MiB comes in pieces, all but its last marked `partial`.

        Raises:
            InvalidArgumentError: (a `ValueError`) The task id is malformed, or a number is not valid.
            NotFoundError: There is no such job, task or attempt.
            WorkerUnreachableError: The worker that has the log does not answer.
        """
        job_id, task_index = parse_task_id(task_id)
        wanted = cluster_pb2.Worker.FetchLogsFilter(
            start_ms=check_whole_number("start_ms", start_ms),
            max_lines=check_whole_number("max_lines", max_lines, most=MAX_INT32),
        )
        if attempt_id is not None:
            attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
        task = self.get_task_status(job_id, task_index)
        if not task.attempts and attempt_id is None:
            return []
        attempt = find_attempt(task, attempt_id)
        entries: list[LogEntry] = []
        while True:
            page = self.fetch_log_page(task_id, attempt, wanted)
            entries += page.logs
            if page.at_end or (max_lines and len(entries) >= max_lines):
                return entries
            wanted.start_line = page.next_line
            wanted.max_lines = int(max_lines) - len(entries) if max_lines else 0

    def fetch_log_page(
        self, task_id: str | TaskReference, attempt: cluster_pb2.TaskAttempt, wanted: cluster_pb2.Worker.FetchLogsFilter
    ) -> LogPage:
        """One page of an attempt's log: from the worker that ran it, or through the controller where that worker cannot
        be reached from here, or is gone.

        Raises:
            NotFoundError: There is no such log.
            WorkerUnreachableError: The worker that has it does not answer.
        """
        task_id = make_task_id(*parse_task_id(task_id))
        check_instance("attempt", attempt, cluster_pb2.TaskAttempt)
        check_instance("wanted", wanted, cluster_pb2.Worker.FetchLogsFilter)
        request = cluster_pb2.Worker.FetchTaskLogsRequest(task_id=task_id, attempt_id=attempt.attempt_id, filter=wanted)
        if self.reaches_worker(attempt.worker_id, attempt.worker_address):
            worker = self._worker(attempt.worker_id, attempt.worker_address)
            try:
                return call(worker.stub.fetch_task_logs, request, worker.peer, timeout_s=self._timeout_s)
            except NotFoundError:
                pass  # it was made anew, or has handed the log over
            except UnavailableError:
                self.lost_worker(attempt.worker_address)
        try:
            return call(self._controller.fetch_task_logs, request, self._peer, timeout_s=self._timeout_s)
        except (UnavailableError, DeadlineExceededError) as error:
            text = f"the log of {task_id!r} cannot be had from worker {attempt.worker_id!r}: {error}"
            raise WorkerUnreachableError(text) from error

    def stream_task_logs(
        self,
        request: cluster_pb2.StreamTaskLogsRequest,
        worker: tuple[str, str] | None = None,
        handle: StreamHandle | None = None,
    ) -> Generator[cluster_pb2.StreamTaskLogsResponse]:
        """One stream of logs, as it comes; a lost connection ends it with an error, and who reads goes on from there.

        Args:
            request: See cluster.proto.
            worker: Id and address of a worker, to read straight from it; default: through the controller.
            handle: By which other threads can end it.

        Raises:
            NotFoundError: There is no such job or task.
            WorkerUnreachableError, ControllerUnreachableError: It does not answer, or the connection broke.
            DeadlineExceededError: It has been silent for too long.
        """
        check_instance("request", request, cluster_pb2.StreamTaskLogsRequest)
        if handle is not None:
            check_instance("handle", handle, StreamHandle)
        if worker is None:
            return stream(self._controller.stream_task_logs(request), self._peer, handle)
        known = self._worker(*_check_worker("worker", worker))
        return stream(known.stub.stream_task_logs(request), known.peer, handle)

    def reaches_worker(self, worker_id: str, address: str) -> bool:
        """Whether a worker can be called straight from here: found out once for each address, in half a second at
        most, and from then on known. `lost_worker` makes it forget that it could."""
        worker_id = check_text("worker_id", worker_id)
        known = self._reachable.get(check_text("address", address))
        if known is None:
            known = self._reachable[address] = self._probe(worker_id, address)
        return known

    def find_routes(self, workers: Iterable[tuple[str, str]]) -> None:
        """Finds out about several workers, by id and address, at once: in half a second for all of them."""
        pairs = check_items("workers", workers, "a list of pairs of worker id and address")
        known = {_check_worker("each of workers", pair) for pair in pairs}
        unknown = {worker for worker in known if worker[1] and worker[1] not in self._reachable}
        threads = [threading.Thread(target=self.reaches_worker, args=worker, daemon=True) for worker in unknown]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def lost_worker(self, address: str) -> None:
        """A worker that could be reached does not answer any more: read through the controller from now on."""
        self._reachable[check_text("address", address)] = False

    def _probe(self, worker_id: str, address: str) -> bool:
        if is_loopback(address) and not is_loopback(self.controller_address):
            return False  # the loopback of another machine
        if self.controller_address.startswith("https://") and not (is_loopback(address) or address.startswith("https")):
            return False  # a token that is shown by TLS is not shown without it
        try:
            # Whose answer it is matters: an address of another network can be somebody else's in ours.
            worker = self._worker(worker_id, address)
            worker.uid_check.check()
            health = worker.stub.health_check(cluster_pb2.Empty(), timeout_ms=_PROBE_MS)
        except ConnectError:
            return False
        return health.worker_id == worker_id

    # Workers and endpoints.

    def list_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """The workers by id, and how they are."""
        request = cluster_pb2.Controller.ListWorkersRequest(page_size=_PAGE)
        workers: list[cluster_pb2.Controller.WorkerHealthStatus] = []
        while True:
            answer = call(self._controller.list_workers, request, self._peer, timeout_s=self._timeout_s)
            workers += answer.workers
            if not answer.next_page_token:
                return workers
            request.page_token = answer.next_page_token

    def list_machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """The machines of the cluster, who holds them, and which gangs wait for what."""
        request = cluster_pb2.Controller.ListMachinesRequest(page_size=_PAGE)
        found = call(self._controller.list_machines, request, self._peer, timeout_s=self._timeout_s)
        request.page_token = found.next_page_token
        while request.page_token:
            answer = call(self._controller.list_machines, request, self._peer, timeout_s=self._timeout_s)
            found.machines.extend(answer.machines)
            request.page_token = answer.next_page_token
        found.ClearField("next_page_token")
        return found

    def register_endpoint(
        self, name: str, address: str, job_id: str | JobReference = "", metadata: Mapping[str, str] | None = None
    ) -> str:
        """Gives a name to an address; answers with the endpoint's id.

        Args:
            name: The endpoint's name.
            address: Where it can be reached, such as `host:port`.
            job_id: The job that it belongs to, and goes with: its id, or a `Job`; empty for none.
            metadata: What readers of the endpoint find beside its address.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is not valid; the text names it.
            AlreadyExistsError: Another job has the name.
            NotFoundError, FailedPreconditionError: The job does not exist, or has ended.
        """
        request = cluster_pb2.Controller.RegisterEndpointRequest(
            name=_endpoint_name(name),
            address=check_text("address", address, empty=False, accepted="an address as text, such as 'host:port'"),
            job_id=job_id if job_id == "" else check_job_id(job_id),
            metadata={} if metadata is None else check_text_mapping("metadata", metadata, none="no metadata"),
        )
        return call(self._controller.register_endpoint, request, self._peer, timeout_s=self._timeout_s).endpoint_id

    def unregister_endpoint(self, endpoint_id: str) -> None:
        """Takes a name away.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        request = cluster_pb2.Controller.UnregisterEndpointRequest(
            endpoint_id=check_text("endpoint_id", endpoint_id, empty=False)
        )
        call(self._controller.unregister_endpoint, request, self._peer, timeout_s=self._timeout_s)

    def lookup_endpoint(self, name: str) -> cluster_pb2.Controller.Endpoint:
        """The endpoint of that name.

        Raises:
            NotFoundError: There is none.
        """
        request = cluster_pb2.Controller.LookupEndpointRequest(name=_endpoint_name(name))
        return call(self._controller.lookup_endpoint, request, self._peer, timeout_s=self._timeout_s).endpoint

    def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """The endpoints whose names start with a prefix, by name."""
        request = cluster_pb2.Controller.ListEndpointsRequest(prefix=check_text("prefix", prefix), page_size=_PAGE)
        endpoints: list[cluster_pb2.Controller.Endpoint] = []
        while True:
            answer = call(self._controller.list_endpoints, request, self._peer, timeout_s=self._timeout_s)
            endpoints += answer.endpoints
            if not answer.next_page_token:
                return endpoints
            request.page_token = answer.next_page_token

    # Tokens, for admins.

    def create_token(
        self, name: str, role: str, *, ttl_seconds: int = 0, request_id: str = ""
    ) -> cluster_pb2.Controller.CreateTokenResponse:
        """Makes a token; its secret is shown once, here.

        Args:
            name: Whose it is.
            role: admin, user, reader or worker.
            ttl_seconds: How long it is good; 0 for 30 days.
            request_id: Made for each token, so that the call can be repeated; default: it is made here.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is not valid; the text names it.
            PermissionDeniedError: This client is no admin.
        """
        check_token_name(name)
        request = cluster_pb2.Controller.CreateTokenRequest(
            name=name,
            role=check_text("role", role, empty=False),
            ttl_seconds=check_whole_number("ttl_seconds", ttl_seconds),
            request_id=check_text("request_id", request_id) or secrets.token_hex(16),
        )
        return call(self._controller.create_token, request, self._peer, timeout_s=self._timeout_s)

    def list_tokens(self) -> list[cluster_pb2.Controller.Token]:
        """The tokens that were made, oldest first.

        Raises:
            PermissionDeniedError: This client is no admin.
        """
        request = cluster_pb2.Controller.ListTokensRequest()
        return list(call(self._controller.list_tokens, request, self._peer, timeout_s=self._timeout_s).tokens)

    def revoke_token(self, token_id: str) -> None:
        """Lets nobody in with a token any more, and ends what is open by it.

        Raises:
            NotFoundError: There is no such token.
            PermissionDeniedError: This client is no admin.
        """
        request = cluster_pb2.Controller.RevokeTokenRequest(token_id=check_text("token_id", token_id, empty=False))
        call(self._controller.revoke_token, request, self._peer, timeout_s=self._timeout_s)

    def token(self) -> str | None:
        """The token that calls are made with now, to hand to a program that is to call the same cluster."""
        return self._credentials.token()

    # Its own life.

    def pause(self, seconds: float) -> None:
        """Sleeps until the next try of something.

        Raises:
            ClientClosedError: This client was closed before or meanwhile.
        """
        self._lifetime.pause(check_seconds("seconds", seconds))

    def close(self) -> None:
        """Closes the connections; the cluster goes on. Waits, follows and calls of other threads end within a second
        with a `ClientClosedError`, and so does each later call. Children after a fork are not concerned."""
        self._lifetime.close()
        self._transport.close()
        for worker in list(self._workers.values()):
            worker.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _worker(self, worker_id: str, address: str) -> _WorkerStub:
        known = self._workers.get(address)
        return known or self._workers.setdefault(
            address, _WorkerStub(worker_id, address, self._users, self._credentials, self._tls, self._lifetime)
        )

    def _users(self) -> Iterable[int]:
        """Whose a worker of this machine may be: ours, or of the controller's user."""
        user = self._uid_check.user
        return own() if user is None else (user, *own())


class _WorkerStub:
    """A worker's stub, and the connections that it holds."""

    def __init__(
        self,
        worker_id: str,
        address: str,
        users: Callable[[], Iterable[int]],
        credentials: Credentials,
        tls: ClientTls,
        lifetime: Lifetime,
    ) -> None:
        self.transport = HttpTransport(address, tls=tls, lifetime=lifetime)
        self.uid_check = PeerUidCheck(address, users)
        self.stub = cluster_connect.WorkerServiceClientSync(
            address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(credentials.token, self.uid_check),),
            http_client=self.transport.connect_client(),
        )
        self.peer = Peer(
            address,
            f"worker {worker_id!r}, which has the log,",
            WorkerUnreachableError,
            advice="it may have ended, or not be reachable from here",
            credentials=credentials,
            lifetime=lifetime,
            proxy=self.transport.proxy,
        )


def _check_worker(name: str, value: object) -> tuple[str, str]:
    accepted = "a pair of worker id and address"
    pair = check_items(name, value, accepted)
    if len(pair) != 2:
        refuse(name, accepted, value)
    return check_text(f"the worker id of {name}", pair[0]), check_text(f"the address of {name}", pair[1])


def _endpoint_name(name: str) -> str:
    check_name("endpoint", name)
    return name


def _credentials(given: str | Callable[[], str] | None, address: str) -> Credentials:
    """What to show to a cluster: what is given, or `IRIS_TOKEN`, or what `iris up` has made on this machine."""
    if given is not None:
        if not isinstance(given, str):
            return Credentials(given, "token=…")
        return Credentials.fixed(given, "token=…")
    variable = os.environ.get(TOKEN_VARIABLE)
    if variable:
        return Credentials.fixed(variable, TOKEN_VARIABLE)
    return Credentials(lambda: find_token(address), "the file of 'iris up'")


def find_attempt(task: cluster_pb2.TaskStatus, attempt_id: int | None) -> cluster_pb2.TaskAttempt:
    """An attempt of a task, the newest by default.

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
        f" (it has had {len(task.attempts)}, counted from 0)"
    )
