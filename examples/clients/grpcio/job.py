"""Submits a job with grpcio, follows its log, and says how it ended.

    python job.py COMMAND...

`IRIS_CONTROLLER_ADDRESS` (`http://…` or `https://…`) and `IRIS_TOKEN` name the cluster. The messages come from the
package iris-cluster, or from `protoc --proto_path=schema --python_out=. iris/rpc/cluster.proto`.
"""

from __future__ import annotations

import os
import struct
import sys
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc

from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import Controller

SERVICE = "/iris.cluster.ControllerService/"
TOKEN = (("authorization", f"Bearer {os.environ.get('IRIS_TOKEN', '')}"),)
HEADER_BYTES, GAP = 25, 0x10


def unary(channel: grpc.Channel, name: str, request: Any, answer: Any) -> Any:
    """Make a call with one answer."""
    method = channel.unary_unary(SERVICE + name, type(request).SerializeToString, answer.FromString)
    return method(request, metadata=TOKEN, timeout=30)


def stream(channel: grpc.Channel, name: str, request: Any, answer: Any) -> Iterator[Any]:
    """Make a call whose answer is a stream. The call has no timeout, because a job may take any time."""
    method = channel.unary_stream(SERVICE + name, type(request).SerializeToString, answer.FromString)
    yield from method(request, metadata=TOKEN)


def read_records(records: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the payload of each record. cluster.proto describes the format."""
    at = 0
    while at < len(records):
        end = at + HEADER_BYTES + (struct.unpack_from("<I", records, at)[0] & 0xFFFFFF)
        yield records[at + HEADER_BYTES - 1], records[at + HEADER_BYTES : end]
        at = end


def run(channel: grpc.Channel, command: list[str]) -> int:
    """Run a job, and return an exit code."""
    launch = Controller.LaunchJobRequest(name=f"grpcio-{uuid.uuid4()}", command=command)
    job_id = unary(channel, "LaunchJob", launch, Controller.LaunchJobResponse).job_id
    print(f"submitted {job_id}", file=sys.stderr, flush=True)

    follow = cluster_pb2.StreamTaskLogsRequest(job_id=job_id, follow=True)
    for message in stream(channel, "StreamTaskLogs", follow, cluster_pb2.StreamTaskLogsResponse):
        for chunk in message.chunks:
            for kind, payload in read_records(chunk.records):
                if kind & GAP:
                    print(f"[a part of the log is missing: {payload[8:].decode()}]", file=sys.stderr)
                    continue
                output = sys.stdout if kind == 0 else sys.stderr
                output.buffer.write(payload)
                output.flush()
            if chunk.error:
                print(f"[the log cannot be read: {chunk.error}]", file=sys.stderr)

    watch = Controller.WatchJobRequest(job_id=job_id)
    for _ in stream(channel, "WatchJob", watch, Controller.WatchJobResponse):
        pass  # The stream ends when the job's state is final.
    status = Controller.GetJobStatusRequest(job_id=job_id)
    job = unary(channel, "GetJobStatus", status, Controller.GetJobStatusResponse).job
    error = f": {job.error}" if job.error else ""
    print(f"{job_id} ended {cluster_pb2.JobState.Name(job.state)}{error}", file=sys.stderr)
    return 0 if job.state == cluster_pb2.JOB_STATE_SUCCEEDED else 1


def main() -> int:
    """Connect to the cluster, and run the command of the command line as a job."""
    address = urlsplit(os.environ["IRIS_CONTROLLER_ADDRESS"])
    channel = (
        grpc.secure_channel(address.netloc, grpc.ssl_channel_credentials())
        if address.scheme == "https"
        else grpc.insecure_channel(address.netloc)
    )
    try:
        with channel:
            return run(channel, sys.argv[1:])
    except grpc.RpcError as error:
        print(f"the call failed with code {error.code().name}: {error.details()}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
