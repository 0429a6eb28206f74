"""The rules of HTTP/2, without sockets: which frames are accepted, and how a frame that breaks a rule is answered."""

from __future__ import annotations

import random
import struct

import pytest
from support.http2_frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Frame,
    block,
    corrupted,
    frame,
    headers,
    parse,
    reset,
    settings,
    window_update,
)

from iris.rpc.http.server.connection_limits import MAX_HEAD_BYTES
from iris.rpc.http.server.http2_framing import (
    ClientLeaves,
    ConnectionBroken,
    Event,
    Http2Framing,
    RequestBody,
    RequestEnd,
    RequestHead,
    StreamLost,
    WindowOpened,
    WindowsResized,
)
from iris.rpc.http.server.http2_limits import MAX_FRAME_BYTES, MAX_STREAMS, STREAM_WINDOW

START = PREFACE + settings()


def opened() -> Http2Framing:
    """Return a connection whose client has sent its preface and settings."""
    framing = Http2Framing()
    assert list(framing.receive(START)) == []
    framing.take_output()
    return framing


def receive(framing: Http2Framing, data: bytes) -> tuple[list[Event], list[Frame]]:
    """Return the events that data causes, and the frames that answer it."""
    events = list(framing.receive(data))
    frames, rest = parse(framing.take_output())
    assert not rest
    return events, frames


def test_http2_server_announces_its_limits_first() -> None:
    frames, _ = parse(Http2Framing().take_output())
    assert [one.kind for one in frames] == [SETTINGS, WINDOW_UPDATE]
    pairs = dict(struct.iter_unpack(">HI", frames[0].payload))
    assert pairs[MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert pairs[MAX_HEADER_LIST_SIZE] == MAX_HEAD_BYTES
    assert pairs[INITIAL_WINDOW_SIZE] == STREAM_WINDOW


def test_http2_request_becomes_events_for_its_head_body_and_end() -> None:
    events, frames = receive(
        opened(), headers(1, ("content-type", "x"), end=False) + frame(DATA, 0, 1, b"ab") + frame(DATA, END_STREAM, 1)
    )
    head = [(name.encode(), value.encode()) for name, value in [*REQUEST, ("content-type", "x")]]
    assert events == [RequestHead(1, head), RequestBody(1, b"ab", 2), RequestBody(1, b"", 0), RequestEnd(1)]
    assert frames == []


@pytest.mark.parametrize("size", [1, 2, 7, 10, 100])
def test_http2_request_that_arrives_in_pieces_of_any_size_is_read(size: int) -> None:
    framing = Http2Framing()
    data = START + headers(1, ("a", "b" * 100), end=False) + frame(DATA, END_STREAM, 1, bytes(300)) + headers(3)
    events = [event for at in range(0, len(data), size) for event in framing.receive(data[at : at + size])]
    assert [type(event) for event in events] == [RequestHead, RequestBody, RequestEnd, RequestHead, RequestEnd]


def test_http2_head_in_several_continuation_frames_becomes_one_head() -> None:
    part = block(REQUEST)
    events, _ = receive(
        opened(),
        frame(HEADERS, END_STREAM, 1, part[:5])
        + frame(CONTINUATION, 0, 1, part[5:9])
        + frame(CONTINUATION, END_HEADERS, 1, part[9:]),
    )
    assert [type(event) for event in events] == [RequestHead, RequestEnd]


def test_padding_of_http2_frames_occupies_the_window_and_is_removed() -> None:
    padded = frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + block(REQUEST) + bytes(3))
    events, _ = receive(opened(), padded + frame(DATA, PADDED | END_STREAM, 1, b"\x05abc" + bytes(5)))
    assert events[1] == RequestBody(1, b"abc", 9)


def test_http2_trailers_end_a_request() -> None:
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, block([("x", "y")]))
    events, _ = receive(opened(), headers(1, end=False) + frame(DATA, 0, 1, b"abc") + trailers)
    assert [type(event) for event in events] == [RequestHead, RequestBody, RequestEnd]


