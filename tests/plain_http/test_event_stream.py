"""Server-sent events through cuts: no line is lost or doubled, and the end is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.chaos_proxy import ChaosProxy, Faults, always, rude
from support.cluster import launch, shell
from support.event_source import Event, EventSource
from support.waiting import wait_until

Curl = Any  # tests/plain_http/conftest.py
_WAIT = "while [ ! -e {} ]; do sleep 0.05; done"


@pytest.fixture
def proxy(curl: Curl) -> Iterator[ChaosProxy]:
    url = urlsplit(curl.address)
    with ChaosProxy((url.hostname, url.port)) as proxy:
        yield proxy


def source_of(curl: Curl, proxy: ChaosProxy, job: str, query: str) -> EventSource:
    url = curl.url(job, query)
    return EventSource(f"{proxy.address}{url[len(curl.address) :]}", os.environ["IRIS_TOKEN"])


def messages(events: list[Event]) -> list[str]:
    return [event.data["message"] for event in events if event.kind == "message"]


def lines_of(events: list[Event], task: int) -> list[str]:
    return [event.data["message"] for event in events if event.kind == "message" and event.data["task"] == task]


@pytest.mark.parametrize("seed", range(3))
def test_events_are_neither_lost_nor_repeated_when_connections_are_cut(
    curl: Curl, proxy: ChaosProxy, seed: int
) -> None:
    script = "seq -f $IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID.%g 12; [ $IRIS_ATTEMPT_ID = 1 ]"
    job = curl.ended_job(script, 3, max_retries_failure=1, independent_tasks=True)
    proxy.seed, proxy.plan = seed, rude(6000, spared=0.1)
    source = source_of(curl, proxy, job, "follow=1&source=stdout&since=1h")
    events = list(source.events())
    assert source.refusal is None
    assert source.connections > 3, proxy.faults
    for task in range(3):
        assert lines_of(events, task) == [f"{task}.{attempt}.{i}" for attempt in (0, 1) for i in range(1, 13)]
    notices = [event.data["text"] for event in events if event.kind == "notice"]
    assert len(notices) == len(set(notices)) == 3
    (ended,) = [event for event in events if event.kind == "ended"]
    assert ended.data["job"]["state"] == "SUCCEEDED"
    assert ended.event_id.endswith(".end")
    assert source.retry_ms > 0


def test_events_of_a_running_task_continue_after_a_cut_connection(
    curl: Curl, proxy: ChaosProxy, tmp_path: Path
) -> None:
    go = [tmp_path / "0", tmp_path / "1"]
    script = f"echo a; echo b; {_WAIT.format(go[0])}; echo c; {_WAIT.format(go[1])}; echo d"
    job = launch(curl.cluster, shell(script))
    source = source_of(curl, proxy, job, "follow=1&tail=1&source=stdout")
    wait_until(lambda: curl(job, "tail=1") == b"b\n", "the first lines")
    events = source.events()
    assert next(events).data["message"] == "b"
    proxy.strike("reset")
    go[0].touch()
    assert next(events).data["message"] == "c"
    proxy.strike("cut")
    go[1].touch()
    assert [event.data.get("message", event.kind) for event in events] == ["d", "ended"]
    assert source.connections == 4  # the last one was told that nothing follows


def test_event_stream_with_max_lines_ends_after_that_many_lines_despite_cut_connections(
    curl: Curl, proxy: ChaosProxy
) -> None:
    job = curl.ended_job("seq 30")
    proxy.plan = always(Faults("cut", after_bytes=1500))
    source = source_of(curl, proxy, job, "max_lines=20&source=stdout")
    assert messages(list(source.events())) == [str(number) for number in range(1, 21)]
    assert source.connections > 2


def test_closing_event_of_an_event_stream_is_sent_again_if_it_was_lost(curl: Curl) -> None:
    job = curl.ended_job("echo one")
    url = curl.url(job, "follow=1&source=stdout")
    source = EventSource(url, os.environ["IRIS_TOKEN"])
    line = next(source.events())
    again = EventSource(url, os.environ["IRIS_TOKEN"])
    again.last_id = line.event_id
    assert [event.kind for event in again.events()] == ["ended"]
    last = ["-H", f"Last-Event-ID: {again.last_id}", "-H", "Accept: text/event-stream"]
    assert curl.status(url, *last)[0] == 204
    assert curl.status(url, "-H", "Last-Event-ID: nonsense", "-H", "Accept: text/event-stream")[0] == 400
    assert curl.status(curl.url(job), "-H", "Last-Event-ID: nonsense")[0] == 200  # text has no events
