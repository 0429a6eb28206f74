"""A stream of logs that are being written: what it sends when there is little to say."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from iris.cluster.logs.records import BEGINNING, decode
from iris.cluster.worker.log_store import LogWriter
from iris.cluster.worker.log_stream import OpenLog, Streams, open_reader, stream_logs
from iris.rpc import cluster_pb2 as pb

BEAT_S = 0.05
Filter = pb.Worker.FetchLogsFilter


def open_log(directory: Path, writer: LogWriter, wanted: Filter) -> OpenLog:
    reader = open_reader(directory, BEGINNING, writer, wanted)
    return OpenLog(0, 0, reader, is_final=lambda: False, end=pb.LogEnd, writer=writer)


@pytest.mark.parametrize("wanted", [Filter(), Filter(regex="ERROR"), Filter(sources=["stderr"]), Filter(end_ms=1)])
def test_a_silent_stream_beats(tmp_path: Path, wanted: Filter) -> None:
    async def read() -> None:
        log = open_log(tmp_path / "log", LogWriter(tmp_path / "log"), wanted)
        async with aclosing(stream_logs([log], Streams(BEAT_S), follow=True)) as messages:
            for _ in range(4):
                assert not (await anext(messages)).chunks

    asyncio.run(read())


@pytest.mark.parametrize("wanted", [Filter(regex="ERROR"), Filter(sources=["stderr"]), Filter(end_ms=1)])
def test_a_stream_beats_while_a_task_writes_what_passes_no_filter(tmp_path: Path, wanted: Filter) -> None:
    """Else it would be cut by proxies, and be taken for lost by who reads it."""

    async def write(writer: LogWriter) -> None:
        while True:
            writer.append("stdout", b"nothing of it\n", 1000)
            await asyncio.sleep(0)

    async def read() -> None:
        writer = LogWriter(tmp_path / "log")
        log = open_log(tmp_path / "log", writer, wanted)
        writing = asyncio.create_task(write(writer))
        looked_at = [0]
        async with aclosing(stream_logs([log], Streams(BEAT_S), follow=True)) as messages:
            assert not (await anext(messages)).chunks
            for _ in range(3):
                for chunk in (await anext(messages)).chunks:
                    # Empty records: who connects again need not have the same looked through again.
                    assert {record.payload for record in decode(chunk.records)} == {b""}
                    looked_at += [record.offset for record in decode(chunk.records) if record.kind == 0]
        writing.cancel()
        assert looked_at == sorted(looked_at)
        if wanted.regex:
            assert looked_at[-1] > 0

    asyncio.run(read())