def test_http2_ping_of_the_client_is_answered() -> None:
    _, frames = receive(opened(), frame(PING, payload=b"12345678"))
    assert frames == [Frame(PING, ACK, 0, b"12345678")]


def test_http2_settings_of_the_client_are_acknowledged() -> None:
    events, frames = receive(opened(), settings((INITIAL_WINDOW_SIZE, 10)))
    assert (events, frames) == ([WindowsResized()], [Frame(SETTINGS, ACK, 0, b"")])


@pytest.mark.parametrize(
    "data",
    [
        frame(0x20, 0xFF, 1, b"unknown"),
        frame(0x20, 0, 0, b""),
        settings((0xABCD, 1)),
        frame(PRIORITY, 0, 5, struct.pack(">IB", 3, 10)),
        frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, struct.pack(">IB", 3, 10) + block(REQUEST)),
        frame(PING, ACK, 0, bytes(8)),
    ],
)
def test_http2_frame_with_content_that_the_server_does_not_use_is_accepted(data: bytes) -> None:
    framing = opened()
    receive(framing, data)
    events, _ = receive(framing, headers(7))
    assert [type(event) for event in events] == [RequestHead, RequestEnd]


def test_client_that_has_sent_goaway_still_gets_its_answers() -> None:
    framing = opened()
    receive(framing, headers(1))
    go_away = frame(GOAWAY, payload=bytes(8))
    events, _ = receive(framing, go_away + window_update(1, 5) + frame(PING, payload=bytes(8)))
    assert events == [ClientLeaves(), WindowOpened(1)]
    framing.send_head(1, [(b":status", b"200")], is_end=False)
    framing.send_body(1, memoryview(b"abc"), is_end=True)
    frames, _ = parse(framing.take_output())
    assert [one.kind for one in frames] == [HEADERS, DATA]


def test_server_that_has_sent_goaway_still_answers_open_requests() -> None:
    framing = opened()
    receive(framing, headers(1))
    framing.go_away("closing")
    framing.send_head(1, [(b":status", b"200")], is_end=True)
    frames, _ = parse(framing.take_output())
    assert [(one.kind, one.stream_id) for one in frames] == [(GOAWAY, 0), (HEADERS, 1)]
    assert (frames[0].code, frames[0].text) == (NO_ERROR, "closing")
    assert frames[0].payload[:4] == struct.pack(">I", 1)


def test_http2_stream_that_the_client_resets_is_reported_as_lost() -> None:
    events, frames = receive(opened(), headers(1) + reset(1))
    assert events[-1] == StreamLost(1)
    assert frames == []


def test_late_frames_of_a_reset_stream_are_ignored() -> None:
    framing = opened()
    receive(framing, headers(1, end=False))
    framing.reset(1, NO_ERROR)
    framing.take_output()
    events, _ = receive(framing, frame(DATA, 0, 1, bytes(1000)) + window_update(1, 5) + reset(1) + headers(3))
    assert [type(event) for event in events] == [RequestHead, RequestEnd]


def without(name: str) -> list[tuple[str, str]]:
    return [pair for pair in REQUEST if pair[0] != name]


