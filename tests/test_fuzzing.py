"""What reads text and bytes that anybody may have made: whatever comes, it is understood or refused in words.

The same examples each time; many new ones with `IRIS_FUZZ_EXAMPLES=20000 uv run pytest tests -k any`.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.fuzzing import fuzz
from support.log_model import Received, lay_out, random_capture
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.logs.cursor import Position, decode_cursor, encode_cursor
from iris.cluster.logs.reading.filters import FilteredReader, LogFilter
from iris.cluster.logs.reading.line_pages import read_page
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.records import LAST_MS, MAGIC, Record, decode, encode, parse_gap
from iris.cluster.logs.segments import parse_end
from iris.cluster.names import check_job_name
from iris.cluster.types import JobInfo, make_task_id, parse_bytes, parse_task_id
from iris.durations import read_span
from iris.errors import InternalError, InvalidArgumentError, IrisError, ResourceExhaustedError
from iris.moments import read_moment, write_moment
from iris.rpc import cluster_pb2

TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


def refused_in_words(function: Callable[[Any], object], value: object) -> object:
    """What a reader makes of a value; None where it refuses it, by an error of ours with a text that ends."""
    try:
        return function(value)
    except (InvalidArgumentError, ResourceExhaustedError) as error:
        assert 10 < len(str(error)) < 1000  # noqa: PT017 - it need not be raised
        return None


# Text.

ID_PARTS = st.lists(
    st.sampled_from(["a", "/", "task-", "0", "1", "007", "-1", "é", "\n", "\0", "1" * 30, "\u0663"]), max_size=8
)


@fuzz(examples=300)
@given(text=TEXT | ID_PARTS.map("".join))
@example("x/task-\u0661")
@example("x" * 10_000 + "/task-")
def test_any_text_as_a_task_id_is_parsed_or_refused(text: str) -> None:
    parsed = refused_in_words(parse_task_id, text)
    if parsed is not None:
        job_id, index = parse_task_id(text)
        assert make_task_id(job_id, index) == text


@fuzz(examples=200)
@given(job_id=TEXT.filter(bool), index=st.integers(0, 10**9 - 1))
def test_any_task_id_that_was_made_is_parsed_back(job_id: str, index: int) -> None:
    assert parse_task_id(make_task_id(job_id, index)) == (job_id, index)


@fuzz(examples=300)
@given(name=TEXT | st.text(max_size=400))
def test_any_text_as_a_job_name_is_accepted_or_refused(name: str) -> None:
    refused_in_words(check_job_name, name)
    try:
        check_job_name(name)
    except IrisError:
        return
    assert name.isprintable() or name.encode().decode() == name
    assert "/" not in name
    assert 0 < len(name.encode()) <= 200
    assert not any(ord(character) < 32 or 0x202A <= ord(character) <= 0x202E for character in name)


@fuzz(examples=300)
@given(
    text=TEXT
    | st.lists(st.sampled_from(["1", "0", ".", "KB", "GiB", "b", " ", "-", "e9", "9" * 400]), max_size=6).map("".join)
)
def test_any_text_as_a_size_is_parsed_or_refused(text: str) -> None:
    number = refused_in_words(parse_bytes, text)
    assert number is None or (isinstance(number, int) and number >= 0)


MOMENT_PARTS = st.lists(
    st.sampled_from(
        ["1", "90", ".5", "d", "h", "m", "s", " ", "@", "-", ":", "T", "Z", "2026-11-24", "+99:00", "9" * 400]
    ),
    max_size=7,
)


@fuzz(examples=300)
@given(text=TEXT | MOMENT_PARTS.map("".join))
@example("@" + "9" * 400)
@example("9" * 400 + "d")
@example("0001-01-01T00:00:00+23:59")
def test_any_text_as_a_time_or_duration_is_parsed_or_refused(text: str) -> None:
    moment = refused_in_words(read_moment, text)
    assert moment is None or (isinstance(moment, int) and 1 <= moment <= LAST_MS)
    if isinstance(moment, int):
        assert write_moment(moment).endswith("Z")
    span = refused_in_words(read_span, text)
    assert span is None or (isinstance(span, float) and 0 <= span < float("inf"))


@fuzz(examples=300)
@given(job_id=TEXT.filter(lambda text: text.isprintable()), cursor=TEXT | st.binary(max_size=40).map(lambda b: b.hex()))
def test_any_text_as_a_cursor_is_refused(job_id: str, cursor: str) -> None:
    assert refused_in_words(lambda text: decode_cursor(job_id, text), cursor) is None


NUMBERS = st.integers(0, 2**63 - 1)
POSITIONS = st.dictionaries(
    st.integers(0, 2**31 - 1),
    st.builds(Position, st.integers(0, 2**31 - 1), st.tuples(NUMBERS, NUMBERS, NUMBERS)),
    max_size=5,
)


@fuzz(examples=200)
@given(positions=POSITIONS, change=st.integers(0, 10**6), character=st.sampled_from("Az09-_=~é"))
def test_any_cursor_is_read_back_and_any_change_is_detected(
    positions: dict[int, Position], change: int, character: str
) -> None:
    cursor = encode_cursor("job", positions)
    assert decode_cursor("job", cursor) == positions
    at = change % len(cursor)
    changed = cursor[:at] + character + cursor[at + 1 :]
    # The last character has bits that stand for nothing.
    assert (
        changed == cursor
        or at == len(cursor) - 1
        or refused_in_words(lambda t: decode_cursor("job", t), changed) is None
    )


@fuzz(examples=150)
@given(
    env=st.dictionaries(
        st.sampled_from(
            ["IRIS_JOB_ID", "IRIS_TASK_ID", "IRIS_TASK_INDEX", "IRIS_NUM_TASKS", "IRIS_ATTEMPT_ID", "IRIS_PORT_X"]
        ),
        st.sampled_from(["0", "1", "-1", "two", "", " 3 ", "1_0", "\u0663", "x/task-0", "9" * 5000]),
    )
)
def test_any_values_of_the_iris_variables_are_parsed_or_refused(env: dict[str, str]) -> None:
    with contextlib.suppress(InvalidArgumentError):
        info = JobInfo.from_env(env)
        assert (info is None) == (not env.get("IRIS_JOB_ID"))


@fuzz(examples=200)
@given(
    regex=TEXT
    | st.lists(
        st.sampled_from(
            ["a", "(", ")", "[", "]", "{9}", "*", "+", "?", "|", "\\", "^", "$", "(?i)", "(?P<n>", "\\pL", "."]
        ),
        max_size=12,
    ).map("".join)
)
@example("(a{999}){999}")
@example("(" * 5000)
def test_any_log_pattern_is_applied_or_refused(tmp_path_factory: pytest.TempPathFactory, regex: str) -> None:
    try:
        regex.encode()
    except UnicodeEncodeError:
        return  # no field of text can hold it
    refused_in_words(lambda pattern: LogFilter(regex=pattern, tail=1), regex)


# Logs on disk.


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    kinds = st.sampled_from(["flip", "cut", "add", "zero", "swap", "double", "remove", "end"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))


def damage(log: Path, kind: str, where: int, value: int) -> None:
    """Does something to a file of a log that no writer of ours does."""
    files = sorted(path for path in log.iterdir() if path.name != "end")
    if not files:
        return
    file = files[where % len(files)]
    data = bytearray(file.read_bytes())
    at = where % (len(data) + 1)
    match kind:
        case "flip" if at < len(data):
            data[at] ^= value or 1
        case "cut":
            del data[at:]
        case "add":
            data[at:at] = bytes([value]) * (value + 1)
        case "zero":
            data[at : at + value] = bytes(len(data[at : at + value]))
        case "swap":
            other = files[value % len(files)]
            data = bytearray(other.read_bytes())
        case "double":
            data += data[at:]
        case "remove":
            file.unlink()
            return
        case "end":
            (log / "end").write_bytes(bytes([value]) * (where % 50))
    file.write_bytes(data)


@fuzz(examples=80)
@given(seed=st.integers(0, 20), per_segment=st.integers(1, 6), ended=st.booleans(), damaged=damages())
@example(seed=1, per_segment=2, ended=False, damaged=[("flip", 3, 0), ("flip", 8156, 0)])
def test_any_damaged_log_is_read_without_a_crash(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    per_segment: int,
    ended: bool,
    damaged: list[tuple[str, int, int]],
) -> None:
    """Nothing that was not written is given, at its place or another; what is missing is said; and there is an end."""
    captured = random_capture(seed, records=15, longest=8)
    log = tmp_path_factory.mktemp("damaged") / "log"
    lay_out(log, captured, per_segment, ended=ended)
    for kind, where, value in damaged:
        damage(log, kind, where, value)
    received = Received(captured)
    reader = LogReader(log)
    for _ in range(1000):
        piece = reader.read(64, final=True)
        if not piece:
            break
        received.take(piece)
    else:
        raise AssertionError("it has no end")
    reader.close()
    for wanted in (LogFilter(tail=3), LogFilter(regex="word"), LogFilter(sources=("stderr",))):
        filtered = FilteredReader(log, log_filter=wanted)
        for _ in range(1000):
            piece = filtered.read(64, final=True)
            if not piece:
                break
            list(decode(piece))
        else:
            raise AssertionError("it has no end")
        filtered.close()
    page = read_page(log, None, LogFilter(), start_line=0, final=True)
    assert page.at_end
    shutil.rmtree(log)


@fuzz(examples=200)
@given(
    text=st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: str(v).encode())
)
@example(b"[" * 100_000)
@example(b'{"bytes_written": [1, 2, 99999999999999999999999999999], "bytes_missing": 0, "max_bytes": 0}')
@example(b'{"bytes_written": [1, 2, 1e999], "bytes_missing": 0, "max_bytes": 0}')
def test_any_bytes_as_an_end_of_a_log_are_parsed_or_refused(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_end(text)


@fuzz(examples=300)
@given(
    records=st.binary(max_size=80)
    | st.lists(
        st.builds(
            encode, st.integers(0, 255), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=12)
        ),
        max_size=3,
    ).map(b"".join),
    cut=st.integers(0, 100),
)
@example(struct.pack("<IIQQB", MAGIC << 24 | 0xFFFFFF, 0, 0, 0, 0), 100)
def test_any_received_records_are_read_or_refused(records: bytes, cut: int) -> None:
    try:
        for record in decode(records[:cut]):
            assert isinstance(record, Record)
            if record.kind & 0x10:
                parse_gap(record.payload)
    except InternalError:
        pass


# The wire, in both directions.


class HostileServer:
    """Answers each request on loopback with the same bytes, after which it hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self.answers: dict[str, bytes] = {}  # by method, where it is not the same for all
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # Each for itself: a client may keep one open that was answered in whole, and open others.
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536) or b"\r\n\r\n"
            method = request.split(b" ")[1].decode().rpartition("/")[2]
            connection.sendall(self.answers.get(method, self.answer))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    server = HostileServer()
    yield server
    server.close()


