"""The end of a closed log is parsed, and anything else is refused."""

from __future__ import annotations

import pytest

from iris.cluster.logs.segments import LogEnd, encode_end, parse_end


def test_written_end_of_a_log_is_read_back_unchanged() -> None:
    for end in (LogEnd((0, 0, 0), 0, 0), LogEnd((1, 2**62, 3), 4, 5, "removed: a test", truncated=True)):
        assert parse_end(encode_end(end)) == end


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"bytes_written": [1, 2], "bytes_missing": 0, "max_bytes": 0}',
        b'{"bytes_written": [1, 2, -3], "bytes_missing": 0, "max_bytes": 0}',
        b'{"bytes_written": [1, 2, 1e30], "bytes_missing": 0, "max_bytes": 0}',
        b'{"bytes_written": [1, 2, 3], "bytes_missing": Infinity, "max_bytes": 0}',
        b'{"bytes_written": [1, 2, 3], "bytes_missing": 0, "max_bytes": 1e30}',
        b"[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_damaged_end_of_a_log_raises_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_end(text)
