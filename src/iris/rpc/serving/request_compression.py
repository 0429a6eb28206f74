"""Decompresses requests that a client has compressed with gzip.

Answers are compressed elsewhere: `service_application.py` compresses the large answers of unary Connect calls, in a
thread. The messages of streams and of gRPC are sent uncompressed.
"""

from __future__ import annotations

from connectrpc.code import Code
from connectrpc.compression import Compression
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError

from iris.reasons import ErrorReason
from iris.rpc.error_details import connect_error

# A request is decompressed on the server's loop, before the token is checked. The limit is gRPC's default size of a
# message. zlib needs some milliseconds for this size.
MAX_DECOMPRESSED_BYTES = 4 * 1024**2


class RequestGzip(Compression):
    """The compression `gzip` of connectrpc, for requests of at most `MAX_DECOMPRESSED_BYTES`."""

    def __init__(self) -> None:
        self._gzip = GzipCompression()

    def name(self) -> str:
        """Return the name that a request has in `content-encoding` or `grpc-encoding`."""
        return self._gzip.name()

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Compress an answer. `ServiceApplication` hides from connectrpc that a client accepts compressed answers, so
        connectrpc does not call this method.
        """
        return self._gzip.compress(data)

    def decompress(self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None) -> bytes:
        """Return the decompressed request.

        Raises:
            ConnectError: (RESOURCE_EXHAUSTED) The request is larger than `MAX_DECOMPRESSED_BYTES`.
        """
        try:
            return self._gzip.decompress(data, MAX_DECOMPRESSED_BYTES)
        except ConnectError as error:
            text = (
                f"a compressed request may contain at most {MAX_DECOMPRESSED_BYTES:,} bytes: send this request"
                " uncompressed"
            )
            raise connect_error(Code.RESOURCE_EXHAUSTED, text, ErrorReason.TOO_LARGE) from error
