"""Numbers of things in words."""

from __future__ import annotations

import pytest

from iris.counts import counted, word_for


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (1, "1 byte"), (2, "2 bytes"), (1_234_567, "1,234,567 bytes")]
)
def test_count_has_its_noun_in_the_singular_only_for_one(count: int, words: str) -> None:
    assert counted(count, "byte") == words


def test_word_with_an_irregular_plural_is_chosen_by_the_count() -> None:
    assert [word_for(count, "is", "are") for count in (0, 1, 2)] == ["are", "is", "are"]
    assert counted(3, "process", "processes") == "3 processes"
