"""Cursors: the text for a place in the logs of a job, and what is refused as one."""

from __future__ import annotations

import base64
import random
import string
from typing import Any

import pytest

from iris.cluster.logs.cursor import (
    Position,
    decode_cursor,
    encode_cursor,
    encode_cursors,
    encode_positions,
    from_message,
    to_message,
)
from iris.errors import InvalidArgumentError, quoted
from iris.rpc import cluster_pb2

JOB = "parent/train-0a1b"
PLACES = {0: Position(0, (812, 0, 0)), 3: Position(2, (1 << 34, 99, 4096))}


def test_log_position_is_decoded_unchanged_from_its_cursor() -> None:
    assert decode_cursor(JOB, encode_cursor(JOB, PLACES)) == PLACES


@pytest.mark.parametrize(
    "positions",
    [
        {},
        {0: Position()},
        {0: Position(0, (0x7F, 0x80, 0x3FFF))},
        {0: Position(0, (0x4000, 2**63 - 2, 2**63 - 1))},
        {2**31 - 1: Position(2**31 - 1, (2**63 - 1, 2**63 - 1, 2**63 - 1))},
    ],
)
def test_cursor_of_extreme_numbers_is_decoded_unchanged(positions: dict[int, Position]) -> None:
    assert decode_cursor(JOB, encode_cursor(JOB, positions)) == positions


@pytest.mark.parametrize("source_id", range(3))
@pytest.mark.parametrize("others", [{}, PLACES])
def test_cursors_computed_for_many_lines_equal_the_cursors_computed_one_by_one(
    source_id: int, others: dict[int, Position]
) -> None:
    offsets = [300, 7, 1 << 40]
    ends = [0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, 2**63 - 1]
    encoded = encode_positions(others)
    found = list(encode_cursors(JOB, 5, Position(2, (300, 7, 1 << 40)), source_id, ends, encoded))
    expected = []
    for end in ends:
        out, err, build = [*offsets[:source_id], end, *offsets[source_id + 1 :]]
        expected.append(encode_cursor(JOB, {5: Position(2, (out, err, build))}, encoded))
    assert found == expected


@pytest.mark.parametrize("seed", range(5))
def test_cursor_of_random_positions_is_decoded_unchanged(seed: int) -> None:
    chance = random.Random(seed)

    def number() -> int:
        return chance.getrandbits(chance.randrange(1, 64))

    for _ in range(100):
        job_id = "".join(chance.choices("abc/-é\U0001f600", k=chance.randrange(1, 40)))
        indices = chance.sample(range(2**20), chance.randrange(0, 20))
        positions = {index: Position(number() >> 33, (number(), number(), number())) for index in indices}
        cursor = encode_cursor(job_id, positions)
        assert decode_cursor(job_id, cursor) == positions
        assert set(cursor) <= set(string.ascii_letters + string.digits + "-_"), "it goes unquoted into a shell or a URL"


def test_cursor_of_many_tasks_is_decoded_unchanged() -> None:
    chance = random.Random(2)
    positions = {
        index: Position(index % 3, (chance.getrandbits(40), chance.getrandbits(30), 0)) for index in range(256)
    }
    cursor = encode_cursor(JOB, positions)
    assert decode_cursor(JOB, cursor) == positions
    assert len(cursor) < 256 * 24


def test_cursor_of_one_task_is_short() -> None:
    assert len(encode_cursor(JOB, {0: Position(0, (100_000, 0, 0))})) <= 16
    assert len(encode_cursor(JOB, {17: Position(3, (10**12, 10**9, 10**6))})) <= 32


# --- what is refused


def assert_refused(cursor: Any, job_id: str = JOB) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_cursor(job_id, cursor)
    assert isinstance(caught.value, ValueError)
    assert quoted(cursor) in str(caught.value)
    assert repr(job_id) in str(caught.value)
    assert "`cursor` of a line of this job" in str(caught.value)


@pytest.mark.parametrize("job_id", ["", "train-0a1b", JOB + "0", JOB.upper(), "parent"])
def test_decoding_the_cursor_of_another_job_is_refused(job_id: str) -> None:
    assert_refused(encode_cursor(JOB, PLACES), job_id)


