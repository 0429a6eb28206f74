"""What a stream of growing logs sends when there is little to send."""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextlib import aclosing
from pathlib import Path

import pytest

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.records import BEGINNING, decode
from iris.cluster.logs.streaming.open_log import OpenLog, StreamBudget, open_reader
from iris.cluster.logs.streaming.serve_stream import stream_logs
from iris.rpc import cluster_pb2 as pb

BEAT_S = 0.05
Filter = pb.Worker.FetchLogsFilter


def open_log(directory: Path, writer: LogWriter, wanted: Filter) -> OpenLog:
    reader = open_reader(directory, BEGINNING, writer, wanted)
    return OpenLog(0, 0, reader, is_final=lambda: False, end=pb.LogEnd, writer=writer)


@pytest.mark.parametrize("wanted", [Filter(), Filter(regex="ERROR"), Filter(sources=["stderr"]), Filter(end_ms=1)])
def test_silent_log_stream_sends_empty_messages(tmp_path: Path, wanted: Filter) -> None:
    async def read() -> None:
        log = open_log(tmp_path / "log", LogWriter(tmp_path / "log"), wanted)
        async with aclosing(stream_logs([log], StreamBudget(BEAT_S), follow=True)) as messages:
            for _ in range(4):
                assert not (await anext(messages)).chunks

    asyncio.run(read())


@pytest.mark.parametrize("wanted", [Filter(regex="ERROR"), Filter(sources=["stderr"]), Filter(end_ms=1)])
def test_log_stream_sends_empty_messages_while_no_line_matches_the_filter(tmp_path: Path, wanted: Filter) -> None:
    """Without beats, proxies would cut the stream, and the reader would take it for lost."""

    async def write(writer: LogWriter) -> None:
        while True:
            writer.append("stdout", b"nothing of it\n", 1000)
            await asyncio.sleep(0)

    async def read() -> None:
        writer = LogWriter(tmp_path / "log")
        log = open_log(tmp_path / "log", writer, wanted)
        writing = asyncio.create_task(write(writer))
        looked_at = [0]
        async with aclosing(stream_logs([log], StreamBudget(BEAT_S), follow=True)) as messages:
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


def held_by(directory: Path) -> int:
    """Return how many files below a directory this process has open for reading."""
    held = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            flags = int(Path(f"/proc/self/fdinfo/{number}").read_text().split("flags:")[1].split()[0], 8)
            path = os.readlink(f"/proc/self/fd/{number}")
            held += path.startswith(str(directory)) and flags & os.O_ACCMODE == os.O_RDONLY
    return held


@pytest.mark.parametrize("wanted", [Filter(), Filter(regex="line")])
def test_log_stream_of_many_logs_keeps_few_files_open(tmp_path: Path, wanted: Filter) -> None:
    async def read() -> None:
        writers = [LogWriter(tmp_path / str(number)) for number in range(20)]
        logs = [
            OpenLog(n, 0, open_reader(tmp_path / str(n), BEGINNING, w, wanted), lambda: False, pb.LogEnd, w)
            for n, w in enumerate(writers)
        ]
        streams = StreamBudget(max_open_files=3)
        got: dict[int, bytes] = {}
        async with aclosing(stream_logs(logs, streams, follow=True)) as messages:
            for round_ in range(5):
                for writer in writers:
                    writer.append("stdout", b"line %d\n" % round_, 1000)
                expected = b"".join(b"line %d\n" % number for number in range(round_ + 1))
                while len(got) < 20 or set(got.values()) != {expected}:
                    for chunk in (await anext(messages)).chunks:
                        payloads = [record.payload for record in decode(chunk.records)]
                        got[chunk.task_index] = got.get(chunk.task_index, b"") + b"".join(payloads)
                assert streams.open_files == held_by(tmp_path) == 3
        assert streams.open_files == held_by(tmp_path) == 0

    asyncio.run(read())


def test_a_log_that_was_read_to_its_end_is_closed(tmp_path: Path) -> None:
    async def read() -> None:
        logs = []
        for number in range(10):
            writer = LogWriter(tmp_path / str(number))
            writer.append("stdout", b"line\n" * 1000, 1000)
            writer.close()
            reader = open_reader(tmp_path / str(number), BEGINNING, None, Filter())
            logs.append(OpenLog(number, 0, reader, lambda: True, pb.LogEnd))
        streams = StreamBudget()
        ended = 0
        async with aclosing(stream_logs(logs, streams, follow=False)) as messages:
            async for message in messages:
                ended += sum(chunk.HasField("end") for chunk in message.chunks)
                assert streams.open_files == held_by(tmp_path) <= 10 - ended
        assert ended == 10
        assert streams.open_files == held_by(tmp_path) == 0

    asyncio.run(read())
