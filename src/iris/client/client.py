"""IrisClient: what a user starts from."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from iris.arguments import (
    MAX_INT32,
    check_callable,
    check_choice,
    check_flag,
    check_instance,
    check_job_id,
    check_names,
    check_path,
    check_seconds,
    check_task_index,
    check_task_indices,
    check_text,
    check_timeout,
    check_whole_number,
)
from iris.client.job import Job, LogEntry
from iris.client.logs.lines import join_pieces
from iris.client.logs.log_options import PATIENCE_S, ROUTES, Route, Wanted
from iris.client.logs.streams import LogStream, Reading
from iris.client.printing import print_notice, print_task
from iris.client.shell_environment import Surroundings
from iris.client.submission import (
    constraints_of,
    entrypoint_of,
    placement_of,
    ports_of,
    rendezvous_of,
    resources_message,
    timeout_seconds,
    variables_of,
)
from iris.client.workspace_upload import Progress, WorkspaceSending
from iris.cluster.client.pickling import pickle_entrypoint
from iris.cluster.client.remote_client import RemoteClusterClient, find_attempt
from iris.cluster.client.task_token import task_of_token
from iris.cluster.logs.records import SOURCES
from iris.cluster.names import check_job_name
from iris.cluster.types import Entrypoint, JobInfo, ResourceSpec, get_job_info
from iris.errors import (
    DeadlineExceededError,
    InvalidAddressError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from iris.rpc import cluster_pb2
from iris.rpc.address import ACCEPTED_FORMS, parse_address
from iris.system.backoff import Backoff
from iris.system.clock import wall_s
from iris.versions import python_version

# How long a list of lines is waited for when its worker does not answer.
_FETCH_PATIENCE_S = 5.0
_LATE_S = 2.0
# Between two tries to find an endpoint; all tasks of a job may wait for one: together they ask 1,000 times a second.
_FIRST_LOOKUP_PAUSE_S, _LOOKUP_PAUSE_S = 0.05, 1.0
_LOOKUP_S_PER_TASK = 0.001


class IrisClient:
    """A client of a cluster: starts jobs, and shows what each of their tasks does.

        client = IrisClient.remote("controller:50051")    # a cluster that runs somewhere
        client = IrisClient.local()                       # one of one's own, on this machine

    A context manager; safe to use from several threads, and in children after `os.fork()`.

    Args:
        cluster: How the cluster is reached. `remote` and `local` make one.
    """

    def __init__(self, cluster: RemoteClusterClient) -> None:
        advice = "IrisClient.remote(address) makes a client of a running cluster"
        self.cluster = check_instance("cluster", cluster, RemoteClusterClient, advice)

    @classmethod
    def remote(
        cls,
        address: str | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | tuple[str, str] | None = None,
        http2: bool = False,
    ) -> IrisClient:
        """A client of the cluster whose controller is at an address. Nothing is sent before the first call.

        Args:
            address: `host:port`, `http://…` or `https://…`; default the one in `IRIS_CONTROLLER_ADDRESS`, which code
                inside a job finds set.
            token: By which calls are allowed, as `iris token create` makes it, or a function that answers with one: it
                is asked again when the cluster refuses the one before, also in the middle of a log. Default: what
                `IRIS_TOKEN` says, as inside a job; else, on the machine of `iris up`, what that has made for its user.
            ca: Of an https cluster: a file with the certificates that are trusted, in PEM, instead of the public ones;
                default: what `IRIS_CA` says.
            cert: Of an https cluster that asks for it: this client's own certificate, as a file, or as one with it and
                one with its key; default: what `IRIS_CERT` and `IRIS_CERT_KEY` say.
            http2: Speak HTTP/2 also without TLS. Over TLS it is used where the server offers it.

        Raises:
            InvalidAddressError: (a `ValueError`) There is no address, or it has none of these forms.
            FailedPreconditionError: A file of `ca` or `cert` cannot be used.
        """
        if address is None:
            address = os.environ.get("IRIS_CONTROLLER_ADDRESS")
            if not address:
                raise InvalidAddressError(
                    f"no address was given and IRIS_CONTROLLER_ADDRESS is not set (expected {ACCEPTED_FORMS})"
                )
        return cls(RemoteClusterClient(address, token=token, ca=ca, cert=cert, http2=http2))

    @classmethod
    def local(cls, *, workers: int = 1) -> IrisClient:
        """Starts a whole cluster on this machine. It ends with `close`, or with this process, and leaves nothing.

        Args:
            workers: How many workers share the machine, so that several "hosts" can be had on one.

        Raises:
            MissingExtraError: The extra [server] is not installed.
            LocalClusterError: It did not start; the text says why.
        """
        from iris.cluster.client.local_client import LocalClusterClient

        return cls(LocalClusterClient(workers=workers))

    # Jobs.

    def run(
        self,
        entrypoint: Callable[..., Any] | Sequence[str] | Entrypoint,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        replicas: int = 1,
        resources: ResourceSpec | Mapping[str, int | str] | None = None,
        env: Mapping[str, str] | None = None,
        ports: Sequence[str] = (),
        workspace: str | os.PathLike[str] | None = None,
        working_directory: str | os.PathLike[str] | None = None,
        coscheduled: bool = True,
        placement: Literal["spread", "together"] | None = None,
        constraints: Mapping[str, str] | None = None,
        rendezvous: Literal["torch", "jax"] | None = None,
        max_task_failures: int = 0,
        max_retries_failure: int = 0,
        max_retries_preemption: int = 100,
        scheduling_timeout: float | None = 0,
        timeout: float | None = 0,
        job_timeout: float | None = 0,
        retry_pause: float = 1.0,
        kill_grace_period: float = 10.0,
        max_log_bytes: int = 0,
        on_notice: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        surroundings: Surroundings | None = None,
    ) -> Job:
        """Submits a job, and answers with a handle on it; `wait` tells how it ended.

        Inside a job, the new job is a child of it: its id is `"{parent}/{name}"`, and it ends with its parent.

        Args:
            entrypoint: A callable, or a command as a list of words, as in `["python", "train.py"]`.
            args: Positional arguments of the callable.
            kwargs: Named arguments of the callable.
            name: The job's name and, outside a job, its id: no `/`, and no invisible characters
                (docs/reference/python-api.md has the rule). Default: made from the entrypoint's name.
            replicas: How many tasks.
            resources: What each task needs: `ResourceSpec(cpu=…, memory=…, gpu=…)`, or the same as a mapping,
                `{"cpu": 1, "memory": "2GiB"}`; default: nothing is reserved.
            env: Environment variables for the tasks, beside those of their worker, which has them from the shell in
                which `iris up` was typed, or from this program with `local`; those of Iris win.
            ports: Names; each task gets a free port for each, in `IRIS_PORT_<NAME>`.
            workspace: A folder that is sent along; each task starts in a copy of it. What git ignores is left out, and
                what cannot be sent: links that lead out of the folder, sockets, files that you may not read.
            working_directory: A directory of the worker's machine to start in, instead of one of the attempt's own.
            coscheduled: All tasks start together or none does, and a retry restarts all. False: each on its own.
            placement: `"spread"`: each task on a machine that no other task of the job has; `"together"`: all on one.
                Default: wherever there is room. Needs `coscheduled`.
            constraints: Labels that a machine must have to get a task, as in `{"zone": "a"}`.
            rendezvous: How the tasks find each other, in the words of their framework: `"torch"` sets what
                `torch.distributed.init_process_group()` reads (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
                MASTER_ADDR, MASTER_PORT), `"jax"` JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Needs
                `coscheduled`, and all tasks: none may fail for good.
            max_task_failures: How many tasks may fail before the job does.
            max_retries_failure: How often a task that fails is tried again.
            max_retries_preemption: How often a task whose worker is lost is tried again.
            scheduling_timeout: Seconds that it may wait for room, up to 68 years, rounded up to whole ones; 0, None or
                `math.inf`: for ever.
            timeout: Seconds that an attempt may run; bounds and meaning as of `scheduling_timeout`.
            job_timeout: Seconds that the whole job may take from now on, waiting and retries included; bounds and
                meaning as of `scheduling_timeout`.
            retry_pause: Seconds before the second retry in a row, doubled from one to the next up to 60; the first
                comes at once. 0: no pauses.
            kill_grace_period: Seconds between SIGTERM and SIGKILL when a task is stopped, up to 24 days.
            max_log_bytes: How much of each attempt's log is kept, in bytes: then the oldest is dropped, and readers
                are told. 0: what its worker is set to, 10 GiB by default.
            on_notice: Told, in words, what of the workspace is left out because it cannot be sent, and, without
                `on_progress`, of packing and sending that take longer than a second; default: a line on stderr.
            on_progress: Called as `on_progress(stage, done, total)` while the workspace is packed and sent: "packing"
                or "sending", the bytes done and the bytes in all. Nothing is sent that the cluster has already. What it
                raises, `run` raises; the job was not submitted unless all was sent.
            surroundings: What tasks have of a shell, as `iris run` sets it: a whole environment instead of the
                worker's, a umask, standard input. Default: the worker's environment and umask, and no input.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is not valid; the text names it. Nothing was sent.
            EntrypointError: The callable cannot be sent; the text says why.
            AlreadyExistsError: The name is taken.
            ResourceExhaustedError: The workspace or the callable is too large.
        """
        entry = entrypoint_of(entrypoint, args, kwargs)
        if name is None:
            name = f"{entry.default_name}-{secrets.token_hex(4)}"
        check_job_name(name)
        directory = "" if working_directory is None else check_path("working_directory", working_directory)
        folder = None if workspace is None else check_path("workspace", workspace)
        replicas = check_whole_number("replicas", replicas, least=1, most=MAX_INT32)
        request = cluster_pb2.Controller.LaunchJobRequest(
            name=name,
            submission_id=secrets.token_hex(16),
            resources=resources_message(ResourceSpec.given(resources), replicas),
            environment=cluster_pb2.EnvironmentConfig(env_vars=variables_of(env)),
            ports=ports_of(ports),
            independent_tasks=not check_flag("coscheduled", coscheduled),
            placement=placement_of(placement),
            constraints=constraints_of(constraints),
            rendezvous=rendezvous_of(rendezvous),
            max_task_failures=check_whole_number("max_task_failures", max_task_failures, most=MAX_INT32),
            max_retries_failure=check_whole_number("max_retries_failure", max_retries_failure, most=MAX_INT32),
            max_retries_preemption=check_whole_number("max_retries_preemption", max_retries_preemption, most=MAX_INT32),
            scheduling_timeout_seconds=timeout_seconds("scheduling_timeout", scheduling_timeout),
            timeout_seconds=timeout_seconds("timeout", timeout),
            job_timeout_seconds=timeout_seconds("job_timeout", job_timeout),
            retry_pause_ms=round(check_seconds("retry_pause", retry_pause, most=60) * 1000),
            kill_grace_period_ms=int(
                check_seconds("kill_grace_period", kill_grace_period, most=MAX_INT32 // 1000) * 1000
            ),
            working_directory=directory,
            max_log_bytes=check_whole_number("max_log_bytes", max_log_bytes),
        )
        if surroundings is not None:
            check_instance("surroundings", surroundings, Surroundings, "Surroundings.of_this_process() makes one")
            surroundings.add_to(request)
        for option, told in (("on_notice", on_notice), ("on_progress", on_progress)):
            if told is not None:
                check_callable(option, told, none="a line on stderr")
        sending = None if folder is None else WorkspaceSending(folder, on_notice or print_notice, on_progress)
        bundle = None if sending is None else sending.pack()
        around = self._job_around_us()
        if around is not None:
            request.parent_job_id = around.job_id
            if around.task_id is not None:
                request.parent_task_index, request.parent_attempt_id = around.task_index, around.attempt_id
        if entry.command:
            request.command.extend(entry.command)
        else:
            request.serialized_entrypoint = pickle_entrypoint(entry, workspace=None if folder is None else Path(folder))
            request.pickled_by = python_version()
        if bundle is None or sending is None:
            return Job(self, self.cluster.launch_job(request))
        sending.add(bundle, request)
        return Job(self, sending.launch(self.cluster, request))

    def job(self, job_id: str | Job) -> Job:
        """A handle on a job that runs, or ran. Nothing is asked: an unknown id is found out by the first call.

        Raises:
            InvalidArgumentError: (a `ValueError`) `job_id` is neither text nor a `Job`.
        """
        return Job(self, job_id)

    def status(self, job_id: str | Job) -> cluster_pb2.JobStatus:
        """A job's state now, with all its tasks.

        Raises:
            NotFoundError: There is no such job.
        """
        return self.cluster.get_job_status(job_id)

    def list_jobs(self) -> list[cluster_pb2.JobStatus]:
        """All jobs, oldest first, without their tasks."""
        return self.cluster.list_jobs()

    def machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """What there is, who holds it, and who waits for what.

        `machines` are by name, each with `total`, `free`, `labels`, `alive` and `holdings`: which tasks of which jobs
        have room there. `waiting` are the gangs that have no room yet, the oldest first, each with its `reason`; of
        more than 1,000 the first, and `num_waiting` counts all. Where the engine cannot be asked, `problem` says why,
        and the machines are as they were seen last.
        """
        return self.cluster.list_machines()

    def terminate(self, job_id: str | Job, task_index: int | None = None) -> None:
        """Asks a job, and its child jobs, to end, or one of its tasks; answers at once. What has ended stays as it is.

        A task that is ended so is not tried again. Its job goes on with the others, and is KILLED when they have ended;
        a gang that would then lack more than `max_task_failures` tasks ends at once, since its others could only hang.

        Raises:
            NotFoundError: There is no such job, or it has no such task.
        """
        job_id = check_job_id(job_id)
        if task_index is None:
            self.cluster.terminate_job(job_id)
        else:
            self.cluster.terminate_task(job_id, check_task_index(task_index, none="the whole job"))

    def wait(
        self,
        job_id: str | Job,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        stream_logs: bool = False,
        stream_task_index: int | None = None,
    ) -> cluster_pb2.JobStatus:
        """Waits for the end of a job, and answers with its final status, whatever that is.

        The controller tells of the end at once; nothing is polled for it.

        Args:
            job_id: The job: its id, or a `Job`.
            timeout: Seconds, from 0 on; None or `math.inf` waits for ever.
            poll_interval: Seconds between two tries, at most, while the controller does not answer.
            stream_logs: Print a task's lines as they come, as `[task-2:stdout] message`. On a terminal an unfinished
                line, such as a progress bar, shows as it moves; elsewhere lines are printed whole. What steers a
                terminal is left out, colours stay.
            stream_task_index: Which task's; default 0, with a line on stderr that says so where there are others.

        Raises:
            NotFoundError: There is no such job, or it has no such task.
            TimeoutError: It has not ended within `timeout` seconds.
        """
        job_id = check_job_id(job_id)
        limit_s = check_timeout("timeout", timeout)
        end = None if limit_s == math.inf else time.monotonic() + limit_s
        poll_interval = check_seconds("poll_interval", poll_interval, above_zero=True)
        if stream_task_index is not None:
            stream_task_index = check_task_index(stream_task_index, "stream_task_index", none="task 0")
        if check_flag("stream_logs", stream_logs):
            index = 0 if stream_task_index is None else stream_task_index
            wanted = _wanted(True, None, None, 0, 0, 0, None, (), "", "auto", PATIENCE_S, None)
            if stream_task_index is None:
                self._tell_of_other_tasks(job_id, math.inf if end is None else max(0.0, end - time.monotonic()))
            print_task(self.cluster, job_id, index, wanted if end is None else replace(wanted, until=end))
        elif stream_task_index is not None:
            raise InvalidArgumentError(f"stream_task_index={stream_task_index!r} needs stream_logs=True")
        left = None if end is None else max(0.0, end - time.monotonic())
        try:
            for _ in self.cluster.watch_job(job_id, timeout=left, longest_pause_s=poll_interval):
                pass  # until the last state
        except DeadlineExceededError as error:
            if end is None:
                raise
            known = "".join(str(error).partition(", as far as")[1:])
            raise DeadlineExceededError(f"job {job_id!r} has not ended within {limit_s:g} s{known}") from error
        return self.cluster.get_job_status(job_id)

    def _tell_of_other_tasks(self, job_id: str, timeout_s: float) -> None:
        """Say that only task 0 is shown, if the job has more tasks and the caller chose none."""
        try:
            count = self.cluster.get_job_status(job_id, timeout_s=timeout_s).num_tasks
        except (UnavailableError, DeadlineExceededError):
            return  # who reads the lines has the same trouble, and tells of it
        if count > 1:
            others = "task 1 is" if count == 2 else f"tasks 1 to {count - 1} are"
            print_notice(
                f"showing task 0 of {count}; {others} not shown. For another task: stream_task_index=N;"
                f" for all of them: job.logs(follow=True), or in a terminal: iris logs -f {shlex.quote(job_id)}"
            )

    # Tasks.

    def task_status(self, job_id: str | Job, task_index: int) -> cluster_pb2.TaskStatus:
        """One task's state now, with all its attempts.

        Raises:
            InvalidArgumentError: (a `ValueError`) The index is not a whole number from 0.
            NotFoundError: There is no such job, or it has no such task.
        """
        return self.cluster.get_task_status(job_id, task_index)

    def list_tasks(self, job_id: str | Job) -> list[cluster_pb2.TaskStatus]:
        """The states of a job's tasks now, in index order.

        Raises:
            NotFoundError: There is no such job.
        """
        return self.cluster.list_tasks(job_id)

    def fetch_task_logs(
        self,
        job_id: str | Job,
        task_index: int,
        start_ms: int = 0,
        max_lines: int = 0,
        *,
        attempt_id: int | None = None,
    ) -> list[LogEntry]:
        """The lines of a task until now; `[]` while no worker has had it.

        Args:
            job_id: The job: its id, or a `Job`.
            task_index: The task, from 0.
            start_ms: Only lines that were completed after this moment, exclusive; 0 for all.
            max_lines: The first N of them; 0 for all.
            attempt_id: Which attempt's; default the newest's.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is not valid; the text names it.
            NotFoundError: There is no such job, task or attempt.
            WorkerUnreachableError: The worker that has the log does not answer.
        """
        job_id, task_index = check_job_id(job_id), check_task_index(task_index)
        start_ms = check_whole_number("start_ms", start_ms)
        max_lines = check_whole_number("max_lines", max_lines, most=MAX_INT32)
        attempt_id = _attempt(attempt_id)
        task = self.cluster.get_task_status(job_id, task_index)
        if not task.attempts and attempt_id is None:
            return []
        attempt = find_attempt(task, attempt_id)
        with self.stream_task_logs(
            job_id,
            task_index,
            follow=False,
            attempt_id=attempt.attempt_id,
            start_ms=start_ms,
            patience_s=_FETCH_PATIENCE_S,
        ) as stream:
            entries = list(itertools.islice(join_pieces(stream), max_lines or None))
            end = stream.ends.get(task_index)
        if end is not None and not end.complete:
            return [entry for entry in entries if not entry.partial or entry.missing_bytes]  # not finished yet
        return entries

    def stream_task_logs(
        self,
        job_id: str | Job,
        task_index: int,
        *,
        follow: bool = True,
        cursor: str | None = None,
        attempt_id: int | None = None,
        start_ms: int = 0,
        end_ms: int = 0,
        max_lines: int = 0,
        tail: int | None = None,
        sources: Sequence[str] = (),
        regex: str = "",
        route: Route = "auto",
        patience_s: float | None = PATIENCE_S,
        on_notice: Callable[[str], None] | None = None,
        partial: bool = False,
    ) -> LogStream:
        """The lines of a task, through all its attempts, as an iterator: what there is and, with `follow`, what
        comes, each line once and in order, until the task has ended and its log was read to the end.

        A connection that is lost is opened again, and read on from the exact place.

        Args:
            job_id: The job: its id, or a `Job`.
            task_index: The task, from 0.
            follow: Go on until the task has ended; else end with what there is now.
            cursor: Only what comes after the line that has this `cursor`.
            attempt_id: Only this attempt.
            start_ms: Only lines that were completed after this moment, exclusive, ms since the epoch; 0 for all.
            end_ms: Only lines that were completed up to this moment, inclusive; 0 for all. A follow ends soon after it.
            max_lines: End after the first N that pass the other filters; 0 for all.
            tail: Begin with the last N lines that pass the other filters, of those that there are; None for all.
            sources: Only these, of `stdout`, `stderr` and `build`; none for all.
            regex: Only lines in which this pattern (RE2) is found.
            route: `auto` reads straight from a worker where it can be reached from here, and through the controller
                where not; `worker` and `controller` read in no other way.
            patience_s: For how long to try, in seconds, when what is read from does not answer; None or `math.inf`: for
                ever.
            on_notice: Told, in words, of lost connections, of retries, and of what is missing at the end of a log;
                default: a line on stderr.
            partial: Give what stands in an unfinished line within a fifth of a second, as an entry that is `partial`:
                for prompts and progress bars. Default: give each line once it is finished, as one entry.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument cannot be meant, or the cursor is of another job or task.
            NotFoundError: There is no such job, task or attempt.
            ControllerUnreachableError, WorkerUnreachableError: No answer for `patience_s`; also in mid-iteration.
        """
        job_id, task_index = check_job_id(job_id), check_task_index(task_index)
        wanted = _wanted(
            follow,
            cursor,
            attempt_id,
            start_ms,
            end_ms,
            max_lines,
            tail,
            sources,
            regex,
            route,
            patience_s,
            on_notice,
            partial=partial,
        )
        return LogStream(Reading(self.cluster, job_id, [task_index], wanted))

    def stream_job_logs(
        self,
        job_id: str | Job,
        task_indices: Sequence[int] | None = None,
        *,
        follow: bool = True,
        cursor: str | None = None,
        attempt_id: int | None = None,
        start_ms: int = 0,
        end_ms: int = 0,
        max_lines: int = 0,
        tail: int | None = None,
        sources: Sequence[str] = (),
        regex: str = "",
        route: Route = "auto",
        patience_s: float | None = PATIENCE_S,
        on_notice: Callable[[str], None] | None = None,
        partial: bool = False,
    ) -> LogStream:
        """The lines of several tasks as one iterator, as `stream_task_logs` gives those of one: what there is, by time,
        then what comes. The lines of one task are always in its order.

        Args:
            job_id: The job: its id, or a `Job`.
            task_indices: Which tasks; default all of the job.
            follow, cursor, attempt_id, start_ms, end_ms, max_lines, tail, sources, regex, route, patience_s, on_notice,
            partial: As there; `max_lines` and `tail` count the lines of all tasks together. The `cursor` of a line
                knows where all of the tasks were, so it grows with their number.

        Raises:
            InvalidArgumentError, NotFoundError, ControllerUnreachableError, WorkerUnreachableError: As there.
        """
        job_id = check_job_id(job_id)
        indices = None if task_indices is None else check_task_indices("task_indices", task_indices)
        wanted = _wanted(
            follow,
            cursor,
            attempt_id,
            start_ms,
            end_ms,
            max_lines,
            tail,
            sources,
            regex,
            route,
            patience_s,
            on_notice,
            partial=partial,
        )
        return LogStream(Reading(self.cluster, job_id, indices, wanted))

    # Endpoints: names by which what runs in a job is found.

    def register_endpoint(self, name: str, address: str, metadata: Mapping[str, str] | None = None) -> str:
        """Gives a name to an address. Inside a job the name ends with the attempt that registers it; the same job may
        register it again, with another address, as a retried task does.

        Returns:
            The endpoint's id, for `unregister_endpoint`.

        Raises:
            AlreadyExistsError: Another job has the name.
        """
        around = self._job_around_us()
        return self.cluster.register_endpoint(name, address, around.job_id if around else "", metadata)

    def unregister_endpoint(self, endpoint_id: str) -> None:
        """Takes a name away.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        self.cluster.unregister_endpoint(endpoint_id)

    def lookup_endpoint(self, name: str, timeout: float | None = 0.0) -> cluster_pb2.Controller.Endpoint:
        """The endpoint of that name: `.address`, `.metadata`, `.job_id`.

        Args:
            name: As it was registered.
            timeout: For how many seconds to wait until somebody has registered it; 0 does not wait, None or `math.inf`
                waits for ever. It is asked for again within a second, and less often the more tasks the job has that
                this code runs in.

        Raises:
            NotFoundError: There is none (yet).
            DeadlineExceededError: (a `TimeoutError`) There was none within the time.
        """
        limit_s = check_timeout("timeout", timeout)
        if not limit_s:
            return self.cluster.lookup_endpoint(name)
        around = get_job_info()
        longest_s = max(_LOOKUP_PAUSE_S, _LOOKUP_S_PER_TASK * (around.num_tasks if around is not None else 1))
        end = time.monotonic() + limit_s
        backoff = Backoff(_FIRST_LOOKUP_PAUSE_S, longest_s)
        while True:
            try:
                return self.cluster.lookup_endpoint(name)
            except (NotFoundError, UnavailableError) as error:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceededError(f"within {limit_s:g} s nobody answered to it: {error}") from error
            self.cluster.pause(min(left_s, backoff.next_s(), longest_s))

    def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """The endpoints whose names start with a prefix, by name."""
        return self.cluster.list_endpoints(prefix)

    # Its own life.

    def close(self) -> None:
        """Closes the connections. A cluster that `local` started ends, with all its jobs.

        Waits, follows and calls of this client in other threads end within a second with a `ClientClosedError`, and so
        does each later call. Clients in children after a fork stay open.
        """
        self.cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _job_around_us(self) -> JobInfo | None:
        """The task that this code is part of; None outside of jobs, and where that job is another cluster's.

        The token that this client shows says which task it was given to, however the controller's address is spelled.
        Without a token, as of a cluster that gives none, the address has to be the one that the task was told.
        """
        token = self.cluster.token()
        if token is not None:
            return task_of_token(token)
        inside = get_job_info()
        if inside is None or not inside.controller_address:
            return None
        return inside if parse_address(inside.controller_address) == self.cluster.controller_address else None


