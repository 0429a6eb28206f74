"""Puts a worker together: its service on a port, its line to the controller, and the ways in which it ends."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from iris import failpoints, versions
from iris.cluster.lease_terms import DEFAULT_LEASE_S, format_span
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.writer import DEFAULT_MAX_LOG_BYTES
from iris.cluster.types import TOKEN_VARIABLE
from iris.cluster.worker.cleanup import DEFAULT_KEEP_HANDED_OVER_S, DEFAULT_KEEP_S, Cleanup
from iris.cluster.worker.controller_link.attempt_tokens import AttemptTokens
from iris.cluster.worker.controller_link.connection import ControllerLine, connect
from iris.cluster.worker.controller_link.log_upload import Handover
from iris.cluster.worker.controller_link.reporter import Reporter
from iris.cluster.worker.controller_link.trust import Trust, WorkerCredentials
from iris.cluster.worker.limits.enforcement import ENFORCE, Enforcement
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.process.launcher import Launcher
from iris.cluster.worker.service import WorkerService
from iris.cluster.worker.supervision.lease import Lease
from iris.cluster.worker.supervision.reaper import Reaper, become_subreaper
from iris.cluster.worker.supervision.worker_identity import Identity, stamp_of
from iris.cluster.worker.worker import Worker
from iris.errors import FailedPreconditionError, InvalidArgumentError, IrisError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.address import advertised, is_wildcard, parse_address
from iris.rpc.auth.authenticate import Gate, Inspector
from iris.rpc.auth.credentials import Credentials
from iris.rpc.auth.permissions import WORKER_RULES
from iris.rpc.http.asgi_server import MAX_MESSAGE_BYTES, HttpServer
from iris.rpc.http.tls import ClientTls, ServerTls, add_tls_arguments, check_exposure
from iris.rpc.serving.codecs import CODECS, MessageCoding, MessageThread
from iris.rpc.serving.error_interceptors import ErrorInterceptor, ReleaseInterceptor
from iris.rpc.serving.heavy_calls import HeavyCalls, always, reading_lane
from iris.system import clock
from iris.system.private_dir import check_private, keep_files_private
from iris.system.process_identity import identify_process
from iris.system.processes import (
    bind,
    descriptors,
    own_host_towards,
    port_of,
    raise_file_limit,
    run_loop,
    use_no_proxy,
    when_child_ends,
    when_parent_ends,
)

_LAST_REPORT_S = 2.0
_LAST_HANDOVER_S = 10.0
_KILLED_S = 5.0


def parse_arguments() -> argparse.Namespace:
    """The worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m iris.cluster.worker", description=__doc__)
    parser.add_argument("--worker-id", required=True, help="what the controller calls this worker")
    parser.add_argument("--incarnation", default="", help="new for each process; made up by default")
    parser.add_argument("--controller", required=True, help="the controller's address")
    parser.add_argument(
        "--controller-file", type=Path, help="where a controller that is started again says its address"
    )
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        default=0.0,
        type=float,
        help="how long to live without a word from the controller, until it says how long; 0: for ever (%(default)s)",
    )
    parser.add_argument(
        "--credentials",
        metavar="FILE",
        default="",
        help='JSON: "token" of this worker, and "token_key", the public key of the cluster in hex; may be /dev/fd/N.'
        " Default: the token in IRIS_TOKEN, and the key that the controller tells",
    )
    parser.add_argument("--directory", required=True, type=Path, help="where attempts and their logs lie")
    parser.add_argument(
        "--log-directory",
        type=Path,
        help="where logs lie instead: a directory of the controller's; default: handed over to it",
    )
    parser.add_argument(
        "--max-log-bytes",
        default=DEFAULT_MAX_LOG_BYTES,
        type=int,
        help="what is kept of each attempt's log, where its job does not say it (%(default)s)",
    )
    parser.add_argument(
        "--keep-attempts",
        metavar="SECONDS",
        default=DEFAULT_KEEP_S,
        type=float,
        help="how long what an attempt leaves stays on the disk; inf: for ever (%(default)s)",
    )
    parser.add_argument(
        "--keep-handed-over",
        metavar="SECONDS",
        default=DEFAULT_KEEP_HANDED_OVER_S,
        type=float,
        help="how long a log does that the controller has too (%(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to bind to; 'auto': the one by which this machine calls the controller (%(default)s)",
    )
    parser.add_argument(
        "--advertise",
        metavar="ADDRESS",
        default="",
        help="where others reach it: HOST; HOST:PORT, where a port is forwarded; or a URL; default: --host, or the"
        " address by which this machine calls the controller, where --host is all of them",
    )
    parser.add_argument("--port", default=0, type=int, help="default: any free one")
    add_tls_arguments(parser)
    parser.add_argument(
        "--ca",
        metavar="FILE",
        default="",
        help="by which the controller is known, if it speaks TLS; default: --tls-cert",
    )
    parser.add_argument("--task-file-limit", type=int, help="how many files a task may open; default: as this worker")
    parser.add_argument(
        "--task-max-processes",
        metavar="N",
        type=int,
        help="how many processes and threads a task may have; 0: any number; default: half of what this worker may",
    )
    parser.add_argument(
        "--enforce",
        default="auto",
        choices=ENFORCE,
        help="what keeps tasks to their limits: 'auto': cgroups where possible, else 'watch', this worker, which looks"
        " at them; 'none': nothing (%(default)s)",
    )
    parser.add_argument("--identity-file", type=Path, help="where to say which process this is, for as long as it runs")
    parser.add_argument("--parent-pid", type=int, help="end when this process, our parent, is gone")
    return parser.parse_args()


