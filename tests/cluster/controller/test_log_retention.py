"""Which logs go, in which order, and what readers are told: by age, and by how much there is."""

from __future__ import annotations

import random

import pytest
from support.seeds import for_each_seed

from iris.cluster.controller.logs.removal.retention import Found, Known, Removal, Retention, choose

NOW = 1_000_000
ALL = Retention()


def ended(ended_ms: int | None) -> Known:
    return Known(ended_ms)


def names(removals: list[Removal]) -> list[str]:
    return [removal.name for removal in removals]


# By age


def test_logs_older_than_the_limit_are_removed() -> None:
    found = [Found("young", 10, 0, True), Found("old", 10, NOW, True), Found("at the limit", 10, 0, True)]
    known = {"young": ended(NOW - 99), "old": ended(NOW - 101), "at the limit": ended(NOW - 100)}
    retention = Retention(keep_ms=100)
    assert choose(found, known, retention, NOW) == [Removal("old", retention.age_reason)]


def test_log_of_a_live_attempt_is_never_removed() -> None:
    found = [Found("runs", 10**12, 0), Found("ended", 10, NOW, True)]
    known = {"runs": ended(None), "ended": ended(NOW)}
    assert names(choose(found, known, Retention(keep_ms=1, keep_bytes=10), NOW)) == ["ended"]


def test_age_of_an_unknown_log_counts_from_its_last_change() -> None:
    found = [Found("new", 10, NOW - 99), Found("old", 10, NOW - 101), Found("empty", 0, NOW - 102)]
    assert names(choose(found, {}, Retention(keep_ms=100), NOW)) == ["empty", "old"]


def test_retention_without_limits_keeps_every_log() -> None:
    found = [Found(str(number), 10**15, 0, True, True) for number in range(3)]
    known = {"0": ended(0), "1": ended(1)}
    assert choose(found, known, ALL, 10**15) == []
    assert choose(found, known, ALL, 10**15, has_location=True) == []
    assert choose(found, known, Retention(keep_bytes=10**16), 10**15) == []
    assert names(choose(found, known, Retention(keep_ms=10**14), 10**15)) == ["0", "2", "1"]


# By how much there is


def test_oldest_logs_are_removed_until_the_total_size_fits_the_limit() -> None:
    found = [Found("c", 40, 0, True), Found("a", 40, 0, True), Found("d", 40, 0, True), Found("b", 40, 0, True)]
    known = {name: ended(at) for at, name in enumerate("abcd")}
    for keep, gone in ((160, ""), (159, "a"), (120, "a"), (119, "ab"), (40, "abc"), (39, "abcd"), (0, "abcd")):
        retention = Retention(keep_bytes=keep)
        assert choose(found, known, retention, NOW) == [Removal(name, retention.size_reason) for name in gone]


def test_log_of_a_live_attempt_counts_for_the_total_size_but_is_not_removed() -> None:
    found = [Found("runs", 100, 0), Found("old", 10, 0, True), Found("new", 10, 0, True)]
    known = {"runs": ended(None), "old": ended(1), "new": ended(2)}
    assert names(choose(found, known, Retention(keep_bytes=110), NOW)) == ["old"]
    assert names(choose(found, known, Retention(keep_bytes=50), NOW)) == ["old", "new"]


def test_log_of_an_unknown_attempt_counts_for_the_total_size_and_is_removed_by_age() -> None:
    found = [Found("ours", 10, 0, True), Found("unknown", 10, 5), Found("newer", 10, 0, True)]
    known = {"ours": ended(4), "newer": ended(6)}
    assert names(choose(found, known, Retention(keep_bytes=15), NOW)) == ["ours", "unknown"]


def test_log_removed_by_age_does_not_count_for_the_total_size() -> None:
    found = [Found("old", 50, 0, True), Found("large", 50, 0, True), Found("new", 50, 0, True)]
    known = {"old": ended(1), "large": ended(NOW - 10), "new": ended(NOW)}
    retention = Retention(keep_ms=100, keep_bytes=100)
    assert choose(found, known, retention, NOW) == [Removal("old", retention.age_reason)]


