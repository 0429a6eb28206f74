"""The text and the HTML of progress."""

from __future__ import annotations

import math

import pytest

from iris.display.progress import Progress, facts_of, progress_html, progress_line, seconds_left


def test_progress_line_shows_the_bar_the_counts_and_the_time() -> None:
    progress = Progress("job train", total=8, done=2, failed=1, running=4, state="RUNNING")
    assert (
        progress_line(progress, 12.0)
        == "job train  [######..................]  RUNNING  2/8 tasks, 1 failed, 4 running, 12s"
    )


def test_progress_line_without_a_total_has_no_bar() -> None:
    assert progress_line(Progress("map", done=3, unit="inputs"), 1.0) == "map  3 inputs, 1.0s"


def test_progress_line_with_a_note_ends_with_the_note() -> None:
    line = progress_line(Progress("job a", total=1, state="PENDING", note="waiting for 4 GPUs"), 3.0)
    assert line.endswith("PENDING  0/1 tasks, 3.0s  waiting for 4 GPUs")


def test_progress_in_bytes_is_shown_in_megabytes() -> None:
    assert facts_of(Progress("sending", total=9_000_000, done=3_500_000, unit="bytes"), 0.5).startswith(
        "3 of 9 MB, 0.5s"
    )


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2Jb", "a\rb", "a\u2028b", "a\x9bb"])
def test_progress_line_with_control_characters_in_the_title_is_one_printable_line(text: str) -> None:
    line = progress_line(Progress(text, state=text, note=text), 0.0)
    assert line.isprintable()


def test_progress_html_escapes_all_text() -> None:
    bad = '<script>alert("x")</script>&'
    shown = progress_html(Progress(bad, total=2, done=1, state=bad, note=bad, unit=bad), 1.0)
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 4
    assert '<progress max="2" value="1">' in shown


@pytest.mark.parametrize(("done", "left"), [(0, None), (1, None), (10, 90.0), (50, 10.0), (100, None)])
def test_remaining_time_is_estimated_after_the_first_share_of_the_items(done: int, left: float | None) -> None:
    assert seconds_left(Progress("map", total=100, done=done), 10.0) == left


def test_remaining_time_is_not_estimated_if_few_items_are_done() -> None:
    assert seconds_left(Progress("job", total=4, done=2), 10.0) is None


def test_progress_share_is_one_if_more_items_are_done_than_the_total() -> None:
    assert math.isclose(Progress("map", total=2, done=3).share, 1.0)
