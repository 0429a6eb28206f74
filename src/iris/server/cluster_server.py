"""Starts and stops a whole cluster in this process: the controller, its engine, and the services on one port.

The order of the start is chosen for speed. The engine starts the workers first. While the workers load their program,
which takes some tenths of a second, this process loads the controller. Therefore many imports are inside functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from iris import versions
from iris.cluster.controller.forwarding.exec_calls import ExecPolicy
from iris.cluster.controller.storage import state_dir
from iris.cluster.controller.storage.state_copies import detect_copy, disown_jobs
from iris.cluster.engine.engines import create_engine
from iris.config import ClusterConfig
from iris.errors import FailedPreconditionError, IrisError, LocalClusterError, UnavailableError
from iris.event_log import log_event
from iris.interpreter import resume_collector
from iris.rpc.auth.credentials import KEY_FILE, TOKEN_FILE
from iris.server.listening import Listening, listen
from iris.server.worker_keys import WorkerKeys
from iris.system.clock import keep_ages_in
from iris.system.event_loop import raise_file_limit, use_no_proxy
from iris.system.private_dir import make_private
from iris.system.sockets import port_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iris.cluster.controller.api.service import ControllerService
    from iris.cluster.controller.auth.admin_token import AdminToken
    from iris.cluster.controller.controller import Controller
    from iris.cluster.controller.events.events import Webhook
    from iris.cluster.controller.logs.keeper import Keeping
    from iris.cluster.controller.storage.store import Store
    from iris.cluster.controller.tracing.trace_delivery import SpanSender
    from iris.cluster.engine.base import Engine
    from iris.cluster.worker.supervision.prepared_worker import PreparedWorker
    from iris.rpc.http.server.asgi_server import HttpServer
    from iris.server.loading import Loading

# This file in the state directory contains the configuration of the last start of the server.
CONFIG_FILE = "config.json"
_log = logging.getLogger(__name__)


class ClusterServer:
    """A cluster in this process: a controller with its engine. The object is a context manager that locks the state
    directory.

    Args:
        config: The configuration, with the state directory.
        temporary: Whether to keep jobs in memory only, and to remove the state directory at the end.
        take_over: Whether to continue the jobs of a state directory that was moved or restored. The original cluster
            must not run again.
        has_parent: Whether the server, and therefore its workers, end together with the parent process.
        prepared: Forked processes that become the first workers of the engine `local`.
        on_progress: A function that is called with the progress about every second, if the start takes long. Any thread
            may call the function.
        webhook_secret: The secret of webhooks from the environment. An empty string if the environment has no such
            secret.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        temporary: bool,
        take_over: bool,
        has_parent: bool,
        prepared: Sequence[PreparedWorker] = (),
        on_progress: Callable[[str], None] = lambda text: None,
        webhook_secret: str = "",
    ) -> None:
        assert config.state_dir is not None, "a server needs a state directory"
        self._config = config
        self._directory = config.state_dir
        self._temporary = temporary
        self._take_over = take_over
        self._has_parent = has_parent
        self._prepared = prepared
        self._on_progress = on_progress
        self._webhook_secret = webhook_secret
        self._held = contextlib.ExitStack()
        self._copied: dict[str, Any] | None = None
        self._keys = WorkerKeys(self._unless_temporary(KEY_FILE))
        self._engine: Engine
        self._store: Store
        self._controller: Controller
        self._server: HttpServer
        self._metrics_server: HttpServer | None = None
        self._renewing: asyncio.Task[None]

    def __enter__(self) -> Self:
        if self._temporary:
            make_private(self._directory)
            return self
        self._held.enter_context(state_dir.lock_state_dir(self._directory))
        try:
            keep_ages_in(self._directory / "clock")
            self._detect_copy()
            (self._directory / state_dir.LEFT_FILE).unlink(missing_ok=True)
            _check_engine(self._directory, self._config.engine, self._on_progress)
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def _detect_copy(self) -> None:
        """Check whether the state directory is a copy of another cluster's state directory. A copy starts as a new
        cluster."""
        original = detect_copy(self._directory, take_over=self._take_over)
        if not original:
            return
        from iris.server.loading import Loading

        loading = Loading(self._on_progress)
        with loading.report_from_thread():
            disowned = disown_jobs(self._directory, original, loading.report)
        self._copied = {"original": original, "jobs_not_taken_over": disowned}
        _log.warning(
            "%s is a copy of %s and begins as a new cluster; its %d jobs that had not ended were not taken over",
            self._directory,
            original,
            disowned,
        )

    async def start(self) -> dict[str, Any]:
        """Start the cluster, and return its address, its token, and other facts for the parent process.

        Raises:
            IrisError: The cluster cannot be started. The message contains the reason.
        """
        listening = listen(self._config, self._directory)
        self._engine = self._create_engine(listening)
        raise_file_limit()
        await self._engine.start(listening.address)
        try:
            if not self._temporary:
                (self._directory / state_dir.ENGINE_FILE).write_text(f"{self._config.engine}\n")
                (self._directory / CONFIG_FILE).write_text(f"{self._config.to_json()}\n")
            admin = await self._start_controller(listening)
        except BaseException:
            await self._engine.abandon()
            raise
        unfinished, ended = self._controller.jobs.count()
        self._renewing = asyncio.create_task(admin.renew())
        log_event(
            _log, "server.started", address=listening.address, engine=self._config.engine, version=versions.VERSION
        )
        return {
            "address": listening.address,
            "port": listening.port,
            "pid": os.getpid(),
            "token": admin.secret,
            "found": {"jobs_going_on": unfinished, "jobs_ended": ended, "workers_running": self._engine.adopted},
            "copied": self._copied,
            "metrics_port": None if listening.metrics_socket is None else port_of(listening.metrics_socket),
        }

    def _create_engine(self, listening: Listening) -> Engine:
        options = ["--config", self._config.worker_json()]
        if listening.tls is not None and listening.tls.part:
            options += ["--part", listening.tls.part]
        return create_engine(
            self._config,
            self._directory,
            advertise_host=listening.advertise_host,
            standing=not self._temporary and not self._has_parent,
            worker_options=options,
            credentials=self._keys.credentials,
            queued_credentials=self._keys.queued_credentials,
            prepared=self._prepared,
        )

    async def _start_controller(self, listening: Listening) -> AdminToken:
        """Load the controller, which continues the stored jobs, and begin to serve. If loading takes long, the server
        already accepts connections, and answers that it is loading.
        """
        from iris.rpc.http.server.asgi_server import HttpServer
        from iris.server.application import controller_applications, loopback_applications
        from iris.server.loading import Loading, loading_applications, loopback_loading_applications
        from iris.web.page import page_applications

        loading = Loading(self._on_progress)
        tls = listening.tls
        self._server = HttpServer(
            loading_applications(loading),
            listening.socket,
            tls=None if tls is None else tls.context(),
            allow_origins=self._config.allow_origins,
            files=page_applications(),
        )
        servers = [self._server]
        if listening.metrics_socket is not None:
            self._metrics_server = HttpServer(loopback_loading_applications(loading), listening.metrics_socket)
            servers.append(self._metrics_server)
        async with loading.serve_if_slow(servers):
            service, admin = await self._load_controller(listening, loading)
        self._server.serve_instead(controller_applications(service))
        if self._metrics_server is not None:
            self._metrics_server.serve_instead(loopback_applications(service))
        return admin

    async def _load_controller(self, listening: Listening, loading: Loading) -> tuple[ControllerService, AdminToken]:
        from iris.cluster.controller.api.service import ControllerService
        from iris.cluster.controller.auth.admin_token import AdminToken
        from iris.cluster.controller.auth.web_sessions import SESSIONS_FILE, WebSessions
        from iris.cluster.controller.controller import Controller
        from iris.cluster.controller.events.events import EventSettings
        from iris.cluster.controller.removal.job_removal import JobRetention
        from iris.cluster.controller.storage.store import Store
        from iris.cluster.controller.submission.headroom import Headroom
        from iris.cluster.controller.submission.quotas import Quota
        from iris.rpc.auth.tokens import issuer_of
        from iris.rpc.http.client.async_client_transport import http_client

        resume_collector()  # All modules are loaded now.

        config, tls = self._config, listening.tls
        path = self._unless_temporary("controller.db")
        self._store = await asyncio.to_thread(Store, path, progress=loading.report)
        keeping = await _keeping(config, self._directory)
        webhooks = self._webhooks()
        # Only this process loses its proxy settings. The running workers keep theirs, because tasks may need them.
        use_no_proxy()
        quota = Quota(config.max_jobs_per_user, config.max_tasks_per_user, config.max_streams_per_user)
        self._controller = Controller(
            self._engine,
            self._store,
            listening.address,
            keeping,
            config.lease,
            Headroom(None if self._temporary else self._directory),
            quota,
            key=self._keys.key,
            # The workers have the same TLS settings as this server. The scheme of the advertised address does not tell
            # whether they use TLS, because a proxy may end TLS in front of the controller only.
            http_client=http_client(None if tls is None else tls.for_parts()),
            job_retention=JobRetention(
                None if math.isinf(config.keep_jobs) else round(config.keep_jobs * 1000),
                None if math.isinf(config.keep_jobs_count) else round(config.keep_jobs_count),
            ),
            max_bytes_per_user=None if math.isinf(config.max_bytes_per_user) else round(config.max_bytes_per_user),
            watch_hang_s=0 if math.isinf(config.watch_hang) else math.ceil(config.watch_hang),
            web_sessions=WebSessions(self._unless_temporary(SESSIONS_FILE), issuer_of(self._keys.key.public)),
            metrics_per_job=config.metrics_per_job,
            events=EventSettings(config.keep_events, webhooks, self._span_sender()),
        )
        admin = AdminToken(self._controller.authority, self._unless_temporary(TOKEN_FILE))
        await self._controller.start()
        # The token of the admin is stored in the database before it is given to anyone.
        await self._controller.saver.settled()
        execs = ExecPolicy(is_allowed=not config.no_exec, idle_s=config.exec_idle, limit_s=config.exec_limit)
        return ControllerService(self._controller, quota, forwards=not config.no_forward, execs=execs), admin

    def _span_sender(self) -> SpanSender | None:
        """Return the object that sends spans to a collector. Return None if neither the configuration nor the
        environment names a collector."""
        from iris.cluster.controller.tracing.collector_settings import ENDPOINT_VARIABLES
        from iris.cluster.controller.tracing.otlp import OtlpSender, has_otel

        named = [name for name in ENDPOINT_VARIABLES if os.environ.get(name)]
        if self._config.otlp_endpoint:
            return OtlpSender(self._config.otlp_endpoint)
        if named and not has_otel():
            _log.warning("%s is set, but the extra [otel] is not installed: no traces are sent", named[0])
        return OtlpSender("") if named and has_otel() else None

    def _webhooks(self) -> list[Webhook]:
        """Return the webhooks, each with the proxy that the environment names for it. This method must be called before
        the server removes the proxies from its environment."""
        if not self._config.webhooks:
            return []
        from iris.cluster.controller.events.webhooks.delivery import WebhookSettings
        from iris.cluster.controller.events.webhooks.secret import SECRET_FILE, find_secret
        from iris.rpc.http.client.proxies import find_proxy

        own_file = self._unless_temporary(SECRET_FILE)
        secret = find_secret(self._config.webhook_secret_file, self._webhook_secret, own_file)
        return [
            (WebhookSettings(one.url, one.events or self._config.webhook_events, secret), find_proxy(one.url))
            for one in self._config.webhooks
        ]

    async def stop(self) -> None:
        """Stop the cluster: stop placing tasks, wait until workers have ended their tasks, and close the port."""
        self._renewing.cancel()
        await self._controller.stop()
        try:
            await self._engine.close()
        except UnavailableError as error:
            _log.warning("%s; attempts that still run there end with their lease", error)
            if not self._temporary:
                # Errors are ignored here, because the server must end even if the disk is full.
                with contextlib.suppress(OSError):
                    (self._directory / state_dir.LEFT_FILE).write_text(str(error))
        await self._server.close()
        if self._metrics_server is not None:
            await self._metrics_server.close()
        await self._controller.close()
        self._store.close()
        log_event(_log, "server.ended")
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _unless_temporary(self, name: str) -> Path | None:
        return None if self._temporary else self._directory / name