def test_removed_log_is_not_counted_or_removed_again() -> None:
    found = [Found("removed", 0, 0, True, True), Found("here", 10, 0, True)]
    known = {"removed": ended(1), "here": ended(2)}
    assert choose(found, known, Retention(keep_bytes=10), NOW) == []
    assert choose(found, known, Retention(keep_ms=NOW), NOW) == []
    assert names(choose(found, known, Retention(keep_ms=1, keep_bytes=0), NOW)) == ["here"]


# Where logs are stored elsewhere too


def test_only_logs_that_are_at_the_log_location_are_removed_locally_to_free_space() -> None:
    found = [Found("a", 10, 0, True), Found("b", 10, 0, True, True), Found("c", 10, 3), Found("d", 10, 0, True, True)]
    known = {"a": ended(1), "b": ended(2), "d": ended(4)}
    assert choose(found, known, Retention(keep_bytes=30), NOW, has_location=True) == [Removal("b", "")]
    assert choose(found, known, Retention(keep_bytes=0), NOW, has_location=True) == [Removal("b", ""), Removal("d", "")]


def test_too_old_log_is_removed_everywhere() -> None:
    found = [Found("stored", 10, 0, True, True), Found("not stored", 10, 0, True)]
    known = {"stored": ended(1), "not stored": ended(2)}
    retention = Retention(keep_ms=100, keep_bytes=0)
    assert choose(found, known, retention, NOW, has_location=True) == [
        Removal("stored", retention.age_reason),
        Removal("not stored", retention.age_reason),
    ]


def test_log_only_at_the_log_location_is_removed_by_age_and_not_by_size() -> None:
    found = [Found("old", 0, 0, True, True, away=True), Found("new", 0, 0, True, True, away=True), Found("runs", 9, 0)]
    known = {"old": ended(1), "new": ended(NOW), "runs": ended(None)}
    assert choose(found, known, Retention(keep_bytes=0), NOW, has_location=True) == []
    retention = Retention(keep_ms=100, keep_bytes=0)
    assert choose(found, known, retention, NOW, has_location=True) == [Removal("old", retention.age_reason)]


# At random


@for_each_seed(20)
def test_removals_of_random_logs_obey_the_retention_rules(seed: int) -> None:
    chance = random.Random(seed)
    found, known = [], {}
    for number in range(30):
        found.append(
            Found(str(number), chance.choice((0, 5, 80)), chance.randrange(200), True, stored=chance.random() < 0.5)
        )
        if chance.random() < 0.8:
            known[str(number)] = ended(chance.choice((None, chance.randrange(200))))
    keep_bytes = chance.randrange(sum(log.size for log in found))
    has_location = chance.random() < 0.5
    gone = choose(found, known, Retention(100, keep_bytes), 200, has_location=has_location)
    logs = {log.name: log for log in found}

    def time_of(name: str) -> int | None:
        return known[name].ended_ms if name in known else logs[name].changed_ms

    times = [time_of(name) for name, _ in gone]
    assert None not in times
    assert times == sorted(times)
    assert len({name for name, _ in gone}) == len(gone)
    for name, reason in gone:
        assert logs[name].size or name not in known
        assert reason or (has_location and logs[name].stored)
    stays = [log for log in found if log.name not in names(gone)]
    for log in stays:
        at = time_of(log.name)
        assert at is None or 200 - at <= 100 or (not log.size and log.name in known)
    if sum(log.size for log in stays) > keep_bytes:
        for log in stays:
            assert time_of(log.name) is None or not log.size or (has_location and not log.stored)


# Words


@pytest.mark.parametrize(
    ("keep_ms", "text"),
    [
        (30 * 86_400_000, "30 days"),
        (86_400_000, "1 day"),
        (36 * 3_600_000, "36 hours"),
        (3_600_000, "1 hour"),
        (90 * 60_000, "90 minutes"),
        (60_000, "1 minute"),
        (90_000, "90 s"),
        (1500, "1.5 s"),
    ],
)
def test_text_for_readers_of_a_log_removed_by_age_has_a_readable_unit(keep_ms: int, text: str) -> None:
    assert Retention(keep_ms=keep_ms).age_reason == f"removed: logs are kept for {text}"


def test_text_for_readers_of_a_log_removed_by_size_contains_the_limit() -> None:
    assert Retention(keep_bytes=1234).size_reason == "removed: only the newest 1234 bytes of all logs are kept"
