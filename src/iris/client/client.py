"""Defines `IrisClient`. Programs use it to start jobs, to watch jobs, and to read the logs of tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from iris.arguments import check_instance, check_job_id, check_task_index
from iris.client.endpoint_methods import EndpointMethods
from iris.client.exec.exec_methods import ExecMethods
from iris.client.files.file_methods import FileMethods
from iris.client.inspect.inspect_methods import InspectMethods
from iris.client.job import Job
from iris.client.list_methods import ListMethods
from iris.client.log_methods import LogMethods
from iris.client.maps.methods import MapMethods
from iris.client.printing import print_task
from iris.client.removal.removal_methods import RemovalMethods
from iris.client.retry.retry_methods import RetryMethods
from iris.client.retry.taken_names import IfExists, check_if_exists, launch_or_take
from iris.client.shell_environment import Surroundings
from iris.client.submission import (
    add_code,
    add_dependencies,
    add_environment,
    add_hang_watch,
    add_inputs,
    add_limits,
    add_memory_profile,
    add_placement,
    add_retries,
    entrypoint_of,
    new_request,
    parent_job,
)
from iris.client.views.lists import Machines, TaskStatusList
from iris.client.views.notebook_views import show_messages_as_tables
from iris.client.waiting import Wait, tell_about_other_tasks, wait_for_end
from iris.client.workspace_upload import Progress, WorkspaceUpload
from iris.cluster.client.contexts.choose_cluster import Access, ChosenCluster, choose_cluster, choose_context
from iris.cluster.client.operations.tokens import web_link
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import Entrypoint, ResourceSpec
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    import httpx


class IrisClient(
    MapMethods,
    LogMethods,
    EndpointMethods,
    RetryMethods,
    ListMethods,
    RemovalMethods,
    FileMethods,
    InspectMethods,
    ExecMethods,
):
    """A client of a cluster. A client starts jobs, watches jobs, and reads the logs of tasks.

        client = IrisClient.remote("controller:50051")    # a running cluster
        client = IrisClient.local()                       # a new cluster on this machine

    A client is a context manager. Several threads may use it, and so may child processes after `os.fork()`.

    A call in a running asyncio loop works and blocks the loop. Outside a notebook, the first such call of a process
    gives a `BlockingCallWarning`.

    Every error is a class of `iris.errors`. The description of a method lists only the errors with a special meaning
    for this method. In addition, every method can raise `ControllerUnreachableError`, `UnauthenticatedError`,
    `PermissionDeniedError`, `ClientClosedError`, and `InvalidArgumentError`. An `InvalidArgumentError` is also a
    `ValueError`, and its message names the invalid argument.

    Args:
        cluster: The low-level client of the cluster. `remote` and `local` create it.

    Attributes:
        cluster: The low-level client of the cluster. `cluster.token()` returns the token in use, for a program that you
            start.
    """

    def __init__(self, cluster: RemoteClusterClient) -> None:
        advice = "IrisClient.remote(address) makes a client of a running cluster"
        show_messages_as_tables()
        super().__init__(check_instance("cluster", cluster, RemoteClusterClient, advice))

    def __repr__(self) -> str:
        return f"IrisClient({self.cluster.controller_address!r})"

    @classmethod
    def remote(
        cls,
        address: str | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | tuple[str, str] | None = None,
        http2: bool | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> IrisClient:
        """Return a client of a running cluster. The client sends nothing before its first call.

        Args:
            address: The address of the controller: `host:port`, `http://…` or `https://…`. Default: the address in the
                environment variable `IRIS_CONTROLLER_ADDRESS`, which Iris sets inside each job; then the context in
                `IRIS_CONTEXT`; then the current context of `iris login`; then the cluster that `iris up` has started on
                this machine. The command line finds the same cluster.
            token: The token for all calls, as `iris token create` prints it, or a function that returns a token. The
                client calls the function again when the cluster refuses the last token, for example while a log is
                followed. Default: the token of the context, if a context names the cluster. Otherwise the environment
                variable `IRIS_TOKEN`, which Iris sets inside each job. If it is not set, the token that `iris up` has
                stored for the same user on this machine, or the token of the context with the same address.
            ca: For https: a PEM file with the certificates to trust, instead of the public ones. Default: the file in
                the context, then in `IRIS_CA`, then the one that `iris up` or `iris login` has stored for the address.
            cert: For a cluster that requires client certificates: a PEM file with the client's certificate and key, or
                a pair of two files. Default: as for `ca`, with `IRIS_CERT` and `IRIS_CERT_KEY`.
            http2: True: require HTTP/2 of the controller, also without TLS. False: use HTTP/1.1. Default: use HTTP/2 if
                the extra [http2] is installed and the server offers HTTP/2 over TLS, and otherwise HTTP/1.1.
            transport: A transport of httpx that sends all requests of this client, for example
                `httpx.HTTPTransport(uds="/run/iris.sock")`. The transport then has the settings for TLS, HTTP/2 and
                proxies, and `ca`, `cert` and `http2` must not be given. `close` closes the transport. After
                `os.fork()`, a child process needs a new client. docs/how-to/use-a-transport.md has the details.

        Raises:
            InvalidAddressError: (a `ValueError`) Nothing names a cluster, or the address has no accepted form.
            InvalidArgumentError: (a `ValueError`) Another argument is invalid.
            NotFoundError: There is no context with the name in `IRIS_CONTEXT`.
            FailedPreconditionError: A file in `ca` or `cert`, or a proxy that the environment names, is not usable.
                Other users can read the file of contexts. The server of `iris up` was killed.
            MissingExtraError: The extra [http2] or [socks] is needed and not installed.
        """
        return cls._chosen(choose_cluster(address), Access(token, ca, cert), http2, transport)

    @classmethod
    def from_context(
        cls, name: str, *, http2: bool | None = None, transport: httpx.BaseTransport | None = None
    ) -> IrisClient:
        """Return a client of the cluster that `iris login` has saved under a name. The client sends nothing before its
        first call.

        The token and the certificates of the context are used, even if `IRIS_TOKEN` or `IRIS_CA` is set. A running
        client continues with the new token after the user has logged in again.

        Args:
            name: The name of the context, as `iris context list` shows it. `"local"` is the cluster that `iris up` has
                started on this machine.
            http2: `remote` documents this argument.
            transport: `remote` documents this argument.

        Raises:
            NotFoundError: There is no such context.
            FailedPreconditionError: Other users can read the file of contexts, or a file with certificates is not
                usable, or no cluster of `iris up` runs.
            InvalidArgumentError: (a `ValueError`) An argument is invalid.
        """
        return cls._chosen(choose_context(name), Access(), http2, transport)

    @classmethod
    def _chosen(
        cls, chosen: ChosenCluster, given: Access, http2: bool | None, transport: httpx.BaseTransport | None
    ) -> IrisClient:
        access = chosen.access(given, has_transport=transport is not None)
        cluster = RemoteClusterClient(
            chosen.address, token=access.token, ca=access.ca, cert=access.cert, http2=http2, transport=transport
        )
        return cls(cluster)

    @classmethod
    def local(cls, *, workers: int = 1) -> IrisClient:
        """Start a cluster on this machine and return its client. `close`, or the end of this process, ends the cluster
        and all its jobs, and removes the files of the cluster.

        Args:
            workers: The number of workers that share this machine, from 1 to 64. With several workers, a job can run as
                if it had several machines.

        Raises:
            MissingExtraError: The extra [server] is not installed.
            LocalClusterError: The cluster did not start. The message contains the reason.
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
        inputs: Iterable[str] | None = None,
        resources: ResourceSpec | Mapping[str, float | str | None] | None = None,
        env: Mapping[str, str] | None = None,
        inherit_env: bool = True,
        ports: Sequence[str] = (),
        workspace: str | os.PathLike[str] | None = None,
        working_directory: str | os.PathLike[str] | None = None,
        after: Sequence[str | Job] | Mapping[str | Job, Literal["ok", "any"]] = (),
        coscheduled: bool = True,
        placement: Literal["spread", "together"] | None = None,
        constraints: Mapping[str, str] | None = None,
        rendezvous: Literal["torch", "jax"] | None = None,
        max_parallel: int | None = None,
        max_task_failures: int = 0,
        max_retries_failure: int = 0,
        max_retries_preemption: int = 100,
        retry_on: Sequence[int] = (),
        fail_on: Sequence[int] = (),
        scheduling_timeout: float | None = 0,
        timeout: float | None = 0,
        job_timeout: float | None = 0,
        timeout_warning: float | None = 0,
        watch_hang: float | None = None,
        hang_action: Literal["report", "end"] = "report",
        retry_pause: float = 1.0,
        kill_grace_period: float = 10.0,
        max_log_bytes: int = 0,
        outputs: Sequence[str] = (),
        profile_memory: bool = False,
        if_exists: IfExists = "error",
        on_notice: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        surroundings: Surroundings | None = None,
    ) -> Job:
        """Submit a job and return its handle. To wait for the end of the job, call `Job.wait`.

        If this program runs inside a job, the new job is a child job of that job. The id of a child job is
        `"{parent}/{name}"`. A child job ends when its parent job ends.

        Args:
            entrypoint: A callable, or a command as a list of words, such as `["python", "train.py"]`. A callable is
                sent with its arguments and the user's own code; docs/explanation/code.md has the details. No shell
                reads a command, but `["sh", "-c", "…"]` runs a shell. The worker looks for the program on its own
                `PATH`, where `python` may lack Iris. On this machine, `sys.executable` is the Python of this program.
            args: The positional arguments of the callable.
            kwargs: The keyword arguments of the callable.
            name: The name of the job. If this program runs outside a job, the name is also the job's id. The name must
                not contain `/` or invisible characters; docs/reference/names.md has the rule. Default: the entrypoint's
                name and a random suffix.
            replicas: The number of tasks, from 1 to 10,000.
            inputs: A list of texts for a command. The job gets one task for each text. The text replaces `{}` in each
                word of the task's command, and is in the variable `IRIS_INPUT`. Needs `coscheduled=False`, and no
                `replicas`. To call a function for each input, use `map`.
            resources: The resources that each task needs: `ResourceSpec(cpu=…, memory=…, gpu=…)`, or a mapping such as
                `{"cpu": 0.5, "memory": "2GiB"}`. Default: nothing is reserved for the tasks of a gang, and one core for
                each independent task. `{"cpu": 0}` reserves nothing.
            env: Environment variables for the tasks. The tasks also inherit the environment of their worker. A worker
                inherits the environment of the shell that ran `iris up`. In a cluster of `IrisClient.local`, a worker
                inherits the environment of this program. Variables that Iris sets override `env`.
            inherit_env: Whether a child job also gets the `env` of its parent job. The child's own values win. A job
                without a parent ignores this argument.
            ports: Names of ports. Each task gets one free port for each name, in `IRIS_PORT_<NAME>`.
            workspace: A folder to send with the job. Each task starts in a copy of it. Files that git ignores are not
                sent, nor are links that lead out of the folder, sockets, and files that you may not read.
            working_directory: The absolute path of a directory on the worker's machine, in which the tasks start.
                Default: a new directory for each attempt. `workspace` and `working_directory` are mutually exclusive.
            after: The jobs for which the job waits before it is queued: `Job` handles or ids. A list waits for the
                success of all jobs. A mapping has a condition for each job: `"ok"` waits for the job's success, `"any"`
                for its end. If a job with the condition `"ok"` does not succeed, the new job ends as UNSCHEDULABLE.
            coscheduled: Whether the tasks are a gang. The tasks of a gang start together or not at all, and a retry
                restarts all tasks. If False, each task starts and is retried independently.
            max_parallel: How many independent tasks may run at the same time. A task that is retried waits behind the
                tasks that have not started. Default: as many as fit on the machines. Needs `coscheduled=False`.
            placement: `"spread"` puts each task on a separate machine, `"together"` puts all tasks on one machine.
                Default: any machines. Needs `coscheduled`.
            constraints: Labels that a machine must have to get a task, such as `{"zone": "a"}`.
            rendezvous: How the tasks find each other. `"torch"` sets the variables that
                `torch.distributed.init_process_group()` reads (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
                MASTER_ADDR, MASTER_PORT). `"jax"` sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
                Needs `coscheduled`, and `max_task_failures=0`.
            max_task_failures: How many tasks may fail before the job fails.
            max_retries_failure: How many times a task is retried after it has failed.
            max_retries_preemption: How many times a task is retried after its worker was lost.
            retry_on: Exit codes, from 1 to 255. If given, only a failure with one of these codes is retried. 128 + n is
                the code of a process that signal n has killed. Needs `max_retries_failure`.
            fail_on: Exit codes after which a failed task is never retried. Needs `max_retries_failure`.
            scheduling_timeout: How many seconds a gang may wait in the queue, anew after each retry, before the job
                ends as UNSCHEDULABLE. At most 68 years, rounded up. 0, None and `math.inf` set no limit.
            timeout: How many seconds one attempt may run. Accepts the same values as `scheduling_timeout`.
            job_timeout: How many seconds the whole job may take from now on, waiting and retries included. 0: no limit.
            timeout_warning: The seconds between the signal SIGUSR1, after which a process can save a checkpoint, and
                the time limit that ends the attempt: `timeout`, `job_timeout` or the limit of Slurm. Only processes
                that handle or block SIGUSR1 get the signal. 0 and None: no warning.
            watch_hang: The seconds after which a job seems to hang if a task neither writes output nor uses the CPU.
                The status of the job then says that it seems to hang. 0: the job never seems to hang. None: the value
                of the cluster's option `--watch-hang`. Without this option, the job never seems to hang.
            hang_action: `"end"` fails a job that seems to hang. `"report"` only reports it in the status. `"end"` needs
                `watch_hang`, or a cluster whose `iris up` has `--watch-hang`.
            retry_pause: The pause in seconds before the second retry in a row, from 0 to 60. The pause doubles with
                each further retry, up to 60 seconds. The first retry has no pause. 0 disables all pauses.
            kill_grace_period: The seconds between SIGTERM and SIGKILL when a task is stopped, at most 24 days.
            max_log_bytes: The size in bytes up to which each attempt's log is kept. When a log grows larger, its oldest
                lines are removed, and readers see a gap. 0: use the limit of the worker. Its default is 10 GiB.
            outputs: Directories into which the tasks write files that the cluster stores after the end of each attempt,
                relative to the working directory. They are created before the start, and `IRIS_OUTPUT_DIR` is the path
                of the first one. `Job.outputs` returns the stored files.
            profile_memory: Whether each attempt runs under the memory profiler memray, which slows it down. The task's
                Python needs memray, and a command must begin with a Python interpreter. The profile is the output
                `memory-profile/memray.bin` of the attempt, and `iris profile --memory` shows it.
            if_exists: What happens if another job has the name. `"error"` raises AlreadyExistsError. `"reuse"` returns
                the handle of that job, whatever its state, its command and its arguments are. `"replace"` removes that
                job, which must have ended, with its logs and results, and submits the new job under the name.
            on_notice: A function that is called with a text if files of the workspace are not sent. If `on_progress` is
                not given, the function is also called when packing or sending takes longer than a second. Default:
                print the text on stderr, and show the progress of packing and sending on a terminal and in a notebook.
            on_progress: A function that is called as `on_progress(stage, done, total)` while the workspace is packed
                and sent. `stage` is "packing" or "sending", `done` and `total` are bytes. A workspace that the cluster
                already has is not sent again. If the function raises an error, `run` raises the same error. The job is
                then submitted only if the whole workspace had already been sent.
            surroundings: The environment, the umask and the standard input of a shell, as `iris run` passes them.
                Default: the environment and umask of the worker, and no standard input.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. No job was submitted.
            EntrypointError: The callable cannot be pickled. The message contains the reason.
            AlreadyExistsError: Another job has this name, and `if_exists` is `"error"`.
            FailedPreconditionError: The job to replace has not ended, or a file of the workspace cannot be read.
            NotFoundError: A job in `after` does not exist.
            ResourceExhaustedError: The workspace or the callable is too large, or a quota or a disk is used up.
            UnimplementedError: The controller has an older release of Iris that does not know one of the arguments.
        """
        entry = entrypoint_of(entrypoint, args, kwargs)
        request = new_request(entry, name, ResourceSpec.given(resources), replicas)
        add_environment(request, env, ports, working_directory, surroundings, inherit_env)
        add_placement(request, coscheduled, placement, constraints, rendezvous, max_parallel)
        add_inputs(request, entry, inputs)
        add_dependencies(request, after)
        add_retries(
            request, max_task_failures, max_retries_failure, max_retries_preemption, retry_pause, retry_on, fail_on
        )
        limits = scheduling_timeout, timeout, job_timeout, timeout_warning, kill_grace_period, max_log_bytes
        add_limits(request, *limits, outputs)
        add_memory_profile(request, profile_memory, entry.command)
        add_hang_watch(request, watch_hang, hang_action)
        check_if_exists(if_exists)
        upload = WorkspaceUpload.checked(workspace, on_notice, on_progress)
        add_code(request, entry, upload, parent_job(self.cluster.token(), self.cluster.controller_address))
        with nullcontext() if upload is None else upload.sending():
            return Job(self, self.cluster.connection.perform(launch_or_take(request, if_exists)))

    def job(self, job_id: str | Job) -> Job:
        """Return the handle of an existing job. This method sends nothing, so it does not detect an unknown id."""
        return Job(self, job_id)

    def status(self, job_id: str | Job) -> cluster_pb2.JobStatus:
        """Return the current state of a job, with all its tasks.

        Raises:
            NotFoundError: There is no such job.
        """
        return self.cluster.get_job_status(job_id)

    def machines(self) -> Machines:
        """Return the machines of the cluster and the queued gangs. `print` and notebooks show the answer as a table.

        `machines` are sorted by name. Each machine has `total`, `free`, `labels`, `alive`, and `holdings`. The
        `holdings` are the tasks with a slot on the machine. `waiting` lists the queued gangs, the oldest first. The
        `reason` of a queued gang says why the gang waits. `waiting` has at most 1,000 entries, and `num_waiting` counts
        all queued gangs. If the engine does not answer, `problem` is the reason, and `machines` comes from the engine's
        last answer.
        """
        return Machines(self.cluster.list_machines())

    def web_link(self, job_id: str | Job | None = None) -> str:
        """Return a link that opens the cluster's page in a browser and signs the browser in.

        The link works once, within five minutes. The browser gets the name and the role of this client, and stays
        signed in until the client's token expires or is revoked, but at most 30 days. Whoever opens the link first is
        signed in, so treat the link like a token.

        Args:
            job_id: The job to show: its id, or its `Job` handle. Default: the list of jobs.

        Raises:
            PermissionDeniedError: The role of this client is not `admin`, `user` or `reader`.
            UnimplementedError: The controller is too old to have a page.
        """
        shown = "" if job_id is None else check_job_id(job_id)
        return web_link(self.cluster.controller_address, self.cluster.create_sign_in_code().code, shown)

    def terminate(self, job_id: str | Job, task_index: int | None = None) -> None:
        """Request the termination of a job with its child jobs, or of one task. A job or task that has already ended
        keeps its state.

        A terminated task is not retried. The job continues with its other tasks, and becomes KILLED when all its tasks
        have ended. A gang that would lack more than `max_task_failures` tasks ends at once, because its other tasks
        would only wait for the missing tasks.

        Args:
            job_id: The job: its id, or its `Job` handle.
            task_index: The task to terminate, from 0. Default: the whole job.

        Raises:
            NotFoundError: There is no such job or task.
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
        *,
        progress: bool | None = None,
    ) -> cluster_pb2.JobStatus:
        """Wait for the end of a job and return its final status, even if the job has failed. The controller reports the
        end of the job at once, so the client does not poll.

        Args:
            job_id: The job: its id, or its `Job` handle.
            timeout: The seconds after which to raise TimeoutError, from 0. None and `math.inf` wait forever.
            poll_interval: The longest pause in seconds between two tries while the controller does not answer.
            stream_logs: Whether to print the lines of a task as they arrive, as `[task-2:stdout] message`. On a
                terminal, partial lines such as progress bars are shown while they change. Control sequences are
                removed, except colours.
            stream_task_index: The task whose lines are printed, from 0. Default: task 0. If the job has several tasks,
                a notice on stderr names the other tasks.
            progress: Whether to show how many tasks have ended, for how long the job has run, and why it waits. On a
                terminal, this is one line on stderr, which changes. In a notebook, it is a bar. Elsewhere, lines are
                printed on stderr, at most one every ten seconds while the state stays the same. Default: True on a
                terminal and in a notebook, False elsewhere and with `stream_logs`. A job that ends within half a second
                shows nothing.

        Raises:
            NotFoundError: There is no such job or task.
            TimeoutError: The job has not ended within `timeout` seconds.
        """
        wait = Wait.checked(job_id, timeout, poll_interval, stream_logs, stream_task_index, progress)
        if wait.names_other_tasks:
            self.cluster.connection.perform(tell_about_other_tasks(wait))
        if wait.shown_task is not None:
            print_task(self.cluster, wait.job_id, wait.shown_task, wait.read_options())
        with wait.display() as display:
            return self.cluster.connection.perform(wait_for_end(wait, display))

    # Tasks.

    def task_status(self, job_id: str | Job, task_index: int) -> cluster_pb2.TaskStatus:
        """Return the current state of a task, with all its attempts.

        Args:
            job_id: The job: its id, or its `Job` handle.
            task_index: The index of the task in its job, from 0.

        Raises:
            NotFoundError: There is no such job or task.
        """
        return self.cluster.get_task_status(job_id, task_index)

    def list_tasks(self, job_id: str | Job) -> list[cluster_pb2.TaskStatus]:
        """Return the current states of a job's tasks, in index order. `print` and notebooks show the list as a table.

        Raises:
            NotFoundError: There is no such job.
        """
        return TaskStatusList(self.cluster.list_tasks(job_id))

    # Closing.

    def close(self) -> None:
        """Close all connections. If `local` has started the cluster, the cluster and all its jobs end.

        Calls, waits and log streams of this client in other threads end with a `ClientClosedError` within a second.
        Later calls of this client raise the same error. Clients in child processes after a fork stay open.
        """
        self.cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
