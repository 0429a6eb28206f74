"""The upload of a stream: what is sent again after the worker has lost the parts that it had."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest

from iris.client.files.copied import Copied, Progress
from iris.client.files.upload import upload
from iris.cluster.client.operations.files import AttemptRoute
from iris.cluster.client.operations.steps import Operation, Work
from iris.errors import DataLossError
from iris.rpc import cluster_pb2


class ForgetfulRoute:
    """A way to a worker that loses the first `losses` transfers after it has received their bytes.

    Attributes:
        received: The bytes of each transfer.
    """

    def __init__(self, losses: int) -> None:
        self.received: list[bytes] = []
        self._losses = losses

    def status(self, path: str) -> Operation[cluster_pb2.TaskFile | None]:
        """Return that there is no such file yet."""
        yield from ()
        return None

    def call(self, method: str, request: cluster_pb2.WriteTaskFileRequest) -> Operation[Any]:
        """Receive the bytes."""
        yield from ()
        self.received.append(request.data)
        if len(self.received) <= self._losses:
            raise DataLossError("the hash is wrong")


def result_of(operation: Operation[Copied]) -> Copied:
    answer: object = None
    while True:
        try:
            step = operation.send(answer)
        except StopIteration as end:
            return cast(Copied, end.value)
        assert isinstance(step, Work)
        answer = step.function()


def test_repeated_upload_of_a_stream_begins_at_the_first_position_of_the_stream() -> None:
    stream = io.BytesIO(b"header body")
    stream.seek(7)
    route = ForgetfulRoute(losses=1)
    copied = result_of(upload(cast(AttemptRoute, route), stream, "copy", Progress(None)))
    assert route.received == [b"body", b"body"]
    assert (copied.files, copied.bytes) == (1, 4)


def test_upload_of_a_stream_that_cannot_seek_is_not_repeated() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    route = ForgetfulRoute(losses=1)
    with pytest.raises(DataLossError):
        result_of(upload(cast(AttemptRoute, route), Pipe(b"body"), "copy", Progress(None)))
    assert route.received == [b"body"]