def _wanted(
    follow: bool,
    cursor: str | None,
    attempt_id: int | None,
    start_ms: int,
    end_ms: int,
    max_lines: int,
    tail: int | None,
    sources: Sequence[str],
    regex: str,
    route: Route,
    patience_s: float | None,
    on_notice: Callable[[str], None] | None,
    *,
    partial: bool = False,
) -> Wanted:
    check_flag("follow", follow)
    chosen_sources = [
        check_choice("each of sources", source, SOURCES)
        for source in check_names("sources", sources, str(list(SOURCES)))
    ]
    regex = check_text("regex", regex, accepted="a pattern (RE2) as text")
    check_choice("route", route, ROUTES)
    start_ms, end_ms = check_whole_number("start_ms", start_ms), check_whole_number("end_ms", end_ms)
    max_lines = check_whole_number("max_lines", max_lines, most=MAX_INT32)
    attempt_id = _attempt(attempt_id)
    if tail is not None:
        tail = check_whole_number("tail", tail, most=MAX_INT32, none="all lines")
        if max_lines:
            raise InvalidArgumentError("tail and max_lines: the last lines or the first ones, not both")
        if cursor is not None:
            raise InvalidArgumentError("tail and cursor: the last lines or those after a place, not both")
    if cursor is not None:
        cursor = check_text("cursor", cursor, accepted="the cursor of a line", none="the beginning")
    if on_notice is not None:
        check_callable("on_notice", on_notice, none="a line on stderr")
    follow_until = math.inf
    if end_ms:  # with some patience for what was captured by then and is still on its way
        follow_until = time.monotonic() + end_ms / 1000 - wall_s() + _LATE_S
    chosen = {"start_ms": start_ms, "end_ms": end_ms, "regex": regex}
    return Wanted(
        follow=follow,
        # What is not asked for is left out: an empty filter is one that lets all of a log pass as it lies.
        filter=cluster_pb2.Worker.FetchLogsFilter(
            sources=chosen_sources,
            **{name: value for name, value in chosen.items() if value},  # type: ignore[arg-type]
        ),
        cursor=cursor,
        attempt_id=attempt_id,
        max_lines=max_lines,
        tail=tail,
        route=route,
        patience_s=check_timeout("patience_s", patience_s),
        on_notice=on_notice or print_notice,
        partial=check_flag("partial", partial),
        follow_until=follow_until,
    )


def _attempt(attempt_id: int | None) -> int | None:
    if attempt_id is None:
        return None
    return check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt, or all attempts")