END_OF_DATA = frame(DATA, END_STREAM, 1, b"x")
FULL = END_HEADERS | END_STREAM
# Each entry has the frames that break a rule and the codes with which a server may close the connection.
BROKEN: dict[str, tuple[bytes, set[int]]] = {
    "settings of a wrong length": (frame(SETTINGS, payload=bytes(5)), {FRAME_SIZE_ERROR}),
    "settings on a stream": (frame(SETTINGS, 0, 1, bytes(6)), {PROTOCOL_ERROR}),
    "acknowledged settings with content": (frame(SETTINGS, ACK, 0, bytes(6)), {FRAME_SIZE_ERROR}),
    "settings with a bad push": (settings((2, 2)), {PROTOCOL_ERROR}),
    "settings with a huge window": (settings((INITIAL_WINDOW_SIZE, 2**31)), {FLOW_CONTROL_ERROR}),
    "settings with a small frame": (settings((MAX_FRAME_SIZE, 100)), {PROTOCOL_ERROR}),
    "settings with a huge frame": (settings((MAX_FRAME_SIZE, 2**24)), {PROTOCOL_ERROR}),
    "ping on a stream": (frame(PING, 0, 1, bytes(8)), {PROTOCOL_ERROR}),
    "ping of a wrong length": (frame(PING, payload=bytes(7)), {FRAME_SIZE_ERROR}),
    "go away on a stream": (frame(GOAWAY, 0, 1, bytes(8)), {PROTOCOL_ERROR}),
    "short go away": (frame(GOAWAY, 0, 0, bytes(4)), {PROTOCOL_ERROR, FRAME_SIZE_ERROR}),
    "window update by nothing": (window_update(0, 0), {PROTOCOL_ERROR}),
    "window update above the limit": (window_update(0, 2**31 - 1), {FLOW_CONTROL_ERROR}),
    "window update of an idle stream": (window_update(1, 1), {PROTOCOL_ERROR}),
    "window update of a wrong length": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), {FRAME_SIZE_ERROR}),
    "reset of an idle stream": (reset(1), {PROTOCOL_ERROR}),
    "reset of the connection": (reset(0), {PROTOCOL_ERROR}),
    "reset of a stream of the server": (headers(1) + reset(2), {PROTOCOL_ERROR}),
    "reset of a wrong length": (headers(1) + frame(RST_STREAM, 0, 1, bytes(3)), {FRAME_SIZE_ERROR}),
    "priority of a wrong length": (frame(PRIORITY, 0, 1, bytes(4)), {FRAME_SIZE_ERROR}),
    "priority of the connection": (frame(PRIORITY, 0, 0, bytes(5)), {PROTOCOL_ERROR}),
    "stream that depends on itself": (frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 0)), {PROTOCOL_ERROR}),
    "data of the connection": (frame(DATA, 0, 0, b"x"), {PROTOCOL_ERROR}),
    "data of an idle stream": (frame(DATA, 0, 1, b"x"), {PROTOCOL_ERROR, STREAM_CLOSED}),
    "data with too much padding": (headers(1, end=False) + frame(DATA, PADDED, 1, b"\x05abc"), {PROTOCOL_ERROR}),
    "head with too much padding": (frame(HEADERS, FULL | PADDED, 1, b"\xffabc"), {PROTOCOL_ERROR}),
    "head on the connection": (headers(0), {PROTOCOL_ERROR}),
    "head on a stream of the server": (headers(2), {PROTOCOL_ERROR}),
    "head on an earlier stream": (headers(5) + headers(3), {PROTOCOL_ERROR}),
    "second head": (headers(1, end=False) + headers(1, end=False), {PROTOCOL_ERROR}),
    "frame within a head": (frame(HEADERS, END_STREAM, 1, b"") + frame(PING, payload=bytes(8)), {PROTOCOL_ERROR}),
    "unknown frame within a head": (frame(HEADERS, END_STREAM, 1, b"") + frame(0x20, 0, 1), {PROTOCOL_ERROR}),
    "go away within a head": (frame(HEADERS, END_STREAM, 1, b"") + frame(GOAWAY, payload=bytes(8)), {PROTOCOL_ERROR}),
    "continuation of another stream": (
        frame(HEADERS, END_STREAM, 1, b"") + frame(CONTINUATION, END_HEADERS, 3, block(REQUEST)),
        {PROTOCOL_ERROR},
    ),
    "continuation of nothing": (headers(1) + frame(CONTINUATION, END_HEADERS, 1, b""), {PROTOCOL_ERROR, STREAM_CLOSED}),
    "push by a client": (
        headers(1) + frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + block(REQUEST)),
        {PROTOCOL_ERROR},
    ),
    "frame above the limit": (frame(DATA, 0, 1, b"", size=MAX_FRAME_BYTES + 1), {FRAME_SIZE_ERROR}),
    "huge frame": (frame(0x20, 0, 0, b"", size=2**24 - 1), {FRAME_SIZE_ERROR}),
    "bad compression": (frame(HEADERS, FULL, 1, b"\xff\xff\xff\xff\xff"), {COMPRESSION_ERROR, PROTOCOL_ERROR}),
    "huge compression table": (frame(HEADERS, FULL, 1, b"\x3f\xff\xff\x7f"), {COMPRESSION_ERROR, PROTOCOL_ERROR}),
    "name in upper case": (headers(1, ("X", "y")), {PROTOCOL_ERROR}),
    "no path": (headers(base=without(":path")), {PROTOCOL_ERROR}),
    "empty path": (headers(base=[*without(":path"), (":path", "")]), {PROTOCOL_ERROR}),
    "no method": (headers(base=without(":method")), {PROTOCOL_ERROR}),
    "no scheme": (headers(base=without(":scheme")), {PROTOCOL_ERROR}),
    "two methods": (headers(1, base=[(":method", "GET"), *REQUEST]), {PROTOCOL_ERROR}),
    "pseudo header after others": (headers(base=[("a", "b"), *REQUEST]), {PROTOCOL_ERROR}),
    "unknown pseudo header": (headers(base=[*REQUEST, (":x", "y")]), {PROTOCOL_ERROR}),
    "status in a request": (headers(base=[*REQUEST, (":status", "200")]), {PROTOCOL_ERROR}),
    "header of a connection": (headers(1, ("connection", "close")), {PROTOCOL_ERROR}),
    "chunks": (headers(1, ("transfer-encoding", "chunked")), {PROTOCOL_ERROR}),
    "te of another value": (headers(1, ("te", "gzip")), {PROTOCOL_ERROR}),
    "header with a line break": (headers(1, ("a", "b\r\nc: d")), {PROTOCOL_ERROR}),
    "two hosts that differ": (headers(1, ("host", "y")), {PROTOCOL_ERROR}),
    "pseudo header in trailers": (
        headers(1, end=False) + frame(HEADERS, FULL, 1, block([(":path", "/")])),
        {PROTOCOL_ERROR},
    ),
    "body longer than announced": (headers(1, ("content-length", "0"), end=False) + END_OF_DATA, {PROTOCOL_ERROR}),
    "body shorter than announced": (headers(1, ("content-length", "2"), end=False) + END_OF_DATA, {PROTOCOL_ERROR}),
    "announced body without a body": (headers(1, ("content-length", "2")), {PROTOCOL_ERROR}),
    "two lengths": (headers(1, ("content-length", "1"), ("content-length", "2"), end=False), {PROTOCOL_ERROR}),
    "length of letters": (headers(1, ("content-length", "abc"), end=False), {PROTOCOL_ERROR}),
    "negative length": (headers(1, ("content-length", "-1"), end=False), {PROTOCOL_ERROR}),
    "body above the window": (
        headers(1, end=False) + frame(DATA, 0, 1, bytes(MAX_FRAME_BYTES)) * (STREAM_WINDOW // MAX_FRAME_BYTES + 1),
        {FLOW_CONTROL_ERROR},
    ),
    "head that is too large": (
        frame(HEADERS, END_STREAM, 1, bytes(MAX_FRAME_BYTES)) + frame(CONTINUATION, 0, 1, bytes(MAX_FRAME_BYTES)) * 8,
        {ENHANCE_YOUR_CALM},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_frame_that_breaks_a_rule_closes_the_connection_with_the_code_of_the_rule(name: str) -> None:
    data, codes = BROKEN[name]
    framing = opened()
    events, frames = receive(framing, data)
    assert isinstance(events[-1], ConnectionBroken), events
    assert events[-1].reason
    assert frames[-1].kind == GOAWAY
    assert frames[-1].code in codes, (frames[-1], events[-1])
    assert list(framing.receive(headers(101))) == []  # Nothing is read after the end.


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (headers(1) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED),
        (headers(1) + window_update(1, 2**31 - 1), FLOW_CONTROL_ERROR),
    ],
)
def test_frame_that_breaks_a_rule_of_a_stream_resets_only_the_stream(data: bytes, code: int) -> None:
    framing = opened()
    events, frames = receive(framing, data)
    assert events[-1] == StreamLost(1)
    assert [(one.kind, one.stream_id, one.code) for one in frames if one.kind == RST_STREAM] == [(RST_STREAM, 1, code)]
    events, _ = receive(framing, headers(3))
    assert [type(event) for event in events] == [RequestHead, RequestEnd]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE[:-1] + b"x",
        b"PRJ",
        PREFACE + frame(PING, payload=bytes(8)),
        PREFACE + headers(1),
    ],
)
def test_connection_with_an_invalid_http2_preface_is_closed(data: bytes) -> None:
    framing = Http2Framing()
    framing.take_output()
    events, frames = receive(framing, data)
    assert isinstance(events[-1], ConnectionBroken)
    assert (frames[-1].kind, frames[-1].code) == (GOAWAY, PROTOCOL_ERROR)


