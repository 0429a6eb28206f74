"""The parameters of the log route, and the choice of the format."""

from __future__ import annotations

import time

import pytest

from iris.cluster.controller.plain_http.content_types import format_for
from iris.cluster.controller.plain_http.query import LogQuery, read_query
from iris.cluster.controller.plain_http.server_sent_events import EventId, read_event_id
from iris.errors import InvalidArgumentError

_ACCEPTED = {
    "": LogQuery(),
    "follow=1": LogQuery(follow=True),
    "follow": LogQuery(follow=True),
    "follow=TRUE": LogQuery(follow=True),
    "follow=0": LogQuery(),
    "task=2&task=0&task=2": LogQuery(tasks=(0, 2)),
    "attempt=1": LogQuery(attempt_id=1),
    "tail=0": LogQuery(tail=0),
    "tail=10000": LogQuery(tail=10_000),
    "max_lines=5": LogQuery(max_lines=5),
    "grep=a%2Bb%20c": LogQuery(regex="a+b c"),
    "source=stdout&source=build": LogQuery(sources=("stdout", "build")),
    "timestamps&partial": LogQuery(timestamps=True, partial=True),
    "since=@1732445000&until=@1732445001.5": LogQuery(start_ms=1732445000_000, end_ms=1732445001_500),
    "since=2026-11-24T10:00": LogQuery(start_ms=1795514400_000),
    "since=2026-11-24T10:00%2B01:00": LogQuery(start_ms=1795510800_000),
    "cursor=abc&format=raw": LogQuery(cursor="abc", format="raw"),
}
_REFUSED = {
    "follw=1": "unknown parameter 'follw': did you mean 'follow'?",
    "colour=1": "the parameters are task, attempt, follow",
    "follow=yes": "follow='yes' is not accepted: expected 1, true, 0 or false, for example follow=1",
    "task=-1": "task='-1' is not accepted: expected a whole number from 0 to 2147483647, for example task=0&task=2",
    "task=0,2": "for example task=0&task=2",
    "task=²": "expected a whole number",
    "task=2147483648": "expected a whole number",
    "tail=10001": "expected a whole number from 0 to 10,000",
    "tail=": "tail='' is not accepted",
    "tail=1&tail=2": "tail is given 2 times",
    "max_lines=0": "max_lines='0' is not accepted: expected a whole number from 1 to 2147483647, for example",
    "grep=caf%E9": "%E9 is not UTF-8: write each character of a parameter as the percent encoding of its UTF-8 bytes",
    "%FF=1": "%FF is not UTF-8",
    "source=out": "source='out' is not accepted: expected one of stdout, stderr, build, for example source=stdout",
    "grep=((": "grep must be a valid regular expression: the pattern '((' is invalid",
    "grep=": "grep has no value",
    "since=yesterday": "since: not a time: 'yesterday' (expected an age such as",
    "format=xml": "expected one of text, raw, ndjson, json, sse",
    "tail=1&cursor=x": "tail and cursor exclude each other",
    "tail=1&max_lines=1": "tail and max_lines exclude each other",
    "since=@20&until=@10": "since must be earlier than until",
    "follow=1&until=@10": "follow and until exclude each other",
}


@pytest.mark.parametrize("text", _ACCEPTED)
def test_query_of_the_log_route_with_accepted_parameters_is_parsed(text: str) -> None:
    assert read_query(text) == _ACCEPTED[text]


def test_query_with_an_age_selects_lines_after_that_time() -> None:
    assert abs(read_query("since=10m").start_ms - (time.time() - 600) * 1000) < 60_000


@pytest.mark.parametrize("text", _REFUSED)
def test_query_with_an_invalid_parameter_is_refused_with_the_accepted_values(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        read_query(text)
    assert _REFUSED[text] in str(refused.value)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text"),
        ("*/*", "text"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text"),
        ("text/plain", "text"),
        ("application/x-ndjson", "ndjson"),
        ("application/jsonl", "ndjson"),
        ("application/json", "json"),
        ("application/octet-stream", "raw"),
        ("text/event-stream", "sse"),
        ("TEXT/Event-Stream ; q=0.5, text/plain;q=0.4", "sse"),
        ("text/plain;q=0.5, application/json", "json"),
        ("*/*, application/x-ndjson", "ndjson"),
        ("text/plain;q=0, application/*", "ndjson"),
        ("text/plain;q=0, */*", "ndjson"),
        ("text/*;q=0, */*", "ndjson"),
        ("text/*;q=0, text/plain", "text"),
        ("text/*", "text"),
        ("*/*;q=0, text/*", "text"),
        ("image/png", None),
        ("text/plain;q=0", None),
        ("text/plain;q=x", None),
    ],
)
def test_log_route_answers_in_the_format_that_the_client_prefers(accept: str, expected: str | None) -> None:
    assert format_for(accept) == expected


def test_last_event_id_of_the_log_route_is_parsed() -> None:
    assert read_event_id("abc") == EventId("abc")
    assert read_event_id("abc.s12.u34.n5") == EventId("abc", 12, 34, 5)
    assert read_event_id("abc.n5.end") == EventId("abc", max_lines=5, is_end=True)


@pytest.mark.parametrize("text", [".end", "abc.x1", "abc.n", "abc.n-1", "abc.n4294967296", "abc.s" + "9" * 400, "a.²"])
def test_last_event_id_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not the id of an event"):
        read_event_id(text)