def response(body: bytes, content_type: str, status: int = 200, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} OK\r\ncontent-type: {content_type}\r\ncontent-length: {size}\r\n\r\n".encode() + body


CHUNKS = st.builds(
    cluster_pb2.StreamTaskLogsResponse.Chunk,
    task_index=st.sampled_from([0, 1, -1, 2**31 - 1]),
    attempt_id=st.sampled_from([0, 5, -1]),
    records=st.binary(max_size=40) | st.binary(max_size=9).map(lambda data: encode(0, 1, 0, data)),
    flush=st.booleans(),
    error=st.sampled_from(["", "\x1b[31m"]),
)
MESSAGES = st.builds(
    lambda chunks: cluster_pb2.StreamTaskLogsResponse(chunks=chunks).SerializeToString(), st.lists(CHUNKS, max_size=3)
)
ENDS = st.sampled_from(
    [b"{}", b'{"error":{"code":"not_found","message":"\\u001b[31m"}}', b'{"error":7}', b"[", b"\xff"]
)
FRAMES = st.lists(
    st.builds(
        lambda flags, body, lie: struct.pack(">BI", flags, (len(body) + lie) % 2**32) + body,
        st.sampled_from([0, 0, 0, 1, 2, 255]),
        MESSAGES | ENDS | st.binary(max_size=20),
        st.sampled_from([0, 0, 0, 1, -1, 2**31]),
    ),
    max_size=4,
).map(b"".join)
STATUS = st.sampled_from([200, 200, 200, 204, 301, 400, 404, 429, 500, 503])


