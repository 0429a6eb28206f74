"""The peer of log_reading: lines of a file as a stream with grpcio. Runs in an environment that has grpcio, never in
ours.

`grpc_log_peer.py server FILE` serves the file's lines as LogEntry messages, in batches, and prints its address.
`grpc_log_peer.py client ADDRESS` reads all of them once for each line on its stdin, and prints, as a line of JSON, how
many seconds that took, and how many lines of how many bytes they were. Both end when their stdin does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from iris.rpc import cluster_pb2

_SERVICE = "iris.bench.LogService"
_METHOD = "StreamLogs"
_BATCH_LINES = 500

Request = cluster_pb2.Worker.FetchTaskLogsRequest
Response = cluster_pb2.Worker.FetchTaskLogsResponse


def serve(path: str) -> None:
    """Serves a file of lines, as a program written with grpcio's usual, threaded server would."""

    def stream_logs(request: Request, context: Any) -> Iterator[Response]:
        del request, context
        timestamp_ms = time.time_ns() // 1_000_000
        batch = Response()
        with open(path, "rb") as file:
            for line in file:
                batch.logs.add(timestamp_ms=timestamp_ms, source="stdout", data=line[:-1].decode(errors="replace"))
                if len(batch.logs) == _BATCH_LINES:
                    yield batch
                    batch = Response()
        yield batch

    handler = grpc.unary_stream_rpc_method_handler(
        stream_logs, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(None).wait()


def read(address: str) -> None:
    """Reads the stream as often as stdin has lines."""
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_stream(
            f"/{_SERVICE}/{_METHOD}",
            request_serializer=Request.SerializeToString,
            response_deserializer=Response.FromString,
        )
        for _ in sys.stdin:
            lines = size = 0
            start = time.perf_counter()
            for batch in method(Request(task_id="job/task-0")):
                for entry in batch.logs:
                    lines += 1
                    size += len(entry.data)
            print(json.dumps([time.perf_counter() - start, lines, size]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2])
    else:
        read(sys.argv[2])
