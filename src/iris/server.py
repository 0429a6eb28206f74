"""A whole cluster in one program: controller, engine, and the services on one port.

`python -m iris.server` is what `iris up` and `IrisClient.local()` start; nobody needs to do so by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from iris.cluster.controller.storage import state_dir
from iris.cluster.controller.storage.state_copies import detect_copy, disown_jobs
from iris.cluster.engine.engine_options import ENGINES, RAY_ADDRESS, check_engine_options
from iris.cluster.engine.local.engine import LocalEngine
from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.writer import DEFAULT_MAX_LOG_BYTES
from iris.cluster.names import check_label
from iris.cluster.worker.controller_link.trust import WorkerCredentials
from iris.cluster.worker.limits.cgroup import move_into_child_cgroup
from iris.cluster.worker.limits.enforcement import ENFORCE
from iris.errors import (
    FailedPreconditionError,
    IrisError,
    LocalClusterError,
    UnavailableError,
)
from iris.rpc.address import advertised, is_wildcard
from iris.rpc.auth.credentials import KEY_FILE, TOKEN_FILE
from iris.rpc.http.tls import ClientTls, ServerTls, add_tls_arguments, check_exposure
from iris.system.clock import keep_ages_in
from iris.system.event_loop import raise_file_limit, run_loop, use_no_proxy
from iris.system.inherited import use_defaults
from iris.system.private_dir import keep_files_private, make_private
from iris.system.processes import call_when_parent_ends
from iris.system.sockets import bind, own_host_towards, port_of

if TYPE_CHECKING:
    from iris.cluster.controller.api.service import ControllerService
    from iris.cluster.controller.logs.keeper import Keeping
    from iris.cluster.engine.base import Engine
    from iris.rpc.auth.tokens import SigningKey
    from iris.rpc.cluster_connect import ControllerServiceASGIApplication

# Also said in the help of `iris up`.
_KEEP_LOGS_S = 30 * 86400.0
_KEEP_LOG_BYTES = 50e9
_MAX_JOBS = 10_000
_MAX_TASKS = 100_000
_MAX_STREAMS = 2000
_log = logging.getLogger(__name__)


def controller_application(service: ControllerService) -> ControllerServiceASGIApplication:
    """The controller's calls as an ASGI application, for any server that speaks HTTP."""
    from iris.cluster.controller.api.service import heavy_calls
    from iris.rpc.auth.authenticate import Gate, Inspector
    from iris.rpc.auth.permissions import CONTROLLER_RULES
    from iris.rpc.cluster_connect import ControllerServiceASGIApplication
    from iris.rpc.http.asgi_server import MAX_MESSAGE_BYTES
    from iris.rpc.serving.codecs import CODECS, MessageCoding, MessageThread
    from iris.rpc.serving.error_interceptors import ErrorInterceptor, ReleaseInterceptor
    from iris.rpc.serving.heavy_calls import HeavyCalls

    controller = service.controller
    authority = controller.authority
    gate = Gate(authority, CONTROLLER_RULES)
    inspector = Inspector(authority, CONTROLLER_RULES, controller, authority.doors)
    thread = MessageThread()
    heavy = HeavyCalls(heavy_calls(controller), controller.slices.lane, thread)
    return ControllerServiceASGIApplication(
        service,
        interceptors=(ReleaseInterceptor(), gate, MessageCoding(thread), inspector, heavy, ErrorInterceptor()),
        read_max_bytes=MAX_MESSAGE_BYTES,
        compressions=(),
        codecs=CODECS,
    )