@fuzz(examples=60)
@given(body=FRAMES, status=STATUS, cut=st.integers(0, 3), raw=st.booleans())
def test_any_answer_to_a_reader_of_a_log_is_read_or_refused(
    hostile: HostileServer, body: bytes, status: int, cut: int, raw: bool
) -> None:
    kind = "application/connect+proto"
    hostile.answer = body if raw else response(body[: len(body) - cut], kind, status, len(body))
    request = cluster_pb2.StreamTaskLogsRequest(job_id="x", positions=[cluster_pb2.LogPosition()])
    with RemoteClusterClient(hostile.address, timeout_s=1.0) as client:
        try:
            for message in client.stream_task_logs(request):
                assert isinstance(message, cluster_pb2.StreamTaskLogsResponse)
        except IrisError as error:
            assert "\x1b" not in str(error)  # noqa: PT017 - it need not be raised
            assert len(str(error)) < 5000  # noqa: PT017


@fuzz(examples=20)
@given(
    body=st.binary(max_size=30) | MESSAGES,
    status=STATUS,
    kind=st.sampled_from(["application/proto", "application/json", "text/html"]),
)
def test_any_answer_to_a_call_is_read_or_raises_an_iris_error(
    hostile: HostileServer, body: bytes, status: int, kind: str
) -> None:
    hostile.answer = response(body, kind, status)
    with RemoteClusterClient(hostile.address, timeout_s=1.0) as client:
        try:
            client.get_task_status("x", 0)
        except IrisError as error:
            assert "\x1b" not in str(error)  # noqa: PT017 - it need not be raised


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(b"\x18", id="cut off"),
        pytest.param(b"garbage" * 10, id="garbage"),
        pytest.param(encode(77, 1, 0, b"x"), id="no source"),
        pytest.param(encode(0x10, 1, 0, b"short"), id="no gap"),
        pytest.param(encode(0, 2**63, 0, b"x"), id="no time"),
    ],
)
def test_invalid_log_stream_raises_an_error_at_the_follower(hostile: HostileServer, records: bytes) -> None:
    """Through all of the client of a user."""
    attempt = cluster_pb2.TaskAttempt(attempt_id=0, state=cluster_pb2.TASK_STATE_RUNNING, worker_id="w")
    task = cluster_pb2.TaskStatus(
        task_id="x/task-0", job_id="x", state=cluster_pb2.TASK_STATE_RUNNING, attempts=[attempt]
    )
    job = cluster_pb2.JobStatus(job_id="x", state=cluster_pb2.JOB_STATE_RUNNING, num_tasks=1, tasks=[task])
    watch = cluster_pb2.Controller.WatchJobResponse(job=job).SerializeToString()
    chunk = cluster_pb2.StreamTaskLogsResponse.Chunk(records=records)
    log = cluster_pb2.StreamTaskLogsResponse(chunks=[chunk]).SerializeToString()
    hostile.answers = {
        "WatchJob": response(frame(watch), "application/connect+proto", length=10_000),
        "StreamTaskLogs": response(frame(log), "application/connect+proto", length=10_000),
        "GetTaskStatus": response(
            cluster_pb2.Controller.GetTaskStatusResponse(task=task).SerializeToString(), "application/proto"
        ),
        "GetJobStatus": response(
            cluster_pb2.Controller.GetJobStatusResponse(job=job).SerializeToString(), "application/proto"
        ),
    }
    with IrisClient.remote(hostile.address) as client, pytest.raises(InternalError, match="of a log"):
        list(client.stream_task_logs("x", task_index=0, follow=True))


