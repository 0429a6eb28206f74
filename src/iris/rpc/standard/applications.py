"""Lists the standard services of a server as ASGI applications."""

from __future__ import annotations

from typing import Any

from iris.rpc.auth.authenticate import AuthenticatedStreams, TokenChecker
from iris.rpc.auth.permissions import Facts
from iris.rpc.serving.codecs import MessageThread
from iris.rpc.serving.service_application import ServiceApplication
from iris.rpc.standard.health import HealthApplication
from iris.rpc.standard.reflection import ReflectionApplication


def with_standard_services(
    application: Any, checker: TokenChecker, facts: Facts, streams: AuthenticatedStreams
) -> dict[str, Any]:
    """Return the application of a server and its standard services, by path.

    Args:
        application: The application with the server's own calls.
        checker: The object that checks the tokens of callers.
        facts: The object that looks up facts about jobs and endpoints for the checks of permissions.
        streams: The object that keeps track of the open streams of the server and their callers.
    """
    service = application.path.removeprefix("/")
    standard = [
        HealthApplication(service),
        *(ReflectionApplication(version, service, checker, facts, streams) for version in ("v1", "v1alpha")),
    ]
    thread = MessageThread()
    return {one.path: one for one in (application, *(ServiceApplication(each, thread) for each in standard))}