def run(token: str, reaper: Reaper, launcher: Launcher) -> None:
    """Runs a worker until SIGTERM or the end of its parent."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    become_subreaper()
    keep_files_private()  # tasks keep the umask: their launcher was forked before
    run_loop(_serve(arguments, token, reaper, launcher))


async def _serve(arguments: argparse.Namespace, token: str, reaper: Reaper, launcher: Launcher) -> None:
    # 0. Nothing is made on disk for a parent that is gone.
    if arguments.parent_pid:
        when_parent_ends(arguments.parent_pid, lambda: os._exit(1))  # the reaper ends what runs
    if arguments.identity_file is not None:
        own = Identity(
            os.getpid(),
            identify_process(os.getpid()),
            arguments.incarnation or token,
            token,
            stamp_of(arguments.identity_file.with_suffix(".lock")),
        )
        own.write(arguments.identity_file)  # before anything can run that somebody would have to know of
    # 1. What tasks inherit, before we change our own: calls between the parts never take a proxy.
    base_env = dict(os.environ)
    for name in (failpoints.VARIABLE, clock.VARIABLE):
        base_env.pop(name, None)
    file_limit = arguments.task_file_limit or descriptors()
    raise_file_limit()
    use_no_proxy()
    try:
        for name in ("lease", "task_max_processes"):
            number = getattr(arguments, name)
            if number is not None and not number >= 0:
                raise InvalidArgumentError(f"--{name.replace('_', '-')} {number}: expected a number from 0")
        controller_address = parse_address(arguments.controller)
        own_host = partial(own_host_towards, urlsplit(controller_address).hostname or "")
        if arguments.host == "auto":
            arguments.host = own_host()
        given = _credentials(arguments.credentials)
        tls = ServerTls.given(arguments)
        check_exposure(arguments.host, tls=tls is not None, insecure=arguments.insecure_no_tls)
        server_context = None if tls is None else tls.context()
        controller_tls = ClientTls(arguments.ca or arguments.tls_cert, arguments.part)
        credentials = Credentials.fixed(given.token, "--credentials")
        controller = ControllerLine(
            controller_address,
            arguments.controller_file,
            partial(connect, credentials=credentials, tls=controller_tls),
        )
        if arguments.advertise:
            advertised(arguments.advertise, 1, tls=False)  # what cannot be meant is said first
        listener = bind(arguments.host, arguments.port)
        advertise = arguments.advertise or (own_host() if is_wildcard(arguments.host) else arguments.host)
        address, advertise_host = advertised(advertise, port_of(listener), tls=tls is not None)
        if arguments.directory.exists():
            check_private(arguments.directory)  # the code of tasks lies there
    except IrisError as error:
        sys.exit(f"iris: {error}")
    trust = Trust(arguments.worker_id, given.token_key, arguments.incarnation or token)
    lease = Lease(arguments.lease, reaper.set_deadline)
    # 2. The worker, behind its door.
    logs = None if arguments.log_directory is None else LogDirectories(arguments.log_directory.absolute())
    directory = WorkerDir(arguments.directory.absolute(), logs)
    clock.keep_ages_in(directory.clock)
    worker = Worker(
        worker_id=arguments.worker_id,
        token=token,
        incarnation=arguments.incarnation or token,
        directory=directory,
        bind_host=arguments.host,
        advertise_host=advertise_host,
        controller=controller,
        base_env=base_env,
        own_env=controller_tls.variables() if controller.address.startswith("https://") else {},
        file_limit=file_limit,
        reaper=reaper,
        launcher=launcher,
        enforcement=Enforcement(arguments.enforce, token, arguments.task_max_processes),
        max_log_bytes=arguments.max_log_bytes,
        on_ended=trust.attempt_ended,
    )
    attempt_tokens = AttemptTokens(
        worker.goes_on, controller.show, trust.doors, lambda: lease.length_s or DEFAULT_LEASE_S
    )
    trust.ask_about_attempts(attempt_tokens)
    application = worker_application(WorkerService(worker), trust)
    server = HttpServer({application.path: application}, listener, tls=server_context)
    # 3. Its lines to the controller. The port is bound already, so whoever learns of the address can call.
    registration = cluster_pb2.Controller.RegisterWorkerRequest(
        worker_id=arguments.worker_id,
        address=address,
        metadata=_metadata(advertise_host),
        incarnation=arguments.incarnation or token,
        visible_devices=[word.strip() for word in base_env.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()],
        version=versions.VERSION,
        python_version=versions.python_version(),
    )
    stop = asyncio.Event()
    given_up: list[str] = []

    def give_up(why: str) -> None:
        worker.kill_all(f"worker {arguments.worker_id} was lost: {why}")  # before anything else
        given_up.append(why)
        stop.set()

    async def end_with_lease() -> None:
        await lease.until_over()
        give_up(f"it has not heard from the controller for longer than its lease of {format_span(lease.length_s)}")

    worker.reporter = reporter = Reporter(
        controller,
        registration,
        lease,
        worker.discard,
        give_up,
        credentials,
        trust,
    )
    handover = None
    if logs is None:
        worker.handover = handover = Handover(controller, registration.worker_id, registration.incarnation, directory)
    keep_log_s = None if handover is None else arguments.keep_handed_over
    cleanup = Cleanup(worker, directory, arguments.keep_attempts, keep_log_s)
    # Nobody would end what runs if we were killed, or hold us to our lease: better that all of it is tried elsewhere.
    when_child_ends(reaper.pid, lambda: give_up("its reaper has ended"))
    when_child_ends(launcher.pid, _end_without_launcher)
    # 4. Serve until told to end; then end what runs, say so if anybody listens, and go.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server.start()
    running = [
        reporter.run(),
        end_with_lease(),
        worker.watch_attempts(),
        worker.measure_disks(),
        worker.watch_room(),
        cleanup.run(),
        attempt_tokens.run(),
        *([handover.run()] if handover else []),
    ]
    tasks = [asyncio.create_task(work) for work in running]
    await stop.wait()
    if given_up:
        logging.warning("this worker ends: %s", given_up[0])
        if await worker.until_ended(_KILLED_S):
            reaper.set_deadline(math.inf)  # nothing runs, and nothing will: what is left may take its time
    else:
        await worker.close()
    if handover is not None:
        await handover.flush(_LAST_HANDOVER_S)
    if not given_up:
        await reporter.flush(_LAST_REPORT_S)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    await server.close()
    if arguments.identity_file is not None and not given_up:
        arguments.identity_file.unlink(missing_ok=True)


def _end_without_launcher() -> None:
    """Ends this worker as a SIGKILL would, and its reaper ends what it runs: nothing can be started any more, and how
    the main processes of tasks end went with their parent."""
    logging.warning("this worker ends: its launcher, which starts tasks, was killed")
    os._exit(1)


def _credentials(path: str) -> WorkerCredentials:
    if path:
        return WorkerCredentials.read(path)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise FailedPreconditionError(
            f"a worker needs a token: --credentials FILE, or {TOKEN_VARIABLE}"
            " ('iris token create WORKER_ID --role worker' makes one)"
        )
    return WorkerCredentials(token)


def worker_application(service: WorkerService, trust: Trust) -> cluster_connect.WorkerServiceASGIApplication:
    """The worker's calls as an ASGI application, for those whom it trusts."""
    thread = MessageThread()
    interceptors = (
        ReleaseInterceptor(),
        Gate(trust, WORKER_RULES),
        MessageCoding(thread),
        Inspector(trust, WORKER_RULES, trust, trust.doors),
        HeavyCalls({"ListTasks": always}, reading_lane(), thread),
        ErrorInterceptor(),
    )
    return cluster_connect.WorkerServiceASGIApplication(
        service, interceptors=interceptors, read_max_bytes=MAX_MESSAGE_BYTES, compressions=(), codecs=CODECS
    )


def _metadata(host: str) -> cluster_pb2.WorkerMetadata:
    return cluster_pb2.WorkerMetadata(
        hostname=socket.gethostname(),
        ip_address=host,
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=psutil.disk_usage("/").total,
    )