def frame(body: bytes) -> bytes:
    return struct.pack(">BI", 0, len(body)) + body


REQUESTS = st.lists(
    st.builds(
        lambda flags, body, lie: struct.pack(">BI", flags, (len(body) + lie) % 2**32) + body,
        st.sampled_from([0, 0, 0, 1, 2, 128]),
        st.binary(max_size=20) | st.sampled_from([b"{}", b'{"jobId":"x"}', b"[" * 3000, b"\n\x01x"]),
        st.sampled_from([0, 0, 1, -1, 2**31, 2**32 - 1]),
    ),
    max_size=3,
).map(b"".join)


@pytest.fixture(scope="module")
def controller() -> Iterator[str]:
    with serving(FakeEngine(), Store(None)) as running:
        yield running.address


@fuzz(examples=120)
@given(
    body=REQUESTS,
    path=st.sampled_from(["StreamTaskLogs", "WatchJob", "ListJobs", "LaunchJob"]),
    kind=st.sampled_from(
        ["application/connect+proto", "application/connect+json", "application/proto", "application/json"]
    ),
    lie=st.sampled_from([0, 0, 0, -1]),
)
def test_any_request_is_answered_without_an_internal_error(
    controller: str, body: bytes, path: str, kind: str, lie: int
) -> None:
    """Always an answer in HTTP, never that of a bug, and the next one is answered as ever."""
    host, port = controller.removeprefix("http://").split(":")
    head = f"POST /iris.cluster.ControllerService/{path} HTTP/1.1\r\ncontent-type: {kind}\r\nconnection: close\r\n"
    length = max(0, len(body) + lie)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}content-length: {length}\r\n\r\n".encode() + body)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                answer += chunk
    assert answer.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in answer[:20]
    assert b"a bug of Iris" not in answer
    with IrisClient.remote(controller) as client:
        assert wait_until(lambda: client.list_jobs() == [])