def _check_engine(directory: Path, engine: str, on_progress: Callable[[str], None]) -> None:
    """Refuse an engine other than the one to which the unfinished jobs were submitted.

    The server refuses to start with a new engine while jobs of the earlier engine are unfinished, because the new
    engine might have no machine for these jobs. The new engine also does not know the running attempts of these jobs,
    and could not end the attempts.

    Raises:
        FailedPreconditionError: Jobs of another engine have not ended.
    """
    file = directory / state_dir.ENGINE_FILE
    before = file.read_text().strip() if file.exists() else engine
    if before == engine:
        return
    from iris.cluster.controller.storage.store import Store
    from iris.server.loading import Loading

    loading = Loading(on_progress)
    with loading.report_from_thread():
        store = Store(directory / "controller.db", progress=loading.report)
        unfinished = [stored.job_id for stored in store.load_unfinished()]
        store.close()
    if unfinished:
        some = ", ".join(unfinished[:3]) + ", …" * (len(unfinished) > 3)
        raise FailedPreconditionError(
            f"the state directory {directory} contains unfinished jobs ({some}) of --engine {before}:"
            f" give --engine {before}, or another directory with --state-dir"
        )


async def _keeping(config: ClusterConfig, directory: Path) -> Keeping:
    """Return the settings for stored logs and outputs: their directories, limits and remote location.

    Raises:
        LocalClusterError: The log location cannot be used.
    """
    from iris.cluster.controller.logs.keeper import Keeping
    from iris.cluster.controller.logs.remote_store import LogLocation
    from iris.cluster.controller.logs.removal.retention import Retention
    from iris.cluster.controller.outputs.output_store import OutputKeeping
    from iris.cluster.logs.directories import LogDirectories

    location = None
    try:
        if config.log_location:
            location = LogLocation(config.log_location)
            await asyncio.to_thread(location.check)
    except IrisError as error:
        raise LocalClusterError(f"--log-location: {error}") from error
    keep_ms = None if math.isinf(config.keep_logs) else round(config.keep_logs * 1000)
    return Keeping(
        LogDirectories(directory / "logs"),
        Retention(keep_ms, _limit(config.keep_log_bytes)),
        location,
        config.max_log_bytes,
        outputs=OutputKeeping(
            directory / "outputs",
            _limit(config.max_output_bytes),
            _limit(config.max_stored_output_bytes),
            keep_ms,
        ),
    )


def _limit(value: float) -> int | None:
    return None if math.isinf(value) else round(value)