def main() -> None:
    """Serves until SIGTERM, or the end of the parent where one is named."""
    use_defaults()
    keep_files_private()
    arguments = _parse_arguments()
    if not sys.platform.startswith("linux"):
        sys.exit("iris: clusters run on Linux; from here, reach one with IrisClient.remote(address)")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    run_loop(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.parent_pid:
        call_when_parent_ends(arguments.parent_pid, stop.set)
    try:
        check_engine_options(vars(arguments))
        with contextlib.ExitStack() as held:
            await _serve_in(arguments.directory.absolute(), arguments, stop, held)
    except IrisError as error:
        _announce(arguments.ready_fd, {"error": str(error)})
        sys.exit(f"iris: {error}")


async def _serve_in(
    directory: Path, arguments: argparse.Namespace, stop: asyncio.Event, held: contextlib.ExitStack
) -> None:
    # 1. The directory is ours, the port bound, the workers are started, or found: their calls wait until we serve.
    original, disowned = "", 0
    if arguments.temporary:
        make_private(directory)
    else:
        held.enter_context(state_dir.lock_state_dir(directory))
        keep_ages_in(directory / "clock")
        original = detect_copy(directory, take_over=arguments.take_over)
        if original:
            disowned = disown_jobs(directory, original)
            _log.warning(
                "%s is a copy of %s and begins as a new cluster; its %d jobs that had not ended were not taken over",
                directory,
                original,
                disowned,
            )
        (directory / state_dir.LEFT_FILE).unlink(missing_ok=True)
        _check_engine(directory, arguments.engine)
    if arguments.enforce == "auto":
        move_into_child_cgroup()
    tls = _tls(arguments, directory)
    context = None if tls is None else tls.context()
    if arguments.advertise:
        advertised(arguments.advertise, 1, tls=False)  # what cannot be meant is said first
    listener = bind(arguments.host, arguments.port)
    address, advertise_host = advertised(_advertised(arguments), port_of(listener), tls=tls is not None)
    keys = _Keys(None if arguments.temporary else directory / KEY_FILE)
    engine = _engine(arguments, directory, advertise_host, tls, keys)
    raise_file_limit()
    await engine.start(address)
    try:
        if not arguments.temporary:
            (directory / state_dir.ENGINE_FILE).write_text(f"{arguments.engine}\n")
        # 2. While they load their program, ours is loaded: both take some tenths of a second.
        from iris.cluster.controller.api.service import ControllerService
        from iris.cluster.controller.auth.admin_token import AdminToken
        from iris.cluster.controller.controller import Controller
        from iris.cluster.controller.storage.store import Store
        from iris.cluster.controller.submission.headroom import Headroom
        from iris.cluster.controller.submission.quotas import Quota
        from iris.rpc.http.asgi_server import HttpServer
        from iris.rpc.http.async_client_transport import http_client

        store = Store(None if arguments.temporary else directory / "controller.db")
        keeping = await _keeping(arguments, directory / "logs")
        use_no_proxy()  # workers have the environment as it was
        headroom = Headroom(None if arguments.temporary else directory)
        quota = Quota(arguments.max_jobs_per_user, arguments.max_tasks_per_user, arguments.max_streams_per_user)
        controller = Controller(
            engine,
            store,
            address,
            keeping,
            arguments.lease,
            headroom,
            quota,
            key=keys.key,
            http_client=http_client(address, ClientTls() if tls is None else tls.for_parts()),
        )
        application = controller_application(ControllerService(controller, quota))
        server = HttpServer({application.path: application}, listener, tls=context)
        admin = AdminToken(controller.authority, None if arguments.temporary else directory / TOKEN_FILE)
        # 3. What is remembered goes on, then everybody is let in.
        await controller.start()
        await controller.saver.settled()  # the token of this cluster's user is in the database before it is announced
    except BaseException:
        await engine.abandon()
        raise
    going_on, ended = controller.jobs.count()
    server.start()
    found = {"jobs_going_on": going_on, "jobs_ended": ended, "workers_running": engine.adopted}
    ready = {
        "address": address,
        "port": port_of(listener),
        "pid": os.getpid(),
        "token": admin.secret,
        "found": found,
        "copied": {"original": original, "jobs_not_taken_over": disowned} if original else None,
    }
    _announce(arguments.ready_fd, ready)
    renewing = asyncio.create_task(admin.renew())
    await stop.wait()
    renewing.cancel()
    # The other way round: nothing new is placed, workers end their tasks and still tell us, then the door is closed.
    await controller.stop()
    try:
        await engine.close()
    except UnavailableError as error:
        _log.warning("%s; what still runs there ends with its lease", error)
        if not arguments.temporary:
            with contextlib.suppress(OSError):  # a full disk is no reason not to end
                (directory / state_dir.LEFT_FILE).write_text(str(error))
    await server.close()
    await controller.close()
    store.close()
    if arguments.temporary:
        shutil.rmtree(directory, ignore_errors=True)


def _check_engine(directory: Path, engine: str) -> None:
    """Jobs stay on the engine that they were submitted to: on another one they might never find room, and what still
    runs for them would not be found.

    Raises:
        FailedPreconditionError: Some have not ended, and this is another engine.
    """
    file = directory / state_dir.ENGINE_FILE
    before = file.read_text().strip() if file.exists() else engine
    if before == engine:
        return
    from iris.cluster.controller.storage.store import Store

    store = Store(directory / "controller.db")
    unfinished = [stored.job.job_id for stored in store.load() if not stored.job.is_finished]
    store.close()
    if unfinished:
        some = ", ".join(unfinished[:3]) + ", …" * (len(unfinished) > 3)
        raise FailedPreconditionError(
            f"{directory} has jobs that have not ended ({some}),"
            f" of a cluster with --engine {before}: start it with that one, or in another directory (--state-dir)"
        )


def _engine(
    arguments: argparse.Namespace, directory: Path, advertise_host: str, tls: ServerTls | None, keys: _Keys
) -> Engine:
    options = (
        *("--max-log-bytes", str(arguments.max_log_bytes)),
        *("--keep-attempts", str(arguments.keep_logs)),
        *("--enforce", arguments.enforce),
        *([] if arguments.max_processes is None else ["--task-max-processes", str(arguments.max_processes)]),
        *(tls.options() if tls is not None else ()),
        *(["--insecure-no-tls"] if arguments.insecure_no_tls else ()),
    )
    if arguments.engine == "local":
        return LocalEngine(
            directory / "workers",
            workers=1 if arguments.workers is None else arguments.workers,
            labels=[dict(arguments.label)],
            host=arguments.host,
            advertise_host=advertise_host,
            standing=not arguments.temporary and not arguments.parent_pid,
            lease_s=arguments.lease,
            log_directory=directory / "logs",
            worker_options=options,
            credentials=keys.of_worker,
        )
    if arguments.engine == "slurm":
        from iris.cluster.engine.slurm.engine import SlurmEngine

        return SlurmEngine(
            directory / "slurm",
            slurm_options=arguments.slurm_option,
            lease_s=arguments.lease,
            worker_options=options,
            credentials=keys.of_queued_worker,
        )
    if arguments.engine == "ray":
        from iris.cluster.engine.ray.engine import RayEngine

        return RayEngine(
            directory / "ray",
            ray_address=arguments.ray_address or RAY_ADDRESS,
            lease_s=arguments.lease,
            worker_options=options,
            credentials=keys.of_worker,
        )
    raise AssertionError(arguments.engine)


def _tls(arguments: argparse.Namespace, directory: Path) -> ServerTls | None:
    """How to serve; with a certificate for the cluster's own parts, where everybody has to show one."""
    tls = ServerTls.given(arguments)
    check_exposure(arguments.host, tls=tls is not None, insecure=arguments.insecure_no_tls)
    if tls is None or not tls.client_ca:
        return tls
    from iris.rpc.auth.client_cert import load_or_make

    return replace(tls, part=str(load_or_make(directory)))


class _Keys:
    """The key of the cluster, and what workers are started with: loaded when it is needed, since that takes a tenth of
    a second, in which workers already load their program. `path`: None keeps it in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._key: SigningKey | None = None

    @property
    def key(self) -> SigningKey:
        from iris.rpc.auth.tokens import SigningKey

        if self._key is None:
            self._key = SigningKey.new() if self._path is None else SigningKey.load_or_make(self._path)
        return self._key

    def of_worker(self, worker_id: str) -> WorkerCredentials:
        from iris.rpc.auth.tokens import worker_token

        return WorkerCredentials(worker_token(self.key, worker_id), self.key.public)

    def of_queued_worker(self, worker_id: str) -> WorkerCredentials:
        """The same, for one that may start days later."""
        from iris.rpc.auth.tokens import QUEUED_WORKER_TTL_S, worker_token

        return WorkerCredentials(worker_token(self.key, worker_id, QUEUED_WORKER_TTL_S), self.key.public)


async def _keeping(arguments: argparse.Namespace, directory: Path) -> Keeping:
    from iris.cluster.controller.logs.keeper import Keeping
    from iris.cluster.controller.logs.remote_store import LogLocation
    from iris.cluster.controller.logs.retention import Retention

    location = None
    try:
        if arguments.log_location:
            location = LogLocation(arguments.log_location)
            await asyncio.to_thread(location.check)
    except IrisError as error:
        raise LocalClusterError(f"--log-location: {error}") from error
    return Keeping(
        LogDirectories(directory),
        Retention(
            None if math.isinf(arguments.keep_logs) else round(arguments.keep_logs * 1000),
            None if math.isinf(arguments.keep_log_bytes) else round(arguments.keep_log_bytes),
        ),
        location,
        arguments.max_log_bytes,
    )


def _advertised(arguments: argparse.Namespace) -> str:
    """Where others reach us: what was given, or what we are bound to, unless that is all."""
    if arguments.advertise or not is_wildcard(arguments.host):
        return str(arguments.advertise or arguments.host)
    # Which of our addresses leads out: these two are reserved for documentation (RFC 5737, RFC 3849).
    with contextlib.suppress(IrisError):
        return own_host_towards("2001:db8::1" if arguments.host == "::" else "192.0.2.1")
    return socket.gethostname()


def _announce(ready_fd: int | None, message: dict[str, object]) -> None:
    if ready_fd is not None:
        os.write(ready_fd, json.dumps(message).encode() + b"\n")
        os.close(ready_fd)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m iris.server", description=__doc__)
    parser.add_argument("--directory", required=True, type=Path, help="where everything is kept")
    parser.add_argument(
        "--temporary", action="store_true", help="keep jobs in memory only, and remove the directory at the end"
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="the directory was moved or restored, and its original will not run again: go on as it",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to bind to (%(default)s)")
    parser.add_argument("--port", default=0, type=int, help="default: any free one")
    parser.add_argument(
        "--advertise",
        metavar="ADDRESS",
        default="",
        help="where others reach it: HOST, HOST:PORT or a URL; default: what it is bound to",
    )
    parser.add_argument("--engine", default="local", choices=ENGINES, help="what gives places to run (%(default)s)")
    parser.add_argument("--slurm-option", default=[], action="append", help="of sbatch, as --partition=gpu")
    parser.add_argument("--label", default=[], type=_label, action="append", help="of this machine, KEY=VALUE")
    parser.add_argument("--workers", type=int, help="how many workers share the machine (1)")
    parser.add_argument("--ray-address", default="", help=f"HOST:PORT of Ray's head, or 'auto' ({RAY_ADDRESS})")
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        default=DEFAULT_LEASE_S,
        type=_lease,
        help="how long a worker may be silent until it is declared lost, from 1 (%(default)s)",
    )
    parser.add_argument("--log-location", default="", help="a URL, as fsspec takes it, where complete logs go")
    parser.add_argument(
        "--keep-logs", default=_KEEP_LOGS_S, type=float, help="for so many seconds; inf: for ever (%(default)s)"
    )
    parser.add_argument(
        "--keep-log-bytes", default=_KEEP_LOG_BYTES, type=float, help="of them on this machine; inf: all (%(default)s)"
    )
    parser.add_argument(
        "--max-log-bytes", default=DEFAULT_MAX_LOG_BYTES, type=int, help="of each attempt's log (%(default)s)"
    )
    parser.add_argument(
        "--enforce", default="auto", choices=ENFORCE, help="what keeps tasks to their limits (%(default)s)"
    )
    parser.add_argument("--max-processes", type=int, help="of each attempt, with threads; 0: any number")
    parser.add_argument("--max-jobs-per-user", default=_MAX_JOBS, type=int, help="that have not ended (%(default)s)")
    parser.add_argument("--max-tasks-per-user", default=_MAX_TASKS, type=int, help="of these jobs (%(default)s)")
    parser.add_argument(
        "--max-streams-per-user", default=_MAX_STREAMS, type=int, help="logs followed, jobs watched (%(default)s)"
    )
    add_tls_arguments(parser)
    parser.add_argument("--parent-pid", type=int, help="end when this process, our parent, is gone")
    parser.add_argument("--ready-fd", type=int, help="where to write one line of JSON: the address, or an error")
    return parser.parse_args()


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    check_label(key, value)
    return key, value


def _lease(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected seconds, from 1")
    return seconds


if __name__ == "__main__":
    main()
