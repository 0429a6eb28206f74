"""Durations and times as people write them on the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from iris.durations import read_span
from iris.errors import InvalidArgumentError
from iris.moments import read_moment, write_moment

NINE_MS = 1_795_510_800_000  # 2026-11-24T09:00:00Z


@pytest.fixture(autouse=True)
def far_east() -> Iterator[None]:
    """Local time is an hour before UTC's: `TZ=XYZ-1` means one hour east."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "XYZ-1"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment_ms"),
    [
        ("2026-11-24", NINE_MS - 10 * 3_600_000),
        ("2026-11-24T10:00", NINE_MS),
        ("2026-11-24 10:00", NINE_MS),
        ("2026-11-24T10:00:00.250", NINE_MS + 250),
        ("2026-11-24T09:00Z", NINE_MS),
        ("2026-11-24T12:30:00+03:30", NINE_MS),
        ("@1795510800", NINE_MS),
        ("@1795510800.125", NINE_MS + 125),
        ("@0", 1),
        ("1900-01-01", 1),
        ("100000d", 1),
    ],
)
def test_time_is_read_in_each_accepted_form(text: str, moment_ms: int) -> None:
    assert read_moment(text) == moment_ms
    assert read_moment(f" {text} ") == moment_ms


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1d 2h", 93600),
        ("1.5h", 5400),
    ],
)
def test_age_is_read_as_a_time_before_now(text: str, seconds: float) -> None:
    assert read_span(text) == seconds
    before = time.time_ns() // 1_000_000
    moment_ms = read_moment(text)
    after = time.time_ns() // 1_000_000
    assert before - seconds * 1000 <= moment_ms <= after - seconds * 1000


@pytest.mark.parametrize(
    "text",
    [
        *("soon", "", "s", "-5m", "-5", "10 minutes", "30m1h", "5m5m", "500ms", "1e3s", "\u0663s"),
        *("20261124", "2026-13-01", "2026-11-24T25:00", "2026-11-24T10:00+25:00", "10:00"),
        *("@", "@x", "@-1", "1795510800"),
    ],
)
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        read_moment(text)
    assert repr(text) in str(raised.value)
    for form in ("'1h30m'", "'2026-11-24T10:00'", "'@1732445000'"):
        assert form in str(raised.value)


def test_time_after_the_year_9999_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="after the year 9999"):
        read_moment("@99999999999999")


def test_time_is_written_in_utc() -> None:
    assert write_moment(NINE_MS + 7) == "2026-11-24T09:00:00.007Z"
    assert read_moment(write_moment(NINE_MS + 7)) == NINE_MS + 7
