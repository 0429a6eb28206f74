"""Serves the health service of gRPC, with which load balancers and orchestrators check whether a server answers.

`Check` needs no token. Its answer shows only that the server answers and whether it has a service. A caller without a
token can learn both anyway, from the server's error for an unknown path. `Watch` is not offered, because callers
without a token could use it to keep streams open. A client that gets UNIMPLEMENTED from `Watch` treats the server as
healthy, as the protocol demands.

This module defines the messages of the health service in a separate descriptor pool, because the generated module
`grpc.health.v1` belongs to another package, which a program may load beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectrpc.code import Code
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from iris.errors import quoted
from iris.reasons import ErrorReason
from iris.rpc.error_details import connect_error
from iris.rpc.serving.codecs import CODECS
from iris.rpc.serving.error_interceptors import DetailInterceptor, ReleaseInterceptor

_PACKAGE = "grpc.health.v1"
_SERVICE = f"{_PACKAGE}.Health"
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_MAX_BYTES = 4096  # The largest size of a request in bytes. A request contains only the name of a service.


def _health_file() -> FileDescriptorProto:
    """Return the descriptor of grpc/health/v1/health.proto."""
    field = FieldDescriptorProto
    file = FileDescriptorProto(name="grpc/health/v1/health.proto", package=_PACKAGE, syntax="proto3")
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name="service")
    response: DescriptorProto = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(_STATUSES):
        status.value.add(name=name, number=number)
    response.field.add(
        name="status",
        number=1,
        type=field.TYPE_ENUM,
        type_name=f".{_PACKAGE}.HealthCheckResponse.ServingStatus",
        label=field.LABEL_OPTIONAL,
        json_name="status",
    )
    types = {"input_type": f".{_PACKAGE}.HealthCheckRequest", "output_type": f".{_PACKAGE}.HealthCheckResponse"}
    service = file.service.add(name="Health")
    service.method.add(name="Check", options=MethodOptions(idempotency_level=MethodOptions.NO_SIDE_EFFECTS), **types)
    service.method.add(name="Watch", server_streaming=True, **types)
    return file


HEALTH_FILE = _health_file()
_pool = DescriptorPool()
_pool.Add(HEALTH_FILE)
_Request = GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.HealthCheckRequest"))
_Response = GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.HealthCheckResponse"))


class _Health:
    """The implementation of the health service.

    Args:
        services: The names of the services that this server has.
        is_serving: Whether the server is ready for calls. False while the server loads its state.
    """

    def __init__(self, services: frozenset[str], *, is_serving: bool) -> None:
        self._services = services
        self._is_serving = is_serving

    async def check(self, request: Any, ctx: Any) -> Any:
        """Return whether the server, or one of its services, is ready for calls."""
        if not self._is_serving:
            return _Response(status=_STATUSES.index("NOT_SERVING"))
        if request.service and request.service not in self._services:
            text = f"this server has no service {quoted(request.service)}"
            raise connect_error(Code.NOT_FOUND, text, ErrorReason.NOT_FOUND)
        return _Response(status=_STATUSES.index("SERVING"))


def _endpoints(health: _Health) -> Mapping[str, Any]:
    method = MethodInfo(
        name="Check",
        service_name=_SERVICE,
        input=_Request,
        output=_Response,
        # Connect allows a call to be made with GET if the method is marked as free of side effects. A probe can then
        # use plain GET.
        idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS,
        stream_type=StreamType.UNARY,
    )
    return {f"/{_SERVICE}/Check": Endpoint.unary(method=method, function=health.check)}


class HealthApplication(ConnectASGIApplication[_Health]):
    """The health service as an application of connectrpc.

    Args:
        services: The names of the other services of this server.
        is_serving: Whether the server is ready for calls. False while the server loads its state.
    """

    def __init__(self, *services: str, is_serving: bool = True) -> None:
        super().__init__(
            service=_Health(frozenset({_SERVICE, *services}), is_serving=is_serving),
            endpoints=_endpoints,
            interceptors=(ReleaseInterceptor(), DetailInterceptor()),
            read_max_bytes=_MAX_BYTES,
            compressions=(),
            codecs=CODECS,
        )

    @property
    def path(self) -> str:
        """The path of the service."""
        return f"/{_SERVICE}"
