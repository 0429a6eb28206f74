"""Serves the reflection services of gRPC, from which tools such as `buf curl` and grpcurl learn a server's schema.

A call of the reflection service needs a token, and every role may make the call. The library that answers these calls
takes about a tenth of a second to load. Therefore the first call loads the library, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.rpc.auth.authenticate import (
    AuthenticatedStreams,
    AuthenticationInterceptor,
    AuthorisationInterceptor,
    TokenChecker,
)
from iris.rpc.auth.caller import ADMIN, CONTROLLER, READER, TASK, USER, WORKER, caller
from iris.rpc.auth.permissions import ANY, Facts, Rules
from iris.rpc.error_details import to_connect_error
from iris.rpc.serving.error_interceptors import DetailInterceptor, ReleaseInterceptor
from iris.rpc.serving.open_streams import OpenStreams
from iris.rpc.standard.health import HEALTH_FILE

_RULES: Rules = {
    "ServerReflectionInfo": dict.fromkeys((ADMIN, USER, READER, WORKER, TASK, CONTROLLER), ANY),
}
_STREAMS_OF_CALLER = 16
# The largest size of a request in bytes. A request contains only the name of a file or a symbol.
_MAX_BYTES = 64 * 1024


class ReflectionApplication:
    """An ASGI application that serves one version of the reflection service.

    Args:
        version: `v1`, or `v1alpha` for older tools.
        service: The name of the service whose schema is described.
        checker: The object that checks the tokens of callers.
        facts: The object that looks up facts about jobs and endpoints for the checks of permissions.
        streams: The object that keeps track of the open streams of the server and their callers.
    """

    def __init__(
        self, version: str, service: str, checker: TokenChecker, facts: Facts, streams: AuthenticatedStreams
    ) -> None:
        self.path = f"/grpc.reflection.{version}.ServerReflection"
        self._version = version
        self._service = service
        self._interceptors = (
            ReleaseInterceptor(),
            DetailInterceptor(),
            AuthenticationInterceptor(checker, _RULES),
            AuthorisationInterceptor(checker, _RULES, facts, streams),
            _StreamLimit(),
        )
        self._loading = asyncio.Lock()
        self._application: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a call."""
        async with self._loading:
            if self._application is None:
                self._application = await asyncio.to_thread(self._load)
        await self._application(scope, receive, send)

    def _load(self) -> Any:
        import connectrpc_grpcreflect as library
        from protobuf.wkt import FileDescriptorProto as File
        from protobuf.wkt import FileDescriptorSet

        files = [_error_info_file().SerializeToString(), HEALTH_FILE.SerializeToString()]
        files.append(cluster_pb2.DESCRIPTOR.serialized_pb)
        schema = FileDescriptorSet(file=[File.from_binary(file) for file in files]).to_registry()
        described = (
            schema.service(self._service),
            schema.file(HEALTH_FILE.name),
            schema.file(_error_info_file().name),
        )
        if self._version == "v1":
            return library.ServerReflectionASGIApplication(
                library.ServerReflectionService(*described),
                interceptors=self._interceptors,
                read_max_bytes=_MAX_BYTES,
                compressions=(),
            )
        return library.ServerReflectionAlphaASGIApplication(
            library.ServerReflectionAlphaService(*described),
            interceptors=self._interceptors,
            read_max_bytes=_MAX_BYTES,
            compressions=(),
        )


class _StreamLimit:
    """An interceptor that limits how many reflection streams a caller may have open."""

    def __init__(self) -> None:
        self._open = OpenStreams(_STREAMS_OF_CALLER, advice="close the connections of tools that use reflection")

    async def intercept_bidi_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], requests: AsyncIterator[Any], ctx: Any
    ) -> AsyncIterator[Any]:
        """Serve a call, unless the caller has reached the limit of reflection streams."""
        messages = self._open.limited(caller().key, call_next(requests, ctx))
        try:
            async for message in messages:
                yield message
        except IrisError as error:
            raise to_connect_error(error) from None
        finally:
            await messages.aclose()


def _error_info_file() -> FileDescriptorProto:
    """Return a descriptor of google/rpc/error_details.proto with `ErrorInfo` alone, so that tools can show error
    details.
    """
    field = FieldDescriptorProto
    file = FileDescriptorProto(name="google/rpc/error_details.proto", package="google.rpc", syntax="proto3")
    info = file.message_type.add(name="ErrorInfo")
    for number, name in enumerate(("reason", "domain"), 1):
        info.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name=name)
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name=name)
    info.field.add(
        name="metadata",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".google.rpc.ErrorInfo.MetadataEntry",
        label=field.LABEL_REPEATED,
        json_name="metadata",
    )
    return file
