"""Assembles the controller's calls and their interceptors into an ASGI application."""

from __future__ import annotations

from typing import Any

from iris.cluster.controller.api.service import ControllerService, heavy_calls
from iris.cluster.controller.controller import Controller
from iris.cluster.controller.metrics.targets import MetricsApplication, WorkerTargets
from iris.cluster.controller.plain_http.route import PATH, PlainHttp
from iris.cluster.controller.tracing.call_spans import CallSpans
from iris.rpc.auth.authenticate import AuthenticationInterceptor, AuthorisationInterceptor
from iris.rpc.auth.permissions import CONTROLLER_METRICS_CALL, CONTROLLER_RULES
from iris.rpc.auth.web_session_route import PATH as SESSION_PATH
from iris.rpc.auth.web_session_route import WebSessionRoute
from iris.rpc.cluster_connect import ControllerServiceASGIApplication
from iris.rpc.http.server.asgi_server import MAX_MESSAGE_BYTES
from iris.rpc.monitoring.call_tally import LogBytesCounter
from iris.rpc.monitoring.loopback_host import LoopbackHosts
from iris.rpc.monitoring.metrics_route import METRICS_PATH, MetricsRoute
from iris.rpc.monitoring.probes import probes
from iris.rpc.serving.call_events import CallEventInterceptor
from iris.rpc.serving.codecs import CODECS, MessageCoding, MessageThread
from iris.rpc.serving.error_interceptors import DetailInterceptor, ErrorInterceptor, ReleaseInterceptor
from iris.rpc.serving.heavy_calls import HeavyCalls
from iris.rpc.serving.request_compression import RequestGzip
from iris.rpc.serving.service_application import ServiceApplication
from iris.rpc.standard.applications import with_standard_services


def controller_applications(service: ControllerService) -> dict[str, Any]:
    """Return everything that the controller serves, apart from the web page, as ASGI applications by path: its calls,
    the standard services, the log route, the calls in web sessions, the metrics and the probes.
    """
    controller = service.controller
    authority = controller.authority
    plain_http = PlainHttp(
        service,
        AuthenticationInterceptor(authority, CONTROLLER_RULES),
        AuthorisationInterceptor(authority, CONTROLLER_RULES, controller, authority.streams),
    )
    tally = controller.metrics.calls
    log_route = LogBytesCounter(plain_http, tally, f"GET {PATH}/jobs/JOB/logs")
    controller_calls = LogBytesCounter(controller_application(service), tally)
    calls = with_standard_services(controller_calls, authority, controller, authority.streams)
    page_calls: dict[str, Any] = {controller_calls.path: controller_calls, PATH: log_route}
    sessions = WebSessionRoute(page_calls, frozenset({PATH}), authority)
    return {
        **calls,
        PATH: log_route,
        SESSION_PATH: sessions,
        METRICS_PATH: _metrics_route(service),
        **probes(is_ready=True),
    }


def _metrics_route(service: ControllerService) -> MetricsApplication:
    controller = service.controller
    gate = AuthenticationInterceptor(controller.authority, CONTROLLER_RULES)
    metrics = MetricsRoute(controller.metrics.text, gate, CONTROLLER_METRICS_CALL)
    return MetricsApplication(metrics, WorkerTargets(controller.fleet, gate, CONTROLLER_METRICS_CALL))


def loopback_applications(service: ControllerService) -> dict[str, Any]:
    """Return the ASGI applications on the port of `--metrics-port`, by path. Their requests need no token."""
    controller = service.controller
    metrics = MetricsRoute(controller.metrics.text)
    targets = WorkerTargets(controller.fleet)
    return {METRICS_PATH: LoopbackHosts(MetricsApplication(metrics, targets)), **probes(is_ready=True)}


def _call_spans(controller: Controller) -> list[CallSpans]:
    traces = controller.events.traces
    return [] if traces is None else [CallSpans(traces.pending)]


def controller_application(service: ControllerService) -> ServiceApplication:
    """Return the controller's calls as an ASGI application, for any server that speaks HTTP."""
    controller = service.controller
    authority = controller.authority
    gate = AuthenticationInterceptor(authority, CONTROLLER_RULES)
    inspector = AuthorisationInterceptor(authority, CONTROLLER_RULES, controller, authority.streams)
    thread = MessageThread()
    heavy = HeavyCalls(heavy_calls(controller), controller.slices.lane, thread)
    application = ControllerServiceASGIApplication(
        service,
        interceptors=(
            ReleaseInterceptor(),
            DetailInterceptor(),
            controller.metrics.calls,
            *_call_spans(controller),
            # A caller is authenticated before its request is decoded. Therefore a request without a token is refused
            # unread.
            gate,
            MessageCoding(thread),
            CallEventInterceptor(),
            inspector,
            heavy,
            ErrorInterceptor(),
        ),
        read_max_bytes=MAX_MESSAGE_BYTES,
        compressions=(RequestGzip(),),
        codecs=CODECS,
    )
    return ServiceApplication(application, thread)
