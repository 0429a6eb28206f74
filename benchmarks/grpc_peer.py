"""The peer of task_status: the same call with grpcio. Runs in an environment that has grpcio, never in ours.

`grpc_peer.py server TASK_HEX` serves GetTaskStatus from a dict that holds one task (a serialized TaskStatus), and
prints its address. `grpc_peer.py client ADDRESS REQUEST_HEX` reads numbers of calls from stdin, a line each, makes
the calls, and prints their latencies in nanoseconds as a line of JSON. Both end when their stdin does.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent import futures
from typing import Any

import grpc

from iris.rpc import cluster_pb2

_SERVICE = "iris.cluster.ControllerService"
_METHOD = "GetTaskStatus"
_TIMEOUT_S = 30.0

Request = cluster_pb2.Controller.GetTaskStatusRequest
Response = cluster_pb2.Controller.GetTaskStatusResponse


def serve(task: cluster_pb2.TaskStatus) -> None:
    """Serves one task, as a program written with grpcio's usual, threaded server would."""
    tasks = {(task.job_id, task.task_index): task}

    def get_task_status(request: Request, context: Any) -> Response:
        found = tasks.get((request.job_id, request.task_index))
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such task")
        return Response(task=found)

    handler = grpc.unary_unary_rpc_method_handler(
        get_task_status, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(None).wait()


def call(address: str, request: cluster_pb2.Controller.GetTaskStatusRequest) -> None:
    """Makes as many calls as stdin asks for."""
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(
            f"/{_SERVICE}/{_METHOD}",
            request_serializer=Request.SerializeToString,
            response_deserializer=Response.FromString,
        )
        for line in sys.stdin:
            latencies = []
            for _ in range(int(line)):
                start = time.perf_counter_ns()
                # A new request for each call, as in a program.
                response = method(Request(job_id=request.job_id, task_index=request.task_index), timeout=_TIMEOUT_S)
                latencies.append(time.perf_counter_ns() - start)
                if response.task.task_index != request.task_index:
                    raise RuntimeError("not the task that was asked for")
            print(json.dumps(latencies), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(cluster_pb2.TaskStatus.FromString(bytes.fromhex(sys.argv[2])))
    else:
        call(sys.argv[2], Request.FromString(bytes.fromhex(sys.argv[3])))
