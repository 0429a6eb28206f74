"""Builds a worker from its parts, serves it, and ends it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from iris import failpoints, versions
from iris.cluster.lease_terms import DEFAULT_LEASE_S, format_span
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.types import TOKEN_VARIABLE
from iris.cluster.worker.arguments import check_arguments, parse_arguments
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.cleanup import Cleanup
from iris.cluster.worker.controller_link.attempt_tokens import AttemptTokens
from iris.cluster.worker.controller_link.connection import ControllerConnection, connect
from iris.cluster.worker.controller_link.log_upload import LogUpload
from iris.cluster.worker.controller_link.reporter import Reporter
from iris.cluster.worker.controller_link.token_checker import TokenChecker
from iris.cluster.worker.inspect.py_spy import find_py_spy
from iris.cluster.worker.limits.enforcement import Enforcement
from iris.cluster.worker.metrics.collection import WorkerMetrics
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.process.launcher import Launcher
from iris.cluster.worker.process.tracing import yama_scope
from iris.cluster.worker.service import WorkerService
from iris.cluster.worker.supervision.lease import Lease
from iris.cluster.worker.supervision.reaper import Reaper, become_subreaper
from iris.cluster.worker.supervision.shutdown import Shutdown
from iris.cluster.worker.supervision.worker_identity import Identity, event_log_file, stamp_of
from iris.cluster.worker.worker import Worker, WorkerSettings
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.config import ClusterConfig
from iris.errors import FailedPreconditionError, IrisError
from iris.event_log import log_event, set_up_event_log
from iris.interpreter import resume_collector
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.address import advertised, is_wildcard, parse_address
from iris.rpc.auth.authenticate import AuthenticatedStreams, AuthenticationInterceptor, AuthorisationInterceptor
from iris.rpc.auth.credentials import Credentials
from iris.rpc.auth.permissions import WORKER_METRICS_CALL, WORKER_RULES
from iris.rpc.http.server.asgi_server import MAX_MESSAGE_BYTES, HttpServer
from iris.rpc.http.tls import CA_VARIABLE, ClientTls, ServerTls, check_exposure
from iris.rpc.monitoring.call_tally import CallTally, LogBytesCounter
from iris.rpc.monitoring.metrics_route import METRICS_PATH, MetricsRoute
from iris.rpc.monitoring.probes import probes
from iris.rpc.serving.call_events import CallEventInterceptor
from iris.rpc.serving.codecs import CODECS, MessageCoding, MessageThread
from iris.rpc.serving.error_interceptors import DetailInterceptor, ErrorInterceptor, ReleaseInterceptor
from iris.rpc.serving.heavy_calls import HeavyCalls, always, reading_lane
from iris.rpc.serving.request_compression import RequestGzip
from iris.rpc.serving.service_application import ServiceApplication
from iris.rpc.standard.applications import with_standard_services
from iris.system import clock
from iris.system.event_loop import open_file_limit, raise_file_limit, run_loop, use_no_proxy
from iris.system.machine_size import total_disk_bytes, total_memory_bytes
from iris.system.private_dir import check_private, keep_files_private
from iris.system.process_identity import identify_process
from iris.system.processes import call_when_child_ends, call_when_parent_ends
from iris.system.sockets import bind, own_host_towards, port_of

_LAST_REPORT_S = 2.0
_LAST_UPLOAD_S = 10.0
_KILLED_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Network:
    """The addresses of this worker, and its connection to the controller.

    Attributes:
        listener: The bound socket of the worker's service.
        address: The advertised address of the service.
        advertise_host: The host in the advertised address.
        tls: The TLS context of the service; None without TLS.
        given: The credentials with which the worker was started.
        credentials: The token that the worker sends to the controller. The controller replaces the token from time to
            time.
        controller: The connection to the controller.
        own_env: The environment variables that tasks need to reach the controller by TLS.
    """

    listener: socket.socket
    address: str
    advertise_host: str
    tls: ssl.SSLContext | None
    given: WorkerCredentials
    credentials: Credentials
    controller: ControllerConnection
    own_env: Mapping[str, str]


@dataclass(frozen=True)
class _Parts:
    """The parts of a running worker. Some run in the background, and some must be closed when the worker ends."""

    worker: Worker
    shutdown: Shutdown
    lease: Lease
    reporter: Reporter
    log_upload: LogUpload | None
    cleanup: Cleanup
    attempt_tokens: AttemptTokens
    server: HttpServer
    metrics: WorkerMetrics


def run(token: str, reaper: Reaper, launcher: Launcher) -> None:
    """Run a worker until it gets SIGTERM or SIGINT, its parent process ends, or the worker is lost.

    Args:
        token: The worker's token, with which the marks of its attempts begin.
        reaper: The connection to the worker's reaper.
        launcher: The connection to the worker's launcher.
    """
    arguments = parse_arguments()
    arguments.incarnation = arguments.incarnation or token
    resume_collector()  # All modules are loaded now.
    become_subreaper()
    # The umask of the worker does not affect tasks, because the launcher of tasks was forked before this call.
    keep_files_private()
    run_loop(_serve(arguments, token, reaper, launcher))


async def _serve(arguments: argparse.Namespace, token: str, reaper: Reaper, launcher: Launcher) -> None:
    """Run the worker in these steps:
    1. If the parent process has ended, exit before anything is created on disk. Otherwise write the identity file. The
       file must exist before the worker starts a process, because a restarted controller finds the worker's processes
       by the file.
    2. Copy the environment for tasks, and only then change this process's own limits and proxies.
    3. Check the arguments, and bind the port. From this step on, other processes can call the worker at its address.
    4. Build the parts, and serve until the worker must end.
    5. End the attempts, report their ends and upload their logs as far as possible, and close the server.
    """
    if arguments.parent_pid:
        # This process may exit without ending the attempts, because the reaper kills the attempts after the exit.
        call_when_parent_ends(arguments.parent_pid, lambda: os._exit(1))
    if arguments.identity_file is not None:
        _write_identity(arguments, token)
    base_env = {name: value for name, value in os.environ.items() if name not in (failpoints.VARIABLE, clock.VARIABLE)}
    file_limit = arguments.task_file_limit or open_file_limit()
    raise_file_limit()
    use_no_proxy()
    try:
        check_arguments(arguments)
        _set_up_event_log(arguments)
        network = _open_network(arguments)
        if arguments.directory.exists():
            check_private(arguments.directory)  # The directory is private because it contains the code of tasks.
    except IrisError as error:
        sys.exit(f"iris: {error}")
    settings = WorkerSettings(
        worker_id=arguments.worker_id,
        token=token,
        incarnation=arguments.incarnation,
        bind_host=arguments.host,
        advertise_host=network.advertise_host,
        base_env=base_env,
        own_env=network.own_env,
        file_limit=file_limit,
        max_log_bytes=arguments.config.max_log_bytes,
        allocation_end_s=time.monotonic() + arguments.allocation_left,
    )
    parts = _build(arguments, settings, network, reaper, launcher)
    # Without its reaper, a killed worker would leave its attempts running, and nothing would enforce the lease.
    call_when_child_ends(reaper.pid, lambda: parts.shutdown.give_up("its reaper has ended"))
    call_when_child_ends(launcher.pid, _end_without_launcher)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, parts.shutdown.requested.set)
    parts.server.start()
    log_event(_log, "worker.started", worker_id=settings.worker_id, address=network.address, version=versions.VERSION)
    tasks = _start_background(parts)
    await parts.shutdown.requested.wait()
    await _end(parts, reaper, tasks)
    if arguments.identity_file is not None and not parts.shutdown.lost_reason:
        arguments.identity_file.unlink(missing_ok=True)


def _set_up_event_log(arguments: argparse.Namespace) -> None:
    config: ClusterConfig = arguments.config
    directory = arguments.directory.absolute()
    set_up_event_log(
        event_log_file(directory.parent, directory.name),
        level=config.log_level,
        log_format=config.log_format,
        max_bytes=config.event_log_bytes,
        max_files=config.event_log_files,
    )


def _write_identity(arguments: argparse.Namespace, token: str) -> None:
    path = arguments.identity_file
    stamp = stamp_of(path.with_suffix(".lock"))
    own_process, controller_file = identify_process(os.getpid()), str(arguments.controller_file or "")
    Identity(os.getpid(), own_process, arguments.incarnation, token, stamp, controller_file).write(path)


def _open_network(arguments: argparse.Namespace) -> _Network:
    """Read the credentials and certificates, bind the port, and connect to the controller.

    Raises:
        IrisError: An argument is invalid, or the port cannot be bound.
    """
    config: ClusterConfig = arguments.config
    controller_address = parse_address(arguments.controller)
    own_host = partial(own_host_towards, urlsplit(controller_address).hostname or "")
    if arguments.host == "auto":
        arguments.host = own_host()
    given = _credentials(arguments.credentials)
    tls = ServerTls.of_files(config.tls_cert, config.tls_key, config.client_ca, arguments.part)
    check_exposure(arguments.host, tls=tls is not None, insecure=config.insecure_no_tls)
    server_context = None if tls is None else tls.context()
    # A worker may need certificates even if the cluster itself does not use TLS, because a proxy may serve the
    # controller at an https address.
    controller_ca = arguments.ca or config.tls_cert or os.environ.get(CA_VARIABLE, "")
    controller_tls = ClientTls(controller_ca, arguments.part)
    credentials = Credentials.fixed(given.token, "--credentials")
    make_stub = partial(connect, credentials=credentials, tls=controller_tls)
    controller = ControllerConnection(controller_address, arguments.controller_file, make_stub)
    if arguments.advertise:
        # `advertised` refuses an invalid address before the port is bound.
        advertised(arguments.advertise, 1, tls=False)
    listener = bind(arguments.host, arguments.port)
    advertise = arguments.advertise or (own_host() if is_wildcard(arguments.host) else arguments.host)
    address, advertise_host = advertised(advertise, port_of(listener), tls=tls is not None)
    own_env = controller_tls.variables() if controller.address.startswith("https://") else {}
    return _Network(listener, address, advertise_host, server_context, given, credentials, controller, own_env)


def _build(
    arguments: argparse.Namespace, settings: WorkerSettings, network: _Network, reaper: Reaper, launcher: Launcher
) -> _Parts:
    """Build the parts of a worker. Each part may use the parts that were built before."""
    logs = None if arguments.log_directory is None else LogDirectories(arguments.log_directory.absolute())
    directory = WorkerDir(arguments.directory.absolute(), logs)
    clock.keep_ages_in(directory.clock)
    config: ClusterConfig = arguments.config
    controller = network.controller
    registry = AttemptRegistry(settings.worker_id, directory)
    shutdown = Shutdown(settings.worker_id, registry)
    lease = Lease(arguments.lease, reaper.set_deadline)
    streams = AuthenticatedStreams()
    attempt_tokens = AttemptTokens(
        registry.is_running, controller.show, streams, lambda: lease.length_s or DEFAULT_LEASE_S
    )
    token_checker = TokenChecker(
        settings.worker_id,
        network.given.token_key,
        settings.incarnation,
        streams,
        attempt_tokens,
        registry.owner_of_job,
    )
    enforcement = Enforcement(config.enforce, settings.token, config.max_processes)
    registration = _registration(settings, network, enforcement)
    reporter = Reporter(
        controller, registration, lease, registry.discard, shutdown.give_up, network.credentials, token_checker
    )
    log_upload = None
    if logs is None:
        log_upload = LogUpload(controller, settings.worker_id, settings.incarnation, directory)
    worker = Worker(
        settings,
        directory=directory,
        registry=registry,
        shutdown=shutdown,
        controller=controller,
        reaper=reaper,
        launcher=launcher,
        enforcement=enforcement,
        reporter=reporter,
        log_upload=log_upload,
        on_ended=token_checker.attempt_ended,
    )
    keep_log_s = None if log_upload is None else arguments.keep_handed_over
    cleanup = Cleanup(registry, directory, config.keep_logs, keep_log_s)
    metrics = WorkerMetrics(
        registry, lease, arguments.directory.absolute(), lambda: 0 if log_upload is None else log_upload.uploaded_bytes
    )
    application = worker_application(WorkerService(worker), token_checker, metrics.calls)
    counted = LogBytesCounter(application, metrics.calls)
    applications = with_standard_services(counted, token_checker, token_checker, token_checker.streams)
    gate = AuthenticationInterceptor(token_checker, WORKER_RULES)
    applications[METRICS_PATH] = MetricsRoute(metrics.text, gate, WORKER_METRICS_CALL)
    applications |= probes(is_ready=True)
    server = HttpServer(applications, network.listener, tls=network.tls, allow_origins=config.allow_origins)
    return _Parts(worker, shutdown, lease, reporter, log_upload, cleanup, attempt_tokens, server, metrics)


def _registration(
    settings: WorkerSettings, network: _Network, enforcement: Enforcement
) -> cluster_pb2.Controller.RegisterWorkerRequest:
    devices = settings.base_env.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return cluster_pb2.Controller.RegisterWorkerRequest(
        worker_id=settings.worker_id,
        address=network.address,
        metadata=cluster_pb2.WorkerMetadata(
            hostname=socket.gethostname(),
            ip_address=network.advertise_host,
            cpu_count=len(os.sched_getaffinity(0)),
            memory_bytes=total_memory_bytes(),
            disk_bytes=total_disk_bytes(),
            version=versions.VERSION,
            enforcement=enforcement.method,
            has_py_spy=find_py_spy() is not None,
            ptrace_scope=yama_scope(),
        ),
        incarnation=settings.incarnation,
        visible_devices=[word.strip() for word in devices if word.strip()],
        version=versions.VERSION,
        python_version=versions.python_version(),
    )


def _start_background(parts: _Parts) -> list[asyncio.Task[None]]:
    running = [
        parts.reporter.run(),
        _end_with_lease(parts),
        parts.worker.monitor.run(),
        parts.worker.monitor.measure_disks(),
        parts.worker.monitor.measure_gpus(),
        parts.worker.watch_headroom(),
        parts.cleanup.run(),
        parts.attempt_tokens.run(),
        parts.metrics.process.measure_lag(),
    ]
    if parts.log_upload is not None:
        running.append(parts.log_upload.run())
    return [asyncio.create_task(work) for work in running]


async def _end_with_lease(parts: _Parts) -> None:
    await parts.lease.until_expired()
    log_event(_log, "lease.expired", lease_s=parts.lease.length_s)
    length = format_span(parts.lease.length_s)
    parts.shutdown.give_up(f"the worker has not heard from the controller for longer than its lease of {length}")


async def _end(parts: _Parts, reaper: Reaper, tasks: list[asyncio.Task[None]]) -> None:
    """End the attempts, send the reports that the controller still accepts, and close the server."""
    is_lost = bool(parts.shutdown.lost_reason)
    if is_lost:
        _log.warning("this worker ends: %s", parts.shutdown.lost_reason)
        if await parts.worker.until_ended(_KILLED_S):
            # All attempts have ended, so the reaper need not limit the time of the remaining steps.
            reaper.set_deadline(math.inf)
    else:
        await parts.worker.close()
    if parts.log_upload is not None:
        await parts.log_upload.flush(_LAST_UPLOAD_S)
    if not is_lost:
        await parts.reporter.flush(_LAST_REPORT_S)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    await parts.server.close()
    log_event(_log, "worker.ended", error=parts.shutdown.lost_reason)


def _end_without_launcher() -> None:
    """End this process at once because its launcher was killed, and let the reaper kill the attempts. Without the
    launcher, the worker cannot start processes, and does not learn how the running processes end.
    """
    _log.warning("this worker ends: its launcher, which starts tasks, was killed")
    os._exit(1)


def _credentials(path: str) -> WorkerCredentials:
    if path:
        return WorkerCredentials.read(path)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise FailedPreconditionError(
            f"a worker needs a token: give --credentials FILE, or set {TOKEN_VARIABLE}"
            " ('iris token create WORKER_ID --role worker' creates a token)"
        )
    return WorkerCredentials(token)


def worker_application(
    service: WorkerService, token_checker: TokenChecker, tally: CallTally | None = None
) -> ServiceApplication:
    """Return an ASGI application that serves the worker's calls, authenticates and authorises the callers, and counts
    the calls in a tally.
    """
    thread = MessageThread()
    interceptors = (
        ReleaseInterceptor(),
        DetailInterceptor(),
        tally or CallTally(),
        # Authentication comes before all interceptors that need the request, because a call without a token must be
        # refused unread.
        AuthenticationInterceptor(token_checker, WORKER_RULES),
        MessageCoding(thread),
        CallEventInterceptor(),
        AuthorisationInterceptor(token_checker, WORKER_RULES, token_checker, token_checker.streams),
        HeavyCalls({"ListTasks": always}, reading_lane(), thread),
        ErrorInterceptor(),
    )
    application = cluster_connect.WorkerServiceASGIApplication(
        service,
        interceptors=interceptors,
        read_max_bytes=MAX_MESSAGE_BYTES,
        compressions=(RequestGzip(),),
        codecs=CODECS,
    )
    return ServiceApplication(application, thread)