def test_truncated_cursor_is_refused() -> None:
    cursor = encode_cursor(JOB, PLACES)
    for length in range(len(cursor)):
        assert_refused(cursor[:length])
        assert_refused(cursor[length + 1 :])


def test_cursor_with_added_characters_is_refused() -> None:
    cursor = encode_cursor(JOB, PLACES)
    for more in ("A", "AA", "AAAA", " ", "\n", ",", "\x00", cursor):
        assert_refused(cursor + more)
        assert_refused(more + cursor)


@pytest.mark.parametrize("positions", [{0: Position(0, (length,) * 3)} for length in (1, 1 << 7, 1 << 14)])
def test_cursor_with_a_changed_character_is_refused(positions: dict[int, Position]) -> None:
    """Refused, or it stands for the same place: the last character may have bits that nobody reads."""
    cursor = encode_cursor(JOB, positions)
    for at, character in enumerate(cursor):
        for other in string.ascii_letters + string.digits + "-_=~. é\x00":
            changed = cursor[:at] + other + cursor[at + 1 :]
            if other == character:
                continue
            if at == len(cursor) - 1 and _bytes(changed) == _bytes(cursor):
                assert decode_cursor(JOB, changed) == positions
            else:
                assert_refused(changed)


def _bytes(cursor: str) -> bytes | None:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None


@pytest.mark.parametrize(
    "cursor",
    ["", " ", "x", "AAAA", "AAAAAA", "e30", "0" * 1000, "not a cursor", "é", "\U0001f600" * 8, "\udc80", "\x00", "="],
)
def test_cursor_of_invalid_text_is_refused(cursor: str) -> None:
    assert_refused(cursor)


@pytest.mark.parametrize("cursor", [b"AAAA", 7, 0.5, ["AAAA"], True])
def test_cursor_that_is_not_text_is_refused(cursor: Any) -> None:
    assert_refused(cursor)


def test_cursor_of_random_text_is_refused() -> None:
    chance = random.Random(3)
    for _ in range(500):
        assert_refused(base64.urlsafe_b64encode(chance.randbytes(chance.randrange(30))).decode().rstrip("="))


# --- on the wire


def test_log_position_is_decoded_unchanged_from_its_message() -> None:
    for index, position in PLACES.items():
        message = cluster_pb2.LogPosition.FromString(to_message(index, position).SerializeToString())
        assert message.task_index == index
        assert from_message(message) == position


def test_position_message_without_offsets_means_the_beginning_of_the_log() -> None:
    assert from_message(cluster_pb2.LogPosition(task_index=4, attempt_id=2)) == Position(2, (0, 0, 0))


@pytest.mark.parametrize(
    "message",
    [
        cluster_pb2.LogPosition(offsets=[1]),
        cluster_pb2.LogPosition(offsets=[1, 2]),
        cluster_pb2.LogPosition(offsets=[1, 2, 3, 4]),
        cluster_pb2.LogPosition(offsets=[0, -1, 0]),
        cluster_pb2.LogPosition(attempt_id=-1),
        cluster_pb2.LogPosition(task_index=-1),
    ],
    ids=str,
)
def test_message_with_an_invalid_log_position_is_refused(message: cluster_pb2.LogPosition) -> None:
    got = f"got task index {message.task_index}, attempt id {message.attempt_id} "
    with pytest.raises(InvalidArgumentError, match=got):
        from_message(message)


@pytest.mark.parametrize(
    "places",
    [
        {2**31: Position(0, (0, 0, 0))},
        {0: Position(2**31, (0, 0, 0))},
        {0: Position(0, (0, 2**63, 0))},
    ],
    ids=["task index", "attempt id", "offset"],
)
def test_cursor_with_a_too_large_number_is_refused(places: dict[int, Position]) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a cursor of job"):
        decode_cursor("job", encode_cursor("job", places))


def test_cursor_that_ends_in_the_middle_of_a_position_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="is not a cursor of job"):
        decode_cursor("job", encode_cursor("job", {}, others=b"\1\2\3"))