def test_http2_answers_stay_within_the_windows_of_the_client() -> None:
    framing = opened()
    receive(framing, settings((INITIAL_WINDOW_SIZE, 10)) + headers(1))
    framing.send_head(1, [(b":status", b"200")], is_end=False)
    assert framing.window(1) == 10
    framing.send_body(1, memoryview(bytes(10)), is_end=False)
    assert framing.window(1) == 0
    receive(framing, settings((INITIAL_WINDOW_SIZE, 4)))
    assert framing.window(1) == -6
    events, _ = receive(framing, window_update(1, 7))
    assert (events, framing.window(1)) == ([WindowOpened(1)], 1)


def test_large_http2_answers_are_split_into_frames_of_the_size_that_the_client_accepts() -> None:
    framing = opened()
    receive(framing, settings((INITIAL_WINDOW_SIZE, 10**6)) + headers(1))
    framing.send_head(1, [(b":status", b"200")], is_end=False)
    framing.send_body(1, memoryview(bytes(50_000)), is_end=True)
    frames, _ = parse(framing.take_output())
    assert [(len(one.payload), one.flags) for one in frames[1:]] == [(16384, 0)] * 3 + [(848, END_STREAM)]


def test_http2_windows_of_the_server_grow_only_after_the_application_has_read() -> None:
    framing = opened()
    receive(framing, headers(1, end=False))
    for _ in range(STREAM_WINDOW // MAX_FRAME_BYTES):
        _, frames = receive(framing, frame(DATA, 0, 1, bytes(MAX_FRAME_BYTES)))
        assert frames == []
    framing.consumed(1, STREAM_WINDOW)
    frames, _ = parse(framing.take_output())
    assert [(one.kind, one.stream_id) for one in frames] == [(WINDOW_UPDATE, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_http2_framing_raises_no_unexpected_error_for_any_bytes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        framing, data = opened(), corrupted(rng)
        at = 0
        while at < len(data):
            size = rng.randrange(1, len(data) + 1)
            for event in framing.receive(data[at : at + size]):
                if isinstance(event, ConnectionBroken):
                    # The framing describes the rule that was broken. An exception of Python would be a defect.
                    assert not event.reason.startswith(("KeyError", "TypeError", "AssertionError", "AttributeError")), (
                        event,
                        data,
                    )
            at += size
        _, rest = parse(framing.take_output())
        assert rest == b""
